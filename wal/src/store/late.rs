//! A store that cannot be opened now: each call tries again, and says so as long as that fails.
//!
//! What works with several stores goes on with the others then, and a process that lives long has the store when its file
//! system is mounted.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{
    Content, Listed, ListedPartial, ObjectName, PartialName, Prefix, Put, Store, StoreError, StoreFuture,
};

type Open = dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync;

/// Opened when it is asked, and from then on that store.
pub struct LateStore {
    location: String,
    open: Box<Open>,
    opened: OnceLock<Arc<dyn Store>>,
}

impl LateStore {
    /// The store that `open` gives, or one that tries it again.
    pub fn open(
        location: String,
        open: impl Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static,
    ) -> Arc<dyn Store> {
        match open() {
            Ok(store) => store,
            Err(_) => Arc::new(LateStore {
                location,
                open: Box::new(open),
                opened: OnceLock::new(),
            }),
        }
    }

    fn store(&self) -> Result<&dyn Store, StoreError> {
        if let Some(store) = self.opened.get() {
            return Ok(&**store);
        }
        let store = (self.open)().map_err(|error| StoreError::Unreachable {
            location: self.location.clone(),
            action: "open it",
            source: Box::new(error),
        })?;
        Ok(&**self.opened.get_or_init(|| store))
    }
}

impl fmt::Debug for LateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateStore({}, {:?})", self.location, self.opened)
    }
}

impl Store for LateStore {
    fn location(&self) -> &str {
        &self.location
    }

    fn put<'a>(&'a self, name: &'a ObjectName, content: Content) -> StoreFuture<'a, Put> {
        Box::pin(async move { self.store()?.put(name, content).await })
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move { self.store()?.get(name).await })
    }

    fn get_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move { self.store()?.get_range(name, range).await })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<u64>> {
        Box::pin(async move { self.store()?.head(name).await })
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(async move { self.store()?.list(prefix).await })
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.store()?.delete(name).await })
    }

    fn append<'a>(&'a self, name: &'a PartialName, at: u64, piece: Content) -> StoreFuture<'a, u64> {
        Box::pin(async move { self.store()?.append(name, at, piece).await })
    }

    fn read_partial<'a>(&'a self, name: &'a PartialName, from: u64) -> StoreFuture<'a, Option<Vec<Bytes>>> {
        Box::pin(async move { self.store()?.read_partial(name, from).await })
    }

    fn partials<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<ListedPartial>> {
        Box::pin(async move { self.store()?.partials(prefix).await })
    }

    fn delete_partial<'a>(&'a self, name: &'a PartialName) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.store()?.delete_partial(name).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirStore, layout};

    #[tokio::test]
    async fn a_store_that_is_not_there_answers_nothing_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let place = root.clone();
        let store = LateStore::open(root.display().to_string(), move || {
            Ok(Arc::new(DirStore::open(&place)?))
        });
        let identity = layout::identity();
        for _ in 0..2 {
            let error = store.get(&identity).await.unwrap_err();
            assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
            assert!(store.list(&Prefix::default()).await.is_err());
            assert!(store.partials(&Prefix::default()).await.is_err());
        }
        // The place where its file system is mounted.
        std::fs::create_dir(&root).unwrap();
        let error = store.get(&identity).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
        DirStore::create(&root).unwrap();
        assert_eq!(store.get(&identity).await.unwrap(), None);
        let put = store.put(&identity, Content::new("x")).await.unwrap();
        assert_eq!(put, Put::Stored);
        assert_eq!(store.head(&identity).await.unwrap(), Some(1));
    }
}
