//! A spool of each format version, kept in `engine/tests-data`, that every later program has to read.
//!
//! Segments are kept without the zeros at their end.

use std::fs;
use std::path::PathBuf;

use super::*;

fn kept(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests-data/spool-v{version}"))
}

const EXPECTED: [&str; 11] = [
    "Session { from_lsn: 0/1 } 0",
    "tx TxHead { xid: 1, commit_lsn: 0/64, end_lsn: 0/96, commit_time: 1 } 1 11",
    "Tick(TickEntry { tick_id: TickId(1), previous: None, time: 1000, event_seq: 10, snapshot: 10:20:10,15, barrier: false }) 0",
    "part 9 2 4000",
    "Abort { xid: 12 } 0",
    "Progress { lsn: 0/FA } 0",
    "part 9 3 1044200",
    "commit TxHead { xid: 3, commit_lsn: 0/12C, end_lsn: 0/15E, commit_time: 3 } 2 [11] 5 1048200 1048200",
    "Tick(TickEntry { tick_id: TickId(2), previous: Some(TickId(1)), time: 2000, event_seq: 20, snapshot: 10:20:10,15, barrier: true }) 0",
    "tx TxHead { xid: 4, commit_lsn: 0/190, end_lsn: 0/1C2, commit_time: 4 } 0 0",
    "Progress { lsn: 0/384 } 0",
];

/// Run by hand when a format version is made: `cargo test write_the_golden_spool -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_golden_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, spool) = open(dir.path());
    writer.relation(&relation_message(1000, "orders")).unwrap();
    writer.session(Lsn::new(1)).unwrap();
    writer.transaction(head(1), b"rows of one", 1).unwrap();
    writer.tick(tick(1, None)).unwrap();
    let first = writer.part(Xid32::new(9), &[7; 4000], 2).unwrap();
    writer.abort(Xid32::new(12)).unwrap();
    writer.progress(Lsn::new(250)).unwrap();
    sync(&mut writer, &spool);
    // So large that it opens the second segment, before it compresses to nearly nothing.
    let large = [8; 1_044_200];
    let second = writer.part(Xid32::new(9), &large, 3).unwrap();
    assert_eq!(spool.stats().segments, 2);
    let bytes = large.len() as u64 + 4000;
    writer
        .commit(head(3), vec![first, second], vec![Xid32::new(11)], 5, bytes)
        .unwrap();
    writer.tick(tick(2, Some(TickId::new(1)))).unwrap();
    writer.transaction(head(4), b"", 0).unwrap();
    writer.progress(Lsn::new(900)).unwrap();
    sync(&mut writer, &spool);
    fs::create_dir_all(kept(1)).unwrap();
    for number in 1..=2 {
        let bytes = fs::read(segment::segment_path(dir.path(), number)).unwrap();
        let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        fs::write(segment::segment_path(&kept(1), number), &bytes[..end]).unwrap();
    }
    fs::copy(
        segment::index_path(dir.path(), 1),
        segment::index_path(&kept(1), 1),
    )
    .unwrap();
}

#[test]
fn a_spool_of_format_1_reads_back() {
    for with_sidecar in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=2 {
            let path = segment::segment_path(dir.path(), number);
            fs::copy(segment::segment_path(&kept(1), number), &path).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(SEGMENT).unwrap();
        }
        if with_sidecar {
            fs::copy(
                segment::index_path(&kept(1), 1),
                segment::index_path(dir.path(), 1),
            )
            .unwrap();
        }
        let look = |spool: &Arc<Spool>| {
            let seen = contents(spool).into_iter();
            seen.map(|(text, rows)| format!("{text} {}", rows.len()))
                .collect::<Vec<_>>()
        };
        let spool = Spool::open_read_only(dir.path()).unwrap();
        assert_eq!(look(&spool), EXPECTED);
        assert_eq!(*spool.identity(), identity());
        let (mut writer, spool) = open(dir.path());
        assert_eq!(look(&spool), EXPECTED);
        assert_eq!(spool.relation(RelationId(1)).unwrap().columns.len(), 2);
        let sidecar = |dir| fs::read(segment::index_path(dir, 1)).unwrap();
        assert_eq!(
            sidecar(dir.path()),
            sidecar(&kept(1)),
            "made again, it is the same"
        );
        writer.transaction(head(10), b"more", 1).unwrap();
        sync(&mut writer, &spool);
        assert_eq!(contents(&spool).len(), EXPECTED.len() + 1);
    }
}
