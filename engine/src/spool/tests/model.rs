//! Random operations beside a list that says what must come out.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use skytide_sql::{Lsn, TickId, Xid32};

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Relation(u8),
    Transaction {
        size: usize,
        noisy: bool,
    },
    Part {
        size: usize,
    },
    Commit,
    Abort,
    Tick,
    Session,
    Progress,
    Publish,
    Sync,
    /// The process dies; what it wrote is in the page cache.
    Kill,
    /// The machine dies: pages that were not synced are old (zero) or garbage. `at` picks a place of 65536.
    PowerCut {
        at: u16,
        len: usize,
        garbage: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![4 => 0..300usize, 2 => 300..20_000usize, 1 => 20_000..400_000usize];
    prop_oneof![
        2 => any::<u8>().prop_map(|n| Op::Relation(n % 5)),
        10 => (size.clone(), any::<bool>()).prop_map(|(size, noisy)| Op::Transaction { size, noisy }),
        5 => size.prop_map(|size| Op::Part { size }),
        3 => Just(Op::Commit),
        1 => Just(Op::Abort),
        3 => Just(Op::Tick),
        1 => Just(Op::Session),
        2 => Just(Op::Progress),
        4 => Just(Op::Publish),
        2 => Just(Op::Sync),
        1 => Just(Op::Kill),
        1 => (any::<u16>(), 1..9000usize, any::<bool>())
            .prop_map(|(at, len, garbage)| Op::PowerCut { at, len, garbage }),
    ]
}

struct World {
    dir: tempfile::TempDir,
    writer: Option<(Writer, Arc<Spool>)>,
    /// All that was appended, as `contents` shows it, Progress aside: the writer joins those.
    appended: Vec<(String, Vec<u8>)>,
    /// Parts of the one open transaction with their rows.
    parts: Vec<(PartRef, Vec<u8>)>,
    count: u32,
    last_tick: Option<TickId>,
}

fn generous(dir: &Path) -> Settings {
    Settings {
        max_bytes: 200 * SEGMENT,
        ..settings(dir)
    }
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(generous(dir.path()), identity()).unwrap();
        World {
            dir,
            writer: Some(writer),
            appended: Vec::new(),
            parts: Vec::new(),
            count: 0,
            last_tick: None,
        }
    }

    fn step(&mut self, op: &Op) {
        let (writer, spool) = self.writer.as_mut().unwrap();
        self.count += 1;
        let n = self.count;
        let rows = |size, noisy| {
            if noisy {
                noise(n, size)
            } else {
                vec![n as u8; size]
            }
        };
        match op {
            Op::Relation(k) => {
                let id = writer
                    .relation(&relation_message(u32::from(*k), &format!("t{}", n % 3)))
                    .unwrap();
                assert!(spool.relation(id).is_some());
            }
            Op::Transaction { size, noisy } => {
                let rows = rows(*size, *noisy);
                writer.transaction(head(n), &rows, n).unwrap();
                self.appended.push((format!("tx {:?} {n}", head(n)), rows));
            }
            Op::Part { size } => {
                let rows = rows(*size, n.is_multiple_of(2));
                let part = writer.part(Xid32::new(1), &rows, n).unwrap();
                self.appended.push((format!("part 1 {n}"), rows.clone()));
                self.parts.push((part, rows));
            }
            Op::Commit => {
                let (list, rows): (Vec<_>, Vec<_>) = self.parts.drain(..).unzip();
                let aborted = vec![Xid32::new(n)];
                let text = format!("commit {:?} {} {aborted:?} 5 6", head(n), list.len());
                writer.commit(head(n), list, aborted, 5, 6).unwrap();
                self.appended.push((text, rows.concat()));
            }
            Op::Abort => {
                writer.abort(Xid32::new(n)).unwrap();
                self.appended
                    .push((format!("{:?}", Entry::Abort { xid: Xid32::new(n) }), Vec::new()));
            }
            Op::Tick => {
                let entry = tick(i64::from(n), self.last_tick);
                self.last_tick = Some(entry.tick_id);
                writer.tick(entry.clone()).unwrap();
                self.appended
                    .push((format!("{:?}", Entry::Tick(entry)), Vec::new()));
            }
            Op::Session => {
                let from_lsn = Lsn::new(u64::from(n));
                writer.session(from_lsn).unwrap();
                self.appended
                    .push((format!("{:?}", Entry::Session { from_lsn }), Vec::new()));
            }
            Op::Progress => {
                let lsn = Lsn::new(u64::from(n) * 100);
                writer.progress(lsn).unwrap();
                assert_eq!(writer.end_lsn(), lsn);
            }
            Op::Publish => {
                writer.publish().unwrap();
                assert_eq!(without_progress(spool), self.appended);
            }
            Op::Sync => {
                sync(writer, spool);
                assert_eq!(writer.durable_lsn(), writer.end_lsn());
            }
            Op::Kill => self.reopen(|_, _, _| {}),
            Op::PowerCut { at, len, garbage } => self.reopen(|dir, from, to| {
                damage(dir, from, to, *at, *len, *garbage);
            }),
        }
    }

    fn reopen(&mut self, hurt: impl Fn(&Path, SpoolPos, SpoolPos)) {
        let (writer, spool) = self.writer.take().unwrap();
        drop(writer);
        let (durable, durable_lsn) = (spool.durable(), spool.durable_lsn());
        let kept = contents_until(&spool, durable);
        assert_eq!(kept, self.appended[..kept.len()]);
        hurt(self.dir.path(), durable, spool.end());
        drop(spool);
        let (writer, spool) = Writer::open(generous(self.dir.path()), identity()).unwrap();
        assert!(writer.end_lsn() >= durable_lsn);
        let found = without_progress(&spool);
        assert!(found.len() >= kept.len(), "what was durable is gone");
        assert_eq!(found, self.appended[..found.len()]);
        self.appended.truncate(found.len());
        self.parts.clear();
        self.last_tick = writer.last_tick();
        self.writer = Some((writer, spool));
    }
}

fn without_progress(spool: &Arc<Spool>) -> Vec<(String, Vec<u8>)> {
    let mut all = contents(spool);
    all.retain(|(text, _)| !text.starts_with("Progress"));
    all
}

/// What a reader sees of blocks that end at `until` or before.
fn contents_until(spool: &Arc<Spool>, until: SpoolPos) -> Vec<(String, Vec<u8>)> {
    let mut reader = spool.reader(spool.begin());
    let mut entries = 0;
    while let Some(block) = reader.next_block().unwrap() {
        if block.end() > until {
            break;
        }
        let unlisted = |e: &Entry<'_>| matches!(e, Entry::Relation { .. } | Entry::Progress { .. });
        entries += block.entries().filter(|e| !unlisted(e.as_ref().unwrap())).count();
    }
    let mut all = without_progress(spool);
    all.truncate(entries);
    all
}

/// Overwrites a stretch somewhere between two positions.
fn damage(dir: &Path, from: SpoolPos, to: SpoolPos, at: u16, len: usize, garbage: bool) {
    let span = to.as_u64() - from.as_u64();
    if span == 0 {
        return;
    }
    let start = SpoolPos::new(from.as_u64() + span * u64::from(at) / 65536);
    let (number, offset) = (start.segment(SEGMENT), start.offset(SEGMENT));
    let len = len.min(SEGMENT as usize - offset);
    let bytes = if garbage {
        noise(u32::from(at), len)
    } else {
        vec![0; len]
    };
    let path = segment::segment_path(dir, number);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&bytes, offset as u64).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_spool_is_a_list_that_survives_kills_and_power_cuts(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.step(&Op::Publish);
        world.step(&Op::Kill);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed(
        ops in prop::collection::vec(op(), 1..40),
        at in any::<u64>(),
        bit in 0..8u8,
    ) {
        let mut world = World::new();
        for op in ops.iter().filter(|op| !matches!(op, Op::PowerCut { .. })) {
            world.step(op);
        }
        world.step(&Op::Sync);
        world.step(&Op::Session);
        world.step(&Op::Publish);
        let (writer, spool) = world.writer.take().unwrap();
        drop(writer);
        let before = contents(&spool);
        let (begin, end) = (spool.begin().as_u64() - HEADER as u64, spool.end().as_u64());
        drop(spool);
        let place = SpoolPos::new(begin + at % (end - begin));
        let path = segment::segment_path(world.dir.path(), place.segment(SEGMENT));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place.offset(SEGMENT) as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << bit], place.offset(SEGMENT) as u64).unwrap();
        match try_contents(&generous(world.dir.path())) {
            Err(_) => {}
            // The last block was not synced, so it may be cut; padding means nothing.
            Ok(after) => prop_assert!(after == before || after == before[..before.len() - 1]),
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..300), offset in 0..64usize) {
        let _ = format::Frame::parse(&bytes, offset, SpoolPos::new(0));
        let mut toc = entry::TocReader::new(&bytes, SpoolPos::new(8), 100, 50);
        while let Ok(Some(_)) = toc.next_entry() {}
        let _ = dictionary::parse_relation(&bytes);
    }
}

fn try_contents(settings: &Settings) -> Result<Vec<(String, Vec<u8>)>, SpoolError> {
    let (_writer, spool) = Writer::open(settings.clone(), identity())?;
    let mut reader = spool.reader(spool.begin());
    while let Some(block) = reader.next_block()? {
        for entry in block.entries() {
            if let Entry::Transaction { rows, .. } | Entry::Part { rows, .. } = entry? {
                block.rows(&rows)?;
            }
        }
    }
    Ok(contents(&spool))
}
