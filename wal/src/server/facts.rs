//! What a server is, in a few questions.

use skytide_sql::conn::Session;
use skytide_sql::{Lsn, SlotName};

use super::error::{Doing, ServerError};
use super::queries;
use crate::SegmentSize;
use crate::store::identity::Identity;

/// Whose server it is; only a primary's answer is wanted.
pub async fn primary(session: &Session) -> Result<Identity, ServerError> {
    let row = session.query_one(queries::CLUSTER, &[]).await;
    let row = row.doing("ask which cluster it is")?;
    if row.get(1) {
        return Err(ServerError::NoPrimary);
    }
    let (system_id, segment_bytes): (i64, i64) = (row.get(0), row.get(2));
    let segment_size = u32::try_from(segment_bytes).ok().and_then(SegmentSize::new);
    Ok(Identity {
        system_id: system_id.cast_unsigned(),
        segment_size: segment_size.ok_or(ServerError::Answer("wal_segment_size"))?,
    })
}

pub async fn has_slot(session: &Session, slot: &SlotName) -> Result<bool, ServerError> {
    let row = session.query_opt(queries::SLOT, &[&slot.as_str()]).await;
    Ok(row.doing("look for a slot")?.is_some())
}

/// Behind the last record that was replayed; `None`: nothing was yet, or it is no standby.
pub async fn replayed(session: &Session) -> Result<Option<Lsn>, ServerError> {
    let row = session.query_one(queries::REPLAYED, &[]).await;
    let lsn: Option<String> = row.doing("ask how far replay is")?.get(1);
    Ok(lsn.and_then(|lsn| lsn.parse().ok()))
}
