use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::format::version::Major;
use crate::sample::{SYSTEM, Sample};
use crate::store::DirStore;

/// Two and a half segments: commits, and records that cross.
fn sample() -> Sample {
    let mut sample = Sample::new(Major::V17);
    for segment in 0..2 {
        sample.commit(1_000_000 * (segment + 1));
        sample.fill_segment();
    }
    for n in 0..40 {
        sample.insert(3000);
        sample.commit(5_000_000 + n);
    }
    sample.open_page(0);
    sample
}

struct Stage {
    dir: TempDir,
    stores: Vec<Arc<dyn Store>>,
    needed: usize,
    sample: Sample,
}

impl Stage {
    fn new(stores: usize, needed: usize) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let open = |n: usize| Arc::new(DirStore::create(&dir.path().join(n.to_string())).unwrap());
        let stores = (0..stores).map(|n| open(n) as Arc<dyn Store>).collect();
        Stage {
            dir,
            stores,
            needed,
            sample: sample(),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            stores: self.stores.clone(),
            needed: self.needed,
            level: 1,
            identity: Identity {
                system_id: SYSTEM,
                segment_size: self.sample.size,
            },
        }
    }

    /// Goes on after what the stores have.
    async fn begin(&self) -> Result<Tail, TailError> {
        let settings = self.settings();
        let path = Arc::new(HistoryFile::root(TimelineId::new(1).unwrap()));
        let ends = survey_all(&self.stores, settings.identity, &path).await?;
        let first =
            start_of(&ends, &path, None, self.sample.size).map_or(SegmentNo::new(1), |(_, first)| first);
        let window = Arc::new(Window::new(
            self.stores.iter().map(|store| store.location().to_owned()),
        ));
        Tail::begin(settings, path, first, window).await
    }

    /// The bytes from the tail's end on, at most so many.
    fn next(&self, tail: &Tail, most: usize) -> &[u8] {
        let at = tail.end().bytes_since(self.sample.start).unwrap() as usize;
        &self.sample.bytes[at..self.sample.bytes.len().min(at.saturating_add(most))]
    }

    /// What the store has, segment after segment from the first on.
    async fn wal_in(&self, store: usize) -> Vec<u8> {
        let store = &*self.stores[store];
        let mut wal = Vec::new();
        for number in 1.. {
            let size = self.sample.size;
            let name = SegmentName::new(TimelineId::new(1).unwrap(), SegmentNo::new(number), size).unwrap();
            let object = layout::object_of(WalFileName::Segment(name));
            if let Some(packed) = store.get(&object).await.unwrap() {
                wal.extend(crate::pack::unpack(&packed).unwrap().1);
            } else if let Some(read) = partial::read(store, name, size).await.unwrap() {
                wal.extend(read.wal);
            } else {
                break;
            }
        }
        wal
    }

    fn away(&self, store: usize) -> impl Drop + use<> {
        struct Back(std::path::PathBuf, std::path::PathBuf);
        impl Drop for Back {
            fn drop(&mut self) {
                std::fs::rename(&self.1, &self.0).unwrap();
            }
        }
        let at = self.dir.path().join(store.to_string());
        let gone = self.dir.path().join(format!("{store}-away"));
        std::fs::rename(&at, &gone).unwrap();
        Back(at, gone)
    }
}

/// Until every store has everything.
async fn settled(tail: &mut Tail) {
    while !tail.is_whole() || tail.has_unpublished() {
        tail.publish(Pace::Now).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    tail.finish().await.unwrap();
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test]
async fn wal_in_any_pieces_with_any_restarts_is_whole() {
    // A fixed sequence of sizes and choices, different in each round.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for round in 0..6 {
        let stage = Stage::new(2, 2);
        let mut tail = stage.begin().await.unwrap();
        assert_eq!(tail.end(), stage.sample.start);
        while tail.end() < stage.sample.end() {
            let most = [100, 5_000, 70_000, 900_000][random(4) as usize];
            let bytes = stage.next(&tail, most);
            tail.take(tail.end(), bytes).unwrap();
            let pace = match random(3) {
                0 => Pace::CatchUp,
                _ => Pace::Now,
            };
            tail.publish(pace).await.unwrap();
            if random(12) == 0 {
                let safe = tail.safe_lsn();
                drop(tail);
                tail = stage.begin().await.unwrap();
                assert!(tail.end() >= safe, "what was called safe is there");
            }
        }
        settled(&mut tail).await;
        assert_eq!(tail.safe_lsn(), stage.sample.end());
        assert_eq!(tail.boundary(), stage.sample.end());
        for store in 0..2 {
            assert!(
                stage.wal_in(store).await == stage.sample.bytes,
                "round {round}, store {store}"
            );
            let found = look(&*stage.stores[store]).await.unwrap().unwrap();
            assert_eq!(found.boundary, stage.sample.end());
            assert_eq!(found.last_commit.unwrap().as_micros(), 5_000_039);
            let partials = stage.dir.path().join(store.to_string()).join("partial/00000001");
            assert_eq!(files(&partials), 1, "whole segments have no partial");
        }
    }
}

#[tokio::test]
async fn damaged_wal_is_refused_and_what_came_before_is_kept() {
    let stage = Stage::new(1, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, 100_000)).unwrap();
    let mut bad = stage.next(&tail, 50_000).to_vec();
    bad[30_000] ^= 1;
    let sound = tail.end();
    let error = tail.take(tail.end(), &bad).unwrap_err();
    assert!(
        matches!(error, TailError::Damaged { end, .. } if end == sound),
        "{error}"
    );
    tail.finish().await.unwrap();
    assert_eq!(tail.safe_lsn(), sound);
    let found = look(&*stage.stores[0]).await.unwrap().unwrap();
    assert!(found.boundary <= sound);
    drop(tail);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, usize::MAX)).unwrap();
    tail.finish().await.unwrap();
    assert!(stage.wal_in(0).await == stage.sample.bytes);
    let error = tail.take(Lsn::new(5), b"x").unwrap_err();
    assert!(matches!(error, TailError::OutOfPlace { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_is_away_holds_up_nothing_it_is_not_needed_for() {
    let stage = Stage::new(2, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, 10_000)).unwrap();
    tail.publish(Pace::Now).await.unwrap();
    let back = stage.away(1);
    tail.take(tail.end(), stage.next(&tail, 2_000_000)).unwrap();
    tail.finish().await.unwrap();
    assert_eq!(tail.safe_lsn(), tail.end());
    let windows = tail.window.stores();
    assert!(windows[0].trouble.is_none());
    assert!(windows[1].trouble.is_some());
    drop(back);
    settled(&mut tail).await;
    tail.take(tail.end(), stage.next(&tail, usize::MAX)).unwrap();
    tail.finish().await.unwrap();
    assert!(stage.wal_in(1).await == stage.sample.bytes);

    // Both are away, then one is back: from there the other gets everything.
    let both = Stage::new(2, 2);
    let mut tail = both.begin().await.unwrap();
    tail.take(tail.end(), both.next(&tail, 10_000)).unwrap();
    tail.publish(Pace::Now).await.unwrap();
    let safe = tail.safe_lsn();
    let gone = [both.away(0), both.away(1)];
    tail.take(tail.end(), both.next(&tail, 1_200_000)).unwrap();
    let error = tail.publish(Pace::Now).await.unwrap_err();
    assert!(matches!(error, TailError::NoStore(_)), "{error}");
    assert!(tail.safe_lsn() >= safe);
    drop(gone);
    let mut tail = both.begin().await.unwrap();
    tail.take(tail.end(), both.next(&tail, usize::MAX)).unwrap();
    settled(&mut tail).await;
    for store in 0..2 {
        assert!(both.wal_in(store).await == both.sample.bytes);
    }
}

/// Prevents: a store that counts as complete although it lacks what was sealed while nobody could ask it.
#[tokio::test]
async fn a_store_that_is_away_at_the_beginning_is_given_all_that_it_lacks() {
    let stage = Stage::new(2, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, 10_000)).unwrap();
    tail.finish().await.unwrap();
    let back = stage.away(1);
    drop(tail);
    let mut tail = stage.begin().await.unwrap();
    for _ in 0..2 {
        tail.take(tail.end(), stage.next(&tail, 1_050_000)).unwrap();
        tail.finish().await.unwrap();
    }
    drop(back);
    settled(&mut tail).await;
    tail.take(tail.end(), stage.next(&tail, usize::MAX)).unwrap();
    tail.finish().await.unwrap();
    assert!(stage.wal_in(1).await == stage.sample.bytes);
}

/// Prevents: the same for a store whose segments were put side by side, and one of them failed.
#[tokio::test]
async fn a_hole_in_a_store_is_filled_at_the_beginning() {
    let stage = Stage::new(2, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, usize::MAX)).unwrap();
    tail.finish().await.unwrap();
    drop(tail);
    let lost = stage
        .dir
        .path()
        .join("1/wal/00000001/000000010000000000000002.zst");
    std::fs::remove_file(lost).unwrap();
    assert_eq!(stage.wal_in(1).await.len(), 1 << 20);
    let mut tail = stage.begin().await.unwrap();
    settled(&mut tail).await;
    assert!(stage.wal_in(1).await == stage.sample.bytes);
}

#[tokio::test]
async fn another_servers_wal_is_not_mixed_in() {
    let stage = Stage::new(1, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, 40_000)).unwrap();
    tail.finish().await.unwrap();
    // The second store has other WAL at the same place.
    let twin = Stage::new(1, 1);
    let mut other = Sample::new(Major::V17);
    other.commit(77);
    for _ in 0..50 {
        other.insert(500);
    }
    let mut theirs = twin.begin().await.unwrap();
    theirs.take(theirs.end(), &other.bytes).unwrap();
    theirs.finish().await.unwrap();
    drop((tail, theirs));
    let stage = Stage {
        stores: vec![stage.stores[0].clone(), twin.stores[0].clone()],
        needed: 2,
        ..stage
    };
    let error = stage.begin().await.unwrap_err();
    assert!(matches!(error, TailError::Diverged { .. }), "{error}");
}

#[tokio::test]
async fn a_segment_that_was_archived_meanwhile_is_found_there() {
    let stage = Stage::new(1, 1);
    let mut tail = stage.begin().await.unwrap();
    tail.take(tail.end(), stage.next(&tail, 600_000)).unwrap();
    tail.publish(Pace::Now).await.unwrap();
    // The archiver comes first.
    let archiver = Archiver::new(archive::Settings {
        stores: stage.stores.clone(),
        needed: 1,
        level: 3,
        system_id: None,
    });
    let whole = stage.sample.bytes[..1 << 20].to_vec();
    let name = "000000010000000000000001".parse().unwrap();
    let outcome = archiver.archive_bytes(name, whole, &[0]).await.unwrap();
    assert!(matches!(outcome[..], [(0, Ok(Kept::New))]));
    tail.take(tail.end(), stage.next(&tail, 600_000)).unwrap();
    tail.finish().await.unwrap();
    assert!(stage.sample.bytes.starts_with(&stage.wal_in(0).await));
    // And while nobody receives: the partial is superseded, and WAL goes on behind it.
    drop(tail);
    let whole = stage.sample.bytes[1 << 20..2 << 20].to_vec();
    let name = "000000010000000000000002".parse().unwrap();
    let outcome = archiver.archive_bytes(name, whole, &[0]).await.unwrap();
    assert!(matches!(outcome[..], [(0, Ok(Kept::New))]));
    let mut tail = stage.begin().await.unwrap();
    assert_eq!(tail.end(), Lsn::new(3 << 20));
    let partials = stage.dir.path().join("0/partial/00000001");
    assert_eq!(files(&partials), 0, "what is superseded is gone");
    tail.take(tail.end(), stage.next(&tail, usize::MAX)).unwrap();
    tail.finish().await.unwrap();
    assert!(stage.wal_in(0).await == stage.sample.bytes);
}
