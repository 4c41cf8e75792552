//! Text to tokens, and tokens to statements: SQL's lexical rules with standard-conforming strings.

/// What a token is. Names may be dotted: `a.b` and `a."B"` are one token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An unquoted name without dots: the only thing that can be a keyword.
    Word,
    /// A name that has dots or quotes.
    Name,
    /// A string: in quotes, or between dollars.
    Text,
    Number,
    Symbol(char),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub kind: Kind,
    /// Without quotes; unquoted names in lower case. A name has one for each dotted part, the rest one.
    pub parts: Vec<String>,
    /// Bytes of the text it was read from.
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn value(&self) -> String {
        self.parts.join(".")
    }

    pub fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.parts.iter().any(|part| part == word)
    }
}

/// Something that was begun and not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    Text,
    Name,
    Dollars,
    Comment,
}

impl Open {
    pub const fn noun(self) -> &'static str {
        match self {
            Open::Text => "string",
            Open::Name => "quoted name",
            Open::Dollars => "dollar-quoted string",
            Open::Comment => "comment",
        }
    }
}

/// Text cut at its semicolons.
#[derive(Debug)]
pub struct Script {
    pub statements: Vec<Statement>,
    /// What follows the last semicolon; `None` if that is only space and comments.
    pub rest: Option<Statement>,
    /// What the text ends in the middle of, and where that began.
    pub open: Option<(Open, usize)>,
}

/// The tokens of one statement, without its semicolon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statement {
    pub tokens: Vec<Token>,
}

impl Statement {
    /// Where its first token begins and its last one ends.
    pub fn span(&self) -> (usize, usize) {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (0, 0),
        }
    }

    pub fn text<'a>(&self, source: &'a str) -> &'a str {
        let (start, end) = self.span();
        source.get(start..end).unwrap_or_default()
    }
}

impl Script {
    pub fn read(text: &str) -> Script {
        let mut lexer = Lexer {
            text,
            at: 0,
            open: None,
        };
        let mut statements = Vec::new();
        let mut current = Statement::default();
        let mut nesting = Nesting::default();
        while let Some(token) = lexer.next() {
            nesting.follow(&token);
            if token.kind == Kind::Symbol(';') && nesting.is_outermost() {
                nesting = Nesting::default();
                let done = std::mem::take(&mut current);
                if !done.tokens.is_empty() {
                    statements.push(done);
                }
            } else {
                current.tokens.push(token);
            }
        }
        Script {
            statements,
            rest: (!current.tokens.is_empty()).then_some(current),
            open: lexer.open,
        }
    }

    /// Nothing is left to be typed.
    pub fn is_complete(&self) -> bool {
        self.rest.is_none() && self.open.is_none()
    }
}

/// Where a semicolon does not end a statement: between parentheses, and in the body of an SQL-standard
/// function (`create function … begin atomic …; …; end`).
#[derive(Default)]
struct Nesting {
    parentheses: usize,
    begins: usize,
    first_words: Vec<String>,
}

impl Nesting {
    fn follow(&mut self, token: &Token) {
        match token.kind {
            Kind::Symbol('(') => self.parentheses += 1,
            Kind::Symbol(')') => self.parentheses = self.parentheses.saturating_sub(1),
            Kind::Word => {
                if self.first_words.len() < 4 {
                    self.first_words.extend(token.parts.iter().cloned());
                }
                if self.parentheses == 0 && self.makes_a_function() {
                    self.follow_body(token);
                }
            }
            _ => {}
        }
    }

    fn follow_body(&mut self, token: &Token) {
        if token.is_word("begin") || (token.is_word("case") && self.begins > 0) {
            self.begins += 1;
        } else if token.is_word("end") {
            self.begins = self.begins.saturating_sub(1);
        }
    }

    fn makes_a_function(&self) -> bool {
        let mut words = self.first_words.iter().map(String::as_str);
        if words.next() != Some("create") {
            return false;
        }
        let what = match words.next() {
            Some("or") => words.nth(1),
            what => what,
        };
        matches!(what, Some("function" | "procedure"))
    }

    fn is_outermost(&self) -> bool {
        self.parentheses == 0 && self.begins == 0
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    open: Option<(Open, usize)>,
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_word(c: char) -> bool {
    begins_word(c) || c.is_ascii_digit() || c == '$'
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let (kind, parts) = match self.peek()? {
            '\'' => (Kind::Text, vec![self.string(Escapes::None)]),
            'e' | 'E' if self.rest().chars().nth(1) == Some('\'') => {
                self.take();
                (Kind::Text, vec![self.string(Escapes::Backslash)])
            }
            '$' => match self.dollars() {
                Some(text) => (Kind::Text, vec![text]),
                None => {
                    self.take();
                    (Kind::Symbol('$'), vec!["$".to_owned()])
                }
            },
            c if begins_word(c) || c == '"' => self.name(),
            c if c.is_ascii_digit() => (Kind::Number, vec![self.number()]),
            c => {
                self.take();
                (Kind::Symbol(c), vec![c.to_string()])
            }
        };
        Some(Token {
            kind,
            parts,
            start,
            end: self.at,
        })
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("--") {
                self.take_while(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.comment();
            } else {
                return;
            }
        }
    }

    /// They nest.
    fn comment(&mut self) {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else if self.take().is_none() {
                self.open = Some((Open::Comment, start));
                return;
            }
        }
    }

    fn string(&mut self, escapes: Escapes) -> String {
        let start = self.at;
        self.take();
        let mut value = String::new();
        loop {
            match self.take() {
                Some('\'') if self.peek() == Some('\'') => {
                    self.take();
                    value.push('\'');
                }
                Some('\'') => return value,
                Some('\\') if escapes == Escapes::Backslash => {
                    value.extend(self.take().map(|c| match c {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        c => c,
                    }));
                }
                Some(c) => value.push(c),
                None => {
                    self.open = Some((Open::Text, start));
                    return value;
                }
            }
        }
    }

    /// `$tag$ … $tag$`; `None` if the dollar begins something else, like `$1`.
    fn dollars(&mut self) -> Option<String> {
        let start = self.at;
        let after = self.rest().strip_prefix('$')?;
        let tag = after.split_once('$')?.0;
        let legal = tag.chars().all(|c| continues_word(c) && c != '$')
            && !tag.starts_with(|c: char| c.is_ascii_digit());
        if !legal {
            return None;
        }
        let fence = self.rest().get(..tag.len() + 2)?;
        let body = self.rest().get(fence.len()..)?;
        match body.split_once(fence) {
            Some((value, _)) => {
                self.at += value.len() + 2 * fence.len();
                Some(value.to_owned())
            }
            None => {
                self.open = Some((Open::Dollars, start));
                self.at = self.text.len();
                Some(body.to_owned())
            }
        }
    }

    fn name(&mut self) -> (Kind, Vec<String>) {
        let mut quoted = false;
        let mut parts = Vec::new();
        loop {
            if self.peek() == Some('"') {
                quoted = true;
                parts.push(self.quoted());
            } else {
                parts.push(self.take_while(continues_word).to_lowercase());
            }
            let mut ahead = self.rest().chars();
            let dotted =
                ahead.next() == Some('.') && ahead.next().is_some_and(|c| begins_word(c) || c == '"');
            if !dotted {
                break;
            }
            self.take();
        }
        let kind = if quoted || parts.len() > 1 {
            Kind::Name
        } else {
            Kind::Word
        };
        (kind, parts)
    }

    fn quoted(&mut self) -> String {
        let start = self.at;
        self.take();
        let mut value = String::new();
        loop {
            match self.take() {
                Some('"') if self.peek() == Some('"') => {
                    self.take();
                    value.push('"');
                }
                Some('"') => return value,
                Some(c) => value.push(c),
                None => {
                    self.open = Some((Open::Name, start));
                    return value;
                }
            }
        }
    }

    fn number(&mut self) -> String {
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        let mut ahead = self.rest().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            self.take();
            self.take_while(|c| c.is_ascii_digit());
        }
        self.text.get(start..self.at).unwrap_or_default().to_owned()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    Backslash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<String> {
        let script = Script::read(text);
        let tokens = script.statements.iter().chain(&script.rest);
        tokens.flat_map(|s| s.tokens.iter().map(Token::value)).collect()
    }

    fn texts(text: &str) -> Vec<&str> {
        Script::read(text)
            .statements
            .iter()
            .map(|s| s.text(text))
            .collect()
    }

    #[test]
    fn names_fold_quotes_go_and_dots_join() {
        assert_eq!(
            values(r#"Show Queue "My Q" a."B".C 'it''s' $x$a'b$x$ 12.5 E'a\'b'"#),
            ["show", "queue", "My Q", "a.B.c", "it's", "a'b", "12.5", "a'b"]
        );
        assert_eq!(values("a.* $1 x=1"), ["a", ".", "*", "$", "1", "x", "=", "1"]);
    }

    #[test]
    fn comments_are_skipped_and_nest() {
        assert_eq!(values("a -- b; c\n/* x /* y */ ; */ d"), ["a", "d"]);
    }

    #[test]
    fn semicolons_end_statements_where_they_should() {
        assert_eq!(texts("a; b ;;\n c 'x;y' ; d"), ["a", "b", "c 'x;y'"]);
        assert_eq!(
            texts("create rule r as do (a; b); c;"),
            ["create rule r as do (a; b)", "c"]
        );
        let function = "create or replace function f() returns int begin atomic select case when true then 1 end; \
                        select 2; end";
        assert_eq!(
            texts(&format!("{function}; begin; end;")),
            [function, "begin", "end"]
        );
    }

    #[test]
    fn what_is_open_is_known() {
        for (text, open) in [
            ("select 'a;", Some((Open::Text, 7))),
            ("select \"a;", Some((Open::Name, 7))),
            ("select $$a;", Some((Open::Dollars, 7))),
            ("select /* a;", Some((Open::Comment, 7))),
            ("select a", None),
        ] {
            let script = Script::read(text);
            assert_eq!(script.open, open, "{text}");
            assert!(!script.is_complete(), "{text}");
        }
        assert!(Script::read("  -- nothing\n").is_complete());
        assert!(Script::read("a; ").is_complete());
    }

    proptest! {
        #[test]
        fn any_text_is_cut_into_tokens_in_order(text in r#"(\PC|[a-z'"$;/*. \n()-]){0,60}"#) {
            let script = Script::read(&text);
            let mut at = 0;
            for token in script.statements.iter().chain(&script.rest).flat_map(|s| &s.tokens) {
                prop_assert!(token.start >= at && token.end > token.start && token.end <= text.len());
                prop_assert!(text.is_char_boundary(token.start) && text.is_char_boundary(token.end));
                at = token.end;
            }
        }
    }
}
