//! How to reach object storage. Keys of access are read where other programs for S3 read them, and nowhere else: they
//! never stand in our configuration file, on a command line, or in a log.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use skytide_wal::store::s3::{S3Credentials, S3Settings};

use super::Values;
use crate::config::ConfigError;
use crate::config::ini::expand_home;

const PLACE: &str = "~/.aws/credentials";

/// What all buckets of a configuration have in common.
pub fn settings(
    values: &Values,
    bucket: &str,
    prefix: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<S3Settings, ConfigError> {
    let text = |key| Ok::<_, ConfigError>(values.text(key)?.map(str::to_owned));
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let endpoint = text("s3_endpoint")?
        .or_else(|| set("AWS_ENDPOINT_URL_S3"))
        .or_else(|| set("AWS_ENDPOINT_URL"));
    let allow_http = values.text("s3_allow_http")? == Some("yes");
    if let Some(endpoint) = &endpoint {
        match endpoint.split_once("://") {
            Some(("https", _)) => {}
            Some(("http", _)) if allow_http => {}
            Some(("http", _)) => {
                return Err(values.bad(
                    "s3_endpoint",
                    "WAL would cross the network in the clear: use https://, or set s3_allow_http = yes",
                ));
            }
            _ => return Err(values.bad("s3_endpoint", "expected https://host or https://host:port")),
        }
    }
    Ok(S3Settings {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        region: text("s3_region")?
            .or_else(|| set("AWS_REGION"))
            .or_else(|| set("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| "us-east-1".to_owned()),
        credentials: credentials(values, &set)?,
        allow_http,
        authority: values.path("s3_authority")?,
        timeout: values.duration("s3_timeout")?,
    })
}

/// The file that is named; else the environment; else the usual file.
fn credentials(values: &Values, set: &dyn Fn(&str) -> Option<String>) -> Result<S3Credentials, ConfigError> {
    let profile = match values.text("s3_profile")? {
        Some(profile) => profile.to_owned(),
        None => set("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()),
    };
    let bad = |what| values.bad("s3_credentials", what);
    if let Some(path) = values.path("s3_credentials")? {
        return read(&path, &profile).map_err(bad);
    }
    if let (Some(access_key_id), Some(secret_access_key)) =
        (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY"))
    {
        return Ok(S3Credentials {
            access_key_id,
            secret_access_key,
            session_token: set("AWS_SESSION_TOKEN"),
        });
    }
    let usual = set("AWS_SHARED_CREDENTIALS_FILE").map_or_else(|| expand_home(PLACE), PathBuf::from);
    match usual.exists() {
        true => read(&usual, &profile).map_err(bad),
        false => Err(values.missing("s3_credentials")),
    }
}

fn read(path: &Path, profile: &str) -> Result<S3Credentials, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if std::fs::metadata(path).map_err(unreadable)?.mode() & 0o077 != 0 {
        return Err(format!("{} can be read by others: chmod 600 it", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text, profile).map_err(|what| format!("{}, profile {profile}: {what}", path.display()))
}

/// The file of Amazon's own programs: sections, and `key = value` without quotes or references.
fn parse(text: &str, profile: &str) -> Result<S3Credentials, &'static str> {
    let mut here = false;
    let mut found = false;
    let [mut id, mut secret, mut token] = [const { None }; 3];
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = section.trim() == profile;
            found |= here;
        } else if here && let Some((key, value)) = line.split_once('=') {
            let field = match key.trim() {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *field = Some(value.trim().to_owned());
        }
    }
    match found {
        false => Err("there is no such section"),
        true => Ok(S3Credentials {
            access_key_id: id.ok_or("aws_access_key_id is missing")?,
            secret_access_key: secret.ok_or("aws_secret_access_key is missing")?,
            session_token: token,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Overrides;
    use crate::config::ini::Ini;
    use crate::config::keys::WALMGR;

    const FILE: &str = "\
# keys of the archive
[default]
aws_access_key_id = AK1
aws_secret_access_key = se%cr=et/1
[other]
aws_access_key_id=AK2
aws_secret_access_key=secret2
aws_session_token = token2
region = nowhere
[half]
aws_access_key_id = AK3
";

    fn load(dir: &Path, lines: &str, environment: &[(&str, &str)]) -> Result<S3Settings, ConfigError> {
        let path = dir.join("wal.ini");
        std::fs::write(&path, format!("[walmgr]\nstores = s3://b\n{lines}")).unwrap();
        let ini = Ini::read(&path)?;
        let values = Values::join(&WALMGR, Some(&ini), |_| None, &Overrides::default())?;
        let environment = |name: &str| {
            let mut set = environment.iter();
            set.find(|(set, _)| *set == name)
                .map(|(_, value)| (*value).to_owned())
        };
        settings(&values, "b", "p", &environment)
    }

    fn file(dir: &Path, mode: u32) -> String {
        let path = dir.join("credentials");
        std::fs::write(&path, FILE).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn credentials_come_from_a_file_or_the_environment_and_print_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), 0o600);
        let keys = [("AWS_ACCESS_KEY_ID", "AK9"), ("AWS_SECRET_ACCESS_KEY", "secret9")];

        let named = load(dir.path(), &format!("s3_credentials = {file}\n"), &keys).unwrap();
        assert_eq!(named.credentials.access_key_id, "AK1");
        assert_eq!(named.credentials.secret_access_key, "se%cr=et/1");
        assert!(!format!("{named:?}").contains("se%cr"), "{named:?}");

        let from_environment = load(dir.path(), "", &keys).unwrap();
        assert_eq!(from_environment.credentials.access_key_id, "AK9");

        let shared = [("AWS_SHARED_CREDENTIALS_FILE", &*file), ("AWS_PROFILE", "other")];
        let shared = load(dir.path(), "", &shared).unwrap();
        assert_eq!(shared.credentials.session_token.as_deref(), Some("token2"));

        let none = [("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")];
        let error = load(dir.path(), "", &none).unwrap_err();
        assert!(
            matches!(
                error,
                ConfigError::Missing {
                    key: "s3_credentials",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn credentials_that_cannot_be_used_are_refused_without_being_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let open = file(dir.path(), 0o644);
        let error = load(dir.path(), &format!("s3_credentials = {open}\n"), &[]).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let file = file(dir.path(), 0o600);
        for (profile, what) in [
            ("half", "aws_secret_access_key is missing"),
            ("x", "no such section"),
        ] {
            let lines = format!("s3_credentials = {file}\ns3_profile = {profile}\n");
            let error = load(dir.path(), &lines, &[]).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("AK3"), "{error}");
        }
    }

    #[test]
    fn wal_in_the_clear_has_to_be_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = format!("s3_credentials = {}\n", file(dir.path(), 0o600));
        let clear = format!("{file}s3_endpoint = http://store:9000\n");
        let error = load(dir.path(), &clear, &[]).unwrap_err();
        assert!(error.to_string().contains("s3_allow_http"), "{error}");
        let allowed = load(dir.path(), &format!("{clear}s3_allow_http = yes\n"), &[]).unwrap();
        assert_eq!(allowed.endpoint.as_deref(), Some("http://store:9000"));
        let odd = format!("{file}s3_endpoint = store:9000\n");
        assert!(load(dir.path(), &odd, &[]).is_err());
        let from_environment = [("AWS_ENDPOINT_URL", "https://store"), ("AWS_REGION", "eu")];
        let settings = load(dir.path(), &file, &from_environment).unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("https://store"));
        assert_eq!(settings.region, "eu");
    }
}
