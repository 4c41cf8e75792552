use super::*;
use crate::store::suite;

fn object(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

#[tokio::test]
async fn a_directory_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    suite::run(Arc::new(DirStore::create(dir.path()).unwrap())).await;
}

#[tokio::test]
async fn what_was_put_is_there_for_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let name = PartialName::new("p").unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    assert_eq!(
        store.put(&object("a/b"), Content::new("x")).await.unwrap(),
        Put::Stored
    );
    store.append(&name, 0, Content::new("one")).await.unwrap();

    let other = DirStore::create(dir.path()).unwrap();
    let error = other.append(&name, 3, Content::new("two")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Busy { .. }),
        "one appender at a time: {error}"
    );
    drop(store);
    assert_eq!(other.append(&name, 3, Content::new("two")).await.unwrap(), 6);
    assert_eq!(
        other.get(&object("a/b")).await.unwrap().as_deref(),
        Some(&b"x"[..])
    );
}

#[tokio::test]
async fn an_unfinished_piece_is_cut_and_its_place_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let name = PartialName::new("p").unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    store.append(&name, 0, Content::new("one")).await.unwrap();
    drop(store);
    let path = dir.path().join("partial/p");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"SkPc\x05\0\0\0half");
    std::fs::write(&path, bytes).unwrap();

    let store = DirStore::create(dir.path()).unwrap();
    let there = store.read_partial(&name, 0).await.unwrap().unwrap();
    assert_eq!(there, [Bytes::from_static(b"one")]);
    assert_eq!(store.append(&name, 3, Content::new("two")).await.unwrap(), 6);
    let there = store.read_partial(&name, 3).await.unwrap().unwrap();
    assert_eq!(there, [Bytes::from_static(b"two")]);
}

#[tokio::test]
async fn a_directory_that_has_gone_is_trouble_and_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mounted");
    assert!(DirStore::open(&root).is_err(), "it is not made");
    let store = DirStore::create(&root).unwrap();
    let mark = root.join(DirStore::MARK);
    std::fs::remove_file(&mark).unwrap();
    is_trouble(&store).await;
    std::fs::remove_dir(&root).unwrap();
    is_trouble(&store).await;
    assert!(!root.exists());
    // An identity says it as well: of stores that were made before there was the other mark.
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("identity"), "x").unwrap();
    assert_eq!(store.get(&object("a")).await.unwrap(), None);
}

async fn is_trouble(store: &DirStore) {
    let name = object("a");
    assert!(store.get(&name).await.is_err() && store.head(&name).await.is_err());
    assert!(store.list(&Prefix::default()).await.is_err());
    assert!(store.put(&name, Content::new("x")).await.is_err());
    assert!(
        store
            .append(&PartialName::new("p").unwrap(), 0, Content::new("x"))
            .await
            .is_err()
    );
    let partial = PartialName::new("p").unwrap();
    assert!(
        store.read_partial(&partial, 0).await.is_err() && store.partials(&Prefix::default()).await.is_err()
    );
    assert!(store.delete(&name).await.is_err() && store.delete_partial(&partial).await.is_err());
}

#[tokio::test]
async fn strangers_files_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".hidden", ".aside-1-1", "not a name"] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    let store = DirStore::create(dir.path()).unwrap();
    assert!(store.list(&Prefix::default()).await.unwrap().is_empty());
}

/// Prevents: WAL that is reported as safe and went into a file that nobody finds again.
#[tokio::test]
async fn nothing_is_appended_to_a_partial_that_was_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = DirStore::create(&root).unwrap();
    let name = PartialName::new("00000001/000000010000000000000001").unwrap();
    let piece = || Content::new("a piece of WAL");
    let bytes = store.append(&name, 0, piece()).await.unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&root, &away).unwrap();
    for _ in 0..2 {
        let error = store.append(&name, bytes, piece()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
    std::fs::rename(&away, &root).unwrap();
    let bytes = store.append(&name, bytes, piece()).await.unwrap();

    std::fs::remove_file(root.join("partial").join(name.as_str())).unwrap();
    let error = store.append(&name, bytes, piece()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::OutOfPlace { bytes: 0, .. }),
        "{error}"
    );
    store.append(&name, 0, piece()).await.unwrap();
    assert_eq!(store.read_partial(&name, 0).await.unwrap().unwrap().len(), 1);
}

/// Prevents: WAL that is reported as safe because it can be read, while its fsync failed or nobody made it.
#[tokio::test]
async fn a_piece_whose_fsync_failed_is_not_there() {
    if !fail::has_failpoints() {
        eprintln!("SKIPPED: built without failpoints");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    let other = DirStore::create(dir.path()).unwrap();
    let name = PartialName::new("00000001/000000010000000000000001").unwrap();
    let piece = |text: &'static str| Content::new(text);
    let count = async |store: &DirStore| {
        store
            .read_partial(&name, 0)
            .await
            .unwrap()
            .map(|pieces| pieces.len())
    };
    for (at, before) in [(0, None), (3, Some(1))] {
        fail::cfg("store::piece_sync", "return").unwrap();
        store.append(&name, at, piece("one")).await.unwrap_err();
        fail::cfg("store::piece_sync", "off").unwrap();
        assert_eq!(count(&store).await, before);
        assert_eq!(count(&other).await, before);
        store.append(&name, at, piece("one")).await.unwrap();
        assert_eq!(count(&other).await, Some(before.unwrap_or(0) + 1));
    }
}
