//! A backup's stream: its files' bytes one after the other, in frames of a mebibyte that are compressed alone, sixteen
//! of them in an object.
//!
//! A position in the stream is the object's number times [`OBJECT`] and the place in that object. An object may end
//! early; what would follow in it does not exist, and no extent names it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::manifest::{self, Extent, Frame, Object};
use super::stores::Stores;
use super::{BackupError, Label};
use crate::store::Content;

/// Bytes of the stream in a frame; the last one of an object may have fewer.
pub const FRAME: usize = 1 << 20;
/// Bytes of the stream in an object.
pub const OBJECT: usize = 16 * FRAME;

/// Compresses and puts objects, several at a time.
#[derive(Debug)]
pub struct ContentWriter {
    stores: Arc<Stores>,
    label: Label,
    level: i32,
    permits: Arc<Semaphore>,
    next: AtomicU32,
    stored: Arc<AtomicU64>,
    tasks: Mutex<Tasks>,
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[derive(Debug, Default)]
struct Tasks {
    running: JoinSet<Result<(u32, Object), BackupError>>,
    done: Vec<(u32, Object)>,
}

impl ContentWriter {
    /// `jobs` objects are compressed and written at the same time; each takes some 32 MiB of memory.
    pub fn new(stores: Arc<Stores>, label: Label, level: i32, jobs: usize) -> ContentWriter {
        ContentWriter {
            stores,
            label,
            level,
            permits: Arc::new(Semaphore::new(jobs.max(1))),
            next: AtomicU32::new(0),
            stored: Arc::default(),
            tasks: Mutex::default(),
            buffers: Arc::default(),
        }
    }

    /// A place to append to; several may be filled at the same time.
    pub fn filler(&self) -> Filler {
        Filler {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            raw: self.buffer(),
        }
    }

    fn buffer(&self) -> Vec<u8> {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Vec::with_capacity(OBJECT))
    }

    /// Takes an object's bytes; waits while enough are being worked on. An earlier one's failure ends it, too.
    async fn submit(&self, number: u32, raw: Vec<u8>) -> Result<(), BackupError> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| BackupError::GivenUp)?;
        let (stores, label, level) = (self.stores.clone(), self.label.clone(), self.level);
        let (stored, buffers) = (self.stored.clone(), self.buffers.clone());
        let work = async move {
            let _permit = permit;
            let packed = tokio::task::spawn_blocking(move || {
                let packed = pack(&raw, level);
                let mut raw = raw;
                raw.clear();
                buffers.lock().unwrap_or_else(PoisonError::into_inner).push(raw);
                packed
            });
            let (object, packed) = finished(packed.await)??;
            stored.fetch_add(packed.len(), Ordering::Relaxed);
            stores.put(&label, &label.data(number), packed).await?;
            fail::fail_point!("backup::object");
            Ok((number, object))
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.running.spawn(work);
        Ok(())
    }

    /// Waits for all objects, and returns them by number and how many bytes they have in the store.
    pub async fn finish(self) -> Result<(Vec<Object>, u64), BackupError> {
        let mut tasks = self.tasks.into_inner().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.running.join_next().await {
            tasks.done.push(finished(ended)??);
        }
        let mut objects: Vec<Object> = Vec::new();
        for (number, object) in tasks.done {
            let place = usize::try_from(number).map_err(|_| BackupError::GivenUp)?;
            while objects.len() <= place {
                objects.push(Object {
                    bytes: 0,
                    frames: Vec::new(),
                });
            }
            if let Some(slot) = objects.get_mut(place) {
                *slot = object;
            }
        }
        Ok((objects, self.stored.load(Ordering::Relaxed)))
    }

    /// The first failure so far.
    fn check(&self) -> Result<(), BackupError> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.running.try_join_next() {
            let object = finished(ended)??;
            tasks.done.push(object);
        }
        Ok(())
    }
}

pub(crate) fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, BackupError> {
    match joined {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(BackupError::GivenUp),
    }
}

/// The object that is being filled.
#[derive(Debug)]
pub struct Filler {
    number: u32,
    raw: Vec<u8>,
}

impl Filler {
    /// Appends bytes to the stream, and where they are to `extents`.
    pub async fn append(
        &mut self,
        writer: &ContentWriter,
        mut bytes: &[u8],
        extents: &mut Vec<Extent>,
    ) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            let room = OBJECT - self.raw.len();
            let (part, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            let at = u64::from(self.number) * OBJECT as u64 + self.raw.len() as u64;
            self.raw.extend_from_slice(part);
            manifest::push(
                extents,
                Extent {
                    source: 0,
                    at,
                    bytes: part.len() as u64,
                },
            );
            bytes = rest;
            if self.raw.len() == OBJECT {
                writer.check()?;
                let full = std::mem::replace(self, writer.filler());
                writer.submit(full.number, full.raw).await?;
            }
        }
        Ok(())
    }

    /// Hands over what is left.
    pub async fn finish(self, writer: &ContentWriter) -> Result<(), BackupError> {
        match self.raw.is_empty() {
            true => Ok(()),
            false => writer.submit(self.number, self.raw).await,
        }
    }
}

fn pack(raw: &[u8], level: i32) -> Result<(Object, Content), BackupError> {
    let mut compressor = Compressor::new(level).map_err(BackupError::Compress)?;
    compressor
        .set_parameter(CParameter::ChecksumFlag(true))
        .map_err(BackupError::Compress)?;
    let mut out = Vec::with_capacity(raw.len() / 2 + 4096);
    let mut frames = Vec::with_capacity(raw.len().div_ceil(FRAME));
    for part in raw.chunks(FRAME) {
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(part.len()), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let packed = compressor
            .compress_to_buffer(part, room)
            .map_err(BackupError::Compress)?;
        out.truncate(start + packed);
        frames.push(Frame {
            packed_bytes: u32::try_from(packed).expect("a mebibyte's frame"),
            packed_crc: crc32c::crc32c(out.get(start..).unwrap_or_default()),
            crc: crc32c::crc32c(part),
        });
    }
    let object = Object {
        bytes: u32::try_from(raw.len()).expect("an object is small"),
        frames,
    };
    Ok((object, Content::new(out)))
}

/// Decompresses frames and checks them.
pub struct FrameReader(Decompressor<'static>);

impl FrameReader {
    pub fn new() -> Result<FrameReader, BackupError> {
        Decompressor::new()
            .map(FrameReader)
            .map_err(BackupError::Compress)
    }

    /// The stream's bytes of frame `number` of an object, to the start of `out`, which has room for a frame of it.
    pub fn read(
        &mut self,
        object: &Object,
        number: usize,
        packed: &[u8],
        out: &mut [u8],
    ) -> Result<(), String> {
        let frame = object
            .frames
            .get(number)
            .ok_or_else(|| format!("it has no frame {number}"))?;
        if crc32c::crc32c(packed) != frame.packed_crc {
            return Err(format!("frame {number} has a wrong checksum"));
        }
        let whole = usize::try_from(object.bytes).unwrap_or(0);
        let expected = whole.saturating_sub(number * FRAME).min(FRAME);
        let out = out.get_mut(..expected).ok_or("there is no room for a frame")?;
        let found = self.0.decompress_to_buffer(packed, out);
        let found = found.map_err(|error| format!("frame {number} cannot be decompressed: {error}"))?;
        match found == expected && crc32c::crc32c(out) == frame.crc {
            true => Ok(()),
            false => Err(format!(
                "frame {number} has other contents than the manifest says"
            )),
        }
    }
}

/// Where the frames of an object lie in it.
pub fn frame_range(object: &Object, frames: std::ops::RangeInclusive<usize>) -> std::ops::Range<u64> {
    let upto = |end: usize| {
        object
            .frames
            .iter()
            .take(end)
            .map(|f| u64::from(f.packed_bytes))
            .sum()
    };
    upto(*frames.start())..upto(frames.end() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirStore, Store};

    fn noise(bytes: usize) -> Vec<u8> {
        (0..bytes as u64)
            .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8)
            .collect()
    }

    #[tokio::test]
    async fn files_go_in_and_their_extents_lead_back() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(DirStore::create(dir.path()).unwrap());
        let stores = Arc::new(Stores::new(vec![store.clone()], 1));
        let label: Label = "20261125T184500F".parse().unwrap();
        let writer = ContentWriter::new(stores, label.clone(), 1, 2);
        let files = [noise(10), noise(OBJECT + 5 * FRAME), Vec::new(), noise(FRAME)];
        let mut filler = writer.filler();
        let mut placed = Vec::new();
        for file in &files {
            let mut extents = Vec::new();
            for part in file.chunks(300_000) {
                filler.append(&writer, part, &mut extents).await.unwrap();
            }
            placed.push(extents);
        }
        filler.finish(&writer).await.unwrap();
        let (objects, stored) = writer.finish().await.unwrap();
        assert_eq!(objects.len(), 2);
        assert!(
            placed.iter().all(|extents| extents.len() <= 1),
            "the stream has no holes"
        );

        let mut stream = Vec::new();
        let mut reader = FrameReader::new().unwrap();
        let mut total = 0;
        for (number, object) in objects.iter().enumerate() {
            let packed = store.get(&label.data(number as u32)).await.unwrap().unwrap();
            total += packed.len() as u64;
            assert_eq!(
                zstd::stream::decode_all(&packed[..]).unwrap().len(),
                object.bytes as usize
            );
            for frame in 0..object.frames.len() {
                let range = frame_range(object, frame..=frame);
                let mut out = vec![0; FRAME.min(object.bytes as usize - frame * FRAME)];
                let part = &packed[range.start as usize..range.end as usize];
                reader.read(object, frame, part, &mut out).unwrap();
                stream.extend(&out);
                let mut damaged = part.to_vec();
                damaged[part.len() / 2] ^= 4;
                assert!(reader.read(object, frame, &damaged, &mut out).is_err());
            }
        }
        assert_eq!(total, stored);
        for (file, extents) in files.iter().zip(placed) {
            let found: Vec<u8> = extents
                .iter()
                .flat_map(|e| &stream[e.at as usize..(e.at + e.bytes) as usize])
                .copied()
                .collect();
            assert!(found == *file);
        }
    }
}
