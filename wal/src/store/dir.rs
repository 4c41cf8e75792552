//! A store in a directory: an object is a file, a partial is a file of pieces.

mod pieces;

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use self::pieces::PieceFile;
use super::{
    Content, Listed, ListedPartial, MAX_OBJECT_BYTES, ObjectName, PartialName, Prefix, Put, Store,
    StoreError, StoreFuture,
};
use crate::durable::{self, Attach, Created, FileError};
use crate::page_buffer::PageBuffer;

/// Where partials are, under the root.
const PARTIALS: &str = "partial";

/// Partials held open; each holds its file's lock, so that nobody else appends.
const MAX_OPEN_PARTIALS: usize = 8;

/// A store in a local directory. Clones are the same store.
#[derive(Debug, Clone)]
pub struct DirStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    location: String,
    /// The last used at the end.
    open_partials: Mutex<VecDeque<(PartialName, Arc<Mutex<PieceFile>>)>>,
    /// Those that were seen to be durable, with all above them.
    known_dirs: Mutex<HashSet<PathBuf>>,
}

impl DirStore {
    /// A directory without this file, and without an identity, is no store: say the place where one's file system is not
    /// mounted now.
    pub const MARK: &str = ".skytide-store";

    /// The store in a directory that was made one ([`DirStore::create`]). It is not made here: a file system that is not
    /// mounted would be taken for an empty store.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if it is not there.
    pub fn open(root: &Path) -> Result<DirStore, StoreError> {
        let root = std::path::absolute(root)
            .to("find", root)
            .map_err(|e| at(root, e))?;
        let inner = Inner {
            location: root.display().to_string(),
            root,
            open_partials: Mutex::default(),
            known_dirs: Mutex::default(),
        };
        inner.is_there()?;
        Ok(DirStore(Arc::new(inner)))
    }

    /// Like [`DirStore::open`], but makes the directory if it is not there, and a store of it.
    pub fn create(root: &Path) -> Result<DirStore, StoreError> {
        durable::create_dirs(root).map_err(|e| at(root, e))?;
        let (Created::New | Created::Exists) =
            durable::create(&root.join(DirStore::MARK), b"a store of WAL and base backups\n")
                .map_err(|e| at(root, e))?;
        DirStore::open(root)
    }

    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Removes what dead writers left. For a long-running process to call now and then.
    pub fn sweep(&self, now: SystemTime) -> Result<usize, StoreError> {
        let mut swept = 0;
        self.0
            .walk(&self.0.root.clone(), &mut |path, is_dir| {
                if is_dir {
                    swept += durable::sweep(path, now)?;
                }
                Ok(())
            })
            .and_then(|()| {
                swept += durable::sweep(&self.0.root, now)?;
                Ok(())
            })
            .map_err(|e| self.0.failed(e))?;
        Ok(swept)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going away, and the call with it.
            Err(error) => Err(StoreError::Unreachable {
                location: self.0.location.clone(),
                action: "finish a call",
                source: Box::new(error),
            }),
        }
    }
}

fn at(root: &Path, source: FileError) -> StoreError {
    StoreError::File {
        location: root.display().to_string(),
        source,
    }
}

impl Store for DirStore {
    fn location(&self) -> &str {
        &self.0.location
    }

    fn put<'a>(&'a self, name: &'a ObjectName, content: Content) -> StoreFuture<'a, Put> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.put(&name, &content)))
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Bytes>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.get(&name)))
    }

    fn get_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.get_range(&name, range)))
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<u64>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| Ok(inner.open(&name)?.map(|(_, bytes)| bytes))))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<Listed>> {
        let prefix = prefix.clone();
        Box::pin(self.blocking(move |inner| inner.list(&prefix)))
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| {
            inner.is_there()?;
            durable::remove(&inner.object(&name)).map_err(|e| inner.failed(e))
        }))
    }

    fn append<'a>(&'a self, name: &'a PartialName, at: u64, piece: Content) -> StoreFuture<'a, u64> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.append(&name, at, &piece)))
    }

    fn read_partial<'a>(&'a self, name: &'a PartialName, from: u64) -> StoreFuture<'a, Option<Vec<Bytes>>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.read_partial(&name, from)))
    }

    fn partials<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<ListedPartial>> {
        let prefix = prefix.clone();
        Box::pin(self.blocking(move |inner| inner.partials(&prefix)))
    }

    fn delete_partial<'a>(&'a self, name: &'a PartialName) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| {
            inner.lock_partials().retain(|(open, _)| *open != name);
            inner.is_there()?;
            durable::remove(&inner.partial(&name)).map_err(|e| inner.failed(e))
        }))
    }
}

/// What happens on blocking threads.
impl Inner {
    fn failed(&self, source: FileError) -> StoreError {
        at(&self.root, source)
    }

    /// Absence is an answer only of a store that is there, and what is written elsewhere is lost.
    fn is_there(&self) -> Result<(), StoreError> {
        let gone = |source: io::Error| StoreError::Unreachable {
            location: self.location.clone(),
            action: "find it",
            source: Box::new(at(
                &self.root,
                FileError::new("find the store in", &self.root, source),
            )),
        };
        let identity = crate::store::layout::identity();
        for name in [DirStore::MARK, identity.as_str()] {
            match std::fs::metadata(self.root.join(name)) {
                Ok(meta) if meta.is_file() => return Ok(()),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(gone(error)),
            }
        }
        Err(gone(io::ErrorKind::NotFound.into()))
    }

    fn object(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn partial(&self, name: &PartialName) -> PathBuf {
        self.root.join(PARTIALS).join(name.as_str())
    }

    fn make_parent(&self, path: &Path) -> Result<(), StoreError> {
        self.is_there()?;
        let Some(dir) = path.parent() else {
            return Ok(());
        };
        let mut known = self.known_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(dir) && dir.is_dir() {
            return Ok(());
        }
        durable::create_dirs(dir).map_err(|e| self.failed(e))?;
        // Who made one may have died, or not have come to it, before its name was durable.
        for made in dir.ancestors().take_while(|made| *made != self.root) {
            durable::sync_parent(made).map_err(|e| self.failed(e))?;
        }
        known.insert(dir.to_owned());
        Ok(())
    }

    fn put(&self, name: &ObjectName, content: &Content) -> Result<Put, StoreError> {
        content.check_size()?;
        let path = self.object(name);
        self.make_parent(&path)?;
        match durable::create(&path, content.bytes()).map_err(|e| self.failed(e))? {
            Created::New => Ok(Put::Stored),
            Created::Exists => Ok(Put::Exists),
        }
    }

    /// The object's file and length.
    fn open(&self, name: &ObjectName) -> Result<Option<(File, u64)>, StoreError> {
        let path = self.object(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_there()?;
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            opened => opened.to("open", &path).map_err(|e| self.failed(e))?,
        };
        let meta = file.metadata().to("look at", &path).map_err(|e| self.failed(e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        if meta.len() > MAX_OBJECT_BYTES {
            return Err(StoreError::TooLarge {
                bytes: meta.len(),
                max: MAX_OBJECT_BYTES,
            });
        }
        Ok(Some((file, meta.len())))
    }

    fn get(&self, name: &ObjectName) -> Result<Option<Bytes>, StoreError> {
        let Some((file, bytes)) = self.open(name)? else {
            return Ok(None);
        };
        self.read(name, file, 0..bytes).map(Some)
    }

    fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let Some((file, bytes)) = self.open(name)? else {
            return Ok(None);
        };
        if range.start > range.end || range.end > bytes {
            return Err(StoreError::Range {
                name: name.clone(),
                start: range.start,
                end: range.end,
                bytes,
            });
        }
        self.read(name, file, range).map(Some)
    }

    /// The range lies in the file, which is no longer than an object may be.
    fn read(&self, name: &ObjectName, mut file: File, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length = usize::try_from(range.end - range.start).expect("an object's length fits into memory");
        let mut buffer = PageBuffer::new(length);
        let read = move || -> io::Result<Bytes> {
            file.seek(SeekFrom::Start(range.start))?;
            match buffer.fill(&mut file)?.len() == length {
                true => Ok(buffer.into_bytes()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        read().to("read", &self.object(name)).map_err(|e| self.failed(e))
    }

    fn list(&self, prefix: &Prefix) -> Result<Vec<Listed>, StoreError> {
        let found = self.files(&self.root, prefix)?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .filter_map(|(name, path)| {
                let name = ObjectName::new(name).ok()?;
                // Deleted meanwhile.
                let bytes = std::fs::metadata(path).ok()?.len();
                Some(Listed { name, bytes })
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn partials(&self, prefix: &Prefix) -> Result<Vec<ListedPartial>, StoreError> {
        let mut listed = Vec::new();
        for (name, path) in self.files(&self.root.join(PARTIALS), prefix)? {
            let Ok(name) = PartialName::new(name) else {
                continue;
            };
            if let Some(bytes) = pieces::bytes(&self.location, &path, &name)? {
                listed.push(ListedPartial { name, bytes });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Files below `base` whose path from there begins with the prefix.
    fn files(&self, base: &Path, prefix: &Prefix) -> Result<Vec<(String, PathBuf)>, StoreError> {
        self.is_there()?;
        let mut found = Vec::new();
        self.walk(&base.join(prefix.dir()), &mut |path, is_dir| {
            if !is_dir
                && let Ok(name) = path.strip_prefix(base)
                && let Some(name) = name.to_str()
                && name.starts_with(prefix.as_str())
            {
                found.push((name.to_owned(), path.to_owned()));
            }
            Ok(())
        })
        .map_err(|e| self.failed(e))?;
        Ok(found)
    }

    /// Shows everything below `dir` whose name does not begin with a dot.
    fn walk(
        &self,
        dir: &Path,
        show: &mut dyn FnMut(&Path, bool) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let entries = match std::fs::read_dir(dir) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            entries => entries.to("list", dir)?,
        };
        for entry in entries {
            let entry = entry.to("list", dir)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let is_dir = entry.file_type().to("look at", &path)?.is_dir();
            show(&path, is_dir)?;
            if is_dir {
                self.walk(&path, show)?;
            }
        }
        Ok(())
    }

    fn read_partial(&self, name: &PartialName, from: u64) -> Result<Option<Vec<Bytes>>, StoreError> {
        let open = self.lock_partials();
        let file = open
            .iter()
            .find(|(open, _)| open == name)
            .map(|(_, file)| file.clone());
        drop(open);
        if let Some(file) = file {
            // A piece that is being written is there when it is durable.
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if file.is_in_place() {
                return file.read(from);
            }
        }
        let pieces = pieces::read(&self.location, &self.partial(name), name, from)?;
        if pieces.is_none() {
            self.is_there()?;
        }
        Ok(pieces)
    }

    fn append(&self, name: &PartialName, at: u64, piece: &Content) -> Result<u64, StoreError> {
        piece.check_size()?;
        let file = self.open_partial(name, at)?;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = file.append(at, piece)?;
        // A file that was removed, or moved away with its directory, takes bytes as before: nobody would find them.
        if file.is_in_place() {
            return Ok(bytes);
        }
        self.lock_partials().retain(|(open, _)| open != name);
        self.make_parent(&self.partial(name))?;
        Err(StoreError::OutOfPlace {
            location: self.location.clone(),
            name: name.clone(),
            at,
            bytes: 0,
        })
    }

    fn open_partial(&self, name: &PartialName, at: u64) -> Result<Arc<Mutex<PieceFile>>, StoreError> {
        let mut open = self.lock_partials();
        if let Some(place) = open.iter().position(|(opened, _)| opened == name) {
            let entry = open.remove(place).expect("its place was just found");
            let file = entry.1.clone();
            open.push_back(entry);
            return Ok(file);
        }
        let path = self.partial(name);
        self.make_parent(&path)?;
        if at > 0 && !path.exists() {
            return Err(StoreError::OutOfPlace {
                location: self.location.clone(),
                name: name.clone(),
                at,
                bytes: 0,
            });
        }
        let file = Arc::new(Mutex::new(PieceFile::open(&self.location, &path, name)?));
        if open.len() == MAX_OPEN_PARTIALS {
            open.pop_front();
        }
        open.push_back((name.clone(), file.clone()));
        Ok(file)
    }

    fn lock_partials(&self) -> MutexGuard<'_, VecDeque<(PartialName, Arc<Mutex<PieceFile>>)>> {
        self.open_partials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
