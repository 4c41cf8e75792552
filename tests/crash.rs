//! Nothing is lost and nothing is applied twice, whoever dies where.
//!
//! Each test runs one replica under load, kills its processes one after the other, and compares both
//! sides row by row at the end. `ledger` rows are only ever inserted, and a trigger on the subscriber counts each
//! arrival: a row applied twice is seen even where the end result would hide it.

use std::time::Duration;

use skytide_fixtures::proxy::Proxy;
use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions, Stats};
use skytide_sql::TableName;

use crate::replica::{DATABASE, PATIENCE, Plan, Replica, prepare};

const LEDGER: &str = "create table public.ledger (id bigserial primary key, body text)";

/// Counts arrivals, whatever the session's replication role; a new copy starts anew.
const ARRIVALS: &str = "
    create table public.arrivals (id bigint);
    create function public.arrived() returns trigger language plpgsql as $$
    begin
        if tg_op = 'TRUNCATE' then
            truncate public.arrivals;
        else
            insert into public.arrivals values (new.id);
        end if;
        return null;
    end $$;
    create trigger arrived after insert on public.ledger for each row execute function public.arrived();
    create trigger emptied after truncate on public.ledger execute function public.arrived();
    alter table public.ledger enable always trigger arrived;
    alter table public.ledger enable always trigger emptied;";

/// Large enough that its indexes are dropped for the copy.
const BULKY: &str = "create table public.bulky (id integer primary key, body text unique, more text)";
/// What is said about its indexes on the subscriber, which the copy has to say again.
const NOTES: &str = "
    create index by_length on public.bulky ((length(more)));
    comment on index by_length is E'two\n-- index lines';
    alter index by_length alter column 1 set statistics 777;
    comment on constraint bulky_pkey on public.bulky is 'it''s the key';
    comment on index bulky_body_key is 'of bodies'";
const FILL_BULKY: &str = "
    alter table public.bulky alter more set storage external;
    insert into public.bulky select i, md5(i::text), repeat(md5(i::text), 256) from generate_series(1, 9000) i";

fn plan() -> Plan {
    let mut plan = Plan {
        settings: "spool_segment_bytes = 1MiB\nspool_max_bytes = 64MiB\nparallel_copies = 5".into(),
        ..Plan::default()
    };
    for schema in [&mut plan.provider_schema, &mut plan.subscriber_schema] {
        schema.extend([LEDGER, BULKY].map(String::from));
    }
    plan.subscriber_schema.extend([ARRIVALS, NOTES].map(String::from));
    plan
}

fn tables() -> Vec<TableName> {
    let mut all = workload::tables();
    all.extend(["ledger", "bulky"].map(|name| TableName::new("public", name)));
    all
}

/// A load, and beside it rows for the ledger.
struct Writers {
    load: Load,
    ledger: tokio::task::JoinHandle<()>,
}

impl Writers {
    fn start(replica: &Replica, seed: u64) -> Writers {
        let dsn = replica.provider.dsn(DATABASE);
        let load = replica.load(LoadOptions {
            seed,
            clients: 3,
            tx_rate: Some(150.0),
            ..LoadOptions::default()
        });
        let ledger = tokio::spawn(async move {
            loop {
                // The provider is killed now and then.
                let Ok((client, connection)) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await
                else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                tokio::spawn(connection);
                while client
                    .batch_execute(
                        "insert into public.ledger (body) \
                         select string_agg(md5(random()::text), '') from generate_series(1, 100)",
                    )
                    .await
                    .is_ok()
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        Writers { load, ledger }
    }

    /// Stops writing and compares everything.
    async fn stop_and_compare(self, replica: &Replica) -> (i64, Stats) {
        self.ledger.abort();
        let _ = self.ledger.await;
        let stats = self.load.stop().await.unwrap();
        replica.assert_equal(&tables()).await;
        let row = replica
            .at_subscriber()
            .await
            .query_one(
                "select (select count(*) from ledger), count(*), count(distinct id) from arrivals",
                &[],
            )
            .await
            .unwrap();
        let [rows, arrivals, different]: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
        assert_eq!(
            (arrivals, different),
            (rows, rows),
            "each ledger row arrives once"
        );
        assert!(rows > 0 && stats.committed > 0, "there was a load");
        (rows, stats)
    }
}

/// The worker goes on: the subscriber's position moves.
async fn progress(replica: &Replica) {
    let before = replica.position().await.unwrap();
    let moved = wait::until("a later position", PATIENCE, async || {
        let now = replica.position().await?;
        anyhow::ensure!(now > before, "still tick {now}");
        Ok(Some(()))
    });
    if let Err(error) = moved.await {
        panic!("{error:#}\n{}", replica.worker_log());
    }
}

/// Runs the worker up to a failpoint and kills it there.
async fn die_at(replica: &mut Replica, failpoint: &str, hits: u32) {
    replica.start_worker_to(failpoint, hits);
    let worker = replica.worker();
    let stopped = wait::until(failpoint, PATIENCE, async || {
        Ok(worker.is_stopped().then_some(()))
    });
    if let Err(error) = stopped.await {
        panic!(
            "{error:#}\nat tick {:?}\n{}",
            replica.position().await,
            replica.worker_log()
        );
    }
    replica.kill_worker();
}

#[tokio::test]
async fn a_worker_killed_anywhere_in_capture_spool_and_apply_loses_nothing() {
    let mut replica = Replica::from_plan(plan()).await;
    let writers = Writers::start(&replica, 11);
    replica.start_worker();
    replica.add_tables(&[]).await;
    replica.wait_sync().await;
    replica.kill_worker();
    for (failpoint, hits) in [
        ("capture::after_part", 1),
        ("capture::after_part", 3),
        ("capture::after_append", 20),
        ("capture::after_publish", 3),
        ("capture::before_feedback", 2),
        ("spool::after_write", 1),
        ("spool::after_write", 7),
        ("spool::before_fsync", 2),
        ("spool::after_fsync", 2),
        ("spool::segment_created", 1),
        ("spool::released", 1),
        ("apply::mid_batch", 2),
        ("apply::before_commit", 2),
        ("apply::after_commit", 2),
        ("replay::settled", 1),
    ] {
        die_at(&mut replica, failpoint, hits).await;
    }
    replica.start_worker();
    progress(&replica).await;
    writers.stop_and_compare(&replica).await;
    replica.stop_worker().await;
}

#[tokio::test]
async fn a_worker_killed_anywhere_in_a_copy_loses_nothing() {
    let mut replica = Replica::from_plan(plan()).await;
    replica
        .at_provider()
        .await
        .batch_execute(FILL_BULKY)
        .await
        .unwrap();
    put_elsewhere(&replica, "public.by_length").await;
    let indexes = index_definitions(&replica).await;
    let writers = Writers::start(&replica, 12);
    replica.add_tables(&[]).await;
    for (failpoint, hits) in [
        ("copy::in_copy", 1),
        ("copy::in_copy", 2),
        ("copy::snapshot", 1),
        ("copy::mid_copy", 1),
        ("copy::before_catching_up", 1),
        ("copy::catching_up", 1),
        ("copy::catching_up", 2),
        ("copy::caught_up_batch", 1),
        ("copy::wanna_sync", 1),
        ("copy::ok", 1),
    ] {
        die_at(&mut replica, failpoint, hits).await;
    }
    replica.start_worker();
    replica.wait_sync().await;
    replica.stop_worker().await;
    // Once more from the start, one table after the other, some of them half on the way.
    for (failpoint, hits) in [
        ("copy::before_catching_up", 3),
        ("copy::wanna_sync", 2),
        ("copy::ok", 3),
        ("copy::caught_up_batch", 2),
        ("copy::in_copy", 1),
    ] {
        replica.leaf(&["resync", "--all"]).await;
        die_at(&mut replica, failpoint, hits).await;
    }
    // The big one alone goes through its indexes.
    replica.leaf(&["resync", "public.bulky"]).await;
    die_at(&mut replica, "copy::indexes_built", 1).await;
    replica.start_worker();
    writers.stop_and_compare(&replica).await;
    assert_eq!(index_definitions(&replica).await, indexes);
    replica.stop_worker().await;
}

/// Moves an index of the subscriber's to a tablespace of its own.
async fn put_elsewhere(replica: &Replica, index: &str) {
    let server = &replica.subscriber;
    let place = server.home().join("elsewhere");
    std::fs::create_dir(&place).unwrap();
    server.give(&place).unwrap();
    let client = replica.at_subscriber().await;
    let create = format!("create tablespace elsewhere location '{}'", place.display());
    client.batch_execute(&create).await.unwrap();
    let set = format!("alter index {index} set tablespace elsewhere");
    client.batch_execute(&set).await.unwrap();
}

/// Every index and constraint of the subscriber's tables, by name.
async fn index_definitions(replica: &Replica) -> Vec<(String, String)> {
    let rows = replica
        .at_subscriber()
        .await
        .query(
            "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) || coalesce((select ' ' || contype::text || ' ' || \
                    pg_get_constraintdef(c.oid) from pg_constraint c where conindid = indexrelid \
                    and conrelid = indrelid), '') || coalesce(' ' || obj_description(indexrelid, 'pg_class'), '') || \
                    coalesce((select ' ' || obj_description(c.oid, 'pg_constraint') from pg_constraint c \
                    where conindid = indexrelid and conrelid = indrelid), '') || coalesce((select ' statistics ' || \
                    string_agg(attstattarget::text, ' ' order by attnum) from pg_attribute \
                    where attrelid = indexrelid and attstattarget >= 0), '') || coalesce((select ' in ' || spcname \
                    from pg_tablespace s join pg_class i on i.reltablespace = s.oid where i.oid = indexrelid), '') \
             from pg_index join pg_class t on t.oid = indrelid \
             where t.relnamespace in ('public'::regnamespace, '\"Odd Schema\"'::regnamespace) order by 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|r| (r.get(0), r.get(1))).collect()
}

/// A replica whose worker reaches both servers through links of their own.
struct Linked {
    replica: Replica,
    to_provider: Proxy,
    to_subscriber: Proxy,
}

impl Linked {
    async fn new() -> Linked {
        let plan = plan();
        let (provider, subscriber) = tokio::join!(
            prepare(plan.provider, &plan.provider_schema),
            prepare(plan.subscriber, &plan.subscriber_schema)
        );
        let to_provider = Proxy::to_port(provider.port()).await.unwrap();
        let to_subscriber = Proxy::to_port(subscriber.port()).await.unwrap();
        let through = (
            provider.dsn_through(&to_provider, DATABASE),
            subscriber.dsn_through(&to_subscriber, DATABASE),
        );
        Linked {
            replica: Replica::on(provider, subscriber, &plan.settings, Some(through)).await,
            to_provider,
            to_subscriber,
        }
    }
}

async fn kill_and_start(server: &Server) {
    server.kill().unwrap();
    server.start_again().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_and_a_killed_ticker_lose_nothing() {
    let mut replica = Replica::from_plan(plan()).await;
    let writers = Writers::start(&replica, 13);
    replica.start_worker();
    replica.add_tables(&[]).await;
    // In the middle of the copies, and again when all is well.
    replica.wait_state("public.by_index", "ok").await;
    kill_and_start(&replica.subscriber).await;
    progress(&replica).await;
    kill_and_start(&replica.provider).await;
    replica.wait_sync().await;
    kill_and_start(&replica.subscriber).await;
    progress(&replica).await;
    replica.kill_ticker();
    replica.start_ticker();
    progress(&replica).await;
    kill_and_start(&replica.provider).await;
    progress(&replica).await;
    writers.stop_and_compare(&replica).await;
    replica.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_half_open_links_lose_nothing() {
    let mut linked = Linked::new().await;
    let writers = Writers::start(&linked.replica, 14);
    linked.replica.start_worker();
    linked.replica.add_tables(&[]).await;
    linked.replica.wait_state("public.by_index", "ok").await;
    for link in [&linked.to_subscriber, &linked.to_provider] {
        link.reset();
        progress(&linked.replica).await;
        link.cut();
        let tried = link.traffic().accepted;
        wait::until("a try to connect", PATIENCE, async || {
            Ok((link.traffic().accepted > tried).then_some(()))
        })
        .await
        .unwrap();
        link.heal();
        progress(&linked.replica).await;
        // Both ends believe in their connections until they are told.
        link.half_open();
        let before = writers.load.check().unwrap().committed;
        wait::until("some load on a dead link", PATIENCE, async || {
            Ok((writers.load.check()?.committed > before + 100).then_some(()))
        })
        .await
        .unwrap();
        link.heal();
        progress(&linked.replica).await;
    }
    writers.stop_and_compare(&linked.replica).await;
    linked.replica.stop_worker().await;
}

/// Numbers from a seed, for the soak's choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are good enough to choose whom to kill.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Kills whom it pleases, when it pleases, and does worse in between. With `SKYTIDE_SOAK_KILLS=500` it goes on for longer;
/// `SKYTIDE_SOAK_SEED` repeats the choices, if not the moments.
#[tokio::test(flavor = "multi_thread")]
async fn soak() {
    let kills = from_env("SKYTIDE_SOAK_KILLS", 12);
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = from_env("SKYTIDE_SOAK_SEED", clock.as_secs());
    eprintln!("SKYTIDE_SOAK_SEED={seed} SKYTIDE_SOAK_KILLS={kills}");
    let mut dice = Dice(seed);
    let Linked {
        mut replica,
        to_provider,
        to_subscriber,
    } = Linked::new().await;
    replica
        .at_provider()
        .await
        .batch_execute(FILL_BULKY)
        .await
        .unwrap();
    replica.start_worker();
    let mut writers = Writers::start(&replica, seed);
    replica.add_tables(&[]).await;
    let tables = tables();
    let mut kill = 0;
    while kill < kills {
        // The moment is the experiment, nothing waits for it.
        tokio::time::sleep(Duration::from_millis(dice.below(1500))).await;
        let choice = dice.below(12);
        kill += u64::from(choice <= 6);
        eprintln!("{kill}: {choice} at tick {:?}", replica.position().await.ok());
        match choice {
            0..=3 => {
                replica.kill_worker();
                replica.start_worker();
            }
            4 => kill_and_start(&replica.subscriber).await,
            5 => kill_and_start(&replica.provider).await,
            6 => {
                replica.kill_ticker();
                replica.start_ticker();
            }
            7 | 8 => {
                let link = if choice == 7 { &to_provider } else { &to_subscriber };
                match dice.below(3) {
                    0 => link.cut(),
                    1 => link.half_open(),
                    _ => link.pause(),
                }
                tokio::time::sleep(Duration::from_millis(dice.below(1000))).await;
                link.heal();
            }
            9 => {
                let all = dice.below(4) == 0;
                let which = usize::try_from(dice.below(tables.len() as u64)).unwrap();
                let table = if all {
                    "--all".to_owned()
                } else {
                    tables[which].to_string()
                };
                replica.leaf(&["resync", &table]).await;
            }
            10 => {
                // Both at once, as a power cut does.
                replica.kill_worker();
                kill_and_start(&replica.subscriber).await;
                replica.start_worker();
            }
            _ => replica.restart_worker_politely().await,
        }
        if kill.is_multiple_of(20) || kill == kills {
            let (rows, stats) = writers.stop_and_compare(&replica).await;
            eprintln!("{kill} kills, nothing lost: {rows} rows in the ledger, {stats:?}");
            writers = Writers::start(&replica, seed + kill);
        }
    }
    replica.stop_worker().await;
}
