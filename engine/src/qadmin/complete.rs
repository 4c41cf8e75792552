//! What the Tab key offers: the grammar says what may come next, the server which names there are.

use super::cursor::{Expected, Thing};
use super::grammar;
use super::lex::{Kind, Script, Statement, Token};

/// Where names come from.
pub trait Names {
    /// Ready to be typed: in quotes where they need them.
    fn names(&self, thing: Thing) -> Vec<String>;
}

#[derive(PartialEq, Eq, Debug)]
pub struct Completion {
    /// The word that is replaced begins here.
    pub start: usize,
    pub candidates: Vec<String>,
}

/// For the cursor at byte `at` of `line`.
pub fn complete(line: &str, at: usize, names: &impl Names) -> Completion {
    let before = line.get(..at).unwrap_or(line);
    let script = Script::read(before);
    let mut statement = script.rest.unwrap_or_default();
    let start = take_word(&mut statement, before.len());
    let typed = before.get(start..).unwrap_or_default();
    let mut candidates = Vec::new();
    for expected in grammar::expected_after(before, &statement) {
        match expected {
            Expected::Word(word) if is_begun_by(word, typed) => {
                candidates.push(match wants_a_value(before, &statement, word) {
                    true => format!("{word}="),
                    false => word.to_owned(),
                });
            }
            Expected::Name(thing) => {
                candidates.extend(
                    names
                        .names(thing)
                        .into_iter()
                        .filter(|name| is_begun_by(name, typed)),
                );
            }
            Expected::Symbol(symbol) if typed.is_empty() && symbol != ',' => {
                candidates.push(symbol.to_string())
            }
            Expected::End if typed.is_empty() => candidates.push(";".to_owned()),
            _ => {}
        }
    }
    Completion { start, candidates }
}

/// Takes the word that is being typed off the statement; says where it begins.
fn take_word(statement: &mut Statement, end: usize) -> usize {
    let tokens = &mut statement.tokens;
    let mut start = end;
    // `schema.` is a name and a dot until more of it is there.
    if tokens
        .last()
        .is_some_and(|token| token.kind == Kind::Symbol('.') && token.end == end)
    {
        start = tokens.pop().map_or(end, |token| token.start);
    }
    let is_word = |token: &Token| !matches!(token.kind, Kind::Symbol(_)) && token.end == start;
    if tokens.last().is_some_and(is_word) {
        start = tokens.pop().map_or(start, |token| token.start);
    }
    start
}

/// Quotes do not have to be typed.
fn is_begun_by(candidate: &str, typed: &str) -> bool {
    let folded = typed.to_lowercase();
    candidate.starts_with(typed)
        || candidate.starts_with(&folded)
        || candidate
            .strip_prefix('"')
            .is_some_and(|bare| bare.starts_with(typed))
}

fn wants_a_value(before: &str, statement: &Statement, word: &str) -> bool {
    let mut longer = statement.clone();
    longer.tokens.push(Token {
        kind: Kind::Word,
        parts: vec![word.to_owned()],
        start: before.len(),
        end: before.len(),
    });
    grammar::expected_after(before, &longer) == [Expected::Symbol('=')]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Known;

    impl Names for Known {
        fn names(&self, thing: Thing) -> Vec<String> {
            let names: &[&str] = match thing {
                Thing::Queue => &["orders", "\"Old queue\""],
                Thing::Consumer => &["mover", "loader"],
                Thing::Relation => &["public.t", "public.\"U\""],
                _ => &[],
            };
            names.iter().map(|name| (*name).to_owned()).collect()
        }
    }

    fn offered(line: &str) -> (usize, Vec<String>) {
        let Completion { start, candidates } = complete(line, line.len(), &Known);
        (start, candidates)
    }

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_and_names_are_offered_where_they_fit() {
        assert_eq!(offered("re"), (0, texts(&["register", "resume"])));
        assert_eq!(offered("CRE"), (0, texts(&["create"])));
        assert_eq!(offered("drop queue "), (11, texts(&["orders", "\"Old queue\""])));
        assert_eq!(offered("drop queue Ol"), (11, texts(&["\"Old queue\""])));
        assert_eq!(offered("drop queue \"Old q"), (11, texts(&["\"Old queue\""])));
        assert_eq!(offered("show queue o"), (11, texts(&["orders"])));
        assert_eq!(
            offered("show table public."),
            (11, texts(&["public.t", "public.\"U\""]))
        );
        assert_eq!(
            offered("register consumer x "),
            (20, texts(&["on", "at", "copy", ";"]))
        );
        assert_eq!(offered("connect db"), (8, texts(&["dbname="])));
        assert_eq!(offered("alter queue q set pau"), (18, texts(&["paused="])));
        assert_eq!(
            offered("show version; pause consumer "),
            (29, texts(&["mover", "loader"]))
        );
        assert_eq!(offered("select * from "), (14, Vec::new()));
    }

    proptest! {
        #[test]
        fn any_line_and_place_can_be_asked(line in r#"(show|queue|"|'|\.|=|;| |\PC){0,12}"#, at in 0_usize..40) {
            let completion = complete(&line, at, &Known);
            prop_assert!(line.is_char_boundary(completion.start));
        }
    }
}
