//! Queues as their users meet them: `skytide queue`, and the library behind it. Ticks are made by hand, so
//! that each test knows what is in a batch.

mod load;
mod odd;
mod once;
mod spooled;
mod stage;
mod transfer;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Stats, Until, Verdict};
use skytide_fixtures::wait;
use skytide_sql::api::pgq::{Batch, BatchCalls, BatchSize, Opening};
use skytide_sql::{ConsumerName, QueueName};
use tokio_util::sync::CancellationToken;

use stage::{PATIENCE, Stage, assert_once_and_in_order, one};

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

/// A batch whose id nobody keeps is opened without waiting for the disk; where the server loses it, its events come in
/// the next one. One that may be kept as a mark comes again as it was.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_the_server_takes_back_is_given_again() {
    let stage = Stage::new().await;
    let mut client = stage.server.connect("source").await.unwrap();
    client
        .batch_execute("select pgq.register_consumer('q', 'd')")
        .await
        .unwrap();
    for (mode, kept) in [(&[][..], 0), (&["--json"], 1)] {
        let insert = "select pgq.insert_event('q', 't', 'x'); select pgq.tick_now('q')";
        for sql in insert.split("; ") {
            client.batch_execute(sql).await.unwrap();
        }
        let sql = "select pid from pg_stat_activity where backend_type = 'walwriter'";
        let walwriter = Pid::from_raw(one(&client, sql).await).unwrap();
        // Nobody else flushes what is not waited for.
        kill_process(walwriter, Signal::STOP).unwrap();
        let consume = [mode, &["consume", "q", "c", "--until-idle"]].concat();
        let mut consumer = stage.start_to("queue::before_finish", &consume).await;
        kill_process(walwriter, Signal::KILL).unwrap();
        client = wait::until("the server to have recovered", PATIENCE, async || {
            // Until it has noticed, it takes connections that it then breaks.
            let Ok(client) = stage.server.connect("source").await else {
                return Ok(None);
            };
            let writer = client.query_one(sql, &[]).await.map(|row| row.get::<_, i32>(0));
            Ok(writer
                .is_ok_and(|pid| pid != walwriter.as_raw_nonzero().get())
                .then_some(client))
        })
        .await
        .unwrap();
        let open = "select count(*) from pgq.subscription where sub_batch is not null";
        assert_eq!(one::<i64>(&client, open).await, kept, "{mode:?}");
        consumer.kill();
        let text = stage.ok(&["consume", "q", "c", "--until-idle"]);
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    // Its id may be another consumer's by then.
    let calls = BatchCalls::prepare(&client).await.unwrap();
    let (queue, consumer) = (QueueName::new("q").unwrap(), ConsumerName::new("d").unwrap());
    let size = BatchSize::default();
    let open = async || {
        let batch = calls
            .next_batch(&client, &queue, &consumer, &size, Opening::Durable)
            .await;
        batch.unwrap().unwrap()
    };
    let theirs = open().await;
    let ours = Batch {
        consumer_name: "c".into(),
        ..theirs.clone()
    };
    assert!(!calls.finish_batch(&client, &ours).await.unwrap());
    assert_eq!(open().await.id, theirs.id);
    assert!(calls.finish_batch(&client, &theirs).await.unwrap());
}

/// Prevents: a consumer that never reaches ticks that are made faster than a disk commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_behind_takes_several_ticks_as_one_batch() {
    let stage = Stage::new().await;
    for _ in 0..100 {
        stage.fill(2).await;
    }
    // As if they had been made 0.1 s apart, and a minute ago.
    let spread = "update pgq.tick set tick_time = now() - interval '60 s' + tick_id * interval '0.1 s'";
    stage.source.batch_execute(spread).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        move |event: Event| {
            seen.lock()
                .unwrap()
                .push(event.data.unwrap().parse::<i64>().unwrap());
            async { Ok::<_, HandlerError>(Verdict::Done) }
        }
    };
    let stats = queue::consume(
        &stage.settings(),
        &mut PerEvent(handler),
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    assert_eq!(*seen.lock().unwrap(), (1..=200).collect::<Vec<i64>>());
    // Ten ticks are a second; the last second's are taken one by one.
    assert!((10..=30).contains(&stats.batches), "{stats:?}");
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

    let create = "select pgq.create_queue('later')";
    stage.source.batch_execute(create).await.unwrap();
    let later = "select pgq.insert_event_at('later', now() + interval '1 hour', 't', 'x')";
    stage.source.batch_execute(later).await.unwrap();
    for dry in [&["--dry-run"][..], &[]] {
        let complaint = stage.refused(1, &[&["drop", "later"], dry].concat());
        assert!(complaint.contains("delayed events: 1"), "{complaint}");
    }
    stage.ok(&["drop", "later", "--force", "--dry-run"]);
    stage.ok(&["info", "later"]);
    stage.ok(&["drop", "later", "--force"]);

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
