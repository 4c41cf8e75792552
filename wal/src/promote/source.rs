//! WAL from wherever it lies, record by record.

use std::sync::{Arc, Mutex, PoisonError};

use skytide_sql::Lsn;

use super::PromoteError;
use super::node::Node;
use crate::decode::{Decoder, Expected, Record, Timelines};
use crate::format::version::Major;
use crate::restore::{Origin, Restorer};
use crate::ship::WalDir;
use crate::tail::names_of;
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, WalFileName};

/// Bytes that are asked for at once.
const CHUNK: u64 = 4 << 20;

/// The segment that was served last, up to its last whole record.
type Served = Option<(SegmentName, Arc<[u8]>)>;

/// A place that has WAL.
pub(super) enum WalSource {
    /// A data directory on this host.
    Disk(WalDir),
    /// A server's `pg_wal`, through the server.
    Server(Arc<Node>),
    Stores(Restorer, Mutex<Served>),
}

/// The cluster whose WAL is read.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub system_id: u64,
    pub segment_size: SegmentSize,
    pub major: Option<Major>,
}

impl WalSource {
    pub fn stores(restorer: Restorer) -> WalSource {
        WalSource::Stores(restorer, Mutex::new(None))
    }

    /// Bytes from `from` on, not beyond its segment; none if it is not here.
    async fn read(
        &self,
        cluster: &Cluster,
        path: &Arc<HistoryFile>,
        from: Lsn,
    ) -> Result<Vec<u8>, PromoteError> {
        let size = cluster.segment_size;
        let number = SegmentNo::holding(from, size);
        match self {
            WalSource::Disk(dir) => Ok(dir.read_apart(path, from, CHUNK).await?.unwrap_or_default()),
            WalSource::Server(node) => {
                let left = number.end(size).bytes_since(from).unwrap_or(0).min(CHUNK);
                for name in names_of(path, number, size) {
                    let bytes = node.read_wal(name, size.offset_of(from), left).await?;
                    if !bytes.is_empty() {
                        return Ok(bytes);
                    }
                }
                Ok(Vec::new())
            }
            WalSource::Stores(restorer, served) => {
                for name in names_of(path, number, size) {
                    if let Some(wal) = serve(restorer, served, name, size).await? {
                        let offset = usize::try_from(size.offset_of(from)).unwrap_or(usize::MAX);
                        return Ok(wal.get(offset..).unwrap_or_default().to_vec());
                    }
                }
                Ok(Vec::new())
            }
        }
    }
}

async fn serve(
    restorer: &Restorer,
    served: &Mutex<Served>,
    name: SegmentName,
    size: SegmentSize,
) -> Result<Option<Arc<[u8]>>, PromoteError> {
    let lock = || served.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, wal)) = lock().as_ref().filter(|(kept, _)| *kept == name) {
        return Ok(Some(wal.clone()));
    }
    let Some(mut found) = restorer.fetch(WalFileName::Segment(name)).await? else {
        return Ok(None);
    };
    if let Origin::Partial(end) = found.origin {
        let start = name.start(size).unwrap_or(end);
        let sound = end.bytes_since(start).unwrap_or(0);
        found.bytes.truncate(usize::try_from(sound).unwrap_or(usize::MAX));
    }
    let wal: Arc<[u8]> = found.bytes.into();
    *lock() = Some((name, wal.clone()));
    Ok(Some(wal))
}

/// Reads all records from the boundary `start` on, as far as any of the sources has them, but not beyond `upto`.
/// Returns where the WAL ends.
pub(super) async fn walk(
    sources: &[&WalSource],
    cluster: &Cluster,
    path: &Arc<HistoryFile>,
    start: Lsn,
    upto: Option<Lsn>,
    mut visit: impl FnMut(&Record<'_>),
) -> Result<Lsn, PromoteError> {
    let expected = Expected {
        system_id: Some(cluster.system_id),
        major: cluster.major,
        timelines: Timelines::Of(path.clone()),
        ..Expected::default()
    };
    let reached = |lsn: Lsn| upto.is_some_and(|upto| lsn >= upto);
    let mut boundary = start;
    let mut previous = None;
    loop {
        let before = boundary;
        for source in sources {
            if reached(boundary) {
                return Ok(boundary);
            }
            let (size, expected) = (cluster.segment_size, expected.clone());
            let mut decoder = match previous {
                Some(previous) => Decoder::resume(boundary, previous, size, expected),
                None => Decoder::new(boundary, size, expected),
            };
            loop {
                let bytes = source.read(cluster, path, decoder.position()).await?;
                if bytes.is_empty() {
                    break;
                }
                let mut feed = decoder.feed(&bytes);
                let sound = loop {
                    match feed.next_record() {
                        Ok(Some(record)) if upto.is_some_and(|upto| record.lsn >= upto) => break false,
                        Ok(Some(record)) => {
                            visit(&record);
                            boundary = record.end_lsn;
                            previous = Some(record.lsn);
                        }
                        Ok(None) => break true,
                        Err(_) => break false,
                    }
                };
                if !sound || reached(boundary) {
                    break;
                }
            }
        }
        if boundary == before {
            return Ok(boundary);
        }
    }
}
