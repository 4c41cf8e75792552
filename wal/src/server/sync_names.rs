//! `synchronous_standby_names`: read, checked against who is connected, and set.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use skytide_sql::conn::Session;
use skytide_sql::ident::quote_ident;

use super::error::{Doing, ServerError};
use super::queries;
use super::settings::{arrives, reload, set};

const NAME: &str = "synchronous_standby_names";
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The first ones of the list that are there.
    First,
    /// Whichever are fastest.
    Any,
}

/// Which standbys a commit waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncNames {
    pub method: Method,
    pub count: u32,
    /// `*` is any name. Empty: no commit waits.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name standbys: {what}")]
pub struct NamesError {
    text: String,
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Open,
    Close,
    Comma,
}

/// As the server reads it (`syncrep_scanner.l`, `syncrep_gram.y`).
impl FromStr for SyncNames {
    type Err = NamesError;

    fn from_str(text: &str) -> Result<Self, NamesError> {
        let wrong = |what| NamesError {
            text: text.to_owned(),
            what,
        };
        let tokens = tokens(text).map_err(wrong)?;
        let number = |token: &Token| match token {
            Token::Word(word) => word.parse::<u32>().ok(),
            _ => None,
        };
        let method = |token: &Token| match token {
            Token::Word(word) if word.eq_ignore_ascii_case("any") => Some(Method::Any),
            Token::Word(word) if word.eq_ignore_ascii_case("first") => Some(Method::First),
            _ => None,
        };
        let (method, count, list) = match tokens.as_slice() {
            [] => {
                return Ok(SyncNames {
                    method: Method::First,
                    count: 0,
                    names: Vec::new(),
                });
            }
            [word, count, Token::Open, list @ .., Token::Close] => {
                let method = method(word).ok_or_else(|| wrong("expected ANY or FIRST"))?;
                (
                    method,
                    number(count).ok_or_else(|| wrong("expected a number"))?,
                    list,
                )
            }
            [count, Token::Open, list @ .., Token::Close] => (
                Method::First,
                number(count).ok_or_else(|| wrong("expected a number"))?,
                list,
            ),
            list => (Method::First, 1, list),
        };
        if count == 0 {
            return Err(wrong("the number has to be at least 1"));
        }
        let mut names = Vec::new();
        for item in list.split(|token| *token == Token::Comma) {
            match item {
                [Token::Word(name) | Token::Quoted(name)] => names.push(name.clone()),
                _ => return Err(wrong("expected names, separated by commas")),
            }
        }
        Ok(SyncNames { method, count, names })
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            ',' => tokens.push(Token::Comma),
            '"' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        None => return Err("a quote is not closed"),
                        Some('"') if chars.peek() == Some(&'"') => {
                            chars.next();
                            name.push('"');
                        }
                        Some('"') => break,
                        Some(c) => name.push(c),
                    }
                }
                tokens.push(Token::Quoted(name));
            }
            c if c.is_whitespace() => {}
            c if is_plain(c) || c == '*' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|next| is_plain(*next)) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            _ => return Err("names with other signs than letters, digits, _ and $ need double quotes"),
        }
    }
    Ok(tokens)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// As it is set.
impl fmt::Display for SyncNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return Ok(());
        }
        let names = self.names.iter().map(|name| match name.as_str() {
            "*" => "*".to_owned(),
            name => quote_ident(name),
        });
        let names: Vec<String> = names.collect();
        let method = match self.method {
            Method::First => "FIRST",
            Method::Any => "ANY",
        };
        write!(f, "{method} {} ({})", self.count, names.join(", "))
    }
}

impl SyncNames {
    /// Names are compared as the server does, whatever their case.
    fn has(&self, standby: &Connected) -> bool {
        let is = |name: &String| name == "*" || name.eq_ignore_ascii_case(&standby.name);
        self.names.iter().any(is)
    }

    /// Names that nobody has who is connected.
    pub fn absent(&self, connected: &[Connected]) -> Vec<String> {
        let there = |name: &String| {
            name == "*"
                || connected
                    .iter()
                    .any(|standby| name.eq_ignore_ascii_case(&standby.name))
        };
        self.names.iter().filter(|name| !there(name)).cloned().collect()
    }
}

/// A standby or receiver, as the primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub name: String,
    /// `streaming` when it has caught up.
    pub state: String,
    pub sync_state: String,
    /// What it has not on its disk yet.
    pub behind_bytes: Option<i64>,
}

pub async fn connected(session: &Session) -> Result<Vec<Connected>, ServerError> {
    let rows = session.query(queries::CONNECTED, &[]).await;
    let rows = rows.doing("ask which standbys are connected (pg_stat_replication)")?;
    let connected = rows.iter().map(|row| Connected {
        name: row.get(0),
        state: row.get::<_, Option<String>>(1).unwrap_or_default(),
        sync_state: row.get::<_, Option<String>>(2).unwrap_or_default(),
        behind_bytes: row.get(3),
    });
    Ok(connected.collect())
}

/// Lets commits wait for these, once enough of them stream; with `force` in any case. Returns who is connected afterwards.
pub async fn name_them(
    session: &Session,
    names: &SyncNames,
    force: bool,
    patience: Duration,
) -> Result<Vec<Connected>, ServerError> {
    if super::replay::is_standby(session).await? {
        return Err(ServerError::NoPrimary);
    }
    let before = connected(session).await?;
    let streaming = |standby: &&Connected| standby.state == "streaming" && names.has(standby);
    let there = before.iter().filter(streaming).count();
    if there < names.count as usize && !force {
        return Err(ServerError::WouldHang {
            names: names.clone(),
            needed: names.count,
            there,
            connected: before.into_iter().map(|standby| standby.name).collect(),
        });
    }
    let value = names.to_string();
    set(session, NAME, &value).await?;
    reload(session).await?;
    arrives(session, NAME, &value).await?;
    // The senders read it each for itself.
    let end = Instant::now() + patience;
    loop {
        let after = connected(session).await?;
        let waited_for = |standby: &&Connected| ["sync", "quorum"].contains(&standby.sync_state.as_str());
        let counted = after.iter().filter(waited_for).count();
        let settled = match names.names.is_empty() {
            true => after.iter().all(|standby| standby.sync_state == "async"),
            false => counted >= (names.count as usize).min(there),
        };
        if settled || Instant::now() > end {
            return Ok(after);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_list_is_read_and_quoted() {
        for (text, shown) in [
            ("", ""),
            ("  ", ""),
            ("*", "FIRST 1 (*)"),
            ("a", "FIRST 1 (\"a\")"),
            ("a, B2", "FIRST 1 (\"a\", \"B2\")"),
            ("2 (a,b,c)", "FIRST 2 (\"a\", \"b\", \"c\")"),
            ("first 1 (\"we\"\"ird, one\")", "FIRST 1 (\"we\"\"ird, one\")"),
            ("ANY 2 (*)", "ANY 2 (*)"),
        ] {
            let names: SyncNames = text.parse().unwrap();
            assert_eq!(names.to_string(), shown, "{text}");
            let again: SyncNames = shown.parse().unwrap();
            assert_eq!(again, names, "{text}");
        }
        for text in [
            "a,",
            "a b",
            "(a)",
            "ANY (a)",
            "0 (a)",
            "ANY x (a)",
            "a-b",
            "\"a",
            "some 1 (a)",
        ] {
            assert!(text.parse::<SyncNames>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_compared_as_the_server_does() {
        let standby = Connected {
            name: "Db2".into(),
            state: "streaming".into(),
            sync_state: "async".into(),
            behind_bytes: Some(0),
        };
        let names: SyncNames = "db2, db3".parse().unwrap();
        assert!(names.has(&standby));
        assert_eq!(names.absent(&[standby]), ["db3"]);
    }
}
