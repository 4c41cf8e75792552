//! WAL at rest: what real servers wrote, read beside `pg_waldump`, after a kill, and with damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_fixtures::wait;
use skytide_sql::Lsn;
use skytide_wal::archive::check_segment;
use skytide_wal::control::{self, ClusterState, ControlFile};
use skytide_wal::format::page::LongHeader;
use skytide_wal::pack;
use skytide_wal::verify::{Chain, Ended, Proof, SegmentContext, Tail, verify_segment};
use skytide_wal::{Decoder, Expected, Record, SegmentName, SegmentSize, TimelineId, WalError, WalFileName};

const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");
const PATIENCE: Duration = Duration::from_secs(60);

fn setting(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A server whose WAL has page images and everything that logical decoding adds, and stays where it is.
/// `compression`: on, which is pglz on each major, or off.
async fn server(initdb: &[&str], compression: &str) -> Server {
    let options = Options {
        initdb_args: initdb.iter().map(|&arg| arg.to_owned()).collect(),
        conf: vec![
            setting("wal_level", "logical"),
            setting("full_page_writes", "on"),
            setting("wal_compression", compression),
            setting("max_prepared_transactions", "5"),
            setting("wal_keep_size", "1GB"),
            setting("max_wal_size", "2GB"),
            setting("autovacuum", "off"),
        ],
        ..Options::default()
    };
    Server::start(options).await.unwrap()
}

/// Every access method, subtransactions, two-phase commit, DDL, long records, page images, switches.
async fn every_kind_of_record(server: &Server) {
    let sql = "
        create table t (id serial primary key, v text, n int, tags int[], p point, r int4range);
        create index on t using hash (n);
        create index on t using gin (tags);
        create index on t using gist (p);
        create index on t using spgist (r);
        create index on t using brin (id);
        insert into t (v, n, tags, p, r)
            select repeat(md5(g::text), g % 90), g, array[g, g % 7], point(g, g % 11), int4range(g, g + 5)
            from generate_series(1, 3000) g;
        checkpoint;
        update t set n = n + 1 where id % 3 = 0;
        delete from t where id % 5 = 0;
        vacuum t;
        select pg_switch_wal();
        begin; insert into t (v) values ('a'); savepoint s; insert into t (v) values ('b');
        rollback to s; savepoint u; insert into t (v) values ('c'); commit;
        begin; insert into t (v) values ('2pc'); prepare transaction 'one'; commit prepared 'one';
        begin; insert into t (v) values ('2pc'); prepare transaction 'two'; rollback prepared 'two';
        begin; update t set n = 0 where id < 100; rollback;
        select count(*) from (select id from t where id < 50 for update) locked;
        select pg_logical_emit_message(true, 'test', repeat('x', 2500000));
        checkpoint;
        create database other;
        create table gone as select g from generate_series(1, 500) g;
        truncate gone;
        drop table gone;
        update t set v = v || 'more';
        reindex table t;
        select pg_create_restore_point('here');
        select pg_switch_wal();
        insert into t (v) select md5(g::text) from generate_series(1, 200) g;
        drop database other;
    ";
    server.psql("postgres", sql).await.unwrap();
}

fn wal_dir(server: &Server) -> PathBuf {
    server.data_dir().join("pg_wal")
}

/// The segments of timeline 1, in order.
fn segments(dir: &Path) -> Vec<(SegmentName, PathBuf)> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = names
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
        .collect();
    segments.sort();
    segments
}

/// What both readers say of a record: manager, operation, lengths, transaction, positions, pages.
type Line = (String, String, u32, u32, u32, Lsn, Lsn, Vec<String>);

fn our_line(record: &Record<'_>) -> Line {
    let page = |block: &skytide_wal::format::record::BlockRef| {
        let fork = match block.fork.name() {
            "main" => String::new(),
            other => format!(" fork {other}"),
        };
        let image = if block.image.is_some() { " FPW" } else { "" };
        format!("rel {}{fork} blk {}{image}", block.relation, block.block)
    };
    (
        record.rmgr().to_string(),
        record.operation().unwrap_or("?").to_owned(),
        record.header.length - record.image_bytes(),
        record.header.length,
        record.xid().as_u32(),
        record.lsn,
        record.header.previous,
        record.blocks().iter().map(page).collect(),
    )
}

/// All records of the directory, and why there are no more.
fn our_lines(dir: &Path) -> (Vec<Line>, Option<WalError>) {
    let mut lines = Vec::new();
    let mut decoder: Option<Decoder> = None;
    for (name, path) in segments(dir) {
        let bytes = fs::read(path).unwrap();
        let size = SegmentSize::new(u32::try_from(bytes.len()).unwrap()).unwrap();
        let start = name.start(size).unwrap();
        let decoder = decoder.get_or_insert_with(|| Decoder::new(start, size, Expected::default()));
        assert_eq!(decoder.position(), start);
        let mut feed = decoder.feed(&bytes);
        loop {
            match feed.next_record() {
                Ok(Some(record)) => lines.push(our_line(&record)),
                Ok(None) => break,
                Err(stop) => return (lines, Some(stop)),
            }
        }
    }
    (lines, None)
}

fn waldump_line(text: &str) -> Line {
    let after = |label: &str| {
        let (_, rest) = text
            .split_once(label)
            .unwrap_or_else(|| panic!("no {label:?} in {text}"));
        rest.trim_start()
    };
    let word = |label: &str| {
        after(label)
            .split([' ', ',', '/'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let lsn = |label: &str| after(label).split([' ', ',']).next().unwrap().parse().unwrap();
    let total = after("len (rec/tot):").split_once('/').unwrap().1.trim_start();
    let operation = after("desc: ").split([' ', ',']).next().unwrap().to_owned();
    let pages = text.split(", blkref #").skip(1).map(|part| {
        let (_, page) = part.split_once(": ").unwrap();
        page.trim_end().to_owned()
    });
    (
        word("rmgr: "),
        operation,
        word("len (rec/tot):").parse().unwrap(),
        total.split(',').next().unwrap().parse().unwrap(),
        word("tx:").parse().unwrap(),
        lsn("lsn: "),
        lsn("prev "),
        pages.collect(),
    )
}

/// The same by the server's own program, with what it says about the end.
fn waldump_lines(server: &Server, dir: &Path) -> (Vec<Line>, String) {
    let names = segments(dir);
    let out = server
        .command("pg_waldump")
        .arg("-p")
        .arg(dir)
        .arg(names.first().unwrap().0.to_string())
        .arg(names.last().unwrap().0.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("rmgr: "))
        .map(waldump_line);
    (lines.collect(), String::from_utf8_lossy(&out.stderr).into_owned())
}

async fn agrees_with_waldump(initdb: &[&str], compression: &str) {
    let server = server(initdb, compression).await;
    every_kind_of_record(&server).await;
    server.stop(StopMode::Fast).await.unwrap();
    let dir = wal_dir(&server);
    let (ours, stop) = our_lines(&dir);
    let (theirs, end) = waldump_lines(&server, &dir);
    let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    assert_eq!(differs, None);
    assert_eq!(ours.len(), theirs.len());
    let stop = stop.expect("the last segment is not full");
    assert!(end.contains(&stop.lsn.to_string()), "{stop}; {end}");

    for (rmgr, operation) in [
        ("XLOG", "SWITCH"),
        ("XLOG", "CHECKPOINT_SHUTDOWN"),
        ("Transaction", "COMMIT_PREPARED"),
        ("Transaction", "ABORT_PREPARED"),
        ("Heap", "INSERT+INIT"),
        ("Btree", "NEWROOT"),
        ("Gin", "INSERT_LISTPAGE"),
        ("LogicalMessage", "MESSAGE"),
    ] {
        let seen = ours.iter().any(|line| line.0 == rmgr && line.1 == operation);
        assert!(seen, "the workload makes no {rmgr} {operation}");
    }
    assert!(
        ours.iter().any(|line| line.3 > 2_500_000),
        "a record longer than a small segment"
    );

    let control = ControlFile::parse(&fs::read(server.data_dir().join(control::PATH)).unwrap()).unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(control.checkpoint.lsn, ours.last().unwrap().5);
    assert_eq!(u32::from(control.major.number()), server.version().major);
    let size = control.segment_size;
    let (_, path) = &segments(&dir)[0];
    let (_, long, found) = LongHeader::peek(&fs::read(path).unwrap()).unwrap();
    assert_eq!((found, long.system_id), (size, control.system_id));

    // The same, segment by segment and joined by the chain.
    let mut chain = Chain::new();
    let mut records = 0;
    let names = segments(&dir);
    for (index, (name, path)) in names.iter().enumerate() {
        let report = verify_segment(
            &fs::read(path).unwrap(),
            &SegmentContext {
                number: name.number(size).unwrap(),
                size,
                expected: Expected {
                    system_id: Some(control.system_id),
                    major: Some(control.major),
                    ..Expected::default()
                },
                tail: if index + 1 < names.len() {
                    Tail::Closed
                } else {
                    Tail::Unknown
                },
            },
        );
        assert!(
            !report.ended.is_corrupt() && report.stray_byte.is_none(),
            "{report:?}"
        );
        chain.push(&report).unwrap();
        records += report.records;
        if !report.ended.is_whole() {
            assert_eq!(report.boundary, Some(stop.lsn));
            break;
        }
    }
    assert_eq!(records + chain.crossing_records(), ours.len() as u64);
    assert_eq!(chain.last_record(), Some(control.checkpoint.lsn));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_agree_with_pg_waldump_in_segments_of_1_mib() {
    agrees_with_waldump(&["--wal-segsize=1"], "on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_agree_with_pg_waldump_in_segments_of_16_mib() {
    agrees_with_waldump(&[], "off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_servers_wal_ends_where_its_recovery_ends() {
    let server = server(&["--wal-segsize=1"], "on").await;
    server
        .psql("postgres", "create table t (id serial, v text)")
        .await
        .unwrap();
    let mut writers = Vec::new();
    for _ in 0..3 {
        let client = server.connect("postgres").await.unwrap();
        writers.push(tokio::spawn(async move {
            let insert = "insert into t (v) select repeat('x', g) from generate_series(1, 200) g";
            while client.batch_execute(insert).await.is_ok() {}
        }));
    }
    let dir = wal_dir(&server);
    wait::until("five segments are in use", PATIENCE, async || {
        Ok((segments(&dir).len() > 5).then_some(()))
    })
    .await
    .unwrap();
    server.kill().unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let (ours, stop) = our_lines(&dir);
    let last = ours.last().unwrap().5;
    let dead = skytide(&["wal", "verify", dir.to_str().unwrap()]);
    assert_eq!(dead.status.code(), Some(0), "{}", text(&dead));
    // Killed between two segments it leaves no torn one.
    let boundary = match stop {
        Some(stop) => format!(" to {}: then comes", stop.lsn),
        None => "the files end".to_owned(),
    };
    assert!(
        text(&dead).contains(&boundary) || text(&dead).contains("record at"),
        "{}",
        text(&dead)
    );

    server.start_again().await.unwrap();
    let log = fs::read_to_string(server.log_path()).unwrap();
    let (_, done) = log.split_once("redo done at ").unwrap_or_else(|| panic!("{log}"));
    let recovered: Lsn = done.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(last, recovered);
}

fn skytide(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_named_and_leaves_with_3() {
    let server = server(&["--wal-segsize=1"], "off").await;
    every_kind_of_record(&server).await;
    let flushed = server
        .psql("postgres", "select pg_current_wal_flush_lsn()")
        .await
        .unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    let dir = copy.path().to_str().unwrap();
    for (name, path) in segments(&wal_dir(&server)) {
        fs::copy(path, copy.path().join(name.to_string())).unwrap();
    }
    let good = skytide(&["wal", "verify", "--flushed", flushed.trim(), dir]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    assert!(
        text(&good).contains("PostgreSQL 1") && text(&good).contains("segments of 1 MiB"),
        "{}",
        text(&good)
    );

    let names = segments(copy.path());
    let (name, path) = &names[1];
    let bytes = fs::read(path).unwrap();

    // Compressed, it is the same.
    fs::write(
        path.with_extension("zst"),
        zstd::bulk::compress(&bytes, 1).unwrap(),
    )
    .unwrap();
    fs::remove_file(path).unwrap();
    let packed = skytide(&["wal", "verify", "--json", dir]);
    assert_eq!(packed.status.code(), Some(0), "{}", text(&packed));
    fs::remove_file(path.with_extension("zst")).unwrap();

    // As a store packs it: a bit that flips there is named with its place, wherever it is.
    let checked = check_segment(WalFileName::Segment(*name), &bytes, None).unwrap();
    let packed = pack::pack(&bytes, &checked.contents).unwrap();
    let object = copy.path().join(format!("{name}.zst"));
    fs::write(&object, &packed).unwrap();
    let sound = skytide(&["wal", "verify", dir]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound));
    let end = packed.len();
    for (at, place) in [(100, "frame 0"), (end / 3, "bytes 0 to"), (end - 40, "index")] {
        let mut flipped = packed.to_vec();
        flipped[at] ^= 4;
        fs::write(&object, flipped).unwrap();
        for path in [dir, object.to_str().unwrap()] {
            let found = skytide(&["wal", "verify", path]);
            assert_eq!(found.status.code(), Some(3), "{at}: {}", text(&found));
            assert!(text(&found).contains(place), "{at}: {}", text(&found));
        }
    }
    fs::remove_file(&object).unwrap();
    let gap = skytide(&["wal", "verify", dir]);
    assert_eq!(gap.status.code(), Some(3), "{}", text(&gap));
    assert!(text(&gap).contains("missing"), "{}", text(&gap));

    let mut bad = bytes.clone();
    bad[100_000] ^= 0x10;
    fs::write(path, &bad).unwrap();
    let found = skytide(&["wal", "verify", dir]);
    assert_eq!(found.status.code(), Some(3), "{}", text(&found));
    assert!(
        text(&found).contains("CORRUPT") && text(&found).contains(&name.to_string()),
        "{}",
        text(&found)
    );
    let json: serde_json::Value =
        serde_json::from_slice(&skytide(&["wal", "verify", "--json", dir]).stdout).unwrap();
    assert_eq!(json["ok"], false);
    let dump = skytide(&["wal", "dump", dir]);
    assert_eq!(dump.status.code(), Some(3));
    assert!(text(&dump).contains("damaged: "));

    // One file alone: what follows proves it.
    let size = SegmentSize::new(1 << 20).unwrap();
    let context = SegmentContext {
        number: name.number(size).unwrap(),
        size,
        expected: Expected::default(),
        tail: Tail::Unknown,
    };
    let ended = verify_segment(&bad, &context).ended;
    assert!(
        matches!(
            ended,
            Ended::Corrupt {
                proof: Proof::Followed(_),
                ..
            }
        ),
        "{ended:?}"
    );

    fs::write(path, &bytes).unwrap();
    let stats = skytide(&["wal", "stats", "--json", dir]);
    assert_eq!(stats.status.code(), Some(0), "{}", text(&stats));
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    let (lines, _) = our_lines(copy.path());
    assert_eq!(stats["total"]["records"], lines.len());
    let bytes: u64 = lines.iter().map(|line| u64::from(line.3)).sum();
    let total = |key: &str| stats["total"][key].as_u64().unwrap();
    assert_eq!(total("record_bytes") + total("image_bytes"), bytes);
    assert!(total("images") > 0 && !stats["relations"].as_array().unwrap().is_empty());

    // A range by positions: exactly the records that begin in it.
    let (from, to) = (lines[20].5, lines[30].5);
    let part = skytide(&["wal", "dump", "--json", dir, &from.to_string(), &to.to_string()]);
    assert_eq!(
        (
            part.status.code(),
            part.stdout.iter().filter(|&&b| b == b'\n').count()
        ),
        (Some(0), 10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_timelines_wal_is_followed_over_the_switch() {
    let server = server(&["--wal-segsize=1"], "off").await;
    server
        .psql(
            "postgres",
            "create table t as select g from generate_series(1, 20000) g",
        )
        .await
        .unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();
    server.psql("postgres", "select pg_promote()").await.unwrap();
    let grow = "create table u as select g from generate_series(1, 20000) g";
    server.psql("postgres", grow).await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    let dir = wal_dir(&server);
    let verified = skytide(&["wal", "verify", dir.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    assert!(text(&verified).contains("timeline 2"), "{}", text(&verified));
    let file = fs::read_to_string(dir.join("00000002.history")).unwrap();
    let history = skytide_wal::HistoryFile::parse(TimelineId::new(2).unwrap(), &file).unwrap();
    assert_eq!(history.to_string(), file);
    let dump = skytide(&[
        "wal",
        "dump",
        "--json",
        dir.to_str().unwrap(),
        &history.begin().to_string(),
    ]);
    let first: serde_json::Value =
        serde_json::from_str(String::from_utf8_lossy(&dump.stdout).lines().next().unwrap()).unwrap();
    assert_eq!(first["lsn"], history.begin().to_string());
    assert_eq!(first["rmgr"], "XLOG");
}
