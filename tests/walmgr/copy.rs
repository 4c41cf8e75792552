//! What a store has against what a server has in `pg_wal`.

use std::collections::BTreeMap;
use std::path::Path;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use skytide_sql::Lsn;
use skytide_wal::store::{DirStore, Store, layout, partial};
use skytide_wal::tail::look;
use skytide_wal::{SegmentSize, TimelineId, WalFileName};

use super::stage::PATIENCE;

pub const SIZE: u32 = 16 << 20;

pub fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

pub async fn flush_lsn(server: &Server) -> Lsn {
    let client = server.connect("postgres").await.unwrap();
    let row = client
        .query_one("select pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

/// Behind the last whole record in the store.
pub async fn boundary(store: &Path) -> Lsn {
    match DirStore::open(store) {
        Ok(store) => boundary_of(&store).await,
        Err(_) => Lsn::INVALID,
    }
}

pub async fn boundary_of(store: &dyn Store) -> Lsn {
    let found = look(store).await.unwrap();
    found.map_or(Lsn::INVALID, |found| found.boundary)
}

/// Until the store has all records that the server has on disk now.
pub async fn in_step(server: &Server, store: &Path) -> Lsn {
    in_step_with(server, async || boundary(store).await).await
}

pub async fn in_step_of(server: &Server, store: &dyn Store) -> Lsn {
    in_step_with(server, async || boundary_of(store).await).await
}

async fn in_step_with(server: &Server, boundary: impl AsyncFn() -> Lsn) -> Lsn {
    let client = server.connect("postgres").await.unwrap();
    // A transaction that commits asynchronously may leave the flush position in the middle of a record.
    client.batch_execute("select txid_current()").await.unwrap();
    let wanted = flush_lsn(server).await;
    wait::until("the store to be in step", PATIENCE, async || {
        let found = boundary().await;
        if found == Lsn::INVALID {
            // A receiver that began after all this waits for something to receive.
            client.batch_execute("select txid_current()").await?;
        }
        Ok((found >= wanted).then_some(found))
    })
    .await
    .unwrap()
}

/// Segments of a timeline in the store, by number: their bytes, or the beginning of the last one.
pub async fn wal_in(store: &Path, timeline: u32) -> BTreeMap<u64, Vec<u8>> {
    let store = DirStore::open(store).unwrap();
    let timeline = TimelineId::new(timeline).unwrap();
    let mut found = BTreeMap::new();
    for listed in store.partials(&layout::partials(timeline)).await.unwrap() {
        let segment = layout::segment_of(&listed.name).unwrap();
        // A segment that has become whole since is found below.
        let Some(read) = partial::read(&store, segment, size()).await.unwrap() else {
            continue;
        };
        found.insert(segment.number(size()).unwrap().as_u64(), read.wal);
    }
    for listed in store.list(&layout::timeline(timeline)).await.unwrap() {
        if let Some(WalFileName::Segment(segment)) = layout::wal_file_of(&listed.name) {
            let packed = store.get(&listed.name).await.unwrap().unwrap();
            let (_, bytes) = skytide_wal::pack::unpack(&packed).unwrap();
            found.insert(segment.number(size()).unwrap().as_u64(), bytes);
        }
    }
    found
}

/// The store has a timeline's segments without a hole, and each byte is the server's. How many segments were compared.
#[track_caller]
pub fn same(found: &BTreeMap<u64, Vec<u8>>, timeline: u32, server: &Server) -> usize {
    let (first, last) = (
        *found.keys().next().expect("there is WAL"),
        *found.keys().last().unwrap(),
    );
    assert_eq!(
        found.len() as u64,
        last - first + 1,
        "no hole: {:?}",
        found.keys()
    );
    let mut compared = 0;
    for (number, ours) in found {
        let name = format!("{timeline:08X}00000000{number:08X}");
        // The server removes what it does not need.
        let Ok(theirs) = std::fs::read(server.data_dir().join("pg_wal").join(&name)) else {
            continue;
        };
        assert!(*number == last || ours.len() == theirs.len(), "{name} is whole");
        assert!(ours[..] == theirs[..ours.len()], "{name} is the server's");
        compared += 1;
    }
    compared
}
