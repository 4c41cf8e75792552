use std::path::Path;

use super::*;
use crate::SegmentSize;
use crate::format::version::Major;
use crate::restore::{Origin, RestoreError, Restorer};
use crate::sample::{SYSTEM, Sample};
use crate::store::{DirStore, layout, partial};
use tempfile::TempDir;

const FIRST: &str = "000000010000000000000001";

fn name(text: &str) -> WalFileName {
    text.parse().unwrap()
}

/// A segment with commits that ends in a record which goes on.
fn full() -> Vec<u8> {
    let mut sample = Sample::new(Major::V17);
    sample.commit(5_000_000);
    sample.fill_segment();
    sample.bytes.truncate(1 << 20);
    sample.bytes
}

/// A segment that ends in a switch.
fn switched(inserts: &[usize]) -> Vec<u8> {
    let mut sample = Sample::new(Major::V17);
    sample.commit(5_000_000);
    for bytes in inserts {
        sample.insert(*bytes);
    }
    sample.commit(6_000_000);
    sample.switch();
    sample.bytes
}

/// Segments 1 to `count` of one history, each with a switch at its end.
fn history(count: u64, micros: i64) -> Vec<(String, Vec<u8>)> {
    let mut sample = Sample::new(Major::V17);
    for _ in 0..count {
        sample.commit(micros);
        sample.switch();
    }
    named(&sample.bytes)
}

fn named(wal: &[u8]) -> Vec<(String, Vec<u8>)> {
    let named = |(place, bytes): (usize, &[u8])| {
        (
            format!("{:024X}", (1_u128 << 64) + place as u128 + 1),
            bytes.to_vec(),
        )
    };
    wal.chunks(1 << 20).enumerate().map(named).collect()
}

struct Stage {
    dir: Arc<TempDir>,
    stores: Vec<Arc<dyn Store>>,
    archiver: Archiver,
    needed: usize,
}

fn archiver(stores: &[Arc<dyn Store>], needed: usize) -> Archiver {
    Archiver::new(Settings {
        stores: stores.to_vec(),
        needed,
        level: 1,
        system_id: None,
    })
}

impl Stage {
    fn new(stores: usize, needed: usize) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<Arc<dyn Store>> = (0..stores)
            .map(|n| Arc::new(DirStore::create(&dir.path().join(n.to_string())).unwrap()) as Arc<dyn Store>)
            .collect();
        Stage {
            archiver: archiver(&stores, needed),
            dir: Arc::new(dir),
            stores,
            needed,
        }
    }

    /// The same stores for another process.
    fn anew(&self) -> Stage {
        Stage {
            dir: self.dir.clone(),
            stores: self.stores.clone(),
            archiver: archiver(&self.stores, self.needed),
            needed: self.needed,
        }
    }

    async fn archive(&self, name: &str, bytes: &[u8]) -> Result<Report, ArchiveError> {
        let path = self.dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let name = self::name(name);
        self.archiver.archive(Source { path, name }).await
    }

    fn restorer(&self) -> Restorer {
        Restorer::new(self.stores.clone(), None)
    }

    fn stored(&self, store: usize, name: &str) -> std::path::PathBuf {
        let object = layout::object_of(self::name(name));
        self.dir.path().join(store.to_string()).join(object.as_str())
    }
}

fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[tokio::test]
async fn what_was_archived_is_restored() {
    let stage = Stage::new(2, 2);
    for bytes in [full(), switched(&[100, 9000])] {
        for store in 0..2 {
            let _ = std::fs::remove_file(stage.stored(store, FIRST));
        }
        let report = stage.archive(FIRST, &bytes).await.unwrap();
        assert_eq!(report.kept, [Kept::New, Kept::New]);
        let span = report.span.unwrap();
        assert_eq!(span.first_commit.unwrap().as_micros(), 5_000_000);
        let served = stage.restorer().fetch(name(FIRST)).await.unwrap().unwrap();
        assert!(served.bytes == bytes && served.origin == Origin::Whole);
    }
    for missing in ["000000010000000000000002", "00000002.history"] {
        assert_eq!(stage.restorer().fetch(name(missing)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn every_flipped_bit_that_matters_is_refused() {
    let stage = Stage::new(1, 1);
    let bytes = switched(&[100, 9000]);
    let data = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // The store knows whose it is.
    stage.archive(FIRST, &bytes).await.unwrap();
    std::fs::remove_file(stage.stored(0, FIRST)).unwrap();
    // Headers bit by bit, of the first page and of a later one; then a bit of every eleventh byte.
    let bits = (0..80 * 8)
        .chain(8192 * 8..8240 * 8)
        .chain((0..data * 8).step_by(8 * 11 + 3));
    let mut refused = 0;
    for bit in bits {
        match stage.archive(FIRST, &flip(&bytes, bit)).await {
            Err(
                ArchiveError::Damaged { .. } | ArchiveError::NotWal { .. } | ArchiveError::Foreign { .. },
            ) => refused += 1,
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(_) => {
                // What no checksum covers and redo does not read: padding, and a flag that says nothing.
                let path = stage.stored(0, FIRST);
                let (_, kept) = crate::pack::unpack(&std::fs::read(&path).unwrap()).unwrap();
                let start = Lsn::new(1 << 20);
                let size = crate::SegmentSize::new(1 << 20).unwrap();
                assert_eq!(first_difference(start, size, &kept, &bytes), None, "bit {bit}");
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[tokio::test]
async fn the_same_records_are_the_same_segment() {
    let stage = Stage::new(1, 1);
    let bytes = switched(&[100]);
    stage.archive(FIRST, &bytes).await.unwrap();
    let mut padded = bytes.clone();
    *padded.last_mut().unwrap() = 1;
    for again in [bytes.clone(), padded] {
        assert_eq!(stage.archive(FIRST, &again).await.unwrap().kept, [Kept::Same]);
    }
    // A flag in a page header that differs between a primary and its standby.
    let flagged = flip(&bytes, 2 * 8 + 2);
    assert_eq!(stage.archive(FIRST, &flagged).await.unwrap().kept, [Kept::Same]);

    let mut sample = Sample::new(Major::V17);
    sample.commit(5_000_000);
    let different = sample.insert(101);
    sample.switch();
    let error = stage.archive(FIRST, &sample.bytes).await.unwrap_err();
    assert!(
        matches!(error, ArchiveError::Diverged { lsn, .. } if lsn == different),
        "{error}"
    );
    let longer = switched(&[100, 50]);
    assert!(stage.archive(FIRST, &longer).await.is_err());
    let served = stage.restorer().fetch(name(FIRST)).await.unwrap().unwrap();
    assert!(served.bytes == bytes, "nothing was overwritten");
}

#[tokio::test]
async fn of_two_beginnings_the_longer_one_is_kept() {
    let stage = Stage::new(1, 1);
    let partial = format!("{FIRST}.partial");
    let beginning = |inserts: usize| {
        let mut sample = Sample::new(Major::V17);
        for n in 0..inserts {
            sample.insert(100 + n);
        }
        (sample.end(), sample.bytes)
    };
    let (_, short) = beginning(3);
    let (end, long) = beginning(5);
    assert_eq!(stage.archive(&partial, &short).await.unwrap().kept, [Kept::New]);
    let mut whole = short.clone();
    whole.resize(1 << 20, 0xEE);
    assert_eq!(stage.archive(&partial, &whole).await.unwrap().kept, [Kept::Same]);
    assert_eq!(stage.archive(&partial, &long).await.unwrap().kept, [Kept::Longer]);
    assert_eq!(stage.archive(&partial, &short).await.unwrap().kept, [Kept::Same]);

    let served = stage.restorer().fetch(name(FIRST)).await.unwrap().unwrap();
    let boundary = Lsn::new(end.as_u64().next_multiple_of(8));
    assert_eq!(served.origin, Origin::Partial(boundary));
    assert_eq!(served.bytes.len(), 1 << 20);
    assert!(served.bytes.starts_with(&long) && served.bytes[long.len()..].iter().all(|byte| *byte == 0));
    // The whole segment comes, and the beginning is not served any more.
    let full = full();
    stage.archive(FIRST, &full).await.unwrap();
    let served = stage.restorer().fetch(name(FIRST)).await.unwrap().unwrap();
    assert_eq!(served.origin, Origin::Whole);
}

#[tokio::test]
async fn texts_belong_to_the_cluster_that_has_segments_there() {
    let stage = Stage::new(1, 1);
    let history = b"1\t0/2915C08\tno recovery target specified\n";
    assert!(
        stage.archive("00000002.history", history).await.is_err(),
        "whose would it be?"
    );
    stage.archive(FIRST, &full()).await.unwrap();
    let backup = format!("{FIRST}.00000028.backup");
    for (file, text) in [
        ("00000002.history", &history[..]),
        (&backup, b"START WAL LOCATION: 0/100028\n"),
    ] {
        assert_eq!(stage.archive(file, text).await.unwrap().kept, [Kept::New]);
        assert_eq!(stage.archive(file, text).await.unwrap().kept, [Kept::Same]);
        let served = stage.restorer().fetch(name(file)).await.unwrap().unwrap();
        assert_eq!(served.bytes, text);
    }
    let other = b"1\t0/2915D08\tno recovery target specified\n";
    let error = stage.archive("00000002.history", other).await.unwrap_err();
    assert!(matches!(error, ArchiveError::OtherText { .. }), "{error}");
    assert!(stage.archive("00000003.history", b"rubbish").await.is_err());
}

#[tokio::test]
async fn an_archive_that_nobody_has_used_is_not_the_end_of_the_wal() {
    let stage = Stage::new(2, 1);
    let error = stage.restorer().fetch(name(FIRST)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Unclaimed { .. }), "{error}");
    // One of two is new.
    std::fs::rename(stage.dir.path().join("1"), stage.dir.path().join("away")).unwrap();
    stage.archive(FIRST, &full()).await.unwrap();
    DirStore::create(&stage.dir.path().join("1")).unwrap();
    let missing = stage.restorer().fetch(name("0000000100000000000000FF")).await;
    assert_eq!(missing.unwrap(), None);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let stage = Stage::new(1, 1);
    stage.archive(FIRST, &full()).await.unwrap();
    let mut foreign = switched(&[1]);
    foreign[24..32].copy_from_slice(&(SYSTEM + 1).to_le_bytes());
    let error = stage.archive(FIRST, &foreign).await.unwrap_err();
    assert!(
        matches!(error, ArchiveError::Foreign { expected: SYSTEM, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_damaged_copy_is_never_served_and_another_store_is_asked() {
    let stage = Stage::new(2, 2);
    let bytes = full();
    stage.archive(FIRST, &bytes).await.unwrap();
    let path = stage.stored(0, FIRST);
    let packed = std::fs::read(&path).unwrap();
    for bit in (0..packed.len() * 8).step_by(packed.len() * 8 / 50) {
        std::fs::write(&path, flip(&packed, bit)).unwrap();
        let served = stage.restorer().fetch(name(FIRST)).await.unwrap().unwrap();
        assert!(served.bytes == bytes, "bit {bit}");
    }
    std::fs::write(stage.stored(1, FIRST), "rubbish").unwrap();
    std::fs::write(&path, flip(&packed, 999)).unwrap();
    let error = stage.restorer().fetch(name(FIRST)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn stores_needed_says_how_many_have_to_have_it() {
    for (needed, fine) in [(1, true), (2, false)] {
        let stage = Stage::new(2, needed);
        let history = history(2, 1);
        stage.archive(FIRST, &history[0].1).await.unwrap();
        std::fs::rename(stage.dir.path().join("1"), stage.dir.path().join("gone")).unwrap();
        let (second, bytes) = &history[1];
        let archived = stage.archive(second, bytes).await;
        assert_eq!(archived.is_ok(), fine);
        match archived {
            Ok(report) => assert_eq!((report.kept.len(), report.behind.len()), (1, 1)),
            Err(error) => assert!(error.to_string().contains("only 1 of 2"), "{error}"),
        }
        // Never "missing" while a store that may have it cannot be asked.
        let missing = name("0000000100000000000000FF");
        assert!(stage.restorer().fetch(missing).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_next_is_archived_before_it_is_asked_for() {
    let stage = Stage::new(1, 1);
    let pg_wal = stage.dir.path().join("pg_wal");
    std::fs::create_dir_all(pg_wal.join("archive_status")).unwrap();
    let mut names = Vec::new();
    for (name, bytes) in history(5, 1) {
        std::fs::write(pg_wal.join(&name), bytes).unwrap();
        std::fs::write(pg_wal.join(format!("archive_status/{name}.ready")), "").unwrap();
        names.push(name);
    }
    let store = stage.dir.path().join("0");
    let ahead = Ahead::new(stage.archiver, 16);
    let ask = |text: &str, dir: &Path| Source {
        path: dir.join(text),
        name: name(text),
    };
    ahead.archive(ask(&names[0], &pg_wal)).await.unwrap();
    let last = store.join(layout::object_of(name(&names[4])).as_str());
    for _ in 0..1000 {
        if last.is_file() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(last.is_file(), "nobody has asked for it yet");
    for name in &names[1..] {
        ahead.archive(ask(name, &pg_wal)).await.unwrap();
    }
    let files = ahead.figures().files.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(files, 5, "each was worked on once");
}

/// Prevents: a server is told that its file is safe because another one's of that name is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_archived_ahead_is_no_answer_for_another_servers_file() {
    let stage = Stage::new(1, 1);
    let place = |dir: &str| {
        let pg_wal = stage.dir.path().join(dir);
        std::fs::create_dir_all(pg_wal.join("archive_status")).unwrap();
        pg_wal
    };
    let (ours, theirs) = (place("ours"), place("theirs"));
    let mut names = Vec::new();
    for (dir, micros) in [(&ours, 1), (&theirs, 2)] {
        names.clear();
        for (name, bytes) in history(3, micros) {
            std::fs::write(dir.join(&name), bytes).unwrap();
            std::fs::write(dir.join(format!("archive_status/{name}.ready")), "").unwrap();
            names.push(name);
        }
    }
    let store = stage.dir.path().join("0");
    let ahead = Ahead::new(stage.archiver, 16);
    let ask = |text: &str, dir: &Path| Source {
        path: dir.join(text),
        name: name(text),
    };
    ahead.archive(ask(&names[0], &ours)).await.unwrap();
    let last = store.join(layout::object_of(name(&names[2])).as_str());
    for _ in 0..1000 {
        if last.is_file() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for asked in &names[1..] {
        let error = ahead.archive(ask(asked, &theirs)).await.unwrap_err();
        assert!(
            matches!(
                *error,
                ArchiveError::Diverged { .. } | ArchiveError::Unlinked { .. }
            ),
            "{error}"
        );
        ahead.archive(ask(asked, &ours)).await.unwrap();
    }
}

/// A segment that ends in the middle of a record, and the one with its rest.
fn crossing(inserts: &[usize]) -> Vec<(String, Vec<u8>)> {
    let mut sample = Sample::new(Major::V17);
    for bytes in inserts {
        sample.insert(*bytes);
    }
    sample.fill_segment();
    sample.insert(100);
    sample.switch();
    named(&sample.bytes)
}

#[tokio::test]
async fn a_segment_of_another_history_is_refused_and_named() {
    // One whose record before would be at another place, at its start and in the middle of a record.
    for (ours, theirs) in [
        (history(2, 1), crossing(&[])),
        (crossing(&[64]), crossing(&[128])),
    ] {
        let stage = Stage::new(2, 2);
        stage.archive(&ours[0].0, &ours[0].1).await.unwrap();
        let refuse = async |stage: &Stage, from_store: bool| {
            let error = stage.archive(&theirs[1].0, &theirs[1].1).await.unwrap_err();
            let ArchiveError::Unlinked {
                before,
                location,
                expected,
                found,
                ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!(before.to_string(), ours[0].0);
            assert_eq!(location.is_some(), from_store);
            assert_ne!(expected, found);
            assert!(!error.is_store_trouble());
            assert!(!stage.stored(0, &theirs[1].0).exists());
        };
        refuse(&stage, false).await;
        // Another process remembers nothing.
        let stage = stage.anew();
        refuse(&stage, true).await;
        stage.archive(&ours[1].0, &ours[1].1).await.unwrap();
    }
}

#[tokio::test]
async fn segments_worked_on_side_by_side_are_compared_in_any_order() {
    let stage = Stage::new(1, 1);
    let (ours, theirs) = (crossing(&[64]), crossing(&[128]));
    stage.archive(&ours[1].0, &ours[1].1).await.unwrap();
    let error = stage.archive(&theirs[0].0, &theirs[0].1).await.unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Unlinked { name, .. } if name.to_string() == ours[1].0),
        "{error}"
    );
    stage.archive(&ours[0].0, &ours[0].1).await.unwrap();
    // A chain that begins anew follows nothing.
    let mut sample = Sample::new(Major::V17);
    sample.start = Lsn::new(3 << 20);
    sample.previous = Lsn::INVALID;
    sample.commit(1);
    sample.switch();
    stage
        .archive("000000010000000000000003", &sample.bytes)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_first_segment_of_a_timeline_follows_its_parent() {
    let stage = Stage::new(1, 1);
    let ours = history(3, 1);
    stage.archive(&ours[0].0, &ours[0].1).await.unwrap();
    stage
        .archive("00000002.history", b"1\t0/200060\tno recovery target specified\n")
        .await
        .unwrap();
    let child = |inserts: &[usize]| {
        let mut sample = Sample::new(Major::V17);
        for bytes in inserts {
            sample.insert(*bytes);
        }
        if inserts.is_empty() {
            sample.commit(1);
        }
        sample.switch();
        sample.timeline = 2;
        sample.commit(1);
        sample.switch();
        sample.bytes.split_off(1 << 20)
    };
    let name = "000000020000000000000002";
    let error = stage.archive(name, &child(&[64, 64])).await.unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Unlinked { before, .. } if before.to_string() == ours[0].0),
        "{error}"
    );
    stage.archive(name, &child(&[])).await.unwrap();
}

#[tokio::test]
async fn what_lies_behind_the_place_where_a_timeline_was_left_is_refused() {
    let stage = Stage::new(1, 1);
    let ours = history(4, 1);
    stage.archive(&ours[0].0, &ours[0].1).await.unwrap();
    for (name, text) in [
        ("00000003.history", "1\t0/300060\tno recovery target specified\n"),
        ("00000004.history", "1\t0/200060\tof another cluster's, and cut\n"),
    ] {
        stage.archive(name, text.as_bytes()).await.unwrap();
    }
    // One that cannot be read forbids nothing.
    let cut = stage.stored(0, "00000004.history");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();

    stage.archive(&ours[1].0, &ours[1].1).await.unwrap();
    for (name, bytes) in &ours[2..] {
        let error = stage.archive(name, bytes).await.unwrap_err();
        assert!(
            matches!(&error, ArchiveError::Replaced { timeline, lsn, .. }
                if timeline.as_u32() == 3 && *lsn == Lsn::new(0x0030_0060)),
            "{error}"
        );
        assert!(!error.is_store_trouble());
        assert!(!stage.stored(0, name).exists());
    }
    // What the new primary archives of the old timeline's last segment.
    stage
        .archive(&format!("{}.partial", ours[2].0), &ours[2].1)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_store_that_was_left_behind_is_given_what_it_lacks() {
    let stage = Stage::new(3, 1);
    let history = history(6, 1);
    let history_file = ("00000002.history", b"1\t0/600060\tno recovery target specified\n");
    let away = stage.dir.path().join("away");
    stage.archive(&history[0].0, &history[0].1).await.unwrap();
    std::fs::rename(stage.dir.path().join("1"), &away).unwrap();
    for (name, bytes) in &history[1..5] {
        let report = stage.archive(name, bytes).await.unwrap();
        assert_eq!(report.behind.len(), 1);
    }
    stage.archive(history_file.0, history_file.1).await.unwrap();
    std::fs::remove_file(stage.stored(2, &history[3].0)).unwrap();
    let round = catch_up(&stage.stores).await;
    assert!(!round.is_complete(), "one cannot be asked");
    assert_eq!(round.copied, 1, "the others are looked after");
    std::fs::rename(&away, stage.dir.path().join("1")).unwrap();
    let round = catch_up(&stage.stores).await;
    assert!(round.is_complete(), "{round:?}");
    assert_eq!(round.copied, 5);
    for (name, bytes) in &history[..5] {
        let only = Restorer::new(vec![stage.stores[1].clone()], None);
        let served = only.fetch(self::name(name)).await.unwrap().unwrap();
        assert!(served.bytes == *bytes, "{name}");
    }
    assert!(stage.stored(1, history_file.0).is_file());
    let round = catch_up(&stage.stores).await;
    assert_eq!((round.copied, round.is_complete()), (0, true));

    // A new disk in its place; and what is damaged is not spread.
    std::fs::remove_dir_all(stage.dir.path().join("1")).unwrap();
    DirStore::create(&stage.dir.path().join("1")).unwrap();
    let damaged = stage.stored(0, &history[2].0);
    let packed = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, flip(&packed, packed.len() * 4)).unwrap();
    let round = catch_up(&stage.stores).await;
    assert_eq!((round.copied, round.is_complete()), (6, true), "{round:?}");
    assert!(std::fs::read(stage.stored(1, &history[2].0)).unwrap() == packed);
}

#[tokio::test]
async fn whoever_archives_one_file_fills_the_hole_before_it() {
    let stage = Stage::new(2, 1);
    let history = history(13, 1);
    std::fs::rename(stage.dir.path().join("1"), stage.dir.path().join("away")).unwrap();
    for (name, bytes) in &history[..10] {
        stage.archive(name, bytes).await.unwrap();
    }
    std::fs::rename(stage.dir.path().join("away"), stage.dir.path().join("1")).unwrap();
    let mut filled = Vec::new();
    for (name, bytes) in &history[10..] {
        let stage = stage.anew();
        stage.archive(name, bytes).await.unwrap();
        filled.push(stage.archiver.fill_before(self::name(name)).await.unwrap());
    }
    assert_eq!(filled, [8, 2, 0]);
    for (name, _) in &history {
        assert!(stage.stored(1, name).is_file(), "{name}");
    }
}

/// Prevents: a segment that recovery takes for another one, since only the sum of its bytes is checked when it is served.
#[tokio::test]
async fn what_lies_under_another_segments_name_is_not_served() {
    let stage = Stage::new(1, 1);
    let history = history(3, 1);
    for (name, bytes) in &history[..2] {
        stage.archive(name, bytes).await.unwrap();
    }
    std::fs::copy(stage.stored(0, &history[0].0), stage.stored(0, &history[2].0)).unwrap();
    let error = stage.restorer().fetch(name(&history[2].0)).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Misplaced { what, .. } if *what == "it is another segment"),
        "{error}"
    );
    assert!(
        stage
            .restorer()
            .fetch(name(&history[1].0))
            .await
            .unwrap()
            .is_some()
    );
}

/// Prevents: a partial that is damaged in one store, and recovery that stops though another store has it.
#[tokio::test]
async fn a_damaged_partial_does_not_stand_before_a_sound_one() {
    let stage = Stage::new(2, 2);
    let history = history(4, 1);
    stage.archive(&history[0].0, &history[0].1).await.unwrap();
    let WalFileName::Segment(segment) = name(&history[1].0) else {
        panic!("it is a segment");
    };
    let start = segment.start(SegmentSize::new(1 << 20).unwrap()).unwrap();
    let piece = partial::WalPiece {
        start_lsn: start,
        boundary: partial::Boundary {
            lsn: start,
            last_record: None,
        },
        wal: history[1].1[..8192].to_vec().into(),
    };
    let of_segment = layout::partial_of(segment);
    for store in &stage.stores {
        let piece = Content::new(piece.encode().unwrap());
        store.append(&of_segment, 0, piece).await.unwrap();
    }
    let asked = self::name(&history[1].0);
    let first = stage.restorer().fetch(asked).await.unwrap().unwrap();
    assert!(matches!(first.origin, Origin::Partial(_)), "{:?}", first.origin);
    let damage = |number: usize| {
        let partials = stage.dir.path().join(number.to_string()).join("partial");
        let file = partials.join(of_segment.as_str());
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, flip(&bytes, 8 * 60)).unwrap();
    };
    damage(0);
    let second = stage.restorer().fetch(asked).await.unwrap().unwrap();
    assert!(second.bytes == first.bytes && second.location != first.location);
    let listed = stage.stores[0].partials(&layout::all_partials()).await.unwrap();
    assert_eq!(listed.len(), 1, "the others are still to be found");
    damage(1);
    let error = stage.restorer().fetch(asked).await.unwrap_err();
    assert!(error.is_damage(), "{error}");

    // What lies behind says that it is not the end of the WAL.
    assert_eq!(stage.restorer().behind(segment).await.unwrap(), None);
    stage.archive(&history[3].0, &history[3].1).await.unwrap();
    let behind = stage.restorer().behind(segment).await.unwrap();
    assert_eq!(
        behind.map(|behind| behind.to_string()).as_ref(),
        Some(&history[3].0)
    );
}
