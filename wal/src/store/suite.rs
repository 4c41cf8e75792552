//! What every store has to do, as calls: each implementation's tests run all of it on an empty store.

use std::sync::Arc;

use bytes::Bytes;

use super::{Content, ListedPartial, ObjectName, PartialName, Prefix, Put, Store, StoreError};

/// Runs the whole suite on a store that is empty, and leaves things in it.
pub async fn run(store: Arc<dyn Store>) {
    objects(&*store).await;
    listing(&*store).await;
    one_of_many_writers_wins(store.clone()).await;
    partials(&*store).await;
    large(&*store).await;
}

fn object(name: &str) -> ObjectName {
    ObjectName::new(name).expect("a name of the suite")
}

fn partial(name: &str) -> PartialName {
    PartialName::new(name).expect("a name of the suite")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("a prefix of the suite")
}

async fn objects(store: &dyn Store) {
    let name = object("objects/a");
    assert_eq!(store.get(&name).await.expect("get"), None);
    assert_eq!(store.get_range(&name, 0..0).await.expect("range"), None);
    assert_eq!(store.head(&name).await.expect("head"), None);
    store
        .delete(&name)
        .await
        .expect("nothing is deleted, and that is fine");

    let put = store.put(&name, Content::new("hello")).await.expect("put");
    assert_eq!(put, Put::Stored);
    for again in ["hello", "other"] {
        let put = store.put(&name, Content::new(again)).await.expect("put again");
        assert_eq!(put, Put::Exists, "a name is given once");
    }
    let got = store.get(&name).await.expect("get");
    assert_eq!(got.as_deref(), Some(&b"hello"[..]), "the first one is kept");
    assert_eq!(store.head(&name).await.expect("head"), Some(5));
    for (range, bytes) in [(0..5, "hello"), (1..3, "el"), (5..5, ""), (2..2, "")] {
        let got = store.get_range(&name, range).await.expect("range");
        assert_eq!(got.as_deref(), Some(bytes.as_bytes()));
    }
    for range in [0..6, 6..6] {
        let error = store.get_range(&name, range).await.expect_err("beyond the end");
        assert!(matches!(error, StoreError::Range { bytes: 5, .. }), "{error}");
    }

    let empty = object("objects/empty");
    assert_eq!(
        store.put(&empty, Content::new("")).await.expect("put"),
        Put::Stored
    );
    assert_eq!(store.get(&empty).await.expect("get"), Some(Bytes::new()));
    assert_eq!(store.head(&empty).await.expect("head"), Some(0));

    store.delete(&name).await.expect("delete");
    assert_eq!(store.get(&name).await.expect("get"), None);
    assert_eq!(
        store.put(&name, Content::new("new")).await.expect("put"),
        Put::Stored,
        "a deleted name is free"
    );
}

async fn listing(store: &dyn Store) {
    for name in ["list/b/2", "list/a", "list/b/1", "list/b2", "list/c/deep/er"] {
        let put = store.put(&object(name), Content::new(name.to_owned())).await;
        assert_eq!(put.expect("put"), Put::Stored);
    }
    let names = async |text: &str| {
        let listed = store.list(&prefix(text)).await.expect("list");
        let sizes = listed
            .iter()
            .all(|entry| entry.bytes == entry.name.as_str().len() as u64);
        assert!(sizes || text.is_empty(), "{listed:?}");
        listed
            .into_iter()
            .map(|entry| entry.name.to_string())
            .collect::<Vec<_>>()
    };
    let all = ["list/a", "list/b/1", "list/b/2", "list/b2", "list/c/deep/er"];
    assert_eq!(names("list/").await, all);
    assert_eq!(names("list").await, all);
    assert_eq!(names("list/b").await, ["list/b/1", "list/b/2", "list/b2"]);
    assert_eq!(names("list/b/").await, ["list/b/1", "list/b/2"]);
    assert!(names("list/a/").await.is_empty());
    assert!(names("nothing").await.is_empty());
    assert!(names("").await.len() > all.len());
}

async fn one_of_many_writers_wins(store: Arc<dyn Store>) {
    let writers = (0..8).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let content = Content::new(format!("writer {number}"));
            store
                .put(&object("race/one"), content)
                .await
                .map(|put| (number, put))
        })
    });
    let mut winners = Vec::new();
    for writer in futures_util::future::join_all(writers).await {
        let (number, put) = writer.expect("no panic").expect("put");
        winners.extend((put == Put::Stored).then_some(number));
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let there = store.get(&object("race/one")).await.expect("get");
    assert_eq!(there, Some(Bytes::from(format!("writer {}", winners[0]))));
}

async fn partials(store: &dyn Store) {
    let name = partial("00000001/one");
    assert_eq!(store.read_partial(&name, 0).await.expect("read"), None);
    store.delete_partial(&name).await.expect("nothing is deleted");
    let error = store
        .append(&name, 3, Content::new("x"))
        .await
        .expect_err("no piece before");
    assert!(
        matches!(error, StoreError::OutOfPlace { bytes: 0, at: 3, .. }),
        "{error}"
    );

    assert_eq!(
        store.append(&name, 0, Content::new("one")).await.expect("append"),
        3
    );
    assert_eq!(
        store
            .append(&name, 3, Content::new("three"))
            .await
            .expect("append"),
        8
    );
    let again = store.append(&name, 3, Content::new("three")).await;
    assert_eq!(again.expect("its answer may have been lost"), 8);
    for (at, piece) in [(3, "other"), (3, "three+"), (9, "x"), (7, "x")] {
        let error = store
            .append(&name, at, Content::new(piece))
            .await
            .expect_err("not its place");
        assert!(
            matches!(error, StoreError::OutOfPlace { bytes: 8, .. }),
            "{error}"
        );
    }
    let read = async |from| {
        let pieces = store
            .read_partial(&name, from)
            .await
            .expect("read")
            .expect("is there");
        pieces
            .iter()
            .map(|piece| String::from_utf8_lossy(piece).into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(read(0).await, ["one", "three"]);
    assert_eq!(read(3).await, ["three"]);
    assert!(read(8).await.is_empty());
    let error = store
        .read_partial(&name, 4)
        .await
        .expect_err("in the middle of a piece");
    assert!(matches!(error, StoreError::OutOfPlace { .. }), "{error}");

    assert_eq!(
        store
            .append(&partial("00000001/two"), 0, Content::new("2"))
            .await
            .expect("append"),
        1
    );
    let listed = store.partials(&prefix("00000001/")).await.expect("list");
    let wanted = [("00000001/one", 8), ("00000001/two", 1)];
    let wanted = wanted.map(|(name, bytes)| ListedPartial {
        name: partial(name),
        bytes,
    });
    assert_eq!(listed, wanted);
    assert!(
        store
            .partials(&prefix("00000002"))
            .await
            .expect("list")
            .is_empty()
    );
    let objects = store.list(&prefix("")).await.expect("list");
    assert!(
        objects
            .iter()
            .all(|entry| !entry.name.as_str().contains("00000001")),
        "partials are no objects"
    );

    store.delete_partial(&name).await.expect("delete");
    assert_eq!(store.read_partial(&name, 0).await.expect("read"), None);
    assert_eq!(
        store
            .append(&name, 0, Content::new("anew"))
            .await
            .expect("append"),
        4
    );
}

/// As large as a segment of WAL that does not compress, and a piece too large for a single write.
async fn large(store: &dyn Store) {
    let bytes: Vec<u8> = (0..16u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let content = Content::new(bytes);
    let name = object("large/one");
    assert_eq!(store.put(&name, content.clone()).await.expect("put"), Put::Stored);
    assert!(store.get(&name).await.expect("get").as_ref() == Some(content.bytes()));
    let end = content.len();
    let tail = store.get_range(&name, end - 1000..end).await.expect("range");
    assert!(tail.as_deref() == content.bytes().get(content.bytes().len() - 1000..));

    let piece = Content::new(content.bytes().slice(..1 << 20));
    let name = partial("large");
    assert_eq!(
        store.append(&name, 0, piece.clone()).await.expect("append"),
        1 << 20
    );
    let read = store
        .read_partial(&name, 0)
        .await
        .expect("read")
        .expect("is there");
    assert!(read == [piece.bytes().clone()]);
}
