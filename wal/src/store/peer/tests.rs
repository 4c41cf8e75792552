use super::*;
use crate::store::{DirStore, suite};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// An authority and certificates of it, and one of another authority.
pub(in crate::store) fn certificates(dir: &Path) {
    let script = "
        set -e
        new='openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
        echo 'subjectAltName=IP:127.0.0.1,DNS:localhost' > san
        for ca in ca other; do
            $new -x509 -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.crt
        done
        for pair in server:ca client:ca stranger:other; do
            name=${pair%:*} ca=${pair#*:}
            $new -subj /CN=$name -keyout $name.key -out $name.csr
            openssl x509 -req -days 2 -in $name.csr -CA $ca.crt -CAkey $ca.key -CAcreateserial -extfile san -out $name.crt
        done";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn tls(dir: &Path, name: &str) -> PeerTls {
    let of = |file: &str| -> PathBuf { dir.join(file) };
    PeerTls {
        certificate: of(&format!("{name}.crt")),
        key: of(&format!("{name}.key")),
        authority: of("ca.crt"),
    }
}

struct Side {
    port: u16,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    store: watch::Sender<Arc<dyn Store>>,
}

async fn start(dir: &Path, port: u16) -> Side {
    let root = dir.join("store");
    let store: Arc<dyn Store> = Arc::new(DirStore::create(&root).unwrap());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = tls(dir, "server").server().unwrap();
    let (stop, stopped) = oneshot::channel();
    let (store, of_the_moment) = watch::channel(store);
    let task = tokio::spawn(serve(listener, config, of_the_moment, async {
        let _ = stopped.await;
    }));
    Side {
        port,
        stop,
        task,
        store,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_hosts_directory_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let side = start(dir.path(), 0).await;
    let store = PeerStore::new("localhost", side.port, &tls(dir.path(), "client")).unwrap();
    suite::run(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_let_in_and_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let side = start(dir.path(), 0).await;
    let name = ObjectName::new("a").unwrap();

    let stranger = PeerStore::new("localhost", side.port, &tls(dir.path(), "stranger")).unwrap();
    let error = stranger.get(&name).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");

    let mut suspicious = tls(dir.path(), "client");
    suspicious.authority = dir.path().join("other.crt");
    let suspicious = PeerStore::new("localhost", side.port, &suspicious).unwrap();
    let error = suspicious.get(&name).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");

    let misnamed = PeerStore::new("127.0.0.2", side.port, &tls(dir.path(), "client")).unwrap();
    assert!(misnamed.get(&name).await.is_err());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let tls = tls(dir.path(), "client");
    std::fs::set_permissions(&tls.key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(tls.client(), Err(PeerTlsError::KeyPermissions { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_and_comes_back_is_trouble_in_between_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let side = start(dir.path(), 0).await;
    let port = side.port;
    let store = PeerStore::new("localhost", port, &tls(dir.path(), "client")).unwrap();
    let name = ObjectName::new("a").unwrap();
    assert_eq!(store.put(&name, Content::new("x")).await.unwrap(), Put::Stored);
    // Another directory takes its place, under connections that stay.
    let other = DirStore::create(&dir.path().join("other")).unwrap();
    let before = side.store.send_replace(Arc::new(other));
    assert_eq!(store.get(&name).await.unwrap(), None);
    side.store.send_replace(before);
    assert_eq!(store.head(&name).await.unwrap(), Some(1));
    side.stop.send(()).unwrap();
    side.task.await.unwrap();
    let error = store.get(&name).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let _side = start(dir.path(), port).await;
    assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&b"x"[..]));
}
