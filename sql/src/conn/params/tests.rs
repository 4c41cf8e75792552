use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> ConnectString {
    ConnectString::parse(text).unwrap()
}

#[test]
fn both_spellings_say_the_same() {
    let keywords = parse("host=a,b port = 1,2 user='me and' password='it\\'s' dbname=d sslmode=disable");
    let uri = parse("postgresql://me%20and:it%27s@a:1,b:2/d?sslmode=disable");
    assert_eq!(keywords, uri);
    assert_eq!(
        keywords.hosts().iter().map(Host::to_string).collect::<Vec<_>>(),
        ["a:1", "b:2"]
    );
    assert_eq!(keywords.user(), "me and");
    assert_eq!(
        keywords.password_for(&keywords.hosts()[0]).as_deref(),
        Some("it's")
    );
}

#[test]
fn uris_of_the_manual_parse() {
    let uri = parse("postgresql://%2Fvar%2Flib%2Fpg/db");
    assert_eq!(uri.hosts()[0].place, Place::Directory("/var/lib/pg".into()));
    let uri = parse("postgresql://[2001:db8::1234]/database");
    assert_eq!(uri.hosts()[0].to_string(), "[2001:db8::1234]:5432");
    let uri = parse("postgresql:///mydb?host=localhost&port=5433&ssl=true");
    assert_eq!((uri.dbname(), uri.hosts()[0].port), ("mydb", 5433));
    assert_eq!(uri.ssl().mode, SslMode::Require);
    assert_eq!(
        parse("postgresql://other@localhost/otherdb?connect_timeout=1").connect_timeout(),
        Some(Duration::from_secs(2))
    );
    for bad in [
        "postgresql://%zz/",
        "postgresql://[::1",
        "postgresql://h?x",
        "postgresql://h:0/d",
    ] {
        assert!(ConnectString::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_unknown_keyword_names_the_nearest() {
    let error = ConnectString::parse("hots=a").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown connect string keyword \"hots\"; did you mean \"host\"?"
    );
    for bad in [
        "dbname",
        "host='a",
        "sslmode=always",
        "port=x",
        "host=a,b port=1,2,3",
        "hostaddr=name",
    ] {
        assert!(ConnectString::parse(bad).is_err(), "{bad}");
    }
    assert!(ConnectString::parse("gssencmode=prefer sslsni=1").is_ok());
    assert!(ConnectString::parse("gssencmode=require").is_err());
}

#[test]
fn the_password_is_shown_to_nobody_but_libpq() {
    let given = parse("host=h password=hush user=u application_name=a");
    assert!(!format!("{given} {given:?}").contains("hush"));
    assert!(given.to_libpq().contains("password='hush'"));
    assert!(!given.without_password().to_libpq().contains("hush"));
    assert_eq!(given.with_dbname("o'ther").dbname(), "o'ther");
    assert!(
        given
            .with_dbname("o'ther")
            .to_libpq()
            .contains("dbname='o\\'ther'")
    );
    assert_eq!(given.dbname(), "u");
}

#[test]
fn keywords_can_be_set_anew() {
    let given = parse("host=a hostaddr=10.0.0.1 port=1 user=u password=p dbname=d");
    let moved = given.with(&[("host", "b"), ("dbname", "o'ther")]).unwrap();
    assert_eq!(moved.hosts()[0].to_string(), "b:1");
    assert_eq!(
        moved.to_libpq(),
        "dbname='o\\'ther' host='b' password='p' port='1' user='u'"
    );
    assert_eq!(
        given.with(&[("user", "")]).unwrap(),
        parse("host=a hostaddr=10.0.0.1 port=1 password=p dbname=d")
    );
    assert!(given.with(&[("hots", "b")]).is_err());
    assert!(given.with(&[("port", "x")]).is_err());
}

#[test]
fn environment_fills_gaps_only() {
    let variable = |name: &str| match name {
        "PGHOST" => Some("fromenv".to_owned()),
        "PGPORT" => Some("7777".to_owned()),
        "PGDATABASE" => Some(String::new()),
        _ => None,
    };
    let made = ConnectString::parse_with_environment("port=1 user=u", variable).unwrap();
    assert_eq!(made.hosts()[0].to_string(), "fromenv:1");
    assert_eq!(made.dbname(), "u");
}

#[test]
fn a_password_beside_the_string_is_no_part_of_it() {
    let variable = |name: &str| (name == "PGPASSWORD").then(|| "beside".to_owned());
    let made = parse("host=a user=u").or_password_of(variable);
    let host = &made.hosts()[0];
    assert_eq!(made.password_for(host).as_deref(), Some("beside"));
    let moved = made.with(&[("port", "7")]).unwrap().with_dbname("d");
    assert_eq!(moved.password_for(host).as_deref(), Some("beside"));
    for shown in [moved.to_libpq(), moved.to_string(), format!("{moved:?}")] {
        assert!(!shown.contains("beside"), "{shown}");
    }
    let own = parse("host=a user=u password=own").or_password_of(variable);
    assert_eq!(own.password_for(host).as_deref(), Some("own"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwords");
    std::fs::write(&file, "a:*:*:u:filed\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let named = |name: &str| (name == "PGPASSFILE").then(|| file.to_str().unwrap().to_owned());
    let made = parse("host=a user=u")
        .or_password_of(named)
        .with(&[("port", "7")])
        .unwrap();
    assert_eq!(made.password_for(&made.hosts()[0]).as_deref(), Some("filed"));
}

#[test]
fn what_is_extra_goes_before_what_is_given() {
    for given in ["host=a port=1 user=u", "postgresql://u@a:1/"] {
        let made = ConnectString::parse_with_extra(given, "user=other sslmode=disable").unwrap();
        assert_eq!(made, parse("host=a port=1 user=other sslmode=disable"));
        assert_eq!(ConnectString::parse_with_extra(given, "").unwrap(), parse(given));
        assert!(ConnectString::parse_with_extra(given, "usr=x").is_err());
    }
}

#[test]
fn a_root_certificate_raises_the_mode_as_in_libpq() {
    assert_eq!(
        parse("sslmode=require sslrootcert=/x").ssl().mode,
        SslMode::VerifyCa
    );
    assert_eq!(parse("sslmode=prefer sslrootcert=/x").ssl().mode, SslMode::Prefer);
    assert_eq!(parse("sslrootcert=system").ssl().mode, SslMode::VerifyFull);
    assert!(ConnectString::parse("sslrootcert=system sslmode=require").is_err());
}

proptest! {
    #[test]
    fn any_text_parses_or_is_an_error(text in ".{0,80}") {
        let _ = ConnectString::parse(&text);
        let _ = ConnectString::parse(&format!("postgresql://{text}"));
    }

    #[test]
    fn libpq_text_reads_back(dbname in "[^\0]{1,20}", password in "[^\0]{1,20}") {
        let made = parse(&text::join([("dbname", dbname.as_str()), ("password", password.as_str())].into_iter()));
        prop_assert_eq!(made.dbname(), dbname.as_str());
        prop_assert_eq!(parse(&made.to_libpq()), made);
    }
}
