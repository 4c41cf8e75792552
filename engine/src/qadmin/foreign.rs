//! Statements that are the server's: what the console has to know about them all the same.

use super::cursor::Expected;
use super::grammar;
use super::lex::{Script, Statement};

/// Whether the user opened a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transaction {
    None,
    Open,
}

/// Where a statement that succeeded leaves the user's transaction.
pub fn transaction_after(before: Transaction, statement: &Statement) -> Transaction {
    let has = |word: &str| statement.tokens.iter().any(|token| token.is_word(word));
    let begins_with = |words: &[&str]| {
        let first = statement.tokens.first();
        first.is_some_and(|token| words.iter().any(|word| token.is_word(word)))
    };
    if begins_with(&["begin", "start"]) {
        return Transaction::Open;
    }
    // "rollback to savepoint" and "commit and chain" leave one open.
    let ends =
        begins_with(&["commit", "end", "rollback", "abort"]) && !has("to") && (!has("chain") || has("no"));
    let is_prepared = begins_with(&["prepare"]) && has("transaction");
    if ends || is_prepared {
        Transaction::None
    } else {
        before
    }
}

/// The console has no rows to send, and the link would wait for them for ever.
pub fn is_copy_through_the_link(statement: &Statement) -> bool {
    let has = |word: &str| statement.tokens.iter().any(|token| token.is_word(word));
    statement
        .tokens
        .first()
        .is_some_and(|token| token.is_word("copy"))
        && (has("stdin") || has("stdout"))
}

/// The command that was meant, if the server does not understand `show quue`.
pub fn meant(source: &str, statement: &Statement) -> Option<String> {
    let (first, second) = (statement.tokens.first()?, statement.tokens.get(1)?);
    let begun = Statement {
        tokens: vec![first.clone()],
    };
    let expected = grammar::expected_after(source, &begun);
    let words = expected.iter().filter_map(|expected| match expected {
        Expected::Word(word) => Some(*word),
        _ => None,
    });
    let value = second.value();
    let nearest = skytide_sql::nearest::nearest(&value, words)?;
    Some(format!("Did you mean \"{} {nearest}\"?", first.value()))
}

/// The server's tag is not passed on by the client library: the command's words, and the rows it changed.
pub fn tag(sql: &str, count: u64) -> String {
    const COUNTED: &[&str] = &["insert", "update", "delete", "merge", "move", "fetch", "copy"];
    const WITH_OBJECT: &[&str] = &["create", "drop", "alter"];
    let script = Script::read(sql);
    let words: Vec<String> = script
        .statements
        .iter()
        .chain(&script.rest)
        .flat_map(|statement| statement.tokens.iter().map(|token| token.value()))
        .filter(|word| !["or", "replace", "temporary", "temp", "unlogged", "unique"].contains(&word.as_str()))
        .take(2)
        .collect();
    match words.as_slice() {
        [first, ..] if COUNTED.contains(&first.as_str()) => format!("{} {count}", first.to_uppercase()),
        [first, second] if WITH_OBJECT.contains(&first.as_str()) => {
            format!("{} {}", first.to_uppercase(), second.to_uppercase())
        }
        [first, ..] => first.to_uppercase(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Statement {
        Script::read(text).rest.unwrap_or_default()
    }

    #[test]
    fn tags_say_what_was_done() {
        assert_eq!(tag("insert into t values (1)", 1), "INSERT 1");
        assert_eq!(tag("create or replace function f() …", 0), "CREATE FUNCTION");
        assert_eq!(tag("Vacuum t", 0), "VACUUM");
        assert_eq!(tag("alter TABLE t add x int", 0), "ALTER TABLE");
    }

    #[test]
    fn the_users_transaction_is_followed() {
        let after = |text: &str| transaction_after(Transaction::Open, &statement(text));
        for text in [
            "commit",
            "ROLLBACK work",
            "end",
            "prepare transaction 'x'",
            "commit and no chain",
        ] {
            assert_eq!(after(text), Transaction::None, "{text}");
        }
        for text in [
            "rollback to savepoint s",
            "commit and chain",
            "select 1",
            "prepare p as select 1",
        ] {
            assert_eq!(after(text), Transaction::Open, "{text}");
        }
        let begun = transaction_after(Transaction::None, &statement("start transaction read only"));
        assert_eq!(begun, Transaction::Open);
    }

    #[test]
    fn copies_through_the_link_are_known() {
        assert!(is_copy_through_the_link(&statement("copy t from stdin")));
        assert!(!is_copy_through_the_link(&statement("copy t from '/stdin'")));
        assert!(!is_copy_through_the_link(&statement("select stdin from copy")));
    }

    #[test]
    fn a_slip_in_one_of_our_commands_gets_a_hint() {
        let meant = |text: &str| meant(text, &statement(text));
        assert_eq!(
            meant("show quue"),
            Some("Did you mean \"show queue\"?".to_owned())
        );
        assert_eq!(
            meant("create qeue x"),
            Some("Did you mean \"create queue\"?".to_owned())
        );
        assert_eq!(meant("select quue"), None);
    }
}
