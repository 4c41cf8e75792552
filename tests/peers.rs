//! Old programs on our SQL modules, our programs on the original ones.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_sql::api::pgq;
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName, install};
use skytide_ticker::{Databases, Settings};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::packaged;

const PATIENCE: Duration = Duration::from_secs(60);
const PGQD: &str = "/usr/bin/pgqd";
const LONDISTE: &str = "/usr/bin/londiste";
const CONSUMER: &str = include_str!("peers/consumer.py");

/// Ticks as soon as there is something.
const EAGER: &str = "update pgq.queue set queue_ticker_max_lag = '0', queue_ticker_idle_period = '1s', \
                     queue_ticker_max_count = 1";

async fn database(server: &Server, name: &str) -> Client {
    server.create_database(name).await.unwrap();
    let mut client = server.connect(name).await.unwrap();
    install::install(&mut client).await.unwrap();
    client
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn becomes(client: &Client, sql: &str, wanted: i64) {
    wait::until_eq(sql, wanted, PATIENCE, async || {
        Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0))
    })
    .await
    .unwrap();
}

/// A program that runs until it is dropped. What it says is shown if the test fails.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    fn start(command: &mut Command, log: &Path) -> Running {
        let file = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Running {
            child,
            log: log.to_owned(),
        }
    }
}

impl Running {
    /// At the end of its turn.
    async fn ends_politely(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        wait::until("it to end", PATIENCE, async || {
            Ok(self.child.try_wait()?.map(drop))
        })
        .await
        .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn pgqd(server: &Server, directory: &Path, databases: &str) -> Running {
    let config = directory.join("pgqd.ini");
    let text = format!(
        "[pgqd]\nbase_connstr = host={} port={} user={}\ndatabase_list = {databases}\nsyslog = 0\n\
         ticker_period = 0.05\nmaint_period = 0.2\nretry_period = 0.2\ncheck_period = 0.2\n",
        server.socket_dir().display(),
        server.port(),
        server.superuser()
    );
    fs::write(&config, text).unwrap();
    Running::start(server.command(PGQD).arg(&config), &directory.join("pgqd.log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packaged_pgqd_ticks_retries_and_rotates() {
    if !packaged::has_program(PGQD) {
        return;
    }
    let server = Server::start(Options::default()).await.unwrap();
    let client = database(&server, "d").await;
    client
        .batch_execute("select pgq.create_queue('q'); select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    client.batch_execute(EAGER).await.unwrap();
    let directory = packaged::shared_directory();
    let _pgqd = pgqd(&server, directory.path(), "d");

    // ticks
    let events = async || {
        wait::until("a batch with an event", PATIENCE, async || {
            let Some(batch) = client
                .query_one("select pgq.next_batch('q', 'c')", &[])
                .await?
                .get::<_, Option<i64>>(0)
            else {
                return Ok(None);
            };
            let sql = "select ev_id, ev_retry from pgq.get_batch_events($1)";
            let events = client.query(sql, &[&batch]).await?;
            match events.first() {
                Some(event) => Ok(Some((
                    batch,
                    event.get::<_, i64>(0),
                    event.get::<_, Option<i32>>(1),
                ))),
                None => {
                    client.execute("select pgq.finish_batch($1)", &[&batch]).await?;
                    Ok(None)
                }
            }
        })
        .await
        .unwrap()
    };
    client
        .batch_execute("select pgq.insert_event('q', 't', '1'), pgq.insert_event('q', 't', '2')")
        .await
        .unwrap();
    let (batch, event, retry) = events().await;
    assert_eq!(retry, None);

    // retry
    client
        .execute(
            "select pgq.event_retry($1, $2, 0), pgq.finish_batch($1)",
            &[&batch, &event],
        )
        .await
        .unwrap();
    let (batch, again, retry) = events().await;
    assert_eq!((again, retry), (event, Some(1)));
    client
        .execute("select pgq.finish_batch($1)", &[&batch])
        .await
        .unwrap();

    // rotation, both steps, and the additions that pgqd finds by maint_operations
    client
        .batch_execute(
            "update pgq.queue set queue_rotation_period = '0'; \
             select pgq.insert_event_at('q', now(), 't', 'at its time', null, null, null, null)",
        )
        .await
        .unwrap();
    let turn = wait::until("the tables take turns", PATIENCE, async || {
        if let Some(batch) = client
            .query_one("select pgq.next_batch('q', 'c')", &[])
            .await?
            .get::<_, Option<i64>>(0)
        {
            client.execute("select pgq.finish_batch($1)", &[&batch]).await?;
        }
        let sql = "select queue_cur_table, queue_switch_step2 is not null from pgq.queue";
        let row = client.query_one(sql, &[]).await?;
        Ok((row.get::<_, i32>(0) > 0 && row.get(1)).then_some(()))
    });
    turn.await.unwrap();
    becomes(&client, "select count(*) from pgq.delayed_event", 0).await;
}

fn ini(directory: &Path, section: &str, name: &str, db: &str, more: &str) -> String {
    let place = directory.display();
    let path = directory.join(format!("{name}.ini"));
    let text = format!(
        "[{section}]\ndb = {db}\nqueue_name = q\njob_name = {name}\nlogfile = {place}/{name}.log\n\
         pidfile = {place}/{name}.pid\nloop_delay = 0.1\n{more}"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whose modules a database has.
#[derive(PartialEq)]
enum Modules {
    Ours,
    /// The original extensions, which become ours in the middle of it.
    Adopted,
}

/// Unmodified consumers, each with a name and its further configuration, copy everything once between them.
async fn python_copies(kind: &str, jobs: &[(&str, &str)], modules: Modules) {
    if !packaged::has_python("pgq") {
        return;
    }
    let (server, mut client) = match modules {
        Modules::Ours => {
            let server = Server::start(Options::default()).await.unwrap();
            let client = database(&server, "d").await;
            (server, client)
        }
        Modules::Adopted => {
            let Some(server) = packaged::server().await else {
                return;
            };
            if !packaged::has_program(PGQD) {
                return;
            }
            server.create_database("d").await.unwrap();
            packaged::create_extensions(&server, "d").await;
            let client = server.connect("d").await.unwrap();
            (server, client)
        }
    };
    client
        .batch_execute(
            "select pgq.create_queue('q'); \
             create table copied (job text, ev_id int8, ev_data text, ev_retry int)",
        )
        .await
        .unwrap();
    client.batch_execute(EAGER).await.unwrap();
    let directory = packaged::shared_directory();
    let (ours, theirs) = match modules {
        Modules::Ours => (Some(OurTicker::start(&server, "d")), None),
        Modules::Adopted => (None, Some(pgqd(&server, directory.path(), "d"))),
    };
    let script = directory.path().join("consumer.py");
    fs::write(&script, CONSUMER).unwrap();
    let python = |(name, more): (&str, &str), arguments: &[&str]| {
        let config = ini(directory.path(), "copier", name, &server.dsn("d"), more);
        let mut command = server.command(packaged::PYTHON);
        command.arg(&script).arg(kind).arg(config).args(arguments);
        command
    };
    for job in jobs {
        succeed(python(*job, &["--register"]).output().unwrap());
    }
    {
        let consumers: Vec<Running> = jobs
            .iter()
            .map(|job| Running::start(&mut python(*job, &[]), &directory.path().join(job.0)))
            .collect();
        for round in 0..10 {
            if modules == Modules::Adopted && round == 5 {
                install::install(&mut client).await.unwrap();
            }
            client
                .batch_execute("select pgq.insert_event('q', 't', i::text) from generate_series(1, 100) i")
                .await
                .unwrap();
            let newest = number(&client, "select max(tick_id) from pgq.tick").await;
            wait::until("another tick", PATIENCE, async || {
                let tick = number(&client, "select max(tick_id) from pgq.tick").await;
                Ok((tick > newest).then_some(()))
            })
            .await
            .unwrap();
        }
        client
            .batch_execute("select pgq.insert_event('q', 't', 'later', 'again', null, null, null)")
            .await
            .unwrap();
        becomes(&client, "select count(*) from copied", 1001).await;
        // Killed with a batch in their hands, they could not be unregistered.
        for consumer in consumers {
            consumer.ends_politely().await;
        }
    }
    assert_eq!(
        number(&client, "select count(distinct ev_id) from copied").await,
        1001
    );
    let retried = "select count(*) from copied where ev_data = 'later' and ev_retry = 1";
    assert_eq!(number(&client, retried).await, 1);
    for job in jobs {
        succeed(python(*job, &["--unregister"]).output().unwrap());
    }
    drop(theirs);
    if let Some(ticker) = ours {
        ticker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_python_consumer_reads_our_queue() {
    python_copies("alone", &[("copier", "")], Modules::Ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgqd_and_a_python_consumer_go_on_while_their_database_becomes_ours() {
    python_copies("alone", &[("copier", "")], Modules::Adopted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unmodified_python_consumers_share_our_queue() {
    let jobs = [
        ("one", "consumer_name = shared\nsubconsumer_name = one\n"),
        ("two", "consumer_name = shared\nsubconsumer_name = two\n"),
    ];
    python_copies("sharing", &jobs, Modules::Ours).await;
}

fn succeed(out: Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}");
    said
}

/// Londiste's daemons, also the copying ones that a worker starts by itself.
struct Daemons<'a>(&'a Path);

impl Drop for Daemons<'_> {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "pid")
                && let Ok(text) = fs::read_to_string(&path)
                && let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn londiste_in_python_replays_from_our_root_to_our_leaf() {
    if !packaged::has_program(LONDISTE) || !packaged::has_python("londiste") {
        return;
    }
    let server = Server::start(Options::default()).await.unwrap();
    let root = database(&server, "root").await;
    let leaf = database(&server, "leaf").await;
    let table = "create table t (id int primary key, v text)";
    root.batch_execute(table).await.unwrap();
    leaf.batch_execute(table).await.unwrap();
    root.batch_execute("insert into t select i, 'old' from generate_series(1, 1000) i")
        .await
        .unwrap();
    let ticker = OurTicker::start(&server, "root");

    let directory = packaged::shared_directory();
    let _daemons = Daemons(directory.path());
    let londiste = |node: &str, arguments: &[&str]| {
        let config = ini(directory.path(), "londiste", node, &server.dsn(node), "");
        let mut command = server.command(LONDISTE);
        command.arg(config).args(arguments);
        command
    };
    let run = |node: &str, arguments: &[&str]| succeed(londiste(node, arguments).output().unwrap());
    run("root", &["create-root", "root", &server.dsn("root")]);
    root.batch_execute(EAGER).await.unwrap();
    // Tables of a new root are captured from the WAL unless it is told otherwise.
    root.batch_execute("select londiste.set_capture('q', 'trigger')")
        .await
        .unwrap();
    run(
        "leaf",
        &[
            "create-leaf",
            "leaf",
            &server.dsn("leaf"),
            &format!("--provider={}", server.dsn("root")),
        ],
    );
    run("root", &["add-table", "t"]);
    let _root_worker = Running::start(
        &mut londiste("root", &["worker"]),
        &directory.path().join("root.out"),
    );
    let _leaf_worker = Running::start(
        &mut londiste("leaf", &["worker"]),
        &directory.path().join("leaf.out"),
    );
    run("leaf", &["add-table", "t"]);
    root.batch_execute(
        "insert into t select i, 'new' from generate_series(1001, 1500) i; \
         update t set v = 'changed & 100%' where id % 10 = 0; update t set v = null where id = 7; \
         delete from t where id % 3 = 0",
    )
    .await
    .unwrap();
    run("leaf", &["wait-sync"]);
    let sums = "select hashtextextended(string_agg(t::text, '|' order by id), 0) from t";
    becomes(&leaf, sums, number(&root, sums).await).await;

    root.batch_execute("truncate t; insert into t values (1, 'after')")
        .await
        .unwrap();
    becomes(&leaf, sums, number(&root, sums).await).await;
    assert!(run("leaf", &["status"]).contains("Tables: 1/0/0"));
    ticker.stop().await;
}

/// Our ticker, in this process.
struct OurTicker {
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<skytide_ticker::Stats, skytide_ticker::TickerError>>,
    _settings: watch::Sender<Settings>,
}

impl OurTicker {
    fn start(server: &Server, database: &str) -> OurTicker {
        let target = ConnectString::parse(&server.dsn(database)).unwrap();
        let settings = Settings {
            ticker_period: Duration::from_millis(20),
            maint_period: Duration::from_millis(200),
            retry_period: Duration::from_millis(200),
            ..Settings::new(Databases::List(vec![target]))
        };
        let (sender, receiver) = watch::channel(settings);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(skytide_ticker::run(receiver, cancel.clone()));
        OurTicker {
            cancel,
            task,
            _settings: sender,
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        let stats = self.task.await.unwrap().unwrap();
        assert_eq!(stats.errors, 0, "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_ticker_and_wrappers_serve_the_original() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let client = server.connect("d").await.unwrap();
    let (queue, consumer) = (QueueName::new("q").unwrap(), ConsumerName::new("c").unwrap());

    assert_eq!(pgq::version(&client).await.unwrap(), "3.5");
    assert_eq!(pgq::create_queue(&client, &queue).await.unwrap(), pgq::Made::New);
    assert_eq!(
        pgq::create_queue(&client, &queue).await.unwrap(),
        pgq::Made::WasThere
    );
    for (parameter, value) in [
        ("ticker_max_lag", "0"),
        ("ticker_idle_period", "0"),
        ("rotation_period", "0"),
    ] {
        pgq::set_queue_config(&client, &queue, parameter, value)
            .await
            .unwrap();
    }
    pgq::register_consumer(&client, &queue, &consumer).await.unwrap();
    let ticker = OurTicker::start(&server, "d");
    for data in ["1", "2"] {
        pgq::insert_event(&client, &queue, "t", data).await.unwrap();
    }
    // Batches are taken by plain SQL, as old consumers do; one event comes twice.
    let mut seen = Vec::new();
    wait::until("both events, and the retried one again", PATIENCE, async || {
        let Some(batch) = client
            .query_one("select batch_id from pgq.next_batch_info('q', 'c')", &[])
            .await?
            .get::<_, Option<i64>>(0)
        else {
            return Ok(None);
        };
        for event in client
            .query(
                "select ev_id, ev_data, ev_retry from pgq.get_batch_events($1)",
                &[&batch],
            )
            .await?
        {
            let (id, data, retry): (i64, String, Option<i32>) = (event.get(0), event.get(1), event.get(2));
            if data == "1" && retry.is_none() {
                client
                    .execute("select pgq.event_retry($1, $2, 0)", &[&batch, &id])
                    .await?;
            }
            seen.push((data, retry));
        }
        client.execute("select pgq.finish_batch($1)", &[&batch]).await?;
        Ok((seen.len() >= 3).then_some(()))
    })
    .await
    .unwrap();
    seen.sort();
    assert_eq!(
        seen,
        [("1".into(), None), ("1".into(), Some(1)), ("2".to_owned(), None)]
    );
    wait::until("maintenance rotates", PATIENCE, async || {
        let turned = "select count(*) from pgq.queue where queue_switch_step1 <> queue_switch_step2";
        Ok((number(&client, turned).await > 0).then_some(()))
    })
    .await
    .unwrap();
    let info = pgq::get_queue_info(&client, Some(&queue)).await.unwrap();
    assert!(info[0].last_tick.is_some(), "{info:?}");
    let info = pgq::get_consumer_info(&client, None, None).await.unwrap();
    assert_eq!(info[0].consumer_name, "c");
    pgq::force_tick(&client, &queue).await.unwrap();
    pgq::maint_operations(&client).await.unwrap();
    ticker.stop().await;
    assert_eq!(
        pgq::unregister_consumer(&client, &queue, &consumer)
            .await
            .unwrap(),
        1
    );
    pgq::drop_queue(&client, &queue, pgq::Consumers::Refuse)
        .await
        .unwrap();
}
