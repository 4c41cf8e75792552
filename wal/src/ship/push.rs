//! WAL that somebody else has read: part of a segment, put behind what the stores have.

use std::sync::Arc;

use skytide_sql::Lsn;

use super::error::ShipError;
use crate::format::page::LongHeader;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::succession::history_in;
use crate::tail::{self, Tail, Window, start_of, survey_all};
use crate::{SegmentName, SegmentNo};

#[derive(Debug, Clone)]
pub struct PushSettings {
    pub stores: Vec<Arc<dyn Store>>,
    pub stores_needed: usize,
    pub compression_level: i32,
}

/// What became of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes that the stores did not have.
    pub new_bytes: u64,
    /// Behind the last byte in the stores.
    pub end: Lsn,
    /// Behind the last whole record.
    pub boundary: Lsn,
}

/// Puts the bytes of a segment from `offset` on behind what the stores have. What they have already is passed over; a gap
/// is refused, and so is what is no sound WAL.
pub async fn push(
    settings: &PushSettings,
    segment: SegmentName,
    offset: u32,
    bytes: &[u8],
) -> Result<Pushed, ShipError> {
    let identity = identity(settings, offset, bytes).await?;
    let size = identity.segment_size;
    let out_of_segment = ShipError::OutOfSegment { segment, offset };
    let Some(start) = segment.start(size) else {
        return Err(out_of_segment);
    };
    if u64::from(offset) + bytes.len() as u64 > size.bytes() {
        return Err(out_of_segment);
    }
    let from = Lsn::new(start.as_u64() + u64::from(offset));
    let upto = Lsn::new(from.as_u64() + bytes.len() as u64);
    let mut path = None;
    for store in &settings.stores {
        path = match history_in(&**store, segment.timeline()).await {
            Ok(Some(path)) => Some(Arc::new(path)),
            Ok(None) | Err(_) => continue,
        };
        break;
    }
    let path = path.unwrap_or_else(|| Arc::new(crate::HistoryFile::root(segment.timeline())));
    let ends = survey_all(&settings.stores, identity, &path).await?;
    let first = match start_of(&ends, &path, None, size) {
        Some((timeline, first)) if timeline == segment.timeline() => first,
        // The stores are still on a timeline before this one, or have nothing.
        _ => SegmentNo::holding(from, size),
    };
    let locations = settings.stores.iter().map(|store| store.location().to_owned());
    let window = Arc::new(Window::new(locations));
    let tail_settings = tail::Settings {
        stores: settings.stores.clone(),
        needed: settings.stores_needed,
        level: settings.compression_level,
        identity,
    };
    let mut tail = Tail::begin(tail_settings, path, first, window).await?;
    let end = tail.end();
    if from > end {
        return Err(ShipError::Gap { end, from });
    }
    let known = usize::try_from(end.bytes_since(from).unwrap_or(0)).unwrap_or(usize::MAX);
    let fresh = bytes.get(known..).unwrap_or_default();
    if upto > end {
        let taken = tail.take(end, fresh);
        // What is sound of it stays.
        tail.finish().await?;
        taken?;
    }
    Ok(Pushed {
        new_bytes: fresh.len() as u64,
        end: tail.end(),
        boundary: tail.boundary(),
    })
}

/// The stores' cluster, or that of a segment's first page.
async fn identity(settings: &PushSettings, offset: u32, bytes: &[u8]) -> Result<Identity, ShipError> {
    for store in &settings.stores {
        match Identity::read(&**store).await {
            Ok(Some(identity)) => return Ok(identity),
            Ok(None) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(location = store.location(), error, "a store cannot be asked");
            }
        }
    }
    match LongHeader::peek(bytes) {
        Some((_, long, segment_size)) if offset == 0 => Ok(Identity {
            system_id: long.system_id,
            segment_size,
        }),
        _ => Err(ShipError::Nobodys),
    }
}
