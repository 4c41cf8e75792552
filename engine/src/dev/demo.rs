//! The whole way once: servers, a shop, copy, load, compare, figures.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use skytide_fixtures::wait;
use skytide_sql::QueueName;
use skytide_sql::api::{pgq, pgq_node};
use skytide_sql::conn::Session;

use super::figures::{Copy, Figures, Lag, Loaded};
use super::lag::{Pulse, percentile};
use super::load::Load;
use super::place::{Place, SHOP};
use super::shop::{self, Size};
use super::steps::{Steps, text};
use super::watch;
use super::world::{World, down};
use crate::cli::output::Output;
use crate::config::unit::{show_count, show_duration};

/// While tables are copied the shop is open, but not busy.
const QUIET_PACE: u64 = 50;
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(600);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub rows: u64,
    pub seconds: u64,
    pub clients: usize,
    /// Transactions a second; 0 is as fast as the clients can.
    pub pace: u64,
    /// Go on with the servers and tables of an earlier run.
    pub reuse: bool,
}

pub async fn run(place: &Place, plan: &Plan, output: &Output) -> anyhow::Result<Figures> {
    if !plan.reuse {
        down(place, true).await?;
    }
    std::fs::create_dir_all(place.dir())?;
    let steps = Steps { output };
    output.note(&format!("Two servers in {}", place.dir().display()));
    let world = World::up(place, output).await?;
    let queue = QueueName::new(SHOP)?;

    let filled = has_tables(&world).await?;
    let size = if filled {
        Size::read(&*world.provider_session("skytide dev").await?).await?
    } else {
        let size = Size::of(plan.rows);
        let total = show_count(u64::try_from(size.total()).unwrap_or(0));
        output.note(&format!(
            "\nA shop with {total} rows on the provider, tables without rows on the subscriber"
        ));
        shop::create(&world, size, output).await?;
        size
    };

    output.note("\nRoot and leaf, ticker and worker");
    world.replicate(&steps).await?;
    let (root, leaf) = (place.file("root.ini"), place.file("leaf.ini"));
    let (root, leaf) = (text(&root)?, text(&leaf)?);
    steps.run(&["londiste", root, "add-table", "--all"]).await?;

    output.note(&format!(
        "\nInitial copy, while the shop serves about {QUIET_PACE} customers a second"
    ));
    let mut load = Load::start(&world, size, plan.clients, QUIET_PACE).await?;
    steps.run(&["londiste", leaf, "add-table", "--all"]).await?;
    let copied = watch::copies(&world, &queue, &mut load, output).await?;
    let copy = (!filled).then(|| Copy::of(copied));

    output.note(&format!(
        "\n{} seconds of load by {} clients",
        plan.seconds, plan.clients
    ));
    let pulse = Pulse::start(&world).await?;
    load.set_pace(plan.pace);
    let (loaded, lags) = busy(&world, &queue, &mut load, &pulse, plan, output).await?;
    load.stop().await?;
    let caught_up = catch_up(&world, &queue).await?;
    pulse.stop().await?;

    output.note("\nIs everything there?");
    steps.run(&["londiste", leaf, "wait-sync"]).await?;
    let compare = steps.ask(&["londiste", leaf, "compare"]).await?;
    let status = steps.ask(&["londiste", leaf, "status"]).await?;
    let retained = status["nodes"].as_array().and_then(|nodes| {
        nodes
            .iter()
            .find_map(|n| n["slot"]["retained_wal_bytes"].as_u64())
    });
    Ok(Figures {
        postgresql: world.provider.version().to_string(),
        dir: place.dir().display().to_string(),
        copy,
        load: loaded,
        lag: Lag::of(&lags),
        caught_up_ms: caught_up.as_secs_f64() * 1e3,
        spool_bytes: status["spool"]["used_bytes"].as_u64(),
        retained_wal_bytes: retained,
        equal: compare["equal"] == true,
        compare,
    })
}

async fn has_tables(world: &World) -> anyhow::Result<bool> {
    let session = world.provider_session("skytide dev").await?;
    let row = session
        .query_one("select to_regclass('public.pulse') is not null", &[])
        .await?;
    Ok(row.get(0))
}

/// The busy time, with a line a second.
async fn busy(
    world: &World,
    queue: &QueueName,
    load: &mut Load,
    pulse: &Pulse,
    plan: &Plan,
    output: &Output,
) -> anyhow::Result<(Loaded, Vec<Duration>)> {
    let ends = Ends::connect(world).await?;
    let read = |counters: &super::load::Counters| {
        (
            counters.transactions.load(Relaxed),
            counters.rows.load(Relaxed),
            counters.conflicts.load(Relaxed),
        )
    };
    let first = read(&load.counters);
    let (mut last, mut last_at) = (first, Instant::now());
    let started = Instant::now();
    let mut lags = Vec::new();
    output.note("  second  transactions/s   rows/s   lag p50   lag max   ticks behind");
    for second in 1..=plan.seconds {
        tokio::time::sleep_until((started + Duration::from_secs(second)).into()).await;
        load.check().await?;
        world.check()?;
        let behind = ends.ticks_behind(queue).await?;
        let now = read(&load.counters);
        let elapsed = last_at.elapsed().as_secs_f64();
        let rate = |now: u64, last: u64| format!("{:.0}", (now - last) as f64 / elapsed);
        let mut fresh = pulse.take();
        lags.append(&mut fresh.clone());
        // What has not arrived for longer than anything that has tells more.
        fresh.extend(pulse.waiting());
        let show = |percent| percentile(&fresh, percent).map_or("?".to_owned(), show_duration);
        output.note(&format!(
            "  {second:>6}  {:>14}  {:>7}  {:>8}  {:>8}  {behind:>13}",
            rate(now.0, last.0),
            rate(now.1, last.1),
            show(50),
            show(100),
        ));
        (last, last_at) = (now, Instant::now());
    }
    let seconds = started.elapsed().as_secs_f64();
    let end = read(&load.counters);
    let (transactions, rows) = (end.0 - first.0, end.1 - first.1);
    let loaded = Loaded {
        clients: plan.clients,
        seconds,
        transactions,
        transactions_per_second: transactions as f64 / seconds.max(0.001),
        rows,
        rows_per_second: rows as f64 / seconds.max(0.001),
        deadlocks: end.2 - first.2,
    };
    Ok((loaded, lags))
}

/// A connection to each side.
struct Ends {
    provider: Session,
    subscriber: Session,
}

impl Ends {
    async fn connect(world: &World) -> anyhow::Result<Ends> {
        Ok(Ends {
            provider: world.provider_session("skytide dev").await?,
            subscriber: world.subscriber_session("skytide dev").await?,
        })
    }

    async fn ticks_behind(&self, queue: &QueueName) -> anyhow::Result<i64> {
        // The leaf first: otherwise it could seem to be ahead.
        let leaf = self.leaf_tick(queue).await?;
        let root = pgq_node::get_node_info(&*self.provider, queue).await?;
        Ok(root.worker_last_tick.map_or(0, |tick| tick.get() - leaf))
    }

    async fn leaf_tick(&self, queue: &QueueName) -> anyhow::Result<i64> {
        let info = pgq_node::get_node_info(&*self.subscriber, queue).await?;
        Ok(info.worker_last_tick.map_or(0, skytide_sql::TickId::get))
    }
}

/// A tick that covers everything, and the time until the leaf has it.
async fn catch_up(world: &World, queue: &QueueName) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let ends = Ends::connect(world).await?;
    let Some(tick) = pgq::force_tick(&*ends.provider, queue).await? else {
        anyhow::bail!("no tick was made; does the ticker run?");
    };
    wait::until("the leaf to reach the last tick", CATCH_UP_DEADLINE, async || {
        world.check()?;
        let at = ends.leaf_tick(queue).await?;
        anyhow::ensure!(at >= tick.get(), "at tick {at}, wanted {tick}");
        Ok(Some(()))
    })
    .await?;
    Ok(started.elapsed())
}
