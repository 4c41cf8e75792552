//! Getting in: every sslmode and login method against one server, by the SQL client and by the
//! walsender client, which must agree.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use skytide_fixtures::server::{Options, Server, Tls};
use skytide_sql::conn::{ConnectString, connect};
use skytide_sql::fault::Fault;
use skytide_wal::walsender::{Client, Mode};

const HBA: [&str; 8] = [
    "hostssl all certuser 127.0.0.1/32 cert",
    "hostssl all sslonly 127.0.0.1/32 scram-sha-256",
    "hostnossl all plainonly 127.0.0.1/32 scram-sha-256",
    "host all md5user 127.0.0.1/32 md5",
    "hostssl all clear 127.0.0.1/32 password",
    "host all clear 127.0.0.1/32 password",
    "host all scram 127.0.0.1/32 scram-sha-256",
    "host replication scram 127.0.0.1/32 scram-sha-256",
];

const ROLES: &str = "
    set password_encryption = 'scram-sha-256';
    create role scram login replication password 'secret';
    create role sslonly login replication password 'secret';
    create role plainonly login replication password 'secret';
    create role clear login replication password 'secret';
    create role certuser login replication;
    set password_encryption = 'md5';
    create role md5user login replication password 'secret';
    set password_encryption = 'scram-sha-256';";

/// A certificate authority, a server certificate for `localhost`, a client's for `certuser`, and a
/// stranger's.
fn make_certificates(dir: &Path) {
    let script = r#"
        set -e
        new="openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        sign="openssl x509 -req -days 2 -CA ca.crt -CAkey ca.key -CAcreateserial"
        echo "subjectAltName=DNS:localhost" > san
        $new -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
        $new -x509 -days 2 -subj /CN=stranger -keyout stranger.key -out stranger.crt
        $new -subj /CN=server -keyout server.key -out server.csr
        $sign -in server.csr -out server.crt -extfile san
        $new -subj /CN=certuser -keyout client.key -out client.csr
        $sign -in client.csr -out client.crt
        chmod 600 *.key"#;
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The error with its causes, as a person would see it.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

const IS_ENCRYPTED: &str = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";

async fn by_sql(target: &ConnectString) -> Result<bool, (Fault, String)> {
    let session = connect(target, "stories")
        .await
        .map_err(|error| (error.fault(), told(&error)))?;
    let row = session.query_one(IS_ENCRYPTED, &[]).await.unwrap();
    Ok(row.get::<_, &str>(0) == "true")
}

async fn by_walsender(target: &ConnectString) -> Result<bool, (Fault, String)> {
    let client = Client::connect(target, Mode::Logical, "stories").await;
    let mut client = client.map_err(|error| (error.fault(), told(&error)))?;
    let rows = client.simple_query(IS_ENCRYPTED).await.unwrap();
    Ok(rows[0][0].as_deref() == Some("true"))
}

#[tokio::test]
async fn both_clients_get_in_as_libpq_does() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    let server = Server::start(Options {
        hba: Some(HBA.map(str::to_owned).to_vec()),
        tls: Some(Tls {
            cert: file("server.crt"),
            key: file("server.key"),
            ca: Some(file("ca.crt")),
        }),
        ..Options::default()
    })
    .await
    .unwrap();
    server.psql("postgres", ROLES).await.unwrap();

    enum Expected {
        Encrypted,
        Plain,
        /// A part of what is told.
        Refused(&'static str),
    }
    use Expected::*;
    let cases = [
        ("user=scram sslmode=disable", Plain),
        ("user=scram sslmode=allow", Plain),
        ("user=scram sslmode=prefer", Encrypted),
        ("user=scram sslmode=require", Encrypted),
        ("user=scram sslmode=require channel_binding=require", Encrypted),
        ("user=scram sslmode=require channel_binding=disable", Encrypted),
        (
            "user=scram sslmode=disable channel_binding=require",
            Refused("channel"),
        ),
        ("user=scram sslmode=verify-ca sslrootcert={}/ca.crt", Encrypted),
        ("user=scram sslmode=verify-full sslrootcert={}/ca.crt", Encrypted),
        (
            "user=scram sslmode=verify-ca sslrootcert={}/ca.crt host=else.where",
            Encrypted,
        ),
        (
            "user=scram sslmode=verify-full sslrootcert={}/ca.crt host=else.where",
            Refused("not valid for name"),
        ),
        (
            "user=scram sslmode=verify-ca sslrootcert={}/stranger.crt",
            Refused("UnknownIssuer"),
        ),
        (
            "user=scram sslmode=verify-full sslrootcert={}/server.crt",
            Encrypted,
        ),
        (
            "user=scram sslmode=verify-full sslrootcert={}/none.crt",
            Refused("none.crt"),
        ),
        (
            "user=scram sslmode=require sslrootcert={}/stranger.crt",
            Refused("UnknownIssuer"),
        ),
        ("user=sslonly sslmode=disable", Refused("no pg_hba.conf entry")),
        ("user=sslonly sslmode=allow", Encrypted),
        ("user=sslonly sslmode=prefer", Encrypted),
        ("user=plainonly sslmode=allow", Plain),
        ("user=plainonly sslmode=prefer", Plain),
        ("user=plainonly sslmode=require", Refused("no pg_hba.conf entry")),
        ("user=md5user sslmode=disable", Plain),
        ("user=md5user sslmode=require", Encrypted),
        (
            "user=md5user sslmode=require channel_binding=require",
            Refused("channel"),
        ),
        ("user=clear sslmode=require", Encrypted),
        (
            "user=certuser sslmode=require sslcert={}/client.crt sslkey={}/client.key",
            Encrypted,
        ),
        (
            "user=certuser sslmode=require",
            Refused("valid client certificate"),
        ),
        (
            "user=scram password=wrong",
            Refused("password authentication failed for user \"scram\""),
        ),
        ("user=scram password=''", Refused("password")),
        (
            "user=scram dbname=nowhere",
            Refused("database \"nowhere\" does not exist"),
        ),
    ];
    for (case, expected) in cases {
        let case = case.replace("{}", &dir.path().to_string_lossy());
        let base = format!(
            "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres password=secret",
            server.port()
        );
        let target = ConnectString::parse(&format!("{base} {case}")).unwrap();
        for (client, outcome) in [
            ("sql", by_sql(&target).await),
            ("walsender", by_walsender(&target).await),
        ] {
            match (&expected, outcome) {
                (Encrypted, Ok(true)) | (Plain, Ok(false)) => {}
                (Refused(part), Err((Fault::Operator, told))) if told.contains(part) => {
                    assert!(!told.contains("secret"), "{told}");
                }
                (_, outcome) => panic!("{client}: {case}: {outcome:?}"),
            }
        }
    }

    // The one case where they differ: our own codec sends no password in clear over a bare link.
    let bare = format!(
        "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres",
        server.port()
    );
    let target = ConnectString::parse(&format!("{bare} user=clear password=secret sslmode=disable")).unwrap();
    let (fault, told) = by_walsender(&target).await.unwrap_err();
    assert!(
        fault == Fault::Operator && told.contains("sslmode=require"),
        "{told}"
    );
}

#[tokio::test]
async fn the_first_host_that_fits_is_taken() {
    let server = Server::start(Options::default()).await.unwrap();
    let (dead, alive) = (tempfile::tempdir().unwrap(), server.port());
    let two = format!(
        "host={},{} port={alive} user={} dbname=postgres",
        dead.path().display(),
        server.socket_dir().display(),
        server.superuser()
    );
    for wanted in ["any", "read-write", "primary"] {
        let target = ConnectString::parse(&format!("{two} target_session_attrs={wanted}")).unwrap();
        assert_eq!(
            connect(&target, "stories").await.unwrap().host(),
            &target.hosts()[1]
        );
        let client = Client::connect(&target, Mode::Physical, "stories").await.unwrap();
        assert_eq!(client.host(), &target.hosts()[1]);
    }
    server
        .psql(
            "postgres",
            "alter database postgres set default_transaction_read_only = on",
        )
        .await
        .unwrap();
    let target = ConnectString::parse(&format!("{two} target_session_attrs=read-write")).unwrap();
    let error = connect(&target, "stories").await.unwrap_err();
    assert!(
        error.fault() == Fault::Retry && error.to_string().contains("open for writing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_session_notifies_is_cancelled_and_tells_its_end() {
    let server = Server::start(Options::default()).await.unwrap();
    let target = ConnectString::parse(&server.dsn("postgres")).unwrap();
    let mut session = connect(&target, "stories").await.unwrap();
    let mut notifications = session.notifications().unwrap();
    assert!(session.notifications().is_none());
    session
        .batch_execute("listen heard; notify heard, 'word'")
        .await
        .unwrap();
    assert_eq!(notifications.recv().await.unwrap().payload(), "word");

    let row = session
        .query_one(
            "select current_setting('application_name'), pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "stories");
    let pid: i32 = row.get(1);

    let other = connect(&target, "stories").await.unwrap();
    let sleeps = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
    let cancel_once_asleep = async {
        while other.query_opt(sleeps, &[&pid]).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        session.canceller().cancel().await.unwrap();
    };
    let (slept, ()) = tokio::join!(session.batch_execute("select pg_sleep(600)"), cancel_once_asleep);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");

    other
        .execute("select pg_terminate_backend($1)", &[&pid])
        .await
        .unwrap();
    let end = session.closed().await.unwrap_err();
    assert_eq!(end.code().unwrap().code(), "57P01");
}
