//! What a connect string says, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{passfile, text};
use crate::nearest::nearest;
use crate::tls::{SslMode, SslRoots, SslSettings};

/// Every keyword we act on, with the variable libpq reads when the keyword is not given.
const KEYWORDS: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("fallback_application_name", ""),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("keepalives", ""),
    ("keepalives_count", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("tcp_user_timeout", ""),
    ("user", "PGUSER"),
];

/// Keywords of libpq that ask for what we do anyway, if they have one of these values.
const HARMLESS: &[(&str, &[&str])] = &[
    ("gssencmode", &["disable", "prefer"]),
    ("krbsrvname", &["postgres"]),
    ("load_balance_hosts", &["disable"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("sslcertmode", &["allow"]),
    ("sslcompression", &["0"]),
    ("sslnegotiation", &["postgres"]),
    ("sslsni", &["1"]),
];

const DEFAULT_PORT: u16 = 5432;

/// A connect string that cannot be used, and why. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectStringError {
    #[error("malformed connect string: {0}")]
    Syntax(&'static str),
    #[error("unknown connect string keyword {keyword:?}{}", did_you_mean(*.nearest))]
    UnknownKeyword {
        keyword: String,
        nearest: Option<&'static str>,
    },
    #[error("connect string keyword {keyword} cannot be {value:?}: {why}")]
    BadValue {
        keyword: &'static str,
        value: String,
        why: &'static str,
    },
    #[error("connect string names no user, and this process's user id has no name: add user=NAME")]
    NoUser,
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"))
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub place: Place,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory with the server's Unix socket.
    Directory(PathBuf),
    /// A host name (or address as text); with `address` no lookup is made and the name only serves
    /// certificates and passwords.
    Name { name: String, address: Option<IpAddr> },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
            Place::Name { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Name { name, .. } => write!(f, "{name}:{}", self.port),
        }
    }
}

/// How a dead peer is noticed on an otherwise quiet TCP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    pub keepalives: bool,
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
    /// Sent data unacknowledged for this long ends the connection; zero leaves it to the system.
    pub user_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    Any,
    ReadWrite,
    Primary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// A checked connect string. Its `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectString {
    /// As given, environment included: what `to_libpq` prints.
    values: BTreeMap<&'static str, String>,
    hosts: Vec<Host>,
    user: String,
    passfile: Option<PathBuf>,
    /// Where the string has no password.
    password_beside: Option<String>,
    ssl: SslSettings,
    connect_timeout: Option<Duration>,
    tcp: TcpSettings,
    target_session: TargetSession,
    channel_binding: ChannelBinding,
}

impl ConnectString {
    /// Reads keyword/value text or a `postgresql://` URI. Looks at no environment variable; the
    /// operating system's account gives the default user and home directory.
    pub fn parse(text: &str) -> Result<ConnectString, ConnectStringError> {
        ConnectString::parse_with_environment(text, |_| None)
    }

    /// Like `parse`; what the text leaves open is taken from libpq's `PG*` variables, through
    /// `variable` so that a library need not read the process's own environment.
    pub fn parse_with_environment(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ConnectString, ConnectStringError> {
        let mut values = BTreeMap::new();
        for (keyword, value) in text::pairs(text)? {
            values.insert(known_keyword(&keyword, &value)?, value);
        }
        for (keyword, name) in KEYWORDS {
            if !name.is_empty() && !values.contains_key(keyword) {
                values.extend(variable(name).map(|value| (*keyword, value)));
            }
        }
        values.retain(|_, value| !value.is_empty());
        ConnectString::from_values(values)
    }

    fn from_values(values: BTreeMap<&'static str, String>) -> Result<ConnectString, ConnectStringError> {
        let values_ref = Values(&values);
        let account = Account::of_process();
        let home = account.as_ref().map(|account| account.home.as_path());
        let user = match (values.get("user"), &account) {
            (Some(user), _) => user.clone(),
            (None, Some(account)) => account.name.clone(),
            (None, None) => return Err(ConnectStringError::NoUser),
        };
        if let Some(encoding) = values.get("client_encoding")
            && !["auto", "utf8", "utf-8", "unicode"].contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(bad("client_encoding", encoding, "Skytide always speaks UTF8"));
        }
        let seconds = |keyword, default| {
            Ok(Duration::from_secs(
                values_ref.number(keyword)?.unwrap_or(default),
            ))
        };
        Ok(ConnectString {
            hosts: values_ref.hosts()?,
            user,
            passfile: match values.get("passfile") {
                Some(path) => Some(PathBuf::from(path)),
                None => home.map(|home| home.join(".pgpass")),
            },
            password_beside: None,
            ssl: values_ref.ssl(home)?,
            connect_timeout: match seconds("connect_timeout", 15)? {
                Duration::ZERO => None,
                // libpq too: below two seconds DNS and TLS alone can be too slow.
                timeout => Some(timeout.max(Duration::from_secs(2))),
            },
            tcp: TcpSettings {
                keepalives: values_ref.number("keepalives")?.unwrap_or(1) != 0,
                idle: seconds("keepalives_idle", 30)?,
                interval: seconds("keepalives_interval", 10)?,
                retries: values_ref
                    .number("keepalives_count")?
                    .unwrap_or(3)
                    .try_into()
                    .unwrap_or(u32::MAX),
                user_timeout: Duration::from_millis(values_ref.number("tcp_user_timeout")?.unwrap_or(60_000)),
            },
            target_session: values_ref.one_of(
                "target_session_attrs",
                &[
                    ("any", TargetSession::Any),
                    ("read-write", TargetSession::ReadWrite),
                    ("primary", TargetSession::Primary),
                ],
                "use any, read-write or primary",
            )?,
            channel_binding: values_ref.one_of(
                "channel_binding",
                &[
                    ("prefer", ChannelBinding::Prefer),
                    ("disable", ChannelBinding::Disable),
                    ("require", ChannelBinding::Require),
                ],
                "use disable, prefer or require",
            )?,
            values,
        })
    }

    /// Like `parse`, with what `extra`, in either form and possibly empty, says in its place.
    pub fn parse_with_extra(text: &str, extra: &str) -> Result<ConnectString, ConnectStringError> {
        let pairs = text::pairs(extra)?;
        let changes: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        ConnectString::parse(text)?.with(&changes)
    }

    /// Where the string says nothing of a password, it may come from `PGPASSWORD`, or from the file of `PGPASSFILE`; as a
    /// secret of this process that is no part of the string.
    pub fn or_password_of(mut self, variable: impl Fn(&str) -> Option<String>) -> ConnectString {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        if !self.values.contains_key("passfile")
            && let Some(file) = given("PGPASSFILE")
        {
            self.passfile = Some(PathBuf::from(file));
        }
        self.password_beside = given("PGPASSWORD");
        self
    }

    /// The same server, another database.
    pub fn with_dbname(&self, dbname: &str) -> ConnectString {
        let mut other = self.clone();
        other.values.insert("dbname", dbname.to_owned());
        other
    }

    /// The same, with these keywords set anew.
    pub fn with(&self, changes: &[(&str, &str)]) -> Result<ConnectString, ConnectStringError> {
        let mut values = self.values.clone();
        if changes.iter().any(|(keyword, _)| *keyword == "host") {
            // It would go before the new name.
            values.remove("hostaddr");
        }
        for (keyword, value) in changes {
            values.insert(known_keyword(keyword, value)?, (*value).to_owned());
        }
        values.retain(|_, value| !value.is_empty());
        let mut other = ConnectString::from_values(values)?;
        if !other.values.contains_key("passfile") && !self.values.contains_key("passfile") {
            other.passfile.clone_from(&self.passfile);
        }
        other.password_beside.clone_from(&self.password_beside);
        Ok(other)
    }

    pub(super) fn only_host(&self, host: &Host) -> ConnectString {
        let mut other = self.clone();
        other.hosts = vec![host.clone()];
        other
    }

    /// The same place without the password, for showing to people.
    pub fn without_password(&self) -> ConnectString {
        let mut other = self.clone();
        other.values.remove("password");
        other
    }

    /// Keyword/value text for a child process that uses libpq. **Holds the password**: hand it over in
    /// the environment or a file, not on a command line.
    pub fn to_libpq(&self) -> String {
        text::join(
            self.values
                .iter()
                .map(|(keyword, value)| (*keyword, value.as_str())),
        )
    }

    pub fn dbname(&self) -> &str {
        self.values.get("dbname").unwrap_or(&self.user)
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn options(&self) -> Option<&str> {
        self.values.get("options").map(String::as_str)
    }

    /// The name the string itself asks for, which goes before the program's own.
    pub fn application_name(&self) -> Option<&str> {
        let given = |keyword| self.values.get(keyword).map(String::as_str);
        given("application_name").or_else(|| given("fallback_application_name"))
    }

    pub fn ssl(&self) -> &SslSettings {
        &self.ssl
    }

    /// For one host: lookup, link, TLS and login together.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    pub fn tcp(&self) -> &TcpSettings {
        &self.tcp
    }

    pub fn target_session(&self) -> TargetSession {
        self.target_session
    }

    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// The password given, else the password file's for this host.
    pub fn password_for(&self, host: &Host) -> Option<String> {
        if let Some(password) = self.values.get("password").or(self.password_beside.as_ref()) {
            return Some(password.clone());
        }
        let name = match &host.place {
            Place::Directory(dir) if *dir == default_socket_directory() => "localhost".into(),
            Place::Directory(dir) => dir.to_string_lossy(),
            Place::Name { name, .. } => name.into(),
        };
        passfile::password(
            self.passfile.as_deref()?,
            &name,
            host.port,
            self.dbname(),
            &self.user,
        )
    }
}

impl FromStr for ConnectString {
    type Err = ConnectStringError;

    fn from_str(text: &str) -> Result<ConnectString, ConnectStringError> {
        ConnectString::parse(text)
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // PGOPTIONS-like text may hold secrets of its own (custom settings): names and places only.
        let shown = ["host", "hostaddr", "port", "user", "dbname", "sslmode"];
        let values = shown
            .iter()
            .filter_map(|keyword| Some((*keyword, self.values.get(keyword)?.as_str())));
        f.write_str(&text::join(values))
    }
}

impl fmt::Debug for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectString({self})")
    }
}

/// Typed reads of the values.
struct Values<'a>(&'a BTreeMap<&'static str, String>);

impl Values<'_> {
    fn number(&self, keyword: &'static str) -> Result<Option<u64>, ConnectStringError> {
        let parse = |value: &String| {
            let number = value.trim().parse::<i64>();
            let number = number.map_err(|_| bad(keyword, value, "a whole number is needed"))?;
            // libpq: a negative number means the default.
            Ok(u64::try_from(number).ok())
        };
        self.0.get(keyword).map(parse).transpose().map(Option::flatten)
    }

    /// The first choice is the default.
    fn one_of<T: Copy>(
        &self,
        keyword: &'static str,
        choices: &[(&str, T)],
        why: &'static str,
    ) -> Result<T, ConnectStringError> {
        let value = self.0.get(keyword).map(String::as_str).unwrap_or(choices[0].0);
        let found = choices.iter().find(|(name, _)| *name == value);
        found
            .map(|(_, choice)| *choice)
            .ok_or_else(|| bad(keyword, value, why))
    }

    /// `host`, `hostaddr` and `port` are lists of one length; a single port serves all.
    fn hosts(&self) -> Result<Vec<Host>, ConnectStringError> {
        let list =
            |keyword| -> Option<Vec<&str>> { Some(self.0.get(keyword)?.split(',').map(str::trim).collect()) };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        if let Some(names) = &names
            && names.len() != count
        {
            return Err(bad(
                "hostaddr",
                &self.0["hostaddr"],
                "host and hostaddr need equally many entries",
            ));
        }
        if let Some(ports) = &ports
            && ports.len() != 1
            && ports.len() != count
        {
            return Err(bad(
                "port",
                &self.0["port"],
                "give one port, or one for each host",
            ));
        }
        let entry = |list: &Option<Vec<&str>>, at: usize| -> Option<String> {
            let list = list.as_ref()?;
            let entry = if list.len() == 1 {
                list.first()
            } else {
                list.get(at)
            };
            entry
                .filter(|entry| !entry.is_empty())
                .map(|entry| (*entry).to_owned())
        };
        (0..count)
            .map(|at| {
                let port = match entry(&ports, at) {
                    None => DEFAULT_PORT,
                    Some(port) => match port.parse() {
                        Ok(0) | Err(_) => {
                            return Err(bad("port", &port, "a number from 1 to 65535 is needed"));
                        }
                        Ok(number) => number,
                    },
                };
                let address = match entry(&addresses, at) {
                    None => None,
                    Some(text) => Some(
                        text.parse::<IpAddr>()
                            .map_err(|_| bad("hostaddr", &text, "an IP address is needed"))?,
                    ),
                };
                let place = match (entry(&names, at), address) {
                    (Some(dir), None) if dir.starts_with('/') => Place::Directory(PathBuf::from(dir)),
                    (Some(name), _) if name.starts_with('@') => {
                        return Err(bad("host", &name, "abstract sockets are not supported"));
                    }
                    (Some(name), address) => Place::Name { name, address },
                    (None, Some(address)) => Place::Name {
                        name: address.to_string(),
                        address: Some(address),
                    },
                    (None, None) => Place::Directory(default_socket_directory()),
                };
                Ok(Host { place, port })
            })
            .collect()
    }

    fn ssl(&self, home: Option<&Path>) -> Result<SslSettings, ConnectStringError> {
        let file = |keyword, default: &str| match self.0.get(keyword) {
            Some(path) => Some(PathBuf::from(path)),
            None => home
                .map(|home| home.join(".postgresql").join(default))
                .filter(|path| path.exists()),
        };
        let roots = match self.0.get("sslrootcert").map(String::as_str) {
            Some("system") => SslRoots::System,
            Some(path) => SslRoots::File(PathBuf::from(path)),
            None => file("sslrootcert", "root.crt").map_or(SslRoots::None, SslRoots::File),
        };
        let modes = [
            ("prefer", SslMode::Prefer),
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let why = "use disable, allow, prefer, require, verify-ca or verify-full";
        let mode = match self.one_of("sslmode", &modes, why)? {
            // libpq: with the operating system's many roots only the name check means anything.
            _ if roots == SslRoots::System && !self.0.contains_key("sslmode") => SslMode::VerifyFull,
            mode if roots == SslRoots::System && mode != SslMode::VerifyFull => {
                return Err(bad(
                    "sslmode",
                    &self.0["sslmode"],
                    "sslrootcert=system needs verify-full",
                ));
            }
            // libpq: "require" verifies the chain once there is a root to verify it by.
            SslMode::Require if roots != SslRoots::None => SslMode::VerifyCa,
            mode => mode,
        };
        Ok(SslSettings {
            mode,
            roots,
            certificate: file("sslcert", "postgresql.crt"),
            key: file("sslkey", "postgresql.key"),
        })
    }
}

fn bad(keyword: &'static str, value: &str, why: &'static str) -> ConnectStringError {
    ConnectStringError::BadValue {
        keyword,
        value: value.to_owned(),
        why,
    }
}

fn known_keyword(keyword: &str, value: &str) -> Result<&'static str, ConnectStringError> {
    if let Some((known, _)) = KEYWORDS.iter().find(|(known, _)| *known == keyword) {
        return Ok(known);
    }
    match HARMLESS.iter().find(|(known, _)| *known == keyword) {
        Some((known, values)) if values.contains(&value) => Ok(known),
        Some((known, _)) => Err(bad(known, value, "not supported; leave it out")),
        None => Err(ConnectStringError::UnknownKeyword {
            keyword: keyword.to_owned(),
            nearest: nearest(keyword, KEYWORDS.iter().map(|(known, _)| *known)),
        }),
    }
}

/// Debian's directory where there is one, else PostgreSQL's own default.
fn default_socket_directory() -> PathBuf {
    let debian = Path::new("/var/run/postgresql");
    if debian.is_dir() {
        debian.into()
    } else {
        "/tmp".into()
    }
}

struct Account {
    name: String,
    home: PathBuf,
}

impl Account {
    fn of_process() -> Option<Account> {
        let id = rustix::process::geteuid().as_raw().to_string();
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        accounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, _, _, home, ..] = fields.as_slice() else {
                return None;
            };
            (*uid == id).then(|| Account {
                name: (*name).to_owned(),
                home: PathBuf::from(home),
            })
        })
    }
}

#[cfg(test)]
mod tests;
