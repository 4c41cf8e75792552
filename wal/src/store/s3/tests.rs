use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skytide_fixtures::proxy::Proxy;
use skytide_fixtures::s3::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::store::peer::tests::certificates;
use crate::store::{piece, suite};

fn settings(endpoint: String) -> S3Settings {
    S3Settings {
        bucket: BUCKET.into(),
        prefix: "some/where".into(),
        endpoint: Some(endpoint),
        region: REGION.into(),
        credentials: S3Credentials {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
            session_token: None,
        },
        allow_http: true,
        authority: None,
        timeout: Duration::from_secs(60),
    }
}

fn store_of(server: &S3Server) -> S3Store {
    S3Store::new(&settings(server.endpoint())).unwrap()
}

fn through(proxy: &Proxy) -> S3Settings {
    settings(format!("http://127.0.0.1:{}", proxy.port()))
}

fn object(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn partial(name: &str) -> PartialName {
    PartialName::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_store() {
    let server = S3Server::start().await.unwrap();
    let store = store_of(&server);
    assert_eq!(store.conditions().await.unwrap(), Conditions::Honoured);
    suite::run(Arc::new(store)).await;
    let whole = S3Settings {
        bucket: BUCKET.into(),
        prefix: String::new(),
        ..settings(server.endpoint())
    };
    std::fs::remove_dir_all(server.bucket().join("some")).unwrap();
    suite::run(Arc::new(S3Store::new(&whole).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_found_out_and_nothing_is_overwritten() {
    let server = S3Server::start().await.unwrap();
    server.ignore_conditions();
    let store = store_of(&server);
    assert_eq!(store.conditions().await.unwrap(), Conditions::Ignored);
    let name = object("a");
    assert_eq!(store.put(&name, Content::new("one")).await.unwrap(), Put::Stored);
    for again in ["one", "two"] {
        let put = store_of(&server).put(&name, Content::new(again)).await.unwrap();
        assert_eq!(put, Put::Exists);
    }
    assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&b"one"[..]));

    let name = partial("p");
    assert_eq!(store.append(&name, 0, Content::new("one")).await.unwrap(), 3);
    let other = store_of(&server);
    assert_eq!(other.append(&name, 3, Content::new("two")).await.unwrap(), 6);
    let error = store.append(&name, 3, Content::new("2")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::OutOfPlace { bytes: 6, .. }),
        "{error}"
    );
    let there = store.read_partial(&name, 0).await.unwrap().unwrap();
    assert_eq!(there, ["one", "two"]);
}

/// What another writer puts between our put and our look at it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_before_it_was_looked_at_is_not_called_stored() {
    for careless in [false, true] {
        let server = S3Server::start().await.unwrap();
        if careless {
            server.ignore_conditions();
        }
        let bucket = store_of(&server).bucket;
        let path = bucket.path("a");
        let ours = Bytes::from_static(b"ours");
        let bucket::Written::New(tag) = bucket.write(&path, &ours, "test").await.unwrap() else {
            panic!("the name was free");
        };
        store_of(&server).delete(&object("a")).await.unwrap();
        assert!(bucket.confirm(&path, &ours, tag.clone(), "test").await.is_err());
        // As long as ours.
        let put = store_of(&server).put(&object("a"), Content::new("not!")).await;
        assert_eq!(put.unwrap(), Put::Stored);
        let put = bucket.confirm(&path, &ours, tag, "test").await.unwrap();
        assert_eq!(put, Put::Exists);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_as_many_pages_as_they_need() {
    let server = S3Server::start().await.unwrap();
    let store = store_of(&server);
    let dir = server.bucket().join("some/where");
    std::fs::create_dir_all(dir.join("many")).unwrap();
    std::fs::create_dir_all(dir.join("partial/p")).unwrap();
    for number in 0..2_345 {
        std::fs::write(dir.join(format!("many/{number:04}")), "x").unwrap();
        let piece = piece::framed(number, &Content::new("y"));
        std::fs::write(dir.join(format!("partial/p/{number:016x}")), piece).unwrap();
    }
    let listed = store.list(&Prefix::new("many/").unwrap()).await.unwrap();
    assert_eq!(listed.len(), 2_345);
    assert!(listed.is_sorted_by_key(|entry| entry.name.clone()));
    let beginning = store.list(&Prefix::new("many/23").unwrap()).await.unwrap();
    assert_eq!(beginning.len(), 45);
    let partials = store.partials(&Prefix::default()).await.unwrap();
    assert_eq!(partials.len(), 1);
    assert_eq!(partials[0].bytes, 2_345);
    let name = partial("p");
    let pieces = store.read_partial(&name, 0).await.unwrap().unwrap();
    assert_eq!(pieces.len(), 2_345);
    let end = store.append(&name, 2_345, Content::new("z")).await.unwrap();
    assert_eq!(end, 2_346);
    store.delete_partial(&name).await.unwrap();
    assert_eq!(store.read_partial(&name, 0).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_piece_is_found() {
    let server = S3Server::start().await.unwrap();
    let store = store_of(&server);
    let name = partial("p/q");
    store.append(&name, 0, Content::new("one")).await.unwrap();
    store.append(&name, 3, Content::new("two")).await.unwrap();
    let dir = server.bucket().join("some/where/partial/p/q");
    let second = dir.join(format!("{:016x}", 3));
    let mut damaged = std::fs::read(&second).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&second, damaged).unwrap();
    let error = store.read_partial(&name, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    std::fs::remove_file(dir.join(format!("{:016x}", 0))).unwrap();
    let error = store.read_partial(&name, 3).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_appenders_one_is_told_where_the_other_is() {
    let server = S3Server::start().await.unwrap();
    let (one, two) = (store_of(&server), store_of(&server));
    let name = partial("p");
    one.append(&name, 0, Content::new("one")).await.unwrap();
    two.append(&name, 3, Content::new("two")).await.unwrap();
    let error = one.append(&name, 3, Content::new("longer")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::OutOfPlace { bytes: 6, .. }),
        "{error}"
    );
    // The same bytes are not another's.
    two.append(&name, 6, Content::new("three")).await.unwrap();
    assert_eq!(one.append(&name, 6, Content::new("three")).await.unwrap(), 11);

    // Removed by one while the other believes that it is there.
    two.delete_partial(&name).await.unwrap();
    let error = one.append(&name, 11, Content::new("x")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::OutOfPlace { bytes: 0, .. }),
        "{error}"
    );
    assert!(one.partials(&Prefix::default()).await.unwrap().is_empty());
    assert_eq!(one.append(&name, 0, Content::new("anew")).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_and_comes_back_is_trouble_in_between_and_nothing_else() {
    let server = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(server.port()).await.unwrap();
    let store = S3Store::new(&through(&proxy)).unwrap();
    let name = object("a");
    assert_eq!(store.put(&name, Content::new("x")).await.unwrap(), Put::Stored);
    proxy.cut();
    let missing = object("missing");
    let errors = [
        store.get(&missing).await.unwrap_err(),
        store.head(&missing).await.unwrap_err(),
        store.list(&Prefix::default()).await.unwrap_err(),
        store.read_partial(&partial("p"), 0).await.unwrap_err(),
        store.put(&object("b"), Content::new("x")).await.unwrap_err(),
        store
            .append(&partial("p"), 0, Content::new("x"))
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_transient(), "{error:?}");
    }
    proxy.heal();
    assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(store.get(&missing).await.unwrap(), None);
    assert_eq!(
        store.put(&object("b"), Content::new("x")).await.unwrap(),
        Put::Stored
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for_and_a_silent_one_is_given_up() {
    let server = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(server.port()).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let store = S3Store::new(&through(&proxy)).unwrap();
    let name = object("a");
    let bytes = vec![7; 300_000];
    assert_eq!(
        store.put(&name, Content::new(bytes.clone())).await.unwrap(),
        Put::Stored
    );
    assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&bytes[..]));
    proxy.heal();
    proxy.pause();
    let impatient = S3Settings {
        timeout: Duration::from_secs(1),
        ..through(&proxy)
    };
    let error = S3Store::new(&impatient).unwrap().get(&name).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_and_keys_are_refused_and_never_taken_for_an_empty_store() {
    let server = S3Server::start().await.unwrap();
    let right = settings(server.endpoint());
    let mut bucket = right.clone();
    bucket.bucket = "no-such-bucket".into();
    let mut id = right.clone();
    id.credentials.access_key_id = "AKOTHER".into();
    let mut secret = right;
    secret.credentials.secret_access_key = "another-secret".into();
    for wrong in [bucket, id, secret] {
        let store = S3Store::new(&wrong).unwrap();
        let name = object("a");
        let errors = [
            store.get(&name).await.unwrap_err(),
            store.head(&name).await.unwrap_err(),
            store.list(&Prefix::default()).await.unwrap_err(),
            store.read_partial(&partial("p"), 0).await.unwrap_err(),
            store.delete(&name).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("secret") && !shown.contains(SECRET_KEY),
                "{shown}"
            );
        }
    }
}

/// TLS before the server, with a certificate that only our authority knows.
async fn encrypted(server: &S3Server, dir: &std::path::Path) -> u16 {
    let chain = CertificateDer::pem_file_iter(dir.join("server.crt")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, upstream) = (listener.local_addr().unwrap().port(), server.port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(("127.0.0.1", upstream)).await?;
                let mut stream = acceptor.accept(stream).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut upstream).await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_by_its_certificate() {
    let server = S3Server::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let port = encrypted(&server, dir.path()).await;
    let mut settings = settings(format!("https://127.0.0.1:{port}"));
    settings.allow_http = false;
    let name = object("a");
    let stranger = S3Store::new(&settings).unwrap();
    assert!(stranger.get(&name).await.unwrap_err().is_transient());
    settings.authority = Some(dir.path().join("ca.crt"));
    let store = S3Store::new(&settings).unwrap();
    assert_eq!(store.put(&name, Content::new("x")).await.unwrap(), Put::Stored);
    assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&b"x"[..]));

    settings.authority = Some(dir.path().join("nothing.crt"));
    let error = S3Store::new(&settings).unwrap_err();
    assert!(matches!(error, S3SettingsError::Authority { .. }), "{error}");
    settings.endpoint = Some(server.endpoint());
    settings.authority = None;
    let error = S3Store::new(&settings).unwrap_err();
    assert!(matches!(error, S3SettingsError::Clear(_)), "{error}");
    assert!(!format!("{settings:?}").contains(SECRET_KEY));
}
