//! A random server beside a naive model: every transaction comes exactly once, in the batch that the ticks'
//! snapshots say, in commit order, however ticks are joined and wherever a consumer starts again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skytide_sql::{Lsn, QueueName, SlotName, Snapshot, TickId, Xid, Xid32};

use super::*;
use crate::apply::ChangeSource;
use crate::change::{ColumnValue, RowChange};
use crate::spool::{Identity, PartRef, Settings, Spool, TickEntry, TxHead, Writer};

/// Small steps of a fixed sequence: the seed is what proptest shrinks and prints.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One row: who wrote it, and its text.
#[derive(Clone)]
struct Row {
    subxid: Option<u32>,
    text: String,
}

/// A transaction that has not left the server's list of running ones.
struct Running {
    rows: Vec<Row>,
    aborted: Vec<u32>,
    parts: Vec<PartRef>,
    /// How many of the rows are in parts.
    sent: usize,
    streamed: bool,
    /// Its commit is in the WAL: decoding has seen it, snapshots have not.
    committed: bool,
}

struct World {
    dice: Dice,
    writer: Writer,
    relation: u32,
    next_xid: u64,
    /// Highest id that has ended, as snapshots know it.
    latest_ended: u64,
    lsn: u64,
    running: BTreeMap<u64, Running>,
    /// In commit order.
    committed: Vec<(u64, Vec<String>)>,
    ticks: Vec<TickEntry>,
}

fn record(kind: u8, word: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = (5 + rest.len() as u32).to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(&word.to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

fn encode(rows: &[Row], relation: u32) -> Vec<u8> {
    let (mut run, mut by) = (Vec::new(), None);
    for row in rows {
        if row.subxid != by {
            by = row.subxid;
            run.extend(record(b'X', by.unwrap_or(0), &[]));
        }
        let mut tuple = b"N\0\x01t".to_vec();
        tuple.extend_from_slice(&(row.text.len() as u32).to_be_bytes());
        tuple.extend_from_slice(row.text.as_bytes());
        run.extend(record(b'I', relation, &tuple));
    }
    run
}

impl World {
    fn begin(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1 + self.dice.below(3);
        let streamed = self.dice.one_in(3);
        let new = Running {
            rows: Vec::new(),
            aborted: Vec::new(),
            parts: Vec::new(),
            sent: 0,
            streamed,
            committed: false,
        };
        self.running.insert(xid, new);
        xid
    }

    fn head(&mut self, xid: u64) -> TxHead {
        self.lsn += 100;
        TxHead {
            xid: Xid::new(xid).low_half(),
            commit_lsn: Lsn::new(self.lsn),
            end_lsn: Lsn::new(self.lsn + 50),
            commit_time: 0,
        }
    }

    fn any_running(&mut self, committed: bool) -> Option<u64> {
        let of: Vec<u64> = self
            .running
            .iter()
            .filter(|(_, r)| r.committed == committed)
            .map(|(x, _)| *x)
            .collect();
        match of.len() {
            0 => None,
            n => Some(of[self.dice.below(n as u64) as usize]),
        }
    }

    fn write(&mut self, xid: u64) {
        let size = if self.dice.one_in(4) { 30_000 } else { 20 };
        let (count, number) = (1 + self.dice.below(4), self.dice.below(3) as u32);
        let give_up = self.dice.one_in(5);
        let Some(t) = self.running.get_mut(&xid) else {
            return;
        };
        let subxid = (t.streamed && number > 0).then_some(xid as u32 ^ (number << 24));
        for _ in 0..count {
            let text = format!("{xid}:{}:{}", t.rows.len(), "x".repeat(size));
            t.rows.push(Row { subxid, text });
        }
        if give_up {
            t.aborted.extend(subxid);
        }
        if t.streamed {
            self.send(xid);
        }
    }

    /// Rows that are not in the spool go there as a part.
    fn send(&mut self, xid: u64) {
        let Some(t) = self.running.get_mut(&xid) else {
            return;
        };
        if t.sent < t.rows.len() {
            let run = encode(&t.rows[t.sent..], self.relation);
            let count = (t.rows.len() - t.sent) as u32;
            t.parts
                .push(self.writer.part(Xid32::new(xid as u32), &run, count).unwrap());
            t.sent = t.rows.len();
        }
    }

    fn commit(&mut self, xid: u64) {
        let head = self.head(xid);
        if self.running[&xid].streamed {
            self.send(xid);
        }
        let t = self.running.get_mut(&xid).unwrap();
        t.committed = true;
        if t.parts.is_empty() {
            let run = encode(&t.rows, self.relation);
            self.writer.transaction(head, &run, t.rows.len() as u32).unwrap();
        } else {
            let aborted = t.aborted.iter().map(|x| Xid32::new(*x)).collect();
            let parts = t.parts.clone();
            self.writer
                .commit(head, parts, aborted, t.rows.len() as u64, 0)
                .unwrap();
        }
        let kept = t
            .rows
            .iter()
            .filter(|r| r.subxid.is_none_or(|x| !t.aborted.contains(&x)));
        let kept = kept.map(|r| r.text.clone()).collect();
        self.committed.push((xid, kept));
    }

    fn leave(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.latest_ended = self.latest_ended.max(xid);
    }

    fn abort(&mut self, xid: u64) {
        if !self.running[&xid].parts.is_empty() {
            self.writer.abort(Xid32::new(xid as u32)).unwrap();
        }
        self.leave(xid);
    }

    fn tick(&mut self) {
        let own = self.begin();
        self.running.get_mut(&own).unwrap().streamed = false;
        if self.dice.one_in(2) {
            self.write(own);
        }
        let xmax = self.latest_ended + 1;
        let xip: Vec<Xid> = self
            .running
            .keys()
            .filter(|x| **x != own && **x < xmax)
            .map(|x| Xid::new(*x))
            .collect();
        let xmin = xip.first().copied().unwrap_or(Xid::new(xmax));
        let snapshot = Snapshot::new(xmin, Xid::new(xmax), xip).unwrap();
        // Others commit between the snapshot and the tick's own commit.
        if let Some(other) = self.any_running(false).filter(|x| *x != own) {
            self.commit(other);
        }
        self.commit(own);
        let entry = TickEntry {
            tick_id: TickId::new(1 + self.ticks.len() as i64),
            previous: self.ticks.last().map(|t| t.tick_id),
            time: 0,
            event_seq: 0,
            snapshot,
            barrier: self.dice.one_in(9),
        };
        self.writer.tick(entry.clone()).unwrap();
        self.ticks.push(entry);
        self.leave(own);
    }

    fn session(&mut self) {
        self.writer.session(Lsn::new(self.lsn)).unwrap();
        // The server sends what has not committed again, perhaps cut otherwise.
        for t in self.running.values_mut().filter(|t| !t.committed) {
            t.parts.clear();
            t.sent = 0;
        }
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..4 => {
                self.begin();
            }
            4..9 => {
                if let Some(xid) = self.any_running(false) {
                    self.write(xid);
                }
            }
            9..12 => {
                if let Some(xid) = self.any_running(false) {
                    self.commit(xid);
                }
            }
            12..15 => {
                if let Some(xid) = self.any_running(true) {
                    self.leave(xid);
                }
            }
            15 => {
                if let Some(xid) = self.any_running(false) {
                    self.abort(xid);
                }
            }
            16 if self.dice.one_in(3) => self.session(),
            16 => self.writer.publish().unwrap(),
            _ => self.tick(),
        }
    }

    /// What the model says lies between two ticks.
    fn between(&self, from: TickId, to: TickId) -> Vec<(u64, String)> {
        let snapshot = |tick: TickId| &self.ticks[tick.get() as usize - 1].snapshot;
        let (from, to) = (snapshot(from), snapshot(to));
        let inside = |xid: u64| to.sees(Xid::new(xid)) && !from.sees(Xid::new(xid));
        let of = self.committed.iter().filter(|(xid, _)| inside(*xid));
        of.flat_map(|(xid, rows)| rows.iter().map(|r| (*xid, r.clone())))
            .collect()
    }
}

fn drained(source: &BatchSource) -> Vec<(u64, String)> {
    let mut rows = Vec::new();
    source
        .drain(&mut |xid, change| {
            let RowChange::Insert { new, .. } = change else {
                panic!("an insert")
            };
            let Some(ColumnValue::Text(text)) = new.values().next() else {
                panic!("a text")
            };
            rows.push((xid.as_u64(), String::from_utf8(text.to_vec()).unwrap()));
            Ok(())
        })
        .unwrap();
    rows
}

fn at(spool: &std::sync::Arc<Spool>, tick: TickId) -> Follower {
    Follower::at_tick(spool, tick)
        .unwrap()
        .expect("the tick is in the spool")
}

fn story(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        segment_bytes: 1 << 20,
        max_bytes: 64 << 20,
        block_bytes: 16 << 10,
        compression: None,
        ..Settings::new(dir.path())
    };
    let identity = Identity {
        system_id: 1,
        timeline: 1,
        database: "d".into(),
        slot: SlotName::new("s").unwrap(),
        queue: QueueName::new("q").unwrap(),
    };
    let (mut writer, spool) = Writer::open(settings, identity).unwrap();
    let relation = writer
        .relation(b"\0\0\0\x01public\0t\0d\0\x01\x01id\0\0\0\0\x19\xff\xff\xff\xff")
        .unwrap();
    // The low half of the ids begins anew soon.
    let first = (3u64 << 32) - 100;
    let mut world = World {
        dice: Dice(seed),
        writer,
        relation: relation.0,
        next_xid: first,
        latest_ended: first - 1,
        lsn: 1000,
        running: BTreeMap::new(),
        committed: Vec::new(),
        ticks: Vec::new(),
    };
    world.tick();
    world.writer.publish().unwrap();
    let mut follower = at(&spool, TickId::new(1));
    let (mut settled, mut copy) = (follower.tick(), None::<Follower>);
    for _ in 0..300 {
        for _ in 0..world.dice.below(12) {
            world.step();
        }
        world.writer.publish().unwrap();
        let limits = Limits {
            rows: world.dice.below(60),
            stop_at: None,
        };
        while !world.dice.one_in(5) {
            let Some(plan) = follower.plan(limits).unwrap() else {
                break;
            };
            let (from, to) = (follower.tick(), plan.to.tick_id);
            let source = follower.source(&plan);
            let expected = world.between(from, to);
            assert!(drained(&source) == expected, "batch from tick {from} to {to}");
            if world.dice.one_in(4) {
                assert!(drained(&source) == expected, "the same batch again");
            }
            follower.advance(&plan, source);
        }
        match world.dice.below(12) {
            0 => {
                settled = follower.tick();
                follower.release(follower.needs_from()).unwrap();
                spool.release(follower.needs_from()).unwrap();
            }
            // The subscriber lost what was not settled.
            1 => {
                let lost = follower.tick().get() - settled.get();
                let back = TickId::new(settled.get() + world.dice.below(lost as u64 + 1) as i64);
                copy = None;
                let _held = follower;
                follower = at(&spool, back);
            }
            // A copy begins, and may end before it is through.
            2 => copy = Some(follower.fork().unwrap()),
            // It goes on to where the main replay is.
            3 => {
                if let Some(mut one) = copy.take() {
                    while one.tick() < follower.tick() {
                        let limits = Limits {
                            rows: 25,
                            stop_at: Some(follower.tick()),
                        };
                        let plan = one.plan(limits).unwrap().expect("the main replay was there");
                        let source = one.source(&plan);
                        let expected = world.between(one.tick(), plan.to.tick_id);
                        assert!(drained(&source) == expected, "copy from tick {}", one.tick());
                        one.advance(&plan, source);
                    }
                    assert_eq!(one.tick(), follower.tick());
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_transaction_comes_once_in_its_ticks_batch_in_commit_order(seed: u64) {
        story(seed);
    }
}
