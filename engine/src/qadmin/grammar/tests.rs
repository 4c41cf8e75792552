use proptest::prelude::*;

use super::*;
use crate::cli::failure::Advice;
use crate::qadmin::lex::Script;

fn read(text: &str) -> Parsed<Command> {
    let script = Script::read(text);
    let statement = script.statements.first().or(script.rest.as_ref());
    parse(text, &statement.cloned().unwrap_or_default())
}

fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn consumer_name(name: &str) -> ConsumerName {
    ConsumerName::new(name).unwrap()
}

#[test]
fn every_command_of_the_grammar_is_read() {
    for text in [
        "connect dbname=shop host='db 1' port=6432 user=u password='p;q'",
        "connect queue=q",
        "connect node=n",
        "connect queue=q node=n",
        "connect node=n queue=q",
        "install pgq",
        "install londiste",
        "create queue \"My queue\"",
        "drop queue q",
        "drop queue ''",
        "unregister consumer '' from ''",
        "alter queue q set max_lag='3 seconds', max_count = 10",
        "alter queue * set paused = 1",
        "alter queue q set max_retries = -1, external_ticker = true",
        "register consumer c",
        "register consumer c on q at 12",
        "register consumer c copy d on q",
        "register consumer c at 12 copy d",
        "register consumer c copy d on q at 12",
        "unregister consumer c from q",
        "unregister consumer *",
        "register subconsumer s for c on q",
        "unregister subconsumer s for c from q close batch",
        "unregister subconsumer * for c close",
        "pause consumer c on q",
        "resume consumer c",
        "purge consumer c",
        "seek consumer c to 12 on q",
        "seek consumer c on q to 12",
        "seek consumer c to '2030-01-31 12:00' on q",
        "show queue",
        "show queue *",
        "show consumer",
        "show consumer * on *",
        "show consumer c on q",
        "show node n on q",
        "show batch 12",
        "show batch c",
        "show table public.\"T\"",
        "show sequence s",
        "show blockers",
        "show dead q",
        "show version",
        "show help",
        "londiste add table a, b.c with skip_truncate, tgflags='BI', ev_ignore='x'",
        "londiste remove table a, b",
        "londiste add sequence s, t",
        "londiste remove sequence s",
        "londiste tables",
        "londiste seqs",
        "londiste missing",
        "exit",
        "QUIT",
    ] {
        let command = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_ne!(command, Command::Sql, "{text}");
        assert_eq!(read(&format!("{text} ;")), Ok(command), "{text}");
    }
}

#[test]
fn what_is_not_ours_is_for_the_server() {
    for text in [
        "select 1",
        "show work_mem",
        "create table t (x int)",
        "alter table q add x int",
        "drop view v",
        "begin",
    ] {
        assert_eq!(read(text), Ok(Command::Sql), "{text}");
    }
}

#[test]
fn clauses_carry_their_values() {
    assert_eq!(
        read("register consumer c at 5 on Q"),
        Ok(Command::Change(Change::Register {
            consumer: consumer_name("c"),
            queue: Some(queue_name("q")),
            start: Start::At(TickId::new(5)),
        }))
    );
    assert_eq!(
        read("alter queue * set paused=0, max_lag='1 s', max_retries=-1"),
        Ok(Command::Change(Change::AlterQueue {
            queue: Which::All,
            settings: vec![
                ("ticker_paused", "0".into()),
                ("ticker_max_lag", "1 s".into()),
                ("max_retries", "-1".into())
            ],
        }))
    );
    assert_eq!(
        read("londiste add table T, \"S x\".\"A.b\" with skip, ev_ignore='a,b'"),
        Ok(Command::Londiste(Londiste::AddTables {
            tables: vec![TableName::new("public", "t"), TableName::new("S x", "A.b")],
            args: vec!["skip".into(), "ignore=a,b".into()],
        }))
    );
    assert_eq!(
        read("unregister subconsumer * for c close"),
        Ok(Command::Change(Change::UnregisterSub {
            sub: Which::All,
            consumer: consumer_name("c"),
            queue: None,
            open_batch: OpenBatch::Close,
        }))
    );
}

fn complaint(text: &str) -> String {
    let error = read(text).expect_err(text);
    let detail = error.detail().unwrap_or_default();
    let hint = error.hint().unwrap_or_default();
    format!("{error}\n{detail}\n{hint}")
}

#[test]
fn an_error_points_at_its_token_and_says_what_was_expected() {
    assert_eq!(
        complaint("register consumer c onn q;"),
        "unexpected \"onn\", expected on, at, copy or \";\"\nline 1, column 21:\n\
         register consumer c onn q;\n                    ^^^\nDid you mean \"on\"?"
    );
    assert_eq!(
        complaint("create queue;"),
        "the command ends too early, expected the name of a queue\nline 1, column 13:\n\
         create queue;\n            ^\nshow help; lists the commands."
    );
    assert_eq!(
        complaint("alter queue q\n  set lag = 1;"),
        "unexpected \"lag\", expected idle_period, max_lag, max_count, paused, rotation_period, external_ticker, \
         max_retries, retry_delay or retry_max_delay\nline 2, column 7:\n  set lag = 1;\n      ^^^\n\
         show help; lists the commands."
    );
    assert!(
        complaint("register consumer c at 1 at 2")
            .starts_with("unexpected \"at\", expected on, copy or \";\"")
    );
    assert!(
        complaint("connect queue=q dbname=d").starts_with("unexpected \"dbname\", expected node or \";\"")
    );
    assert!(complaint("show table a.b.c").contains("more parts than schema.name"));
    assert!(complaint("create queue ''").contains("is empty"));
    assert!(complaint("register consumer ''").contains("is empty"));
    assert!(complaint("register consumer c at 99999999999999999999").contains("expected a tick id"));
}

#[test]
fn what_comes_next_is_known() {
    let after = |text: &str| {
        let script = Script::read(text);
        expected_after(text, &script.rest.unwrap_or_default())
    };
    assert_eq!(after("create "), [Expected::Word("queue")]);
    assert_eq!(after("drop queue "), [Expected::Name(Thing::Queue)]);
    assert_eq!(
        after("show queue "),
        [Expected::Symbol('*'), Expected::Name(Thing::Queue), Expected::End]
    );
    assert_eq!(
        after("register consumer c on q "),
        [Expected::Word("at"), Expected::Word("copy"), Expected::End]
    );
    assert!(after("").contains(&Expected::Word("unregister")));
    assert!(after("select 1 ").is_empty());
}

/// Words that make commands, in any order.
fn soup() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            "show", "queue", "consumer", "register", "unregister", "subconsumer", "for", "on", "from", "at", "copy",
            "alter", "set", "connect", "node", "londiste", "add", "table", "with", "seek", "to", "close", "batch",
            "max_lag", "tgflags", "skip", "=", ",", "*", ";", "-", "12", "'x y'", "\"Q\"", "a.b", "(", ")",
        ])
        .prop_map(str::to_owned),
        1 => "\\PC{0,4}",
    ];
    prop::collection::vec(word, 0..10).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in soup()) {
        let script = Script::read(&text);
        for statement in script.statements.iter().chain(&script.rest) {
            if let Err(error) = parse(&text, statement) {
                prop_assert!(!error.to_string().is_empty());
                prop_assert!(error.detail().is_some());
            }
            expected_after(&text, statement);
        }
    }

    /// What an error or the Tab key offers can be taken.
    #[test]
    fn an_offered_word_leads_further(text in soup()) {
        let script = Script::read(&text);
        let Some(statement) = &script.rest else { return Ok(()) };
        if script.open.is_some() {
            return Ok(());
        }
        let (start, _) = statement.span();
        for expected in expected_after(&text, statement) {
            if let Expected::Word(word) = expected {
                let longer = format!("{} {word}", &text[start..]);
                let script = Script::read(&longer);
                let Some(statement) = script.rest.filter(|_| script.statements.is_empty()) else { continue };
                if let Err(ParseError::Unexpected { found, .. }) = parse(&longer, &statement) {
                    prop_assert_eq!(found, None, "{}", longer);
                }
            }
        }
    }

    #[test]
    fn a_quoted_name_comes_back_as_it_is(name in "[^\u{0}-\u{1f}\u{7f}-\u{9f}]{1,20}") {
        let text = format!("create queue {};", skytide_sql::ident::quote_ident(&name));
        prop_assert_eq!(read(&text), Ok(Command::Change(Change::CreateQueue(queue_name(&name)))));
    }
}
