//! Reads tokens for the grammar and remembers what it was asked for: that is what an error says was
//! expected, and what the Tab key offers.

use std::fmt;

use skytide_sql::names::BadName;
use skytide_sql::nearest::nearest;

use super::error::{ParseError, Pointer};
use super::lex::{Kind, Statement, Token};

/// Something the grammar would take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    Word(&'static str),
    Symbol(char),
    Name(Thing),
    Number(&'static str),
    Value(&'static str),
    End,
}

/// What a name is the name of: decides what the Tab key looks up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Thing {
    Queue,
    Consumer,
    Subconsumer,
    Node,
    Batch,
    Relation,
    SequenceRelation,
    /// In the queue's set here, or not yet.
    AddedTable,
    MissingTable,
    AddedSequence,
    MissingSequence,
    Database,
    User,
    Host,
    Port,
}

impl Thing {
    const fn noun(self) -> &'static str {
        match self {
            Thing::Queue => "queue",
            Thing::Consumer => "consumer",
            Thing::Subconsumer => "subconsumer",
            Thing::Node => "node",
            Thing::Batch => "batch id",
            Thing::Relation | Thing::AddedTable | Thing::MissingTable => "table",
            Thing::SequenceRelation | Thing::AddedSequence | Thing::MissingSequence => "sequence",
            Thing::Database => "database",
            Thing::User => "user",
            Thing::Host => "host",
            Thing::Port => "port",
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Word(word) => f.write_str(word),
            Expected::Symbol(symbol) => write!(f, "{symbol:?}"),
            Expected::Name(thing) => write!(f, "the name of a {}", thing.noun()),
            Expected::Number(what) | Expected::Value(what) => write!(f, "a {what}"),
            Expected::End => f.write_str("\";\""),
        }
    }
}

pub type Parsed<T> = Result<T, ParseError>;

pub struct Cursor<'a> {
    source: &'a str,
    tokens: &'a [Token],
    at: usize,
    /// All that was asked for at this token and is not there.
    expected: Vec<Expected>,
}

impl<'a> Cursor<'a> {
    pub fn new(source: &'a str, statement: &'a Statement) -> Cursor<'a> {
        Cursor {
            source,
            tokens: &statement.tokens,
            at: 0,
            expected: Vec::new(),
        }
    }

    /// What could follow the last token; nothing if the grammar stopped before it.
    pub fn expected_at_end(self) -> Vec<Expected> {
        if self.at < self.tokens.len() {
            return Vec::new();
        }
        self.expected
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn missing(&mut self, expected: Expected) {
        if !self.expected.contains(&expected) {
            self.expected.push(expected);
        }
    }

    /// Takes the token if it is wanted, else remembers that it was wanted.
    fn take_if(&mut self, expected: Expected, wanted: impl FnOnce(&Token) -> bool) -> Option<&'a Token> {
        match self.peek() {
            Some(token) if wanted(token) => {
                self.at += 1;
                self.expected.clear();
                Some(token)
            }
            _ => {
                self.missing(expected);
                None
            }
        }
    }

    pub fn word(&mut self, word: &'static str) -> bool {
        self.take_if(Expected::Word(word), |token| token.is_word(word))
            .is_some()
    }

    /// One of the words, by its place.
    pub fn one_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        words.iter().copied().find(|word| self.word(word))
    }

    pub fn symbol(&mut self, symbol: char) -> bool {
        self.take_if(Expected::Symbol(symbol), |token| {
            token.kind == Kind::Symbol(symbol)
        })
        .is_some()
    }

    pub fn need_word(&mut self, word: &'static str) -> Parsed<()> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub fn need_symbol(&mut self, symbol: char) -> Parsed<()> {
        if self.symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub fn need_end(&mut self) -> Parsed<()> {
        if self.peek().is_none() {
            self.missing(Expected::End);
            return Ok(());
        }
        self.missing(Expected::End);
        Err(self.unexpected())
    }

    /// A name, in quotes of either kind or without.
    pub fn name_parts(&mut self, thing: Thing) -> Parsed<Vec<String>> {
        let wanted = |token: &Token| matches!(token.kind, Kind::Word | Kind::Name | Kind::Text);
        match self.take_if(Expected::Name(thing), wanted) {
            Some(token) => Ok(token.parts.clone()),
            None => Err(self.unexpected()),
        }
    }

    /// A name of a checked type.
    pub fn name<T>(&mut self, thing: Thing, check: impl FnOnce(String) -> Result<T, BadName>) -> Parsed<T> {
        let parts = self.name_parts(thing)?;
        check(parts.join(".")).map_err(|error| ParseError::Name {
            error,
            place: self.place_of_last(),
        })
    }

    pub fn number(&mut self, expected: Expected) -> Option<i64> {
        let number = |token: &Token| match token.kind {
            Kind::Number => token.value().parse().ok(),
            _ => None,
        };
        let token = self.take_if(expected, |token| number(token).is_some())?;
        number(token)
    }

    pub fn need_number(&mut self, expected: Expected) -> Parsed<i64> {
        self.number(expected).ok_or_else(|| self.unexpected())
    }

    /// A string, a word, or a number with its sign.
    pub fn value(&mut self, expected: Expected) -> Parsed<String> {
        let negative = self.peek().is_some_and(|token| token.kind == Kind::Symbol('-'));
        if negative {
            self.at += 1;
            self.expected.clear();
        }
        let wanted = |token: &Token| match token.kind {
            Kind::Number => true,
            Kind::Text | Kind::Word | Kind::Name => !negative,
            Kind::Symbol(_) => false,
        };
        match self.take_if(expected, wanted) {
            Some(token) if negative => Ok(format!("-{}", token.value())),
            Some(token) => Ok(token.value()),
            None => Err(self.unexpected()),
        }
    }

    /// What stands here is none of the things that were asked for.
    pub fn unexpected(&self) -> ParseError {
        let token = self.peek();
        let (start, end) = match (token, self.tokens.last()) {
            (Some(token), _) => (token.start, token.end),
            (None, Some(last)) => (last.end, last.end),
            (None, None) => (self.source.len(), self.source.len()),
        };
        let found = token.map(|token| {
            self.source
                .get(token.start..token.end)
                .unwrap_or_default()
                .to_owned()
        });
        let words = self.expected.iter().filter_map(|expected| match expected {
            Expected::Word(word) => Some(*word),
            _ => None,
        });
        ParseError::Unexpected {
            did_you_mean: token.and_then(|token| nearest_word(token, words)),
            found,
            expected: self.expected.clone(),
            place: Pointer::new(self.source, start, end),
        }
    }

    pub fn place_of_last(&self) -> Pointer {
        let last = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        let (start, end) = last.map_or((0, 0), |token| (token.start, token.end));
        Pointer::new(self.source, start, end)
    }
}

fn nearest_word(token: &Token, words: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let words: Vec<&'static str> = words.collect();
    let value = token.value();
    let found = nearest(&value, words.iter().copied())?;
    words.into_iter().find(|word| *word == found && *word != value)
}
