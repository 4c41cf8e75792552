//! Many queues, many databases, queues in a hurry, and those who wait for ticks.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_sql::api::pgq;
use skytide_sql::conn::{ConnectString, connect};
use skytide_sql::{ConsumerName, QueueName, Snapshot};
use skytide_ticker::{Condition, Conditions, Settings};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, Program, Ticker, database_with_queue, eager_queue, listed, newest, ticks_beyond};

async fn int(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn hundreds_of_queues_are_ticked_each_round_by_one_transaction() {
    const QUEUES: i64 = 300;
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    for from in (2..=QUEUES).step_by(100) {
        let create = format!(
            "select pgq.create_queue('q' || i) from generate_series({from}, least({}, {QUEUES})) i",
            from + 99
        );
        client.batch_execute(&create).await.unwrap();
    }
    eager_queue(&client).await;
    let before = int(&client, "select txid_current()").await;
    let ticker = Ticker::start(listed(&server, &["d"]));
    wait::until("five ticks in each queue", PATIENCE, async || {
        let sql = "select min(n) from (select count(*) as n from pgq.tick group by tick_queue) c";
        let least = int(&client, sql).await;
        anyhow::ensure!(least > 5, "{least}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    let stats = ticker.stop().await;
    assert_eq!(stats.errors, 0);
    assert_eq!(
        int(&client, "select count(*) from pgq.tick").await,
        QUEUES + stats.ticks as i64
    );
    let used = int(&client, "select txid_current()").await - before;
    assert!(
        used < stats.ticks as i64 / 10,
        "{used} transactions for {} ticks",
        stats.ticks
    );
    let gaps = "select count(*) from (select tick_id - lag(tick_id, 1, 0::int8) over (partition by tick_queue \
                order by tick_id) as step from pgq.tick) s where step <> 1";
    assert_eq!(int(&client, gaps).await, 0, "no id is left out or given twice");
}

/// Ticks have to be read committed, whatever a database's sessions are by default.
#[tokio::test]
async fn a_database_of_repeatable_reads_is_ticked() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    client
        .batch_execute("alter database d set default_transaction_isolation = 'repeatable read'")
        .await
        .unwrap();
    let ticker = Ticker::start(listed(&server, &["d"]));
    ticks_beyond(&client, newest(&client).await + 2).await;
    assert_eq!(ticker.stop().await.errors, 0);
}

/// Prevents: a stop that leaves a round to the server, which makes its ticks after the ticker said how many it made.
#[tokio::test]
async fn a_round_that_is_under_way_at_the_stop_is_made_and_counted() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let look = server.connect("d").await.unwrap();
    let held = client.transaction().await.unwrap();
    held.batch_execute("lock table pgq.tick in share mode")
        .await
        .unwrap();
    let before = int(&look, "select count(*) from pgq.tick").await;
    let ticker = Ticker::start(listed(&server, &["d"]));
    wait::until("a round that waits", PATIENCE, async || {
        let sql = "select count(*) from pg_locks where relation = 'pgq.tick'::regclass and not granted";
        Ok((int(&look, sql).await > 0).then_some(()))
    })
    .await
    .unwrap();
    let stop = tokio::spawn(ticker.stop());
    // A ticker that leaves its round to the server would be gone by then; one that does not is not held to any time.
    tokio::time::sleep(Duration::from_millis(50)).await;
    held.commit().await.unwrap();
    let stats = stop.await.unwrap();
    assert_eq!(
        int(&look, "select count(*) from pgq.tick").await,
        before + stats.ticks as i64
    );
}

/// Prevents: with many databases, maintenance takes every place for a session that the server has.
#[tokio::test]
async fn fifty_databases_are_ticked_and_maintained_with_few_sessions() {
    const DATABASES: usize = 50;
    // One session a database, the turns of maintenance, and ours.
    let options = Options::default().with("max_connections", "70");
    let server = Server::start(options).await.unwrap();
    let client = database_with_queue(&server, "db0").await;
    eager_queue(&client).await;
    drop(client);
    let admin = server.connect("postgres").await.unwrap();
    let names: Vec<String> = (0..DATABASES).map(|n| format!("db{n}")).collect();
    for name in &names[1..] {
        // The session that made the template may need a moment to leave.
        wait::until("a copy of the database", PATIENCE, async || {
            admin
                .batch_execute(&format!("create database {name} template db0"))
                .await?;
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ticker = Ticker::start(Settings {
        ticker_period: Duration::from_millis(200),
        maint_period: Duration::from_millis(500),
        retry_period: Duration::from_millis(500),
        ..listed(&server, &names)
    });
    for name in ["db1", "db25", "db49"] {
        let client = server.connect(name).await.unwrap();
        ticks_beyond(&client, newest(&client).await + 3).await;
    }
    wait::until("maintenance of all", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity where application_name = 'skytide-ticker'";
        let sessions = int(&admin, sql).await;
        anyhow::ensure!(sessions <= DATABASES as i64 + 8, "{sessions} sessions");
        Ok((sessions >= DATABASES as i64).then_some(()))
    })
    .await
    .unwrap();
    let stats = ticker.stop().await;
    assert_eq!(stats.errors, 0, "{stats:?}");
    assert!(stats.ticks >= DATABASES as u64, "{stats:?}");
}

#[tokio::test]
async fn a_queue_in_a_hurry_is_ticked_between_the_rounds_of_all() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute(
            "select pgq.create_queue('calm'); select pgq.set_queue_config('q', 'ticker_max_lag', '20 ms'); \
             select pgq.ticker('calm'), pgq.ticker('q')",
        )
        .await
        .unwrap();
    let of = |queue: &str| {
        format!(
            "select max(tick_id) from pgq.tick join pgq.queue on queue_id = tick_queue where queue_name = '{queue}'"
        )
    };
    let ticker = Ticker::start(Settings {
        ticker_period: Duration::from_secs(3600),
        ..listed(&server, &["d"])
    });
    let calm = int(&client, &of("calm")).await;
    for _ in 0..5 {
        let before = int(&client, &of("q")).await;
        client
            .batch_execute("select pgq.insert_event('q', 't', 'd')")
            .await
            .unwrap();
        wait::until("a tick of the event", PATIENCE, async || {
            Ok((int(&client, &of("q")).await > before).then_some(()))
        })
        .await
        .unwrap();
    }
    assert!(
        int(&client, &of("calm")).await <= calm + 1,
        "the other one had the first round only"
    );
    ticker.stop().await;
}

/// Prevents: looks at all queues each period while nothing happens.
#[tokio::test]
async fn queues_are_not_looked_at_again_while_nothing_ended() {
    let server = Server::start(Options::default().with("autovacuum", "off"))
        .await
        .unwrap();
    let client = database_with_queue(&server, "d").await;
    let round = async |seen: Option<String>| {
        let row = client
            .query_one(
                "select seen, due_in from pgq.ticker_round($1, null, null)",
                &[&seen],
            )
            .await
            .unwrap();
        (row.get::<_, Option<String>>(0), row.get::<_, Option<f64>>(1))
    };
    let (seen, due) = round(None).await;
    assert!(due.is_some(), "a look says when to look again");
    let (again, due) = round(seen.clone()).await;
    assert_eq!(
        (&again, due),
        (&seen, None),
        "nothing ended: no look, and its own tick does not count"
    );
    client
        .batch_execute("select pgq.insert_event('q', 't', 'd')")
        .await
        .unwrap();
    let (_, due) = round(again).await;
    assert!(due.is_some(), "something ended: a look");
}

#[tokio::test]
async fn each_tick_is_told_once_to_who_watches_the_queue() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute("select pgq.create_queue('other')")
        .await
        .unwrap();
    let target = ConnectString::parse(&server.dsn("d")).unwrap();
    let mut watcher = connect(&target, "watcher").await.unwrap();
    let mut told = watcher.notifications().unwrap();
    let queue = QueueName::new("q").unwrap();
    let channel = pgq::watch_ticks(&*watcher, &queue).await.unwrap().unwrap();

    client
        .batch_execute("select pgq.tick_now('other')")
        .await
        .unwrap();
    let by_hand = int(&client, "select pgq.tick_now('q')").await;
    eager_queue(&client).await;
    assert_eq!(int(&client, "select pgq.ticker()").await, 2);
    assert_eq!(
        int(&client, "select ticks from pgq.ticker_round(null, null, null)").await,
        2
    );
    client
        .batch_execute("select pgq.set_queue_config('q', 'external_ticker', 'true')")
        .await
        .unwrap();
    client
        .batch_execute("select pgq.ticker('q', 100, now(), 1)")
        .await
        .unwrap();
    for tick in [by_hand, by_hand + 1, by_hand + 2, 100] {
        let notification = tokio::time::timeout(PATIENCE, told.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (notification.channel(), notification.payload()),
            (&*channel, &*tick.to_string())
        );
    }

    // A listener that does not watch proves that nothing is told once the watcher is gone.
    let mut listener = connect(&target, "listener").await.unwrap();
    let mut heard = listener.notifications().unwrap();
    listener
        .batch_execute(&format!("listen {channel}; listen done"))
        .await
        .unwrap();
    drop(watcher);
    wait::until_eq("the watcher's locks to be free", 0, PATIENCE, async || {
        Ok(int(
            &client,
            "select count(*) from pg_locks where locktype = 'advisory' and classid = 1885827447",
        )
        .await)
    })
    .await
    .unwrap();
    client
        .batch_execute("select pgq.set_queue_config('q', 'external_ticker', 'false')")
        .await
        .unwrap();
    client
        .batch_execute("select pgq.tick_now('q'); notify done")
        .await
        .unwrap();
    let first = tokio::time::timeout(PATIENCE, heard.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.channel(), "done");
}

/// Prevents: an event that was not committed yet when its tick was made waits for the idle period.
#[tokio::test]
async fn what_was_under_way_at_a_tick_gets_one_in_its_time() {
    let server = Server::start(Options::default().with("autovacuum", "off"))
        .await
        .unwrap();
    let client = database_with_queue(&server, "d").await;
    let age = "update pgq.tick set tick_time = tick_time - interval";
    client
        .batch_execute(&format!(
            "select nextval('pgq.event_1_id_seq'); select pgq.register_consumer('q', 'c'); \
             select pgq.tick_now('q'); {age} '1 hour'"
        ))
        .await
        .unwrap();
    let writer = server.connect("d").await.unwrap();
    writer
        .batch_execute("begin; select pgq.insert_event('q', 't', 'late')")
        .await
        .unwrap();
    let cut = "select coalesce(pgq.ticker('q'), 0)";
    assert_ne!(int(&client, cut).await, 0, "the sequence has moved");
    client.batch_execute(&format!("{age} '2 s'")).await.unwrap();
    assert_eq!(int(&client, cut).await, 0, "not before max_lag is over");
    client.batch_execute(&format!("{age} '2 s'")).await.unwrap();
    writer.batch_execute("commit").await.unwrap();
    assert_ne!(
        int(&client, cut).await,
        0,
        "the gap before is an hour, yet the tick comes"
    );
    let batches = "select count(*) from pgq.get_batch_events(pgq.next_batch('q', 'c'))";
    assert_eq!(
        int(&client, batches).await,
        0,
        "the first batch ends before the commit"
    );
    client
        .batch_execute("select pgq.finish_batch(sub_batch) from pgq.subscription")
        .await
        .unwrap();
    assert_eq!(int(&client, batches).await, 0);
    client
        .batch_execute("select pgq.finish_batch(sub_batch) from pgq.subscription")
        .await
        .unwrap();
    assert_eq!(int(&client, batches).await, 1);
    assert_eq!(int(&client, cut).await, 0, "once");
}

/// Prevents: a database that is not there yet is an error every few seconds, or holds up the others.
#[tokio::test]
async fn a_database_that_is_missing_is_waited_for_without_noise() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let (_settings, receiver) = watch::channel(listed(&server, &["d", "later"]));
    let (sender, mut conditions) = watch::channel(Conditions::new());
    let cancel = CancellationToken::new();
    let ticker = tokio::spawn(skytide_ticker::run_watched(receiver, sender, cancel.clone()));
    let waited = |all: &Conditions| {
        all.get("d") == Some(&Condition::Ticking) && matches!(all.get("later"), Some(Condition::Idle(_)))
    };
    tokio::time::timeout(PATIENCE, conditions.wait_for(waited))
        .await
        .unwrap()
        .unwrap();
    let later = database_with_queue(&server, "later").await;
    eager_queue(&later).await;
    ticks_beyond(&later, newest(&later).await + 2).await;
    tokio::time::timeout(
        PATIENCE,
        conditions.wait_for(|all| all.values().all(|c| *c == Condition::Ticking)),
    )
    .await
    .unwrap()
    .unwrap();
    cancel.cancel();
    assert_eq!(ticker.await.unwrap().unwrap().errors, 0);
}

/// Prevents: a ticker is silent and ready while it makes no tick, in none of the queues or in one.
#[tokio::test]
async fn rounds_that_fail_are_told_and_the_ticker_is_not_ready() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute("select pgq.create_queue('lame')")
        .await
        .unwrap();
    eager_queue(&client).await;
    let (_settings, receiver) = watch::channel(listed(&server, &["d"]));
    let (sender, mut conditions) = watch::channel(Conditions::new());
    let cancel = CancellationToken::new();
    let ticker = tokio::spawn(skytide_ticker::run_watched(receiver, sender, cancel.clone()));
    let full = "create function disk_full() returns trigger as $$ begin raise 'no space left'; end $$ language plpgsql; \
                create trigger disk_full before insert on pgq.tick for each row execute function disk_full()";
    for (damage, told, repair) in [
        (full, "no space left", "drop trigger disk_full on pgq.tick"),
        (
            "alter sequence pgq.event_2_tick_seq rename to away",
            "queue \"lame\": sequence pgq.event_2_tick_seq is missing",
            "alter sequence pgq.away rename to event_2_tick_seq",
        ),
    ] {
        let works = conditions.wait_for(|all| all.get("d") == Some(&Condition::Ticking));
        drop(tokio::time::timeout(PATIENCE, works).await.unwrap().unwrap());
        client.batch_execute(damage).await.unwrap();
        let fails = conditions.wait_for(
            |all| matches!(all.get("d"), Some(Condition::Failing(reason)) if reason.contains(told)),
        );
        drop(tokio::time::timeout(PATIENCE, fails).await.unwrap().unwrap());
        if told.contains("lame") {
            let sql = "select max(tick_id) from pgq.tick where tick_queue = 1";
            let before = int(&client, sql).await;
            wait::until("ticks of the sound queue", PATIENCE, async || {
                Ok((int(&client, sql).await > before).then_some(()))
            })
            .await
            .unwrap();
        }
        client.batch_execute(repair).await.unwrap();
    }
    let works = conditions.wait_for(|all| all.get("d") == Some(&Condition::Ticking));
    drop(tokio::time::timeout(PATIENCE, works).await.unwrap().unwrap());
    cancel.cancel();
    assert!(ticker.await.unwrap().unwrap().errors > 1);
}

/// Prevents: a ticker whose session began under settings in which it cannot tick keeps that session for an hour.
#[tokio::test]
async fn a_session_that_cannot_tick_is_given_up() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let settings = "alter database d set default_transaction_read_only = on";
    client.batch_execute(settings).await.unwrap();
    let (_settings, receiver) = watch::channel(listed(&server, &["d"]));
    let (sender, mut conditions) = watch::channel(Conditions::new());
    let cancel = CancellationToken::new();
    let ticker = tokio::spawn(skytide_ticker::run_watched(receiver, sender, cancel.clone()));
    let fails = conditions.wait_for(|all| matches!(all.get("d"), Some(Condition::Failing(_))));
    drop(tokio::time::timeout(PATIENCE, fails).await.unwrap().unwrap());
    client
        .batch_execute("set default_transaction_read_only = off; alter database d reset all")
        .await
        .unwrap();
    let works = conditions.wait_for(|all| all.get("d") == Some(&Condition::Ticking));
    drop(tokio::time::timeout(PATIENCE, works).await.unwrap().unwrap());
    ticks_beyond(&client, newest(&client).await).await;
    cancel.cancel();
    assert!(ticker.await.unwrap().unwrap().errors > 1);
}

/// Prevents: a ticker of the original modules does not see for an hour that ours were installed over them.
#[tokio::test]
async fn modules_that_are_installed_meanwhile_are_used() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    // Without these the modules are as good as the original ones.
    client
        .batch_execute(
            "alter function pgq.ticker_round(text, interval, integer) rename to later_round; \
             alter function pgq.tick_now_if_free(text) rename to later_tick",
        )
        .await
        .unwrap();
    let ticker = Ticker::start(listed(&server, &["d"]));
    let asked =
        "select count(*) from pg_stat_activity where application_name = 'skytide-ticker' and query like $1";
    let asks = async |query: &'static str| {
        wait::until(query, PATIENCE, async || {
            Ok((client.query_one(asked, &[&query]).await?.get::<_, i64>(0) > 0).then_some(()))
        })
        .await
        .unwrap();
    };
    asks("%pgq.ticker()%").await;
    client
        .batch_execute(
            "alter function pgq.later_round(text, interval, integer) rename to ticker_round; \
             alter function pgq.later_tick(text) rename to tick_now_if_free",
        )
        .await
        .unwrap();
    asks("%pgq.ticker_round(%").await;
    assert_eq!(ticker.stop().await.errors, 0);
}

/// Prevents: a database's statement_timeout ends maintenance that takes longer, each time.
#[tokio::test]
async fn maintenance_may_take_longer_than_the_databases_timeout() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute(
            "create table public.ran (at timestamptz); \
             create function public.slow(text) returns int language plpgsql as \
             $$ begin perform pg_sleep(0.5); insert into public.ran values (now()); return 0; end $$; \
             update pgq.queue set queue_extra_maint = array['public.slow']; \
             alter database d set statement_timeout = '200ms'",
        )
        .await
        .unwrap();
    let ticker = Ticker::start(listed(&server, &["d"]));
    wait::until("the slow operation", PATIENCE, async || {
        Ok((int(&client, "select count(*) from public.ran").await > 0).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(ticker.stop().await.errors, 0);
}

/// Prevents: a ticker that dies between two statements leaves events out, or delivers them twice.
#[tokio::test]
async fn killed_tickers_and_servers_lose_no_event_and_double_none() {
    const EVENTS: i64 = 400;
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    client
        .batch_execute("select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    let dsn = server.dsn("d");
    let mut client = client;
    for part in 0..4 {
        let mut ticker = Program::start(&["--db", &dsn]);
        for _ in 0..EVENTS / 4 {
            client
                .batch_execute("select pgq.insert_event('q', 't', 'd')")
                .await
                .unwrap();
        }
        ticks_beyond(&client, newest(&client).await + 2).await;
        if part == 1 {
            server.kill().unwrap();
            server.start_again().await.unwrap();
            client = server.connect("d").await.unwrap();
            ticks_beyond(&client, newest(&client).await + 2).await;
        }
        ticker.0.kill().unwrap();
        ticker.0.wait().unwrap();
    }
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();
    let rows = client
        .query("select tick_snapshot::text from pgq.tick order by tick_id", &[])
        .await
        .unwrap();
    let snapshots: Vec<Snapshot> = rows
        .iter()
        .map(|row| row.get::<_, &str>(0).parse().unwrap())
        .collect();
    assert!(
        snapshots.windows(2).all(|pair| pair[1].contains(&pair[0])),
        "in order"
    );
    let mut events: Vec<i64> = Vec::new();
    loop {
        let batch: Option<i64> = client
            .query_one("select pgq.next_batch('q', 'c')", &[])
            .await
            .unwrap()
            .get(0);
        let Some(batch) = batch else { break };
        let rows = client
            .query("select ev_id from pgq.get_batch_events($1)", &[&batch])
            .await
            .unwrap();
        events.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        client
            .execute("select pgq.finish_batch($1)", &[&batch])
            .await
            .unwrap();
    }
    events.sort_unstable();
    let delivered = events.len();
    events.dedup();
    assert_eq!((delivered, events.len()), (EVENTS as usize, EVENTS as usize));
}

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_and_stop() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let ear = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    ear.set_nonblocking(true).unwrap();
    let mut program = Program::start_with(&["--db", &server.dsn("d")], |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000")
    });
    // Messages of different kinds come in any order.
    let messages = RefCell::new(Vec::new());
    let heard = async |wanted: &str| {
        wait::until(wanted, PATIENCE, async || {
            let mut messages = messages.borrow_mut();
            let mut bytes = [0; 512];
            while let Ok(length) = ear.recv(&mut bytes) {
                messages.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            let found = messages.iter().position(|message| message.starts_with(wanted));
            Ok(found.map(|at| drop(messages.remove(at))))
        })
        .await
        .unwrap();
    };
    heard("READY=1").await;
    heard("WATCHDOG=1").await;
    heard("STATUS=1 databases ticked").await;
    messages.borrow_mut().clear();
    program.signal(rustix::process::Signal::HUP);
    heard("RELOADING=1\nMONOTONIC_USEC=").await;
    heard("READY=1").await;
    heard("WATCHDOG=1").await;
    program.signal(rustix::process::Signal::TERM);
    heard("STOPPING=1").await;
    assert!(program.0.wait().unwrap().success());
    drop(client);
}

/// Prevents: a look that comes late because the consumer's poll is long.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_wakes_with_the_tick_and_not_with_its_poll() {
    use skytide::queue::{self, Event, HandlerError, PerEvent, Verdict};

    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute("select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    let settings = queue::Settings {
        poll: Duration::from_secs(3600),
        ..queue::Settings::new(
            ConnectString::parse(&server.dsn("d")).unwrap(),
            QueueName::new("q").unwrap(),
            ConsumerName::new("c").unwrap(),
        )
    };
    let stop = CancellationToken::new();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let consumer = tokio::spawn({
        let stop = stop.clone();
        async move {
            let handler = move |_: Event| {
                let _ = sender.send(());
                async { Ok::<_, HandlerError>(Verdict::Done) }
            };
            queue::consume(&settings, &mut PerEvent(handler), &stop).await
        }
    });
    wait::until_eq("a consumer that waits", 2, PATIENCE, async || {
        let sql = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1885827447";
        Ok(int(&client, sql).await)
    })
    .await
    .unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        client
            .batch_execute("select pgq.insert_event('q', 't', 'd')")
            .await
            .unwrap();
        client.batch_execute("select pgq.tick_now('q')").await.unwrap();
        tokio::time::timeout(PATIENCE, events.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(began.elapsed() < PATIENCE);
    }
    stop.cancel();
    consumer.await.unwrap().unwrap();
}
