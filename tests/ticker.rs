//! The ticker on real servers: its pace, requests, takeover, restarts, and databases that are not to be
//! ticked.

mod cadence;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_fixtures::wait;
use skytide_sql::conn::ConnectString;
use skytide_ticker::{Databases, Settings, Stats, TickerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

async fn database_with_queue(server: &Server, name: &str) -> Client {
    server.create_database(name).await.unwrap();
    let mut client = server.connect(name).await.unwrap();
    skytide_sql::install::install(&mut client).await.unwrap();
    client
        .batch_execute("select pgq.create_queue('q')")
        .await
        .unwrap();
    client
}

/// Every 10 ms the queue's rules are asked, and they always want a tick.
async fn eager_queue(client: &Client) {
    client
        .batch_execute(
            "update pgq.queue set queue_ticker_max_lag = '0', queue_ticker_idle_period = '0', \
             queue_ticker_max_count = 1",
        )
        .await
        .unwrap();
}

async fn newest(client: &Client) -> i64 {
    client
        .query_one("select max(tick_id) from pgq.tick", &[])
        .await
        .unwrap()
        .get(0)
}

async fn ticks_beyond(client: &Client, tick: i64) {
    wait::until("more ticks", PATIENCE, async || {
        let seen = newest(client).await;
        anyhow::ensure!(seen > tick, "tick {seen}, wanted more than {tick}");
        Ok(Some(()))
    })
    .await
    .unwrap();
}

fn listed(server: &Server, names: &[&str]) -> Settings {
    let targets = names
        .iter()
        .map(|name| ConnectString::parse(&server.dsn(name)).unwrap());
    Settings {
        ticker_period: Duration::from_millis(10),
        check_period: Duration::from_millis(100),
        ..Settings::new(Databases::List(targets.collect()))
    }
}

/// A ticker in this process.
struct Ticker {
    settings: watch::Sender<Settings>,
    cancel: CancellationToken,
    task: JoinHandle<Result<Stats, TickerError>>,
}

impl Ticker {
    fn start(settings: Settings) -> Ticker {
        let (settings, receiver) = watch::channel(settings);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(skytide_ticker::run(receiver, cancel.clone()));
        Ticker {
            settings,
            cancel,
            task,
        }
    }

    async fn stop(self) -> Stats {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }
}

/// A ticker in a process of its own, killed when dropped.
struct Program(Child);

impl Program {
    fn start(arguments: &[&str]) -> Program {
        Program::start_with(arguments, |command| command)
    }

    fn start_with(arguments: &[&str], prepare: impl FnOnce(&mut Command) -> &mut Command) -> Program {
        let mut command = Command::new(PROGRAM);
        command
            .args(["ticker", "--period", "10ms"])
            .args(arguments)
            .stdin(Stdio::null());
        Program(prepare(&mut command).spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Process ids of the server's backends that hold the ticker's lock.
async fn holders(client: &Client) -> Vec<i32> {
    let sql = "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 2 \
               and classid = 1885827428 and database = (select oid from pg_database where datname = current_database())";
    client
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn ticks_come_every_ten_milliseconds_without_drift() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let ticker = Ticker::start(listed(&server, &["d"]));
    ticks_beyond(&client, newest(&client).await + 100).await;
    let stats = ticker.stop().await;
    assert!(stats.ticks >= 100 && stats.errors == 0, "{stats:?}");
    assert!(stats.maint >= 1, "maintenance starts with the ticks: {stats:?}");

    // The server's clock says how far apart the ticks were.
    let row = client
        .query_one(
            "select percentile_cont(0.5) within group (order by gap)::float8, count(*) from \
             (select extract(epoch from tick_time - lag(tick_time) over (order by tick_id)) as gap from pgq.tick \
              order by tick_id desc limit 100) g",
            &[],
        )
        .await
        .unwrap();
    let gap: f64 = row.get(0);
    assert!((0.008..0.020).contains(&gap), "a tick every {gap} s");
}

#[tokio::test]
async fn a_request_is_served_at_once_and_many_are_joined() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    let settings = Settings {
        ticker_period: Duration::from_secs(3600),
        ..listed(&server, &["d"])
    };
    let ticker = Ticker::start(settings);
    wait::until_eq("an active ticker", 1, PATIENCE, async || {
        Ok(holders(&client).await.len())
    })
    .await
    .unwrap();
    // The first round is the last one for an hour.
    wait::until("the first round", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity where application_name = 'skytide-ticker' \
                   and query like '%pgq.ticker_round(%' and state = 'idle'";
        Ok((client.query_one(sql, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    })
    .await
    .unwrap();

    let before = newest(&client).await;
    let asked = Instant::now();
    client.batch_execute("select pgq.want_tick('q')").await.unwrap();
    ticks_beyond(&client, before).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());

    let before = newest(&client).await;
    for _ in 0..100 {
        client
            .batch_execute("select pg_notify('pgq_tick_wanted', 'q')")
            .await
            .unwrap();
    }
    // An unknown queue is told and harmless.
    client
        .batch_execute("select pg_notify('pgq_tick_wanted', 'no such queue')")
        .await
        .unwrap();
    ticks_beyond(&client, before).await;
    let stats = ticker.stop().await;
    assert!(stats.ticks < 100, "requests are joined: {stats:?}");
}

#[tokio::test]
async fn another_ticker_takes_over_when_the_first_is_killed() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let dsn = server.dsn("d");
    let mut first = Program::start(&["--db", &dsn]);
    wait::until_eq("one active", 1, PATIENCE, async || {
        Ok(holders(&client).await.len())
    })
    .await
    .unwrap();
    let active = holders(&client).await;
    let second = Program::start(&["--db", &dsn]);
    wait::until("a ticker standing by", PATIENCE, async || {
        let sql =
            "select count(distinct pid) from pg_stat_activity where application_name = 'skytide-ticker'";
        let sessions: i64 = client.query_one(sql, &[]).await?.get(0);
        Ok((sessions >= 2).then_some(()))
    })
    .await
    .unwrap();
    ticks_beyond(&client, newest(&client).await + 5).await;
    assert_eq!(holders(&client).await, active, "one ticker at a time");

    first.0.kill().unwrap();
    first.0.wait().unwrap();
    wait::until("the takeover", PATIENCE, async || {
        let now = holders(&client).await;
        Ok((now.len() == 1 && now != active).then_some(()))
    })
    .await
    .unwrap();
    ticks_beyond(&client, newest(&client).await + 5).await;

    let mut second = second;
    second.signal(rustix::process::Signal::TERM);
    let status = second.0.wait().unwrap();
    assert!(status.success(), "SIGTERM ends it in order: {status}");
    wait::until_eq("the lock is free", 0, PATIENCE, async || {
        Ok(holders(&client).await.len())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_restarted_and_a_killed_server_are_ticked_again() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let ticker = Ticker::start(listed(&server, &["d"]));
    ticks_beyond(&client, newest(&client).await + 3).await;

    server.restart().await.unwrap();
    let client = server.connect("d").await.unwrap();
    ticks_beyond(&client, newest(&client).await + 3).await;

    server.kill().unwrap();
    server.start_again().await.unwrap();
    let client = server.connect("d").await.unwrap();
    ticks_beyond(&client, newest(&client).await + 3).await;
    assert!(ticker.stop().await.errors > 0);
}

#[tokio::test]
async fn databases_come_and_go_and_those_without_pgq_are_left_alone() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "with_queue").await;
    eager_queue(&client).await;
    server.create_database("plain").await.unwrap();
    let discover = Databases::Discover(Box::new(ConnectString::parse(&server.dsn("postgres")).unwrap()));
    let ticker = Ticker::start(Settings {
        databases: discover,
        ..listed(&server, &[])
    });
    ticks_beyond(&client, newest(&client).await + 3).await;

    // PgQ arrives later, in a database that was there, and in a new one.
    let mut plain = server.connect("plain").await.unwrap();
    skytide_sql::install::install(&mut plain).await.unwrap();
    plain.batch_execute("select pgq.create_queue('q')").await.unwrap();
    eager_queue(&plain).await;
    ticks_beyond(&plain, newest(&plain).await + 3).await;
    let new = database_with_queue(&server, "new").await;
    eager_queue(&new).await;
    ticks_beyond(&new, newest(&new).await + 3).await;

    // Taken off the list, it is not ticked any more.
    ticker
        .settings
        .send_replace(listed(&server, &["with_queue", "plain"]));
    wait::until_eq("the lock of new is free", 0, PATIENCE, async || {
        Ok(holders(&new).await.len())
    })
    .await
    .unwrap();
    ticks_beyond(&client, newest(&client).await + 3).await;
    ticker.stop().await;
}

#[tokio::test]
async fn a_standby_is_waited_for_and_a_failing_operation_stops_no_other() {
    let primary = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&primary, "d").await;
    eager_queue(&client).await;
    client
        .batch_execute(
            "create function public.broken(text) returns int language plpgsql as \
             $$ begin raise exception 'broken on purpose'; end $$; \
             create table public.ran (at timestamptz); \
             create function public.works(text) returns int language sql as \
             $$ insert into public.ran values (clock_timestamp()); select 0 $$; \
             update pgq.queue set queue_extra_maint = array['public.broken', 'public.works']",
        )
        .await
        .unwrap();

    let home = tempfile::Builder::new()
        .prefix("skytide-standby.")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let data = home.path().join("data");
    let copied = primary
        .command("pg_basebackup")
        .args(["-c", "fast", "-R", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let standby = Server::start(Options {
        port: Some(skytide_fixtures::server::free_port().unwrap()),
        durability: skytide_fixtures::server::Durability::Fast,
        ..Options::persistent(home.path()).with("hot_standby", "on")
    })
    .await
    .unwrap();

    let ticker = Ticker::start(Settings {
        maint_period: Duration::from_millis(100),
        ..listed(&standby, &["d"])
    });
    let on_standby = standby.connect("d").await.unwrap();
    wait::until("a ticker that waits", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity where application_name = 'skytide-ticker'";
        Ok((on_standby.query_one(sql, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    })
    .await
    .unwrap();
    assert!(holders(&on_standby).await.is_empty());

    primary.stop(StopMode::Immediate).await.unwrap();
    on_standby.batch_execute("select pg_promote()").await.unwrap();
    ticks_beyond(&on_standby, newest(&on_standby).await + 3).await;
    wait::until("the operation after the broken one", PATIENCE, async || {
        let ran: i64 = on_standby
            .query_one("select count(*) from public.ran", &[])
            .await?
            .get(0);
        Ok((ran > 1).then_some(()))
    })
    .await
    .unwrap();
    assert!(ticker.stop().await.errors > 0);
    standby.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn due_retries_go_back_into_their_queue() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    client
        .batch_execute(
            "select pgq.register_consumer('q', 'c'); \
             select pgq.event_retry_raw('q', 'c', now() - interval '1 s', null, now(), 1, 't', i::text, \
             null, null, null, null) from generate_series(1, 25) i",
        )
        .await
        .unwrap();
    let ticker = Ticker::start(listed(&server, &["d"]));
    wait::until_eq("no event left to retry", 0, PATIENCE, async || {
        Ok(client
            .query_one("select count(*) from pgq.retry_queue", &[])
            .await?
            .get::<_, i64>(0))
    })
    .await
    .unwrap();
    assert_eq!(ticker.stop().await.retry, 25);
}

#[tokio::test]
async fn sighup_reads_the_configuration_and_a_bad_one_changes_nothing() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = database_with_queue(&server, "d").await;
    eager_queue(&client).await;
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("ticker.ini");
    let configure = |lines: &str| {
        let base = server.dsn("").replace("dbname=''", "");
        std::fs::write(
            &conf,
            format!("[pgqd]\nbase_connstr = {base}\ndatabase_list = d\n{lines}\n"),
        )
        .unwrap();
    };
    configure("ticker_period = 1h");
    let mut program = Program(
        Command::new(PROGRAM)
            .arg("ticker")
            .arg(&conf)
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait::until_eq("an active ticker", 1, PATIENCE, async || {
        Ok(holders(&client).await.len())
    })
    .await
    .unwrap();

    configure("ticker_period = 10ms");
    program.signal(rustix::process::Signal::HUP);
    ticks_beyond(&client, newest(&client).await + 5).await;

    configure("no_such_key = 1");
    program.signal(rustix::process::Signal::HUP);
    ticks_beyond(&client, newest(&client).await + 20).await;
    program.signal(rustix::process::Signal::INT);
    assert!(program.0.wait().unwrap().success());
}
