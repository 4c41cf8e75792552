//! The queue, its ticker, and who holds it up.

use skytide_sql::ident::quote_literal;

use super::{Findings, Side, Unasked};

/// With a ticker at work and something to tick for, no tick is so old. (An idle queue ticks once a
/// `ticker_idle_period`, a minute unless set.)
const OLD_TICK_SECONDS: f64 = 150.0;

pub async fn queue(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let (Some(queue), true) = (&side.queue, side.has_modules().await?) else {
        return Ok(());
    };
    let row = side
        .session
        .query_opt(
            "select queue_ticker_paused, queue_external_ticker, queue_disable_insert \
             from pgq.queue where queue_name = $1",
            &[&queue.as_str()],
        )
        .await?;
    let Some(row) = row else {
        out.fail(
            queue.as_str(),
            "there is no such queue in this database",
            "skytide londiste CONF create-root NAME CONNSTR",
        );
        return Ok(());
    };
    let (paused, external, disabled): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let set = |name: &str, value: &str| {
        let queue = quote_literal(queue.as_str());
        format!("select pgq.set_queue_config({queue}, '{name}', '{value}');")
    };
    if paused {
        out.fail(
            queue.as_str(),
            "its ticker is paused: nothing is batched",
            set("ticker_paused", "false"),
        );
    }
    if external {
        out.warn(
            queue.as_str(),
            "is ticked from outside: skytide ticker leaves it alone",
            set("external_ticker", "false"),
        );
    }
    if disabled {
        out.warn(
            queue.as_str(),
            "takes no events: changes of the set's tables list cannot be announced",
            set("disable_insert", "false"),
        );
    }
    if !(paused || external || disabled) {
        out.ok(queue.as_str(), "is open and ticked");
    }
    Ok(())
}

pub async fn ticker(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    if !side.has_modules().await? {
        return Ok(());
    }
    let start = "skytide ticker TICKER.ini  -- with this database in its database_list";
    let holder = side
        .session
        .query_opt(
            "select l.pid, coalesce(a.application_name, '') from pg_catalog.pg_locks l \
             left join pg_catalog.pg_stat_activity a on a.pid = l.pid \
             where l.locktype = 'advisory' and l.granted and l.classid::int8 = $1 and l.objid = 0 \
               and l.database = (select oid from pg_catalog.pg_database where datname = current_database())",
            &[&i64::from(skytide_ticker::LOCK_CLASS)],
        )
        .await?;
    let queue = side.queue.as_ref().map(|q| q.as_str());
    let age: Option<f64> = side
        .session
        .query_one(
            "select extract(epoch from clock_timestamp() - max(t.tick_time))::float8 \
             from pgq.tick t join pgq.queue q on q.queue_id = t.tick_queue \
             where $1::text is null or q.queue_name = $1",
            &[&queue],
        )
        .await?
        .get(0);
    let tick = age.map_or("no tick yet".to_owned(), |age| {
        format!("newest tick {age:.1} s old")
    });
    match (holder, age) {
        (Some(row), _) => {
            let (pid, name): (i32, String) = (row.get(0), row.get(1));
            out.ok(format!("{name} (process {pid})"), tick);
        }
        (None, Some(age)) if age < OLD_TICK_SECONDS => {
            out.warn(
                "ticker",
                format!("none holds the ticker's lock, though ticks are made: {tick}"),
                start,
            );
        }
        (None, _) if side.queue.is_some() => {
            out.fail("ticker", format!("none is at work: {tick}"), start);
        }
        (None, _) => out.warn("ticker", "none is at work in this database", start),
    }
    Ok(())
}

pub async fn rotation(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    if !side.has_modules().await? {
        return Ok(());
    }
    let queue = side.queue.as_ref().map(|q| q.as_str());
    let rows = side
        .session
        .query(
            "select q.queue_name, c.co_name, extract(epoch from clock_timestamp() - t.tick_time)::int8 \
             from pgq.subscription s join pgq.queue q on q.queue_id = s.sub_queue \
             join pgq.consumer c on c.co_id = s.sub_consumer \
             join pgq.tick t on t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick \
             where ($1::text is null or q.queue_name = $1) \
               and t.tick_time < clock_timestamp() - greatest(q.queue_rotation_period, interval '10 minutes') \
             order by t.tick_time",
            &[&queue],
        )
        .await?;
    for row in &rows {
        let (queue, consumer, age): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        out.warn(
            format!("consumer {consumer} of queue {queue}"),
            format!("is {age} s behind: event tables and ticks cannot be rotated away"),
            format!(
                "start it, or if it is gone: select pgq.unregister_consumer({}, {});",
                quote_literal(&queue),
                quote_literal(&consumer)
            ),
        );
    }
    if rows.is_empty() {
        out.ok("consumers", "none holds rotation back");
    }
    Ok(())
}

pub async fn node(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let (Some(queue), true) = (&side.queue, side.has_modules().await?) else {
        return Ok(());
    };
    let rows = side
        .session
        .query(
            "select consumer_name, paused, cur_error from pgq_node.local_state where queue_name = $1",
            &[&queue.as_str()],
        )
        .await?;
    let mut well = true;
    let runs = side.worker_runs(queue).await?;
    for row in &rows {
        let (consumer, paused, error): (String, bool, Option<String>) = (row.get(0), row.get(1), row.get(2));
        if let Some(error) = error {
            well = false;
            let (finding, fix) = match runs {
                true => (
                    format!("runs, and says: {error}"),
                    "mend that, the worker then goes on by itself; the error goes with its next batch",
                ),
                false => (
                    format!("stopped: {error}"),
                    "mend that, then start the worker; the error goes with its next batch",
                ),
            };
            out.fail(format!("worker {consumer}"), finding, fix);
        }
        if paused {
            well = false;
            let (queue, name) = (quote_literal(queue.as_str()), quote_literal(&consumer));
            out.warn(
                format!("worker {consumer}"),
                "is paused",
                format!("select pgq_node.set_consumer_paused({queue}, {name}, false);"),
            );
        }
    }
    if well && !rows.is_empty() {
        out.ok("worker", "no error, not paused");
    }
    Ok(())
}
