//! Partials: a piece is an object, named by the bytes before it. Put one after the other they are what a directory
//! has in one file.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::super::piece::{self, HEADER, Piece};
use super::super::{Content, ListedPartial, PartialName, Prefix, Put, StoreError};
use super::bucket::{Bucket, Written};

const DIR: &str = "partial";
/// Pieces read at the same time.
const READS: usize = 32;
/// Ends remembered; more are found out again.
const MAX_ENDS: usize = 64;
/// A partial that is removed while it is read is read again so often.
const ATTEMPTS: usize = 3;

/// Where a partial's last piece begins, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    last: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
pub struct Partials {
    ends: Mutex<HashMap<PartialName, End>>,
}

impl Partials {
    pub async fn append(
        &self,
        bucket: &Bucket,
        name: &PartialName,
        at: u64,
        piece: &Content,
    ) -> Result<u64, StoreError> {
        let action = "append to a partial";
        piece.check_size()?;
        let known = self.lock().get(name).copied();
        let end = match known {
            Some(end) => Some(end),
            None => chain(bucket, name, action).await?.last().copied(),
        };
        let bytes = end.map_or(0, |end| end.bytes);
        let out_of_place = |bytes| StoreError::OutOfPlace {
            location: bucket.location.clone(),
            name: name.clone(),
            at,
            bytes,
        };
        let framed = Bytes::from(piece::framed(at, piece));
        let path = path_of(bucket, name, at);
        let again = end.is_some_and(|end| at == end.last && at + piece.len() == end.bytes);
        if again && bucket.read(&path, None, action).await?.as_ref() == Some(&framed) {
            return Ok(bytes);
        }
        if at != bytes || piece.is_empty() {
            // Others may have put pieces, or removed them: the next call asks.
            self.lock().remove(name);
            return Err(out_of_place(bytes));
        }
        match self.put_behind(bucket, &path, &framed, end, name, action).await {
            Ok(Put::Stored) => {}
            Ok(Put::Exists) => {
                // Another appender's, or ours whose answer was lost.
                self.lock().remove(name);
                if bucket.read(&path, None, action).await?.as_ref() != Some(&framed) {
                    let end = chain(bucket, name, action).await?.last().copied();
                    return Err(out_of_place(end.map_or(0, |end| end.bytes)));
                }
            }
            Err(error) => {
                self.lock().remove(name);
                return Err(error);
            }
        }
        let end = End {
            last: at,
            bytes: at + piece.len(),
        };
        let mut ends = self.lock();
        if ends.len() >= MAX_ENDS {
            ends.clear();
        }
        ends.insert(name.clone(), end);
        Ok(end.bytes)
    }

    /// Puts a piece, and sees to it that nobody removed those before it meanwhile: [`Partials::delete`] removes from
    /// the end until nothing is left, so either it sees our piece, or we see that the one before ours is gone.
    async fn put_behind(
        &self,
        bucket: &Bucket,
        path: &Path,
        framed: &Bytes,
        before: Option<End>,
        name: &PartialName,
        action: &'static str,
    ) -> Result<Put, StoreError> {
        let Written::New(tag) = bucket.write(path, framed, action).await? else {
            return Ok(Put::Exists);
        };
        let before_is_there = async {
            match before {
                Some(end) => bucket.length(&path_of(bucket, name, end.last), action).await,
                None => Ok(Some(0)),
            }
        };
        let (put, before_is_there) =
            futures_util::try_join!(bucket.confirm(path, framed, tag, action), before_is_there)?;
        if before_is_there.is_none() {
            bucket.remove(path, action).await?;
            return Err(StoreError::OutOfPlace {
                location: bucket.location.clone(),
                name: name.clone(),
                at: before.map_or(0, |end| end.bytes),
                bytes: 0,
            });
        }
        Ok(put)
    }

    pub async fn read(
        bucket: &Bucket,
        name: &PartialName,
        from: u64,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let action = "read a partial";
        let mut gone = None;
        for _ in 0..ATTEMPTS {
            let chain = chain(bucket, name, action).await?;
            let Some(bytes) = chain.last().map(|end| end.bytes) else {
                return Ok(None);
            };
            if from != bytes && !chain.iter().any(|piece| piece.last == from) {
                return Err(StoreError::OutOfPlace {
                    location: bucket.location.clone(),
                    name: name.clone(),
                    at: from,
                    bytes,
                });
            }
            let wanted = chain.into_iter().filter(|piece| piece.last >= from).map(|piece| {
                let path = path_of(bucket, name, piece.last);
                async move {
                    let framed = bucket.read(&path, None, action).await?;
                    framed
                        .map(|framed| unframed(bucket, &path, &framed, piece.last))
                        .transpose()
                }
            });
            let pieces: Vec<Option<Bytes>> = futures_util::stream::iter(wanted)
                .buffered(READS)
                .try_collect()
                .await?;
            match pieces.into_iter().collect::<Option<Vec<Bytes>>>() {
                Some(pieces) => return Ok(Some(pieces)),
                None => gone = Some(path_of(bucket, name, from)),
            }
        }
        let path = gone.unwrap_or_else(|| path_of(bucket, name, from));
        Err(bucket.damaged(&path, "pieces are listed and cannot be read"))
    }

    pub async fn list(bucket: &Bucket, prefix: &Prefix) -> Result<Vec<ListedPartial>, StoreError> {
        let entries = bucket.list(&format!("{DIR}/{prefix}"), "list partials").await?;
        let mut listed: Vec<ListedPartial> = Vec::new();
        for (entry, size) in entries {
            let name = entry
                .strip_prefix(DIR)
                .and_then(|name| name.strip_prefix('/')?.rsplit_once('/'))
                .and_then(|(name, _)| PartialName::new(name).ok());
            let Some(name) = name else { continue };
            let bytes = size.saturating_sub(HEADER as u64);
            match listed.last_mut().filter(|last| last.name == name) {
                Some(last) => last.bytes += bytes,
                None => listed.push(ListedPartial { name, bytes }),
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    pub async fn delete(&self, bucket: &Bucket, name: &PartialName) -> Result<(), StoreError> {
        let action = "delete a partial";
        self.lock().remove(name);
        loop {
            let entries = bucket.list(&dir_of(name), action).await?;
            if entries.is_empty() {
                return Ok(());
            }
            // From its end: what a crash leaves is still a beginning.
            for (entry, _) in entries.into_iter().rev() {
                bucket.remove(&bucket.path(&entry), action).await?;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PartialName, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dir_of(name: &PartialName) -> String {
    format!("{DIR}/{name}/")
}

fn path_of(bucket: &Bucket, name: &PartialName, at: u64) -> Path {
    bucket.path(&format!("{}{at:016x}", dir_of(name)))
}

/// A partial's pieces. They follow each other without a gap.
async fn chain(bucket: &Bucket, name: &PartialName, action: &'static str) -> Result<Vec<End>, StoreError> {
    let dir = dir_of(name);
    let mut chain = Vec::new();
    let mut bytes = 0;
    for (entry, size) in bucket.list(&dir, action).await? {
        let at = entry
            .strip_prefix(&dir)
            .and_then(|at| u64::from_str_radix(at, 16).ok());
        let length = size.checked_sub(HEADER as u64).filter(|length| *length > 0);
        let damaged = |what| bucket.damaged(&bucket.path(&entry), what);
        let (at, length) = at.zip(length).ok_or_else(|| damaged("it is no piece"))?;
        if at != bytes {
            return Err(damaged("the piece before it is missing"));
        }
        bytes += length;
        chain.push(End { last: at, bytes });
    }
    Ok(chain)
}

fn unframed(bucket: &Bucket, path: &Path, framed: &Bytes, at: u64) -> Result<Bytes, StoreError> {
    Piece::parse(framed, 0)
        .filter(|piece| piece.at == at && piece.end() == framed.len())
        .map(|piece| framed.slice(piece.offset..piece.end()))
        .ok_or_else(|| bucket.damaged(path, "its checksum is wrong"))
}
