mod golden;
mod model;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use skytide_sql::{Lsn, QueueName, SlotName, TickId, Xid32};

use super::*;

const SEGMENT: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    Identity {
        system_id: 7_000_000_000_000_000_001,
        timeline: 1,
        database: "shop".into(),
        slot: SlotName::new("skytide_q1").unwrap(),
        queue: QueueName::new("q1").unwrap(),
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: SEGMENT,
        max_bytes: 8 * SEGMENT,
        block_bytes: 16 << 10,
        ..Settings::new(dir)
    }
}

fn open(dir: &Path) -> (Writer, Arc<Spool>) {
    Writer::open(settings(dir), identity()).unwrap()
}

fn head(n: u32) -> TxHead {
    TxHead {
        xid: Xid32::new(n),
        commit_lsn: Lsn::new(u64::from(n) * 100),
        end_lsn: Lsn::new(u64::from(n) * 100 + 50),
        commit_time: i64::from(n),
    }
}

fn tick(n: i64, previous: Option<TickId>) -> TickEntry {
    TickEntry {
        tick_id: TickId::new(n),
        previous,
        time: n * 1000,
        event_seq: n * 10,
        snapshot: "10:20:10,15".parse().unwrap(),
        barrier: n % 2 == 0,
    }
}

/// Body of a Relation message: table `public.<name>` with an `id` key.
fn relation_message(oid: u32, name: &str) -> Vec<u8> {
    let mut m = oid.to_be_bytes().to_vec();
    m.extend_from_slice(b"public\0");
    m.extend_from_slice(name.as_bytes());
    m.extend_from_slice(b"\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff");
    m
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 0x9E37_79B9;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

/// Everything a reader sees, rows resolved, relation declarations aside.
fn contents(spool: &Arc<Spool>) -> Vec<(String, Vec<u8>)> {
    let mut reader = spool.reader(spool.begin());
    let mut parts = PartReader::new(spool);
    let mut seen = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        for entry in block.entries() {
            let (text, rows) = match entry.unwrap() {
                Entry::Relation { .. } => continue,
                Entry::Transaction {
                    head,
                    rows,
                    row_count,
                } => (
                    format!("tx {head:?} {row_count}"),
                    block.rows(&rows).unwrap().to_vec(),
                ),
                Entry::Part { xid, rows, row_count } => (
                    format!("part {xid} {row_count}"),
                    block.rows(&rows).unwrap().to_vec(),
                ),
                Entry::Commit {
                    head,
                    parts: list,
                    aborted,
                    row_count,
                    bytes,
                } => {
                    let mut rows = Vec::new();
                    for part in &list {
                        rows.extend_from_slice(parts.rows(part).unwrap());
                    }
                    (
                        format!("commit {head:?} {} {aborted:?} {row_count} {bytes}", list.len()),
                        rows,
                    )
                }
                other => (format!("{other:?}"), Vec::new()),
            };
            seen.push((text, rows));
        }
    }
    seen
}

/// Publishes and waits until all of it is durable.
fn sync(writer: &mut Writer, spool: &Arc<Spool>) {
    writer.publish().unwrap();
    let (tell, told) = mpsc::channel();
    writer.on_durable(Box::new(move || tell.send(()).unwrap_or(())));
    writer.request_sync();
    while spool.durable() < spool.end() {
        told.recv_timeout(DEADLINE).expect("the sync thread answers");
    }
}

#[test]
fn what_was_appended_is_read_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    let relation = writer.relation(&relation_message(1000, "orders")).unwrap();
    writer.session(Lsn::new(1)).unwrap();
    writer.transaction(head(1), b"rows of one", 1).unwrap();
    writer.tick(tick(1, None)).unwrap();
    let first = writer.part(Xid32::new(9), &[7; 40_000], 3).unwrap();
    writer.transaction(head(2), b"", 0).unwrap();
    let second = writer.part(Xid32::new(9), b"and more", 1).unwrap();
    writer
        .commit(head(3), vec![first, second], vec![Xid32::new(11)], 4, 40_008)
        .unwrap();
    writer.tick(tick(2, Some(TickId::new(1)))).unwrap();
    writer.abort(Xid32::new(12)).unwrap();
    writer.progress(Lsn::new(900)).unwrap();
    assert_eq!(contents(&spool).len(), 4, "only closed blocks are visible");
    sync(&mut writer, &spool);
    assert_eq!(writer.durable_lsn(), Lsn::new(900));
    let before = contents(&spool);
    assert_eq!(before.len(), 10);
    drop((writer, spool));

    let (writer, spool) = open(dir.path());
    assert_eq!(contents(&spool), before);
    assert_eq!(writer.end_lsn(), Lsn::new(900));
    assert_eq!(writer.last_tick(), Some(TickId::new(2)));
    assert_eq!(
        spool.relation(relation).unwrap().table.to_string(),
        "public.orders"
    );
    assert!(spool.find_tick(TickId::new(2)).unwrap().is_some());
    assert_eq!(spool.find_tick(TickId::new(3)).unwrap(), None);
}

#[test]
fn a_second_writer_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Writer::open(settings(dir.path()), identity())
        .map(drop)
        .unwrap_err();
    let SpoolError::Locked { holder, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*holder, std::process::id().to_string());
    drop(first);
    open(dir.path());
}

#[test]
fn another_queues_spool_is_refused_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let wrong = |change: &dyn Fn(&mut Identity)| {
        let mut other = identity();
        change(&mut other);
        match Writer::open(settings(dir.path()), other).map(drop).unwrap_err() {
            SpoolError::Identity { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(wrong(&|i| i.system_id += 1), "system identifier");
    assert_eq!(wrong(&|i| i.timeline = 2), "timeline");
    assert_eq!(wrong(&|i| i.database = "other".into()), "database");
    assert_eq!(wrong(&|i| i.slot = SlotName::new("s2").unwrap()), "slot");
    assert_eq!(wrong(&|i| i.queue = QueueName::new("q2").unwrap()), "queue");
    open(dir.path());
}

#[test]
fn relations_keep_their_ids_and_each_segment_declares_the_current_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    let (old, new) = (relation_message(1, "a"), relation_message(1, "renamed"));
    let other = relation_message(2, "b");
    let ids = [&old, &other, &new].map(|m| writer.relation(m).unwrap());
    assert_eq!(ids, [1, 2, 3].map(RelationId));
    assert_eq!(writer.relation(&old).unwrap(), ids[0]);
    assert_eq!(writer.relation(&new).unwrap(), ids[2]);
    // Three more segments: the second still may meet the old shape, later ones do not.
    let mut n = 0;
    while spool.stats().segments < 4 {
        n += 1;
        writer.transaction(head(n), &noise(n, 30_000), 1).unwrap();
    }
    assert_eq!(writer.relation(&new).unwrap(), ids[2]);
    sync(&mut writer, &spool);
    let begins: Vec<SpoolPos> = (1..=4).map(|s| SpoolPos::at(s, SEGMENT, HEADER)).collect();
    let declared = begins.iter().map(|begin| {
        let block = spool.reader(*begin).next_block().unwrap().unwrap();
        let ids = block.entries().filter_map(|e| match e.unwrap() {
            Entry::Relation { id, .. } => Some(id.0),
            _ => None,
        });
        ids.collect::<Vec<_>>()
    });
    assert_eq!(
        declared.collect::<Vec<_>>(),
        [vec![1, 2, 3], vec![1, 2, 3], vec![2, 3], vec![2, 3]]
    );
    spool.release(begins[3]).unwrap();
    drop((writer, spool));

    let (mut writer, spool) = open(dir.path());
    assert_eq!(spool.begin(), begins[3]);
    assert_eq!(writer.relation(&new).unwrap(), ids[2]);
    assert_eq!(spool.relation(ids[2]).unwrap().table.name, "renamed");
    assert_eq!(
        writer.relation(&old).unwrap(),
        RelationId(4),
        "ids are never used again"
    );
    assert!(matches!(
        writer.relation(b"\0\0\0\x01x"),
        Err(SpoolError::BadRelation { .. })
    ));
}

#[test]
fn a_full_spool_says_so_changes_nothing_and_goes_on_after_release() {
    let dir = tempfile::tempdir().unwrap();
    let two = Settings {
        max_bytes: 2 * SEGMENT,
        compression: None,
        ..settings(dir.path())
    };
    let (mut writer, spool) = Writer::open(two, identity()).unwrap();
    let mut n = 0;
    let error = loop {
        match writer.transaction(head(n + 1), &[1; 10_000], 1) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(error.is_space(), "{error}");
    assert_eq!(writer.space(), Space::Full);
    assert_eq!(writer.end_lsn(), head(n).end_lsn);
    sync(&mut writer, &spool);
    assert_eq!(contents(&spool).len(), n as usize);

    let (tell, told) = mpsc::channel();
    spool.on_release(Box::new(move || tell.send(()).unwrap_or(())));
    let hold = spool.hold(spool.begin()).unwrap();
    spool.release(spool.end()).unwrap();
    assert_eq!(writer.space(), Space::Full, "held");
    hold.advance(spool.end()).unwrap();
    told.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(writer.space(), Space::Free(_)));
    writer.transaction(head(n + 1), &[1; 10_000], 1).unwrap();
}

#[test]
fn what_a_hold_kept_is_there_until_the_next_release() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    for n in 1..200 {
        writer.transaction(head(n), &noise(n, 20_000), 1).unwrap();
    }
    writer.publish().unwrap();
    let begin = spool.begin();
    let copy = spool.hold(begin).unwrap();
    spool.release(spool.end()).unwrap();
    drop(copy);
    // Another consumer opens and moves before the first one is back.
    let main = spool.hold(begin).unwrap();
    main.advance(spool.end()).unwrap();
    let copy = spool.hold(begin).expect("nothing was released since");
    spool.release(spool.end()).unwrap();
    assert_eq!(spool.begin(), begin);
    drop(copy);
    spool.release(spool.end()).unwrap();
    assert!(spool.begin() > begin);
}

#[test]
fn a_released_segment_stays_readable_for_those_who_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    writer.transaction(head(1), &noise(1, 5000), 1).unwrap();
    writer.publish().unwrap();
    let begin = spool.begin();
    let mut reader = spool.reader(begin);
    let block = reader.next_block().unwrap().unwrap();
    let rows = block.entries().find_map(|e| match e.unwrap() {
        Entry::Transaction { rows, .. } => Some(rows),
        _ => None,
    });
    let mut n = 1;
    while spool.stats().segments < 3 {
        n += 1;
        writer.transaction(head(n), &noise(n, 30_000), 1).unwrap();
    }
    spool.release(spool.end()).unwrap();
    assert_eq!(spool.stats().segments, 1);
    assert!(!segment::segment_path(dir.path(), 1).exists());
    assert_eq!(block.rows(&rows.unwrap()).unwrap(), noise(1, 5000));
    assert!(reader.next_block().unwrap().is_some(), "the rest of its segment");
    let mut late = spool.reader(begin);
    assert!(matches!(late.next_block(), Err(SpoolError::Released { .. })));
    assert!(matches!(spool.hold(begin), Err(SpoolError::Released { .. })));
}

#[test]
fn a_reader_in_another_process_goes_along_with_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    writer.transaction(head(1), b"rows", 1).unwrap();
    writer.publish().unwrap();
    let other = Spool::open_read_only(dir.path()).unwrap();
    let mut reader = other.reader(other.begin());
    let mut read = 0;
    let mut previous = None;
    for n in 2..200 {
        let relation = writer
            .relation(&relation_message(1000 + n / 50, "orders"))
            .unwrap();
        writer.transaction(head(n), &noise(n, 30_000), 1).unwrap();
        writer.tick(tick(i64::from(n), previous)).unwrap();
        previous = Some(TickId::new(i64::from(n)));
        writer.publish().unwrap();
        // Sometimes several blocks, or a whole segment, are new.
        if n % 7 == 0 || n % 50 == 1 {
            assert!(other.go_along().unwrap());
            assert_eq!(other.last_tick(), previous);
            assert_eq!(other.end(), spool.end());
            assert_eq!(contents(&other), contents(&spool));
            assert!(other.relation(relation).is_some());
            while reader.next_block().unwrap().is_some() {
                read += 1;
            }
        }
        if n == 100 {
            assert!(spool.stats().segments > 2);
            spool.release(spool.end()).unwrap();
            assert!(other.go_along().unwrap());
            assert_eq!(other.begin(), spool.begin());
        }
    }
    assert!(other.go_along().unwrap());
    while reader.next_block().unwrap().is_some() {
        read += 1;
    }
    assert!(read >= 199, "each block was read once: {read}");

    // What is torn is not taken in.
    let path = segment::segment_path(dir.path(), other.last_segment().unwrap().header.number);
    writer.transaction(head(900), &noise(9, 3000), 1).unwrap();
    writer.publish().unwrap();
    let before = other.end();
    let place = before.offset(SEGMENT) as u64 + 500;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, place).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!byte[0]], place).unwrap();
    assert!(other.go_along().unwrap());
    assert_eq!(other.end(), before);
    std::os::unix::fs::FileExt::write_all_at(&file, &byte, place).unwrap();
    assert!(other.go_along().unwrap());
    assert_eq!(contents(&other), contents(&spool));

    // Another spool in the same place, with the same numbers.
    drop((writer, spool));
    remove(dir.path()).unwrap();
    let (mut writer, _spool) = open(dir.path());
    writer.transaction(head(1), b"rows", 1).unwrap();
    writer.publish().unwrap();
    assert!(!other.go_along().unwrap());
}

#[test]
fn a_row_larger_than_a_segment_is_refused_and_the_largest_one_fits() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    let most = writer.max_rows();
    assert!(most as u64 > SEGMENT - 20_000);
    let error = writer.transaction(head(1), &noise(1, most + 1), 1).unwrap_err();
    assert!(matches!(error, SpoolError::TooLarge { .. }), "{error}");
    writer.transaction(head(1), b"small", 1).unwrap();
    writer.transaction(head(2), &noise(2, most), 1).unwrap();
    writer.tick(tick(1, None)).unwrap();
    writer.publish().unwrap();
    let seen = contents(&spool);
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].1, noise(2, most));
}

#[test]
fn a_tick_stands_in_the_block_of_its_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    for n in 1..3000 {
        writer.transaction(head(n), &noise(n, 16_000), 1).unwrap();
        writer.tick(tick(i64::from(n), None)).unwrap();
        if spool.stats().segments == 8 {
            spool.release(spool.end()).unwrap();
        }
    }
    writer.publish().unwrap();
    let mut reader = spool.reader(spool.begin());
    let mut ticks = 0;
    while let Some(block) = reader.next_block().unwrap() {
        let mut after_transaction = false;
        for entry in block.entries() {
            match entry.unwrap() {
                Entry::Tick(tick) => {
                    assert!(after_transaction, "tick {} stands alone", tick.tick_id);
                    assert_eq!(spool.find_tick(tick.tick_id).unwrap(), Some(block.position()));
                    ticks += 1;
                }
                other => after_transaction = matches!(other, Entry::Transaction { .. }),
            }
        }
    }
    assert!(ticks > 10);
}

#[test]
fn damage_to_what_was_durable_is_an_error_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    for n in 1..4 {
        writer.transaction(head(n), b"rows", 1).unwrap();
        sync(&mut writer, &spool);
    }
    drop((writer, spool));
    let path = segment::segment_path(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[HEADER + 50] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    for outcome in [
        Writer::open(settings(dir.path()), identity()).map(drop),
        Spool::open_read_only(dir.path()).map(drop),
    ] {
        match outcome.unwrap_err() {
            SpoolError::Corrupt { file, offset, .. } => {
                assert_eq!((file, offset), (path.clone(), HEADER as u64))
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_spool_is_read_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    const COUNT: u32 = 4000;
    let (tell, told) = mpsc::channel();
    spool.on_publish(Box::new(move || tell.send(()).unwrap_or(())));
    let reading = Arc::clone(&spool);
    let reader = std::thread::spawn(move || {
        let hold = reading.hold(reading.begin()).unwrap();
        let mut reader = reading.reader(reading.begin());
        let mut next = 1;
        while next <= COUNT {
            let Some(block) = reader.next_block().unwrap() else {
                told.recv_timeout(DEADLINE).expect("the writer goes on");
                continue;
            };
            for entry in block.entries() {
                if let Entry::Transaction {
                    head: found, rows, ..
                } = entry.unwrap()
                {
                    assert_eq!(found, head(next));
                    assert_eq!(block.rows(&rows).unwrap(), noise(next, 700));
                    next += 1;
                }
            }
            hold.advance(reader.position()).unwrap();
        }
    });
    let (tell, told) = mpsc::channel();
    spool.on_release(Box::new(move || tell.send(()).unwrap_or(())));
    for n in 1..=COUNT {
        while let Err(e) = writer.transaction(head(n), &noise(n, 700), 1) {
            assert!(e.is_space(), "{e}");
            spool.release(spool.end()).unwrap();
            writer.publish().unwrap();
            told.recv_timeout(DEADLINE).expect("the reader goes on");
        }
        if n % 7 == 0 {
            writer.publish().unwrap();
            spool.release(spool.end()).unwrap();
        }
    }
    writer.publish().unwrap();
    reader.join().unwrap();
}

#[test]
fn handles_may_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    crosses::<Spool>();
    crosses::<Block>();
    crosses::<SpoolError>();
    moves::<Writer>();
    moves::<Reader>();
    moves::<PartReader>();
}

#[cfg(feature = "failpoints")]
#[test]
fn a_full_disk_is_a_typed_error_that_passes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    fail::cfg("spool::allocate", "return").unwrap();
    let mut n = 0;
    let error = loop {
        match writer.transaction(head(n + 1), &noise(n + 1, 10_000), 1) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, SpoolError::NoSpace { .. }), "{error}");
    fail::cfg("spool::allocate", "off").unwrap();
    writer.transaction(head(n + 1), b"more", 1).unwrap();
    writer.publish().unwrap();
    assert_eq!(contents(&spool).len(), n as usize + 1);
}

#[cfg(feature = "failpoints")]
#[test]
fn without_room_for_an_index_the_spool_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    fail::cfg("spool::index", "return").unwrap();
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let mut n = 0;
    // Into the third segment.
    while spool.stats().segments < 3 {
        n += 1;
        let body: Vec<u8> = (0..50_000).map(|_| noise()).collect();
        writer.transaction(head(n), &body, 1).unwrap();
    }
    sync(&mut writer, &spool);
    let indexes = || {
        let names = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains(".idx"))
            .count()
    };
    assert_eq!(indexes(), 0, "and nothing half written");
    assert_eq!(contents(&spool).len(), n as usize);
    drop((writer, spool));
    fail::cfg("spool::index", "off").unwrap();
    let (_writer, spool) = open(dir.path());
    assert_eq!(contents(&spool).len(), n as usize);
    assert_eq!(indexes(), 2);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_failed_sync_poisons_until_the_spool_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    writer.transaction(head(1), b"one", 1).unwrap();
    sync(&mut writer, &spool);
    fail::cfg("spool::sync", "return").unwrap();
    let (tell, told) = mpsc::channel();
    writer.on_durable(Box::new(move || tell.send(()).unwrap_or(())));
    writer.transaction(head(2), b"two", 1).unwrap();
    writer.publish().unwrap();
    writer.request_sync();
    told.recv_timeout(DEADLINE).unwrap();
    fail::cfg("spool::sync", "off").unwrap();
    assert_eq!(writer.durable_lsn(), head(1).end_lsn);
    let error = writer.transaction(head(3), b"three", 1).unwrap_err();
    assert!(matches!(error, SpoolError::Poisoned { .. }), "{error}");
    drop((writer, spool));
    let (mut writer, _) = open(dir.path());
    writer.transaction(head(3), b"three", 1).unwrap();
}
