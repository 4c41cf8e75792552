//! What applying costs, in rows and in CPU of both sides. Not a check: run by hand, in release mode, with
//! `APPLY_SPEED_DSN` naming a database that may be filled:
//! `cargo test --release --test stories apply_speed -- --ignored --nocapture`
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use skytide::apply::{Applier, ApplyError, ApplySettings, ChangeSource, Target, Targets};
use skytide::change::record::{Record, Records};
use skytide::change::{Column, Relation, RelationId, ReplicaIdentity, RowChange};
use skytide_sql::{Oid, TableName, Xid};

const ROWS: u64 = 1_000_000;

/// Fills a batch.
type Make = Box<dyn Fn(&mut Made, &mut Dice)>;

struct Made {
    relation: Arc<Relation>,
    run: Vec<u8>,
}

impl ChangeSource for Made {
    fn relation(&self, _: RelationId) -> Option<Arc<Relation>> {
        Some(self.relation.clone())
    }

    fn drain(
        &self,
        sink: &mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let mut records = Records::new(&self.run);
        while let Some(record) = records.next_record()? {
            if let Record::Change(change) = record {
                sink(Xid::new(1000), &change)?;
            }
        }
        Ok(())
    }
}

impl Made {
    fn new() -> Made {
        let column = |name: &str, oid, is_identity| Column {
            name: name.to_owned(),
            type_oid: Oid::new(oid),
            type_modifier: -1,
            is_identity,
        };
        let columns = vec![
            column("id", 20, true),
            column("a", 23, false),
            column("b", 23, false),
            column("v", 25, false),
            column("at", 1184, false),
        ];
        let relation = Relation {
            oid: Oid::new(1),
            table: TableName::new("public", "apply_speed"),
            identity: ReplicaIdentity::Default,
            columns,
        };
        Made {
            relation: Arc::new(relation),
            run: Vec::new(),
        }
    }

    fn put(&mut self, kind: u8, id: u64, salt: u64) {
        let mut body = vec![kind, 0, 0, 0, 1, if kind == b'D' { b'K' } else { b'N' }, 0, 5];
        let mut value = |bytes: &[u8]| {
            body.push(b'b');
            body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            body.extend_from_slice(bytes);
        };
        value(&id.to_be_bytes());
        if kind == b'D' {
            body.extend_from_slice(b"nnnn");
        } else {
            value(&(salt as u32 & 0xffff).to_be_bytes());
            value(&(id as u32).to_be_bytes());
            value(format!("row {id} with some text, salt {:08x}", salt as u32).as_bytes());
            value(&(salt & 0xffff_ffff_ffff).to_be_bytes());
        }
        self.run.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.run.extend_from_slice(&body);
    }
}

/// A fixed sequence of numbers without pattern (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..n` in random order.
    fn shuffled(&mut self, n: u64) -> Vec<u64> {
        let mut list: Vec<u64> = (0..n).collect();
        for i in (1..list.len()).rev() {
            list.swap(i, (self.roll() % (i as u64 + 1)) as usize);
        }
        list
    }
}

/// User and system CPU of a process, in seconds.
fn cpu(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = status
        .lines()
        .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"));
    lines.collect::<Vec<_>>().join(" ").replace('\t', " ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn apply_speed() {
    let Ok(dsn) = std::env::var("APPLY_SPEED_DSN") else {
        panic!("set APPLY_SPEED_DSN");
    };
    let mut applier = Applier::connect(&dsn.parse().unwrap(), ApplySettings::default())
        .await
        .unwrap();
    let admin = "drop table if exists apply_speed;
        create table apply_speed (id bigint primary key, a int, b int, v text, at timestamptz)";
    applier.client().batch_execute(admin).await.unwrap();
    let row = applier
        .client()
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap();
    let backend = row.get::<_, i32>(0).to_string();
    let table = TableName::new("public", "apply_speed");
    let target = Target {
        dest: table.clone(),
        skip_visible_in: None,
    };
    let targets = Arc::new(Targets::from_iter([(table, target)]));
    let mut dice = Dice(7);
    let mut steps: Vec<(&str, u64, Make)> = vec![
        (
            "inserts",
            ROWS,
            Box::new(|made, dice| (0..ROWS).for_each(|id| made.put(b'I', id, dice.roll()))),
        ),
        (
            "updates, random keys",
            ROWS,
            Box::new(|made, dice| {
                for id in dice.shuffled(ROWS) {
                    made.put(b'U', id, dice.roll());
                }
            }),
        ),
        (
            "updates, random 10 % of keys",
            ROWS / 10,
            Box::new(|made, dice| {
                for _ in 0..ROWS / 10 {
                    made.put(b'U', dice.roll() % ROWS, dice.roll());
                }
            }),
        ),
        (
            "updates, hot keys",
            ROWS,
            Box::new(|made, dice| {
                for _ in 0..ROWS {
                    let hot = dice.roll() % 10 != 0;
                    let id = dice.roll() % if hot { ROWS / 100 } else { ROWS };
                    made.put(b'U', id, dice.roll());
                }
            }),
        ),
        (
            "mix 40/40/20",
            ROWS / 5,
            Box::new(|made, dice| {
                let keys = dice.shuffled(ROWS);
                let mut keys = keys.iter();
                for n in 0..ROWS / 5 {
                    match n % 5 {
                        0 | 2 => made.put(b'I', ROWS + n, dice.roll()),
                        1 | 3 => made.put(b'U', *keys.next().unwrap(), dice.roll()),
                        _ => made.put(b'D', *keys.next().unwrap(), 0),
                    }
                }
            }),
        ),
        (
            "deletes, random keys",
            ROWS / 2,
            Box::new(|made, dice| {
                for id in dice.shuffled(ROWS).into_iter().take(ROWS as usize / 2) {
                    made.put(b'D', id, 0);
                }
            }),
        ),
    ];
    println!(
        "{:<30} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "", "rows/s", "wall µs", "ours µs", "planner µs", "backend µs"
    );
    for (name, rows, make) in steps.drain(..) {
        let mut made = Made::new();
        make(&mut made, &mut dice);
        applier.client().batch_execute("checkpoint").await.unwrap();
        let (ours, theirs, started) = (cpu("self"), cpu(&backend), Instant::now());
        let (_, report) = applier
            .apply(made, targets.clone(), |_| Ok(vec![]))
            .await
            .unwrap();
        let wall = started.elapsed().as_secs_f64();
        let per_row = |seconds: f64| seconds * 1e6 / rows as f64;
        println!(
            "{name:<30} {:>9.0} {:>10.2} {:>10.2} {:>10.2} {:>10.2}   out {} missing {} {}",
            rows as f64 / wall,
            per_row(wall),
            per_row(cpu("self") - ours),
            per_row(report.planning.as_secs_f64()),
            per_row(cpu(&backend) - theirs),
            report.rows_out,
            report.missing_updates + report.missing_deletes,
            peak_memory(),
        );
    }
    let small = Instant::now();
    for n in 0..1000 {
        let mut made = Made::new();
        for k in 0..3 {
            made.put(b'I', 10 * ROWS + n * 3 + k, 1);
        }
        made.put(b'U', dice.roll() % ROWS, 2);
        let finish = |_: &Made| Ok(vec!["select 1".to_owned()]);
        applier.apply(made, targets.clone(), finish).await.unwrap();
    }
    println!(
        "small batches (4 rows): {:.0} µs each",
        small.elapsed().as_secs_f64() * 1e3
    );
}
