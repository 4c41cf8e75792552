//! From an open link to a session that takes replication commands (PostgreSQL manual, "Message Flow",
//! Start-up and SASL Authentication).

use std::collections::BTreeMap;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;
use skytide_sql::conn::{ChannelBinding, ConnectString, Host};

use super::client::Mode;
use super::error::WalsenderError;
use super::message::{Authentication, Backend};
use super::wire::Wire;

/// A walsender prints values by its own session's settings: these make them parse on every server.
const TEXT_FORMAT: [(&str, &str); 5] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

/// What the server told about itself at login, and since.
#[derive(Clone, Debug, Default)]
pub struct ServerParameters {
    values: BTreeMap<String, String>,
    version_num: u32,
    pub process_id: u32,
    pub secret_key: Vec<u8>,
}

impl ServerParameters {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// As `server_version_num` has it: 150004 for 15.4; 150000 for 15beta2.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if name == "server_version" {
            self.version_num = version_num(value);
        }
        self.values.insert(name.to_owned(), value.to_owned());
    }
}

/// `15.4 (Debian …)`, `18beta1`, `9.6.24`: major version times 10,000, from 10 on.
fn version_num(text: &str) -> u32 {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let (first, second, third) = (number(), number(), number());
    let version = match first {
        0..10 => first.saturating_mul(10_000) + second.saturating_mul(100).saturating_add(third),
        _ => first.saturating_mul(10_000).saturating_add(second),
    };
    version.min(10_000_000)
}

/// How far the login has come; the server must not skip a step.
enum Progress {
    Start,
    Scram {
        exchange: ScramSha256,
        bound: bool,
    },
    /// The server has proved that it knows the password.
    ScramDone {
        bound: bool,
    },
    /// A password went over; nothing proves the server.
    PasswordSent,
}

pub(super) async fn log_in(
    wire: &mut Wire,
    target: &ConnectString,
    host: &Host,
    mode: Mode,
    application_name: &str,
) -> Result<ServerParameters, WalsenderError> {
    let mut parameters = vec![
        ("user", target.user()),
        (
            "application_name",
            target.application_name().unwrap_or(application_name),
        ),
    ];
    // pg_hba.conf and the password file call a physical connection's database "replication".
    let password = match mode {
        Mode::Logical => {
            parameters.extend([("replication", "database"), ("database", target.dbname())]);
            target.password_for(host)
        }
        Mode::Physical => {
            parameters.push(("replication", "true"));
            target.with_dbname("replication").password_for(host)
        }
    };
    parameters.extend(target.options().map(|options| ("options", options)));
    parameters.extend(TEXT_FORMAT);
    frontend::startup_message(parameters, &mut wire.out)?;
    wire.flush().await?;
    authenticate(wire, target, password.as_deref()).await?;

    let mut server = ServerParameters::default();
    loop {
        match wire.receive().await? {
            (_, Backend::ParameterStatus { name, value }) => server.set(name, value),
            (
                _,
                Backend::BackendKeyData {
                    process_id,
                    secret_key,
                },
            ) => {
                server.process_id = process_id;
                server.secret_key = secret_key.to_vec();
            }
            (_, Backend::ReadyForQuery) => return Ok(server),
            (_, Backend::Error(error)) => return Err(error.into()),
            (_, Backend::Notice(notice)) => tracing::debug!(%notice, "at login"),
            (tag, _) => return Err(WalsenderError::Unexpected { tag, during: "login" }),
        }
    }
}

async fn authenticate(
    wire: &mut Wire,
    target: &ConnectString,
    password: Option<&str>,
) -> Result<(), WalsenderError> {
    let binding_data = match target.channel_binding() {
        ChannelBinding::Disable => None,
        ChannelBinding::Prefer | ChannelBinding::Require => wire.transport().server_end_point(),
    };
    let binding_required = target.channel_binding() == ChannelBinding::Require;
    let keeps_secrets = wire.transport().keeps_secrets();
    let password = || {
        password.ok_or_else(|| WalsenderError::NoPassword {
            user: target.user().to_owned(),
        })
    };
    let scram_failed = |source| WalsenderError::Scram { source };
    let mut progress = Progress::Start;
    loop {
        let (tag, message) = wire.receive().await?;
        let request = match message {
            Backend::Authentication(request) => request,
            Backend::Error(error) => return Err(error.into()),
            Backend::Notice(notice) => {
                tracing::debug!(%notice, "at login");
                continue;
            }
            Backend::NegotiateProtocol => continue,
            _ => {
                return Err(WalsenderError::Unexpected {
                    tag,
                    during: "authentication",
                });
            }
        };
        let mut answer = bytes::BytesMut::new();
        progress = match (request, progress) {
            (Authentication::Ok, Progress::ScramDone { bound }) if bound || !binding_required => {
                return Ok(());
            }
            (Authentication::Ok, Progress::Start | Progress::PasswordSent) if !binding_required => {
                return Ok(());
            }
            (Authentication::Ok, Progress::Scram { .. }) => {
                return Err(WalsenderError::Unexpected {
                    tag,
                    during: "SCRAM authentication",
                });
            }
            (Authentication::Ok, _) => {
                return Err(WalsenderError::ChannelBinding {
                    why: "the server authenticated us without it",
                });
            }
            (Authentication::CleartextPassword | Authentication::Md5Password { .. }, _)
                if binding_required =>
            {
                return Err(WalsenderError::ChannelBinding {
                    why: "the server asks for a bare password",
                });
            }
            (Authentication::CleartextPassword, Progress::Start) => {
                if !keeps_secrets {
                    return Err(WalsenderError::ClearPassword);
                }
                frontend::password_message(password()?.as_bytes(), &mut answer)?;
                Progress::PasswordSent
            }
            (Authentication::Md5Password { salt }, Progress::Start) => {
                let hash = md5_hash(target.user().as_bytes(), password()?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut answer)?;
                Progress::PasswordSent
            }
            (Authentication::Sasl { mechanisms }, Progress::Start) => {
                let (mechanism, binding, bound) = choose(mechanisms, binding_data.clone(), binding_required)?;
                let exchange = ScramSha256::new(password()?.as_bytes(), binding);
                frontend::sasl_initial_response(mechanism, exchange.message(), &mut answer)?;
                Progress::Scram { exchange, bound }
            }
            (Authentication::SaslContinue(data), Progress::Scram { mut exchange, bound }) => {
                exchange.update(data).map_err(scram_failed)?;
                frontend::sasl_response(exchange.message(), &mut answer)?;
                Progress::Scram { exchange, bound }
            }
            (Authentication::SaslFinal(data), Progress::Scram { mut exchange, bound }) => {
                exchange.finish(data).map_err(scram_failed)?;
                Progress::ScramDone { bound }
            }
            (Authentication::Other(kind), _) => {
                return Err(WalsenderError::Authentication {
                    wanted: method_name(kind),
                });
            }
            _ => {
                return Err(WalsenderError::Unexpected {
                    tag,
                    during: "authentication",
                });
            }
        };
        wire.out.extend_from_slice(&answer);
        wire.flush().await?;
    }
}

/// The best of the mechanisms offered; whether it binds to the TLS channel.
fn choose(
    offered: &[u8],
    binding_data: Option<Vec<u8>>,
    binding_required: bool,
) -> Result<(&'static str, sasl::ChannelBinding, bool), WalsenderError> {
    let offers = |name: &str| {
        offered
            .split(|byte| *byte == 0)
            .any(|offer| offer == name.as_bytes())
    };
    match binding_data {
        Some(data) if offers(sasl::SCRAM_SHA_256_PLUS) => Ok((
            sasl::SCRAM_SHA_256_PLUS,
            sasl::ChannelBinding::tls_server_end_point(data),
            true,
        )),
        _ if binding_required => Err(WalsenderError::ChannelBinding {
            why: "it is not to be had: it needs TLS, a certificate with an RSA or ECDSA signature, and SCRAM on the server",
        }),
        // "We could have bound": a server that could too then notices who took its offer away.
        Some(_) if offers(sasl::SCRAM_SHA_256) => {
            Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested(), false))
        }
        None if offers(sasl::SCRAM_SHA_256) => {
            Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported(), false))
        }
        _ => Err(WalsenderError::Authentication {
            wanted: format!("one of the SASL mechanisms {:?}", names(offered)),
        }),
    }
}

fn names(offered: &[u8]) -> Vec<String> {
    let names = offered.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

fn method_name(kind: u32) -> String {
    match kind {
        2 => "Kerberos V5 authentication".into(),
        7 | 8 => "GSSAPI authentication".into(),
        9 => "SSPI authentication".into(),
        other => format!("authentication method {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        for (text, number) in [
            ("15.4 (Debian 15.4-1)", 150_004),
            ("18beta1", 180_000),
            ("13.16", 130_016),
            ("9.6.24", 90_624),
            ("", 0),
            ("4000000000", 10_000_000),
        ] {
            assert_eq!(version_num(text), number, "{text}");
        }
    }

    #[test]
    fn an_unknown_mechanism_is_named() {
        let error = choose(b"OAUTHBEARER\0\0", None, false)
            .err()
            .map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("OAUTHBEARER"), "{error}");
        assert!(choose(b"SCRAM-SHA-256\0\0", Some(vec![1]), true).is_err());
        let (mechanism, _, bound) =
            choose(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", Some(vec![1]), false).unwrap();
        assert_eq!((mechanism, bound), ("SCRAM-SHA-256-PLUS", true));
        let (mechanism, _, bound) = choose(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", None, false).unwrap();
        assert_eq!((mechanism, bound), ("SCRAM-SHA-256", false));
    }
}
