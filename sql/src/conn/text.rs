//! The two spellings of a connect string, as libpq reads them (PostgreSQL manual, "Connection
//! Strings"): text to keyword/value pairs and back. What the values mean is `params.rs`'s business.

use super::params::ConnectStringError as Error;

/// Splits either spelling into pairs, in the order they stand.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, Error> {
    let uri = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match uri {
        Some(rest) => uri_pairs(rest),
        None => keyword_pairs(text),
    }
}

/// Pairs as libpq's keyword/value text, every value quoted.
pub(super) fn join<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (keyword, value) in pairs {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(keyword);
        text.push_str("='");
        for c in value.chars() {
            if matches!(c, '\'' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\'');
    }
    text
}

fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let after = after
            .trim_start()
            .strip_prefix('=')
            .ok_or(Error::Syntax("a keyword has no \"=value\" after it"))?;
        let (value, after) = keyword_value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value off the front: bare up to a space, or in single quotes; a backslash takes the next
/// character as it is.
fn keyword_value(text: &str) -> Result<(String, &str), Error> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            c if quoted.is_none() && c.is_ascii_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    match quoted {
        Some(_) => Err(Error::Syntax("a quoted value has no closing quote")),
        None => Ok((value, "")),
    }
}

fn uri_pairs(rest: &str) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    let mut add = |keyword: &str, value: String| pairs.push((keyword.to_owned(), value));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, hosts) = match authority.rsplit_once('@') {
        Some((account, hosts)) => (account, hosts),
        None => ("", authority),
    };
    let (user, password) = account.split_once(':').unwrap_or((account, ""));
    for (keyword, value) in [("user", user), ("password", password), ("dbname", dbname)] {
        if !value.is_empty() {
            add(keyword, unescape(value)?);
        }
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = split_port(host)?;
            names.push(unescape(name)?);
            ports.push(port.to_owned());
        }
        if names.iter().any(|name| !name.is_empty()) {
            add("host", names.join(","));
        }
        if ports.iter().any(|port| !port.is_empty()) {
            add("port", ports.join(","));
        }
    }
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (keyword, value) = option
            .split_once('=')
            .ok_or(Error::Syntax("an option after \"?\" has no value"))?;
        match (unescape(keyword)?.as_str(), unescape(value)?) {
            ("ssl", value) if value == "true" => add("sslmode", "require".to_owned()),
            (keyword, value) => add(keyword, value),
        }
    }
    Ok(pairs)
}

/// `name:port`, where the name may be an IPv6 address in brackets.
fn split_port(host: &str) -> Result<(&str, &str), Error> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let (name, after) = bracketed
            .split_once(']')
            .ok_or(Error::Syntax("an IPv6 address has no closing bracket"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if after.is_empty() => Ok((name, "")),
            None => Err(Error::Syntax("only \":port\" may follow an IPv6 address")),
        };
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn unescape(text: &str) -> Result<String, Error> {
    let wrong = || Error::Syntax("a percent sign in a URI needs two hexadecimal digits after it");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        match u8::try_from(high * 16 + low) {
            Ok(0) | Err(_) => return Err(wrong()),
            Ok(byte) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::Syntax("a URI's escapes are not UTF-8"))
}
