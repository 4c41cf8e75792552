//! Whether the primary of a standby lives: the primary is asked, since a broken connection proves nothing.

use std::path::Path;
use std::time::Duration;

use skytide_sql::conn::ConnectString;

use super::error::ServerError;
use crate::walsender::{Client, Mode, WalsenderError};

/// A primary that does not answer for so long is not there.
const ANSWER: Duration = Duration::from_secs(5);

/// Refuses where a server answers that takes the cluster's writes, or may, or is a standby that may know more.
pub(super) async fn is_gone(
    primaries: &[&ConnectString],
    application_name: &str,
    system_id: u64,
) -> Result<(), ServerError> {
    let asked = primaries
        .iter()
        .map(|primary| ask(primary, application_name, system_id));
    let answers = futures_util::future::join_all(asked).await;
    for (primary, answer) in primaries.iter().zip(answers) {
        let hosts: Vec<String> = primary.hosts().iter().map(ToString::to_string).collect();
        let host = hosts.join(" or ");
        match answer {
            Answer::Silence => {}
            Answer::Primary => return Err(ServerError::PrimaryAnswers { host }),
            Answer::Standby => return Err(ServerError::StandbyAnswers { host }),
        }
    }
    Ok(())
}

enum Answer {
    Silence,
    /// Or somebody who does not let us in: it starts, does not know us, wants a password or TLS.
    Primary,
    Standby,
}

async fn ask(server: &ConnectString, application_name: &str, system_id: u64) -> Answer {
    let asked = async {
        let mut client = Client::connect(server, Mode::Physical, application_name).await?;
        let same = client.identify_system().await?.system_id == system_id;
        Ok::<_, WalsenderError>((same, client.is_read_only().await?))
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok((true, false))) => Answer::Primary,
        Ok(Ok((true, true))) => Answer::Standby,
        // Another cluster's.
        Ok(Ok((false, _))) => Answer::Silence,
        Ok(Err(error)) => match error {
            WalsenderError::Connect(error) if error.is_silence() => Answer::Silence,
            // What a proxy does whose server is gone.
            WalsenderError::Io(_) | WalsenderError::Closed => Answer::Silence,
            _ => Answer::Primary,
        },
        Err(_) => Answer::Silence,
    }
}

/// What the configuration in a data directory has as `primary_conninfo`: of a server that cannot be asked. Included files are
/// not read.
pub(super) fn conninfo_in(data_dir: &Path) -> Option<String> {
    let mut found = None;
    for file in ["postgresql.conf", "postgresql.auto.conf"] {
        let text = std::fs::read_to_string(data_dir.join(file)).unwrap_or_default();
        let mut values = text.lines().filter_map(|line| value_of(line, "primary_conninfo"));
        found = values.next_back().or(found);
    }
    found.filter(|text| !text.is_empty())
}

/// `name = 'value'` or `name value`; a quote in the value is doubled or behind a backslash.
fn value_of(line: &str, name: &str) -> Option<String> {
    let rest = line.trim_start();
    let head = rest.get(..name.len())?;
    let rest = rest.get(name.len()..)?;
    let is_end = rest.starts_with(|c: char| c.is_whitespace() || c == '=');
    if !head.eq_ignore_ascii_case(name) || !is_end {
        return None;
    }
    let rest = rest.trim_start().trim_start_matches('=').trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        return Some(rest.split([' ', '\t', '#']).next().unwrap_or_default().to_owned());
    };
    let mut value = String::new();
    let mut rest = quoted.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\'' if rest.peek() == Some(&'\'') => value.extend(rest.next()),
            '\'' => break,
            '\\' => value.extend(rest.next()),
            other => value.push(other),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_in_the_files_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(conninfo_in(dir.path()), None);
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        write(
            "postgresql.conf",
            "#primary_conninfo = 'host=no'\nprimary_conninfo_x = 'y'\n  Primary_Conninfo='host=a user=''b'''  # why\n",
        );
        assert_eq!(conninfo_in(dir.path()).as_deref(), Some("host=a user='b'"));
        write("postgresql.auto.conf", "primary_conninfo 'host=c'\n");
        assert_eq!(conninfo_in(dir.path()).as_deref(), Some("host=c"));
        write("postgresql.auto.conf", "primary_conninfo = ''\n");
        assert_eq!(conninfo_in(dir.path()), None);
    }
}
