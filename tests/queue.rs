//! Queues as their users meet them: `skytide queue`, and the library behind it. Ticks are made by hand, so
//! that each test knows what is in a batch.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Stats, Until, Verdict};
use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::modules::{database, server_with_modules};
use crate::replica::Program;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

/// A server with queue `q` and consumer `c` in database `source`, and a database `target`.
struct Stage {
    server: Server,
    source: Client,
    target: Client,
    dir: tempfile::TempDir,
    /// The last number that was put into an event.
    numbers: AtomicI64,
}

impl Stage {
    async fn new() -> Stage {
        let server = server_with_modules().await;
        database(&server, "source").await;
        database(&server, "target").await;
        let source = server.connect("source").await.unwrap();
        let target = server.connect("target").await.unwrap();
        source
            .batch_execute(
                "select pgq.create_queue('q'); select pgq.tick_now('q'); select pgq.register_consumer('q', 'c')",
            )
            .await
            .unwrap();
        Stage {
            server,
            source,
            target,
            dir: tempfile::tempdir().unwrap(),
            numbers: AtomicI64::new(0),
        }
    }

    fn target_dsn(&self) -> String {
        self.server.dsn("target")
    }

    /// `count` numbered events in one transaction, and a tick behind them.
    async fn fill(&self, count: i32) {
        self.insert(count).await;
        self.tick().await;
    }

    async fn insert(&self, count: i32) {
        let last = self.numbers.fetch_add(i64::from(count), Ordering::Relaxed);
        self.source
            .execute(
                "select pgq.insert_events('q', 'n', array(select i::text from generate_series($1::int8, $2::int8) i))",
                &[&(last + 1), &(last + i64::from(count))],
            )
            .await
            .unwrap();
    }

    async fn tick(&self) {
        self.source
            .batch_execute("select pgq.tick_now('q')")
            .await
            .unwrap();
    }

    /// Waits until consumer `c` is through with all batches.
    async fn all_finished(&self) {
        wait::until("the last batch is finished", PATIENCE, async || {
            let sql = "select count(*) from pgq.get_consumer_info('q', 'c') \
                       where current_batch is null and pending_events = 0";
            Ok((one::<i64>(&self.source, sql).await == 1).then_some(()))
        })
        .await
        .unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["queue", "--db", &self.server.dsn("source")])
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command that succeeds prints.
    fn ok(&self, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert!(
            out.status.success(),
            "{arguments:?}: {}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a command that fails complains about.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}");
        String::from_utf8(out.stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    fn produce(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(&["produce", "q"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Whoever refuses a line stops reading.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = child.wait_with_output().unwrap();
        feed.join().unwrap();
        out
    }

    fn start(&self, arguments: &[&str], env: &[(&str, &str)]) -> Program {
        let dsn = self.server.dsn("source");
        let mut all = vec!["queue", "--db", &dsn];
        all.extend(arguments);
        Program::start(&all, env, &self.log())
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("consumer.log")
    }

    /// Runs a consumer until it stops itself at a failpoint.
    #[cfg(feature = "failpoints")]
    async fn start_to(&self, failpoint: &str, arguments: &[&str]) -> Program {
        let mut program = self.start(arguments, &[("SKYTIDE_STOP_AT", &format!("{failpoint}=1"))]);
        let stopped = wait::until(failpoint, PATIENCE, async || {
            Ok(program.is_stopped().then_some(()))
        });
        if let Err(error) = stopped.await {
            panic!("{error:#}\n{}", std::fs::read_to_string(self.log()).unwrap());
        }
        program
    }

    fn settings(&self) -> Settings {
        Settings {
            until: Until::Idle,
            ..Settings::new(
                ConnectString::parse(&self.server.dsn("source")).unwrap(),
                QueueName::new("q").unwrap(),
                ConsumerName::new("c").unwrap(),
            )
        }
    }
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The numbers in `public.t` are 1 to `count`, each once, in the order of their ids.
async fn assert_once_and_in_order(target: &Client, count: i64) {
    let numbers: Vec<String> = one(
        target,
        "select coalesce(array_agg(ev_data order by ctid), '{}') from public.t",
    )
    .await;
    let wanted: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    assert_eq!(numbers, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_is_consumed_whatever_is_in_it() {
    let stage = Stage::new().await;
    let large = "x€".repeat(3 << 20);
    let events = [
        serde_json::json!({"type": "a\tb", "data": "tab\t new\nline \r \\N \\ \" ' \u{1}", "extra1": "", "extra2": null}),
        serde_json::json!({"type": null, "data": null}),
        serde_json::json!({"type": "ünï", "data": "żółć 漢字 🙂 \u{200f}", "extra4": "e\u{0301}"}),
        serde_json::json!({"type": "large", "data": large}),
        serde_json::json!({"type": "object", "data": {"n": 1.50, "a": [null, "x"]}, "extra3": "3"}),
    ];
    let mut input = Vec::new();
    for event in &events {
        serde_json::to_writer(&mut input, event).unwrap();
        input.push(b'\n');
    }
    let out = stage.produce(&["--json"], &input);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    stage.tick().await;
    let printed = stage.ok(&["--json", "consume", "q", "c", "--until-idle"]);
    let lines: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), events.len());
    for (line, event) in lines.iter().zip(&events) {
        assert_eq!(line["ev_type"], event["type"]);
        match &event["data"] {
            object @ serde_json::Value::Object(_) => {
                let data: serde_json::Value =
                    serde_json::from_str(line["ev_data"].as_str().unwrap()).unwrap();
                assert_eq!(&data, object);
            }
            text => assert!(&line["ev_data"] == text, "{} differs", event["type"]),
        }
        for number in 1..=4 {
            assert_eq!(line[format!("ev_extra{number}")], event[format!("extra{number}")]);
        }
    }
    assert!(
        stage.ok(&["consume", "q", "c", "--until-idle"]).is_empty(),
        "it was finished"
    );

    // What was printed can be produced again; and plain lines are data.
    assert!(stage.produce(&["--json"], printed.as_bytes()).status.success());
    assert!(
        stage
            .produce(&["--type", "plain"], b"one\r\ntwo\tmore")
            .status
            .success()
    );
    stage.tick().await;
    let text = stage.ok(&[
        "consume",
        "q",
        "c",
        "--until-idle",
        "--filter",
        "ev_type = 'plain'",
    ]);
    let fields: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').skip(2).collect())
        .collect();
    assert_eq!(fields, [["plain", "one"], ["plain", "two\\tmore"]]);

    for (input, what) in [
        (&b"\"ok\"\n\xff\n"[..], "line 2 is no event: it is not UTF-8"),
        (b"a\0b", "character of code 0"),
    ] {
        let out = stage.produce(&["--chunk-rows", "1"], input);
        assert_eq!(out.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&out.stderr).contains(what), "{out:?}");
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consumer_gets_its_batch_again() {
    let stage = Stage::new().await;
    stage.fill(3).await;
    let consume = ["consume", "q", "c", "--until-idle"];
    for failpoint in ["queue::mid_batch", "queue::before_finish"] {
        stage.start_to(failpoint, &consume).await.kill();
    }
    let text = stage.ok(&consume);
    let data: Vec<&str> = text.lines().filter_map(|line| line.rsplit('\t').next()).collect();
    assert_eq!(data, ["1", "2", "3"]);

    stage.fill(2).await;
    stage.start_to("queue::after_finish", &consume).await.kill();
    assert!(
        stage.ok(&consume).is_empty(),
        "a finished batch does not come again"
    );
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_a_consumer_the_target_has_each_event_once() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--chunk-rows",
        "10",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    let mut events = 0;
    for failpoint in [
        "queue::mid_batch",
        "queue::before_target_commit",
        "queue::after_target_commit",
        "queue::before_finish",
        "queue::after_finish",
        "queue::mid_batch",
    ] {
        stage.fill(25).await;
        stage.fill(5).await;
        events += 30;
        stage.start_to(failpoint, &consume).await.kill();
        if failpoint == "queue::after_target_commit" {
            // The batch is open at the source and done at the target.
            assert!(one::<i64>(&stage.target, "select count(*) from t").await > 60);
        }
        stage.ok(&consume);
        assert_once_and_in_order(&stage.target, events).await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_under_one_name_do_not_double_a_batch() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    stage.fill(10).await;
    let first = stage.start_to("queue::before_target_commit", &consume).await;
    // The second one waits for the first one's transaction, and finds the batch done then.
    let mut second = stage.start(&consume, &[]);
    wait::until("the second one waits for a lock", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity where wait_event = 'advisory'";
        Ok((one::<i64>(&stage.target, sql).await > 0).then_some(()))
    })
    .await
    .unwrap();
    first.signal(rustix::process::Signal::CONT);
    let ended = wait::until("the second one's end", PATIENCE, async || Ok(second.exited())).await;
    assert!(ended.unwrap().code().is_some());
    assert_once_and_in_order(&stage.target, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_connection_breaks_the_target_has_each_event_once() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let words = [
        "--chunk-rows",
        "3",
        "--poll",
        "20ms",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    let mut all = vec!["consume", "q", "c"];
    all.extend(words);
    let mut consumer = stage.start(&all, &[]);
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'skytide queue c'";
    let mut broken = 0;
    for round in 0..60 {
        stage.fill(7).await;
        if round % 3 == 0 {
            broken += one::<i64>(&stage.source, cut).await;
        }
    }
    assert!(broken > 0);
    stage.all_finished().await;
    assert_eq!(
        consumer.exited(),
        None,
        "{}",
        std::fs::read_to_string(stage.log()).unwrap()
    );
    assert_once_and_in_order(&stage.target, 420).await;
    consumer.signal(rustix::process::Signal::TERM);
    let ended = wait::until("the end", PATIENCE, async || Ok(consumer.exited())).await;
    assert!(ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modules_roles_are_enough() {
    let stage = Stage::new().await;
    stage
        .source
        .batch_execute(
            "create role reader login in role pgq_reader; create role writer login in role pgq_writer; \
             create role mover login in role pgq_admin",
        )
        .await
        .unwrap();
    stage
        .target
        .batch_execute("create table public.t (ev_data text); grant insert on public.t to writer; select pgq.create_queue('q')")
        .await
        .unwrap();
    let as_role = |database: &str, role: &str| {
        let dsn = stage.server.dsn_tcp(database);
        assert!(dsn.contains("user=postgres"));
        dsn.replace("user=postgres", &format!("user={role}"))
    };
    let (reader, writer) = (as_role("source", "reader"), as_role("source", "writer"));
    let (into, mover) = (as_role("target", "writer"), as_role("target", "mover"));
    let out = stage.produce(&["--db", &writer], b"1\n2\n");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    stage.tick().await;
    let run = |words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--until-idle", "--register", "--db", &reader]);
        stage.ok(&all)
    };
    stage.ok(&["info", "q", "--db", &reader]);
    run(&["consume", "q", "c", "--into", &into, "t"]);
    assert_once_and_in_order(&stage.target, 2).await;
    run(&["move", "q", "m", "--to", &mover]);
    run(&["consume", "q", "shared", "--subconsumer", "w1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_is_told_and_mended() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    stage.fill(2).await;
    stage.ok(&consume);
    stage.fill(3).await;
    stage.ok(&["seek", "q", "c", "--end"]);
    stage.fill(1).await;
    let complaint = stage.refused(1, &consume);
    assert!(
        complaint.contains("has done tick") && complaint.contains("skytide queue seek q c --tick"),
        "{complaint}"
    );
    // Back to what the target has.
    let done: i64 = one(&stage.target, "select pgq_ext.get_last_tick('c', 'q')").await;
    stage.ok(&["seek", "q", "c", "--tick", &done.to_string()]);
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 6).await;

    // Or both to the beginning.
    stage.ok(&["seek", "q", "c", "--start", "--target", &dsn]);
    stage.target.batch_execute("truncate t").await.unwrap();
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 6).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn workers_share_batches_and_a_dead_one_is_taken_over() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let worker = |name: &'static str| {
        let mut words = vec![
            "consume",
            "q",
            "c",
            "--until-idle",
            "--create",
            "--subconsumer",
            name,
        ];
        words.extend(["--dead-interval", "1s", "--into", &dsn, "t"]);
        words
    };
    for _ in 0..4 {
        stage.fill(5).await;
    }
    // Two work on a batch each at the same time, and die: one before its commit, one after it.
    let mut first = stage.start_to("queue::before_target_commit", &worker("w1")).await;
    let mut second = stage.start_to("queue::after_target_commit", &worker("w2")).await;
    assert_eq!(one::<i64>(&stage.target, "select count(*) from t").await, 5);
    let open = "select count(*) from pgq.subscription where sub_batch is not null";
    assert_eq!(one::<i64>(&stage.source, open).await, 2);
    first.kill();
    second.kill();

    wait::until("all batches done", PATIENCE, async || {
        stage.ok(&worker("w3"));
        Ok((one::<i64>(&stage.source, open).await == 0).then_some(()))
    })
    .await
    .unwrap();
    stage.ok(&worker("w3"));
    let numbers: Vec<i32> = one(
        &stage.target,
        "select array_agg(ev_data::int order by ev_data::int) from t",
    )
    .await;
    assert_eq!(numbers, (1..=20).collect::<Vec<i32>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn live_workers_get_different_batches() {
    let stage = Stage::new().await;
    for _ in 0..20 {
        stage.fill(5).await;
    }
    let dsn = stage.target_dsn();
    let consume = |name: &'static str| {
        let mut words = vec!["consume", "q", "c", "--until-idle", "--subconsumer", name];
        words.extend(["--into", &dsn, "t"]);
        words
    };
    stage
        .target
        .batch_execute("create table t (ev_data text unique)")
        .await
        .unwrap();
    let mut workers = [stage.start(&consume("w1"), &[]), stage.start(&consume("w2"), &[])];
    for worker in &mut workers {
        let ended = wait::until("a worker's end", PATIENCE, async || Ok(worker.exited())).await;
        assert!(
            ended.unwrap().success(),
            "{}",
            std::fs::read_to_string(stage.log()).unwrap()
        );
    }
    assert_eq!(one::<i64>(&stage.target, "select count(*) from t").await, 100);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_large_events_does_not_fill_the_memory() {
    let stage = Stage::new().await;
    stage
        .source
        .batch_execute(
            "select pgq.insert_event('q', 'large', repeat('x', 5000000)) from generate_series(1, 60)",
        )
        .await
        .unwrap();
    stage.tick().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    let program = stage.start_to("queue::before_target_commit", &consume).await;
    let peak = peak_memory(program.id());
    // 300 MB of events; an event of 5 MB is in memory in each of the shapes it goes through.
    assert!(peak < 160 << 20, "{} MiB", peak >> 20);
    drop(program);
    stage.ok(&consume);
    assert_eq!(
        one::<i64>(&stage.target, "select sum(length(ev_data)) from t").await,
        300_000_000
    );
}

#[cfg(feature = "failpoints")]
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_batches_and_its_exit_code_counts() {
    let stage = Stage::new().await;
    let path = |name: &str| stage.dir.path().join(name).display().to_string();
    let script = format!(
        "test -e {failed} || {{ touch {failed}; exit 7; }}; echo batch $SKYTIDE_TICK_ID >> {out}; cat >> {out}",
        failed = path("failed"),
        out = path("out")
    );
    stage.fill(2).await;
    stage.tick().await;
    stage.fill(1).await;
    let exec = |more: &[&'static str]| {
        let mut words = vec!["consume".to_owned(), "q".into(), "c".into()];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.extend(["--exec".to_owned(), "sh".into(), "-c".into(), script.clone()]);
        words
    };
    let words = exec(&["--until-idle"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let complaint = stage.refused(1, &words);
    assert!(complaint.contains("sh left with exit status: 7"), "{complaint}");
    // A service tries again.
    let words = exec(&[]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut program = stage.start(&words, &[]);
    let read = |name: &str| std::fs::read_to_string(Path::new(&path(name))).unwrap_or_default();
    wait::until("three events and two batches", PATIENCE, async || {
        Ok((read("out").lines().count() == 5).then_some(()))
    })
    .await
    .unwrap();
    stage.all_finished().await;
    program.signal(rustix::process::Signal::TERM);
    let ended = wait::until("the end", PATIENCE, async || Ok(program.exited())).await;
    assert!(ended.unwrap().success());
    let data: Vec<serde_json::Value> = read("out")
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ev_data"].clone())
        .collect();
    assert_eq!(data, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_a_consumer_finishes_its_batch_or_leaves_it_open() {
    let stage = Stage::new().await;
    let gate = stage.dir.path().join("gate");
    let begun = stage.dir.path().join("begun");
    let script = format!(
        "touch {begun}; while ! test -e {gate}; do sleep 0.05; done; cat > /dev/null",
        begun = begun.display(),
        gate = gate.display()
    );
    let open = "select count(current_batch) from pgq.get_consumer_info('q', 'c')";
    for (timeout, opened, left) in [("60s", true, 0), ("100ms", false, 1)] {
        stage.fill(1).await;
        let _ = std::fs::remove_file(&begun);
        let _ = std::fs::remove_file(&gate);
        let words = [
            "consume",
            "q",
            "c",
            "--shutdown-timeout",
            timeout,
            "--exec",
            "sh",
            "-c",
            &script,
        ];
        let mut program = stage.start(&words, &[]);
        wait::until("the program works", PATIENCE, async || {
            Ok(begun.exists().then_some(()))
        })
        .await
        .unwrap();
        program.signal(rustix::process::Signal::TERM);
        if opened {
            std::fs::write(&gate, "").unwrap();
        }
        let ended = wait::until("the end", PATIENCE, async || Ok(program.exited())).await;
        assert!(ended.unwrap().success());
        assert_eq!(
            one::<i64>(&stage.source, open).await,
            left,
            "open batches after {timeout}"
        );
    }
    assert_eq!(
        stage.ok(&["consume", "q", "c", "--until-idle"]).lines().count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_waits_out_a_restart_and_hears_that_a_tick_is_wanted() {
    let stage = Stage::new().await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = CancellationToken::new();
    let mut settings = Settings {
        until: Until::Stopped,
        poll: Duration::from_millis(100),
        ..stage.settings()
    };
    let consumer = |settings: Settings| {
        let (seen, stop) = (seen.clone(), stop.clone());
        tokio::spawn(async move {
            let handler = move |event: Event| {
                seen.lock().unwrap().extend(event.data);
                async { Ok::<_, HandlerError>(Verdict::Done) }
            };
            queue::consume(&settings, &mut PerEvent(handler), &stop).await
        })
    };
    let task = consumer(settings.clone());
    stage.fill(1).await;
    let count = async |wanted: usize| {
        wait::until_eq("events", wanted, PATIENCE, async || {
            Ok(seen.lock().unwrap().len())
        })
        .await
        .unwrap();
    };
    count(1).await;
    stage.all_finished().await;
    stage.server.restart().await.unwrap();
    let client = stage.server.connect("source").await.unwrap();
    client
        .batch_execute("select pgq.insert_event('q', 'n', '2')")
        .await
        .unwrap();
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();
    count(2).await;
    stop.cancel();
    let stats = task.await.unwrap().unwrap();
    assert!(stats.failures >= 1 && stats.events == 2, "{stats:?}");

    // One that looks once an hour is woken up.
    settings.poll = Duration::from_secs(3600);
    let stop = CancellationToken::new();
    let (handler_seen, handler_stop) = (seen.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let handler = move |event: Event| {
            handler_seen.lock().unwrap().extend(event.data);
            async { Ok::<_, HandlerError>(Verdict::Done) }
        };
        queue::consume(&settings, &mut PerEvent(handler), &handler_stop).await
    });
    client
        .batch_execute("select pgq.insert_event('q', 'n', '3')")
        .await
        .unwrap();
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();
    wait::until("the third event", PATIENCE, async || {
        client.batch_execute("select pgq.want_tick('q')").await?;
        Ok((seen.lock().unwrap().len() == 3).then_some(()))
    })
    .await
    .unwrap();
    stop.cancel();
    task.await.unwrap().unwrap();
}

/// Consumes what is there; events whose data the function names get its verdict.
async fn consume(stage: &Stage, verdict: fn(&Event) -> Verdict) -> Stats {
    let handler = move |event: Event| {
        let verdict = verdict(&event);
        async { Ok::<_, HandlerError>(verdict) }
    };
    let stop = CancellationToken::new();
    queue::consume(&stage.settings(), &mut PerEvent(handler), &stop)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_events_are_retried_then_dead_then_replayed_or_purged() {
    let stage = Stage::new().await;
    stage
        .source
        .batch_execute("select pgq.set_queue_config('q', 'max_retries', '1'), pgq.set_queue_config('q', 'retry_delay', '0')")
        .await
        .unwrap();
    stage.fill(4).await;
    let picky = |event: &Event| match event.data.as_deref() {
        Some("2") => Verdict::Nack("no address".to_owned()),
        Some("3") => Verdict::Dead("nonsense".to_owned()),
        Some("4") if event.retry == 0 => Verdict::Retry(Duration::ZERO),
        _ => Verdict::Done,
    };
    let again = async || {
        stage
            .source
            .batch_execute("select pgq.maint_retry_events()")
            .await
            .unwrap();
        stage.tick().await;
    };
    assert_eq!(consume(&stage, picky).await.events, 4);
    again().await;
    assert_eq!(consume(&stage, picky).await.events, 2, "2 and 4 come again");
    again().await;
    assert_eq!(consume(&stage, picky).await.events, 0);

    let letters = stage.json(&["dlq", "list", "q", "c"]);
    let told: Vec<(&str, &str)> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            (
                letter["ev_data"].as_str().unwrap(),
                letter["reason"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("3", "nonsense"), ("2", "no address")]);
    assert!(stage.ok(&["dlq", "list", "q"]).contains("no address"));

    let dry = stage.ok(&["dlq", "replay", "q", "c", "--dry-run"]);
    assert_eq!(
        dry,
        "2 events would go to consumer c again\nDry run: nothing was changed.\n"
    );
    let id = letters[1]["id"].to_string();
    assert_eq!(
        stage.ok(&["dlq", "replay", "q", "c", "--id", &id]),
        "1 events go to consumer c again\n"
    );
    assert!(
        stage
            .refused(1, &["dlq", "replay", "q", "c", "--id", &id])
            .contains("there is no dead letter")
    );
    again().await;
    let mended = consume(&stage, |_| Verdict::Done).await;
    assert_eq!(mended.events, 1, "the replayed one");

    assert!(
        stage
            .ok(&["dlq", "purge", "q", "--older-than", "1d"])
            .starts_with("0 ")
    );
    assert!(
        stage
            .ok(&["dlq", "purge", "q", "c", "--dry-run"])
            .starts_with("1 dead letters would")
    );
    assert_eq!(
        stage.ok(&["dlq", "purge", "q", "c"]),
        "1 dead letters forgotten\n"
    );
    assert_eq!(stage.json(&["dlq", "list", "q"]), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_and_split_events_keep_order_and_time() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    stage
        .target
        .batch_execute("select pgq.create_queue('moved'); select pgq.create_queue('odd'); select pgq.create_queue('even')")
        .await
        .unwrap();
    stage
        .source
        .batch_execute("select pgq.register_consumer('q', 'splitter')")
        .await
        .unwrap();
    for _ in 0..3 {
        stage
            .source
            .batch_execute(
                "select pgq.insert_event('q', 't', i::text, case i % 2 when 0 then 'even' else 'odd' end, null, '', e'\\t') \
                   from generate_series(1, 2500) i",
            )
            .await
            .unwrap();
        stage.tick().await;
    }
    stage.ok(&[
        "move",
        "q",
        "c",
        "--to",
        &dsn,
        "--to-queue",
        "moved",
        "--until-idle",
        "--chunk-rows",
        "700",
    ]);
    stage.ok(&[
        "split",
        "q",
        "splitter",
        "--to",
        &dsn,
        "--until-idle",
        "--chunk-rows",
        "700",
    ]);

    let events = |client, table: &'static str, filter: &'static str| async move {
        let sql = format!(
            "select coalesce(array_agg(concat_ws('|', ev_time, ev_type, ev_data, ev_extra1, ev_extra3, ev_extra4) \
             order by ev_id), '{{}}') from pgq.{table} where {filter}"
        );
        one::<Vec<String>>(client, &sql).await
    };
    let all = events(&stage.source, "event_1", "true").await;
    assert_eq!(all.len(), 7500);
    assert!(all == events(&stage.target, "event_1", "true").await, "moved");
    let odd = events(&stage.source, "event_1", "ev_extra1 = 'odd'").await;
    assert!(odd == events(&stage.target, "event_2", "true").await, "odd");
    let even = events(&stage.source, "event_1", "ev_extra1 = 'even'").await;
    assert!(even == events(&stage.target, "event_3", "true").await, "even");

    // An event without a queue stops the splitter, and its batch stays whole.
    stage
        .source
        .batch_execute("select pgq.insert_event('q', 't', 'x', 'odd', null, null, null), pgq.insert_event('q', 't', 'y')")
        .await
        .unwrap();
    stage.tick().await;
    let complaint = stage.refused(1, &["split", "q", "splitter", "--to", &dsn, "--until-idle"]);
    assert!(
        complaint.contains("names no queue: its ev_extra1 is null"),
        "{complaint}"
    );
    assert_eq!(
        one::<i64>(&stage.target, "select count(*) from pgq.event_2").await,
        3750
    );

    let same = stage.server.dsn_tcp("source");
    let complaint = stage.refused(2, &["move", "q", "c", "--to", &same]);
    assert!(complaint.contains("moved into itself"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_both_triggers_are_loaded_in_order() {
    let stage = Stage::new().await;
    stage
        .target
        .batch_execute(
            "create schema archive; \
             create table archive.t (id int primary key, b text, n numeric, j jsonb); \
             create table public.u (\"Odd k\" bigint, k2 text, v bytea, primary key (\"Odd k\", k2))",
        )
        .await
        .unwrap();
    let events: [(&str, &str, Option<&str>); 12] = [
        (
            "I:id",
            "id=1&b=a+b%c3%a4&n=1.50&j=%7b%22x%22%3a1%7d",
            Some("public.t"),
        ),
        ("I:id", "id=2&b&n=2&j", Some("public.t")),
        ("I:id", "id=3&b=x&n&j", Some("public.t")),
        ("U:id", "id=2&b=first&n=3&j", Some("public.t")),
        ("U:id", "id=2&b=second&n=3&j", Some("public.t")),
        ("D:id", "id=3&b=x&n&j", Some("public.t")),
        (
            r#"{"op":"INSERT","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"x","v":"\\x00ff"}"#,
            Some("public.u"),
        ),
        (
            r#"{"op":"UPDATE","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"x","v":null}"#,
            Some("public.u"),
        ),
        ("R", "", Some("public.u")),
        (
            r#"{"op":"INSERT","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"y","v":"\\x01"}"#,
            Some("public.u"),
        ),
        ("I:id", "id=4&n=12345678901234567890.123", Some("public.t")),
        ("mail", "hello", None),
    ];
    for (ev_type, data, extra1) in events {
        stage
            .source
            .execute(
                "select pgq.insert_event('q', $1, $2, $3, null, null, null)",
                &[&ev_type, &data, &extra1],
            )
            .await
            .unwrap();
    }
    stage.tick().await;
    let dsn = stage.target_dsn();
    let load = [
        "load",
        "q",
        "c",
        "--to",
        &dsn,
        "--map",
        "public.t=archive.t",
        "--until-idle",
    ];
    let complaint = stage.refused(1, &load);
    assert!(
        complaint.contains("is no row: its type \"mail\" is not that of a trigger's event"),
        "{complaint}"
    );
    assert_eq!(
        one::<i64>(&stage.target, "select count(*) from archive.t").await,
        0,
        "all or nothing"
    );
    let mut skipping = load.to_vec();
    skipping.push("--skip-others");
    stage.ok(&skipping);
    let t: Vec<String> = one(
        &stage.target,
        "select array_agg(concat_ws('|', id, coalesce(b, '-'), n, coalesce(j::text, '-')) order by id) from archive.t",
    )
    .await;
    assert_eq!(
        t,
        [
            "1|a bä|1.50|{\"x\": 1}",
            "2|second|3|-",
            "4|-|12345678901234567890.123|-"
        ]
    );
    let u: Vec<String> = one(
        &stage.target,
        "select array_agg(concat_ws('|', \"Odd k\", k2, v) order by k2) from public.u",
    )
    .await;
    assert_eq!(u, ["9007199254740993|y|\\x01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_captured_by_triggers_are_equal_after_a_load() {
    let stage = Stage::new().await;
    for name in ["by_log", "by_json"] {
        let table = format!(
            "create table public.{name} (id int, k text, n numeric, j jsonb, w json, at timestamptz, a text[], \
             x bytea, b bool, \"Odd c\" char(5), primary key (k, id))"
        );
        stage.source.batch_execute(&table).await.unwrap();
        stage.target.batch_execute(&table).await.unwrap();
    }
    stage
        .source
        .batch_execute(
            "create trigger c after insert or update or delete on by_log for each row execute function pgq.logutriga('q'); \
             create trigger c after insert or update or delete on by_json for each row execute function pgq.jsontriga('q'); \
             create trigger e after truncate on by_json for each statement execute function pgq.jsontriga('q')",
        )
        .await
        .unwrap();
    for name in ["by_log", "by_json"] {
        stage
            .source
            .batch_execute(&format!(
                "insert into {name} values (0, 'gone'); {} \
                 insert into {name} \
                 select i, 'k&=' || chr(228) || i % 3, i * 1.10, jsonb_build_object('i', i, 't', '\"'), '{{\"w\" : [1, null]}}', \
                        now() + i * interval '1 hour', array['a,b', null, i::text], decode('00ff5c', 'hex'), i % 2 = 0, 'x' \
                   from generate_series(1, 50) i; \
                 update {name} set n = null, j = 'null' where id % 3 = 0; \
                 update {name} set a = '{{}}', at = 'infinity' where id % 3 = 0; \
                 delete from {name} where id % 7 = 0",
                if name == "by_json" { "truncate by_json;" } else { "" }
            ))
            .await
            .unwrap();
        stage.tick().await;
    }
    let dsn = stage.target_dsn();
    stage.ok(&[
        "load",
        "q",
        "c",
        "--to",
        &dsn,
        "--until-idle",
        "--chunk-rows",
        "13",
    ]);
    for name in ["by_log", "by_json"] {
        let sql = format!("select array_agg(t::text order by id) from {name} t");
        let wanted: Vec<String> = one(&stage.source, &sql).await;
        let loaded: Vec<String> = one(&stage.target, &sql).await;
        assert!(wanted.len() > 40);
        assert_eq!(loaded, wanted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_consumers_are_made_watched_steered_and_dropped() {
    let stage = Stage::new().await;
    assert_eq!(
        stage.ok(&[
            "create",
            "mail",
            "--set",
            "rotation_period=1 hour",
            "--set",
            "max_retries=2"
        ]),
        "queue mail created\n"
    );
    assert_eq!(stage.ok(&["create", "mail"]), "queue mail was there\n");
    assert!(
        stage
            .refused(2, &["create", "mail", "--set", "x"])
            .contains("is not NAME=VALUE")
    );
    assert_eq!(
        stage.ok(&["register", "mail", "mailer"]),
        "consumer mailer registered\n"
    );
    assert_eq!(
        stage.ok(&["register", "mail", "mailer"]),
        "consumer mailer was registered\n"
    );
    assert_eq!(
        stage.ok(&["register", "mail", "auditor", "--like", "mailer"]),
        "consumer auditor registered\n"
    );
    let complaint = stage.refused(1, &["consume", "nix", "c", "--until-idle"]);
    assert!(
        complaint.starts_with("ERROR:  there is no queue nix\nHINT:"),
        "{complaint}"
    );
    let complaint = stage.refused(1, &["consume", "mail", "nobody", "--until-idle"]);
    assert!(
        complaint.contains("consumer nobody is not registered on queue mail\nHINT:"),
        "{complaint}"
    );
    stage.ok(&["consume", "mail", "nobody", "--until-idle", "--register"]);

    let list = stage.json(&["list"]);
    assert_eq!(list[0]["queue"], "mail");
    assert_eq!(list[0]["consumers"], 3);
    assert_eq!(list[0]["rotation_seconds"], 3600.0);
    assert!(stage.ok(&["list"]).starts_with("queue  consumers  max lag"));

    stage.fill(3).await;
    assert_eq!(stage.ok(&["pause", "q", "c"]), "consumer c paused\n");
    assert_eq!(stage.ok(&["pause", "q", "c"]), "consumer c was paused\n");
    assert!(stage.ok(&["consume", "q", "c", "--until-idle"]).is_empty());
    let info = stage.json(&["info", "q"]);
    assert_eq!(info["consumer_list"][0]["paused"], true);
    assert!(stage.ok(&["info", "q"]).contains("paused"));
    assert_eq!(stage.ok(&["resume", "q", "c"]), "consumer c resumed\n");
    assert_eq!(
        stage.ok(&["consume", "q", "c", "--until-idle"]).lines().count(),
        3
    );

    // Rotation that is due waits for the consumer that stands still.
    stage
        .source
        .batch_execute(
            "update pgq.queue set queue_switch_time = now() - interval '1 day' where queue_name = 'q'",
        )
        .await
        .unwrap();
    let blockers = stage.json(&["info", "q"])["rotation_blockers"].clone();
    assert_eq!(blockers.as_array().unwrap().len(), 1, "{blockers}");
    assert!(stage.ok(&["info", "q"]).contains("Rotation is overdue:"));

    let dry = stage.ok(&["seek", "q", "c", "--start", "--dry-run"]);
    assert!(
        dry.contains("would be at tick") && dry.ends_with("Dry run: nothing was changed.\n"),
        "{dry}"
    );
    assert!(stage.ok(&["consume", "q", "c", "--until-idle"]).is_empty());
    stage.ok(&["seek", "q", "c", "--ago", "1h"]);
    assert_eq!(
        stage.ok(&["consume", "q", "c", "--until-idle"]).lines().count(),
        3
    );
    assert!(stage.refused(2, &["seek", "q", "c"]).contains("required"));

    let complaint = stage.refused(1, &["drop", "mail"]);
    assert!(
        complaint.contains("DETAIL:  auditor, mailer, nobody"),
        "{complaint}"
    );
    let dry = stage.ok(&["drop", "mail", "--force", "--dry-run"]);
    assert!(dry.contains("would be dropped"), "{dry}");
    assert_eq!(
        stage.ok(&["unregister", "mail", "nobody"]),
        "consumer nobody unregistered\n"
    );
    stage.ok(&["drop", "mail", "--force"]);
    assert!(
        stage
            .refused(1, &["info", "mail"])
            .contains("there is no queue mail")
    );

    // A database without the modules says what it needs.
    stage.server.create_database("bare").await.unwrap();
    let bare = stage.server.dsn("bare");
    let complaint = stage.refused(1, &["list", "--db", &bare]);
    assert!(complaint.contains("skytide install"), "{complaint}");
    stage.fill(1).await;
    let complaint = stage.refused(
        1,
        &[
            "consume",
            "q",
            "c",
            "--until-idle",
            "--create",
            "--into",
            &bare,
            "t",
        ],
    );
    assert!(
        complaint.contains("keep the position") && complaint.contains("skytide install"),
        "{complaint}"
    );
}
