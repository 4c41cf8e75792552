//! What capture needs on the provider: `wal_level`, two publications and a slot; made if missing,
//! checked if there.

use skytide_sql::ident::quote_ident;
use skytide_sql::{Lsn, QueueName, SlotName, TableName};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::stream::CaptureError;

/// The publications of one queue. Ticks have their own, because rotation deletes ticks and event
/// tables are truncated, and neither is news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publications {
    /// Replicated tables: all operations.
    pub tables: String,
    /// `pgq.tick` and the queue's event tables: inserts only.
    pub ticks: String,
}

impl Publications {
    pub fn of(queue: &QueueName) -> Publications {
        let base = identifier_part(queue.as_str());
        Publications {
            tables: format!("skytide_{base}"),
            ticks: format!("skytide_{base}_pgq"),
        }
    }

    /// As `publication_names` takes them.
    pub fn option(&self) -> String {
        format!("{},{}", quote_ident(&self.tables), quote_ident(&self.ticks))
    }
}

/// `text` as part of an object's or a slot's name: lower case, `a-z0-9_`, at most 40 bytes; two texts
/// that differ get parts that differ.
pub fn identifier_part(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '_'
            }
        })
        .collect();
    if plain == text && text.len() <= 40 {
        return plain;
    }
    let kept: String = plain.chars().take(31).collect();
    format!("{kept}_{:08x}", crc32fast::hash(text.as_bytes()))
}

/// A slot as the provider has it.
#[derive(Clone, Debug)]
pub struct Slot {
    pub confirmed_flush_lsn: Lsn,
    pub retained_bytes: Option<i64>,
    pub active_pid: Option<i32>,
}

/// A slot's first snapshot misses what commits while it is being built: servers look at commits only
/// from the build's second phase on (snapbuild.c, SNAPBUILD_BUILDING_SNAPSHOT). A table published in that
/// time would stay unpublished to the stream for good, without a word. So publications are altered under
/// this lock, and slots are made under its shared form. Who waits for it holds no xid, or the slot would
/// wait too.
const PUBLICATION_LOCK: &str = "pg_catalog.hashtextextended('skytide.publication', 0)";

/// Holds off changes of publications until `allow_publication_changes` or the session's end.
pub async fn hold_publications(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = format!("select pg_catalog.pg_advisory_lock_shared({PUBLICATION_LOCK})");
    client.batch_execute(&sql).await
}

pub async fn allow_publication_changes(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = format!("select pg_catalog.pg_advisory_unlock_shared({PUBLICATION_LOCK})");
    client.batch_execute(&sql).await
}

/// Waits for slots that are being made and holds off new ones until the transaction's end. Must be the
/// transaction's first statement.
pub async fn lock_publications(client: &Client) -> Result<(), CaptureError> {
    let sql = format!("select pg_catalog.pg_advisory_xact_lock({PUBLICATION_LOCK})");
    match client.batch_execute(&sql).await {
        Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(CaptureError::Provider {
            what: "a slot is being made on the provider, which waits for transactions that run there".into(),
            fix: "end old transactions there (skytide doctor names them), then try again".into(),
        }),
        done => Ok(done?),
    }
}

/// Changes a publication while no slot is being made. Outside a transaction several statements in one
/// message are one, whose xid comes after the lock.
async fn alter_publication(client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("select pg_catalog.pg_advisory_xact_lock({PUBLICATION_LOCK}); {sql}");
    client.batch_execute(&sql).await
}

/// Refuses a provider that cannot be decoded.
pub async fn check_server(client: &Client) -> Result<(), CaptureError> {
    let row = client
        .query_one(
            "select current_setting('wal_level'), pg_is_in_recovery(), \
             current_setting('server_version_num')::int4",
            &[],
        )
        .await?;
    let (wal_level, standby, version): (String, bool, i32) = (row.get(0), row.get(1), row.get(2));
    if version < 130_000 {
        return Err(CaptureError::Provider {
            what: format!("the server is version {version}"),
            fix: "use PostgreSQL 13 or later".into(),
        });
    }
    if standby {
        return Err(CaptureError::Provider {
            what: "the provider is a standby: its snapshots cannot make ticks".into(),
            fix: "connect to the primary".into(),
        });
    }
    if wal_level != "logical" {
        return Err(CaptureError::Provider {
            what: format!("wal_level is {wal_level}"),
            fix: "run: alter system set wal_level = 'logical'; then restart the server".into(),
        });
    }
    Ok(())
}

/// What a publication of tables keeps back of their changes, and what mends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    pub what: String,
    pub fix: String,
}

/// Looks for operations, rows or columns that somebody has taken out of a publication of tables by hand. A publication
/// that is not there has none. (Row filters and column lists came with PostgreSQL 15.)
pub async fn narrowing(
    client: &Client,
    publication: &str,
) -> Result<Option<Narrowing>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "select not (p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate), p.pubviaroot, \
                    (select r.prrelid::regclass::text \
                       from pg_catalog.pg_publication_rel r \
                      where r.prpubid = p.oid \
                        and coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is not null \
                      order by 1 limit 1) \
               from pg_catalog.pg_publication p where p.pubname = $1",
            &[&publication],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (operations, by_root, table): (bool, bool, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let quoted = quote_ident(publication);
    let (what, option) = match (operations, by_root, table) {
        (true, ..) => (
            format!("publication {publication} does not publish all operations"),
            format!("alter publication {quoted} set (publish = '{TABLE_OPERATIONS}')"),
        ),
        (_, true, _) => (
            format!("publication {publication} names partitioned tables instead of their partitions"),
            format!("alter publication {quoted} set (publish_via_partition_root = false)"),
        ),
        (_, _, Some(table)) => (
            format!("publication {publication} leaves out rows or columns of table {table}"),
            format!(
                "alter publication {quoted} drop table {table}; alter publication {quoted} add table {table}"
            ),
        ),
        (false, false, None) => return Ok(None),
    };
    Ok(Some(Narrowing {
        what: format!("{what}: changes do not come"),
        fix: format!(
            "on the provider: {option}; then copy what may be affected again: resync TABLE, or resync --all"
        ),
    }))
}

const TABLE_OPERATIONS: &str = "insert, update, delete, truncate";
const TICK_OPERATIONS: &str = "insert";

fn create_publication(name: &str, operations: &str) -> String {
    format!(
        "create publication {} with (publish = '{operations}')",
        quote_ident(name)
    )
}

/// `pgq.tick` and the queue's event tables.
async fn tick_tables(client: &Client, queue: &QueueName) -> Result<Vec<TableName>, CaptureError> {
    let event_tables = client
        .query(
            "select format('%s_%s', queue_data_pfx, n) from pgq.queue, generate_series(0, queue_ntables - 1) n \
             where queue_name = $1",
            &[&queue.as_str()],
        )
        .await?;
    let mut tables = vec![TableName::new("pgq", "tick")];
    for row in event_tables {
        tables.push(TableName::parse(row.get(0)).map_err(|e| CaptureError::Provider {
            what: e.to_string(),
            fix: "look at pgq.queue.queue_data_pfx".into(),
        })?);
    }
    Ok(tables)
}

/// The statements that make the publications where that of the tables is missing, with ticks and event tables in the
/// other one.
pub async fn missing_publications(
    client: &Client,
    publications: &Publications,
    queue: &QueueName,
) -> Result<Vec<String>, CaptureError> {
    let mut statements = Vec::new();
    if !is_missing(client, &publications.tables).await? {
        return Ok(statements);
    }
    for (name, operations) in [
        (&publications.tables, TABLE_OPERATIONS),
        (&publications.ticks, TICK_OPERATIONS),
    ] {
        if is_missing(client, name).await? {
            statements.push(create_publication(name, operations));
            if *name == publications.ticks {
                for table in tick_tables(client, queue).await? {
                    let (name, table) = (quote_ident(name), table.quoted());
                    statements.push(format!("alter publication {name} add table only {table}"));
                }
            }
        }
    }
    Ok(statements)
}

async fn is_missing(client: &Client, publication: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "select 1 from pg_catalog.pg_publication where pubname = $1";
    Ok(client.query_opt(sql, &[&publication]).await?.is_none())
}

/// Makes the queue's publications if they are missing. Needs the tables' owner (or a superuser).
pub async fn ensure_publications(
    client: &Client,
    publications: &Publications,
    queue: &QueueName,
) -> Result<(), CaptureError> {
    for (name, operations) in [
        (&publications.tables, TABLE_OPERATIONS),
        (&publications.ticks, TICK_OPERATIONS),
    ] {
        if is_missing(client, name).await? {
            match alter_publication(client, &create_publication(name, operations)).await {
                Err(e) if e.code() == Some(&SqlState::DUPLICATE_OBJECT) => {}
                made => {
                    made.map_err(|e| denied(e, "create the publication", name, "grant create on database"))?
                }
            }
        }
    }
    for table in tick_tables(client, queue).await? {
        publish(client, &publications.ticks, &table).await?;
    }
    Ok(())
}

/// Adds a table to a publication; true if it was not in it before.
pub async fn publish(client: &Client, publication: &str, table: &TableName) -> Result<bool, CaptureError> {
    let there = client
        .query_opt(
            "select 1 from pg_publication_tables where pubname = $1 and schemaname = $2 and tablename = $3",
            &[&publication, &table.schema, &table.name],
        )
        .await?;
    if there.is_some() {
        return Ok(false);
    }
    let sql = format!(
        "alter publication {} add table only {}",
        quote_ident(publication),
        table.quoted()
    );
    match alter_publication(client, &sql).await {
        Ok(()) => Ok(true),
        Err(e) if e.code() == Some(&SqlState::DUPLICATE_OBJECT) => Ok(false),
        Err(e) => Err(denied(
            e,
            "add to the publication",
            &table.to_string(),
            "be the table's owner",
        )),
    }
}

/// Takes a table out of a publication, if it is in it.
pub async fn unpublish(client: &Client, publication: &str, table: &TableName) -> Result<(), CaptureError> {
    let sql = format!(
        "alter publication {} drop table only {}",
        quote_ident(publication),
        table.quoted()
    );
    match alter_publication(client, &sql).await {
        Err(e)
            if [SqlState::UNDEFINED_OBJECT, SqlState::UNDEFINED_TABLE]
                .iter()
                .any(|s| e.code() == Some(s)) =>
        {
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Of a column, the type below its domains.
const BASE: &str = "cross join lateral ( \
     with recursive base as ( \
         select t.* from pg_catalog.pg_type t where t.oid = a.atttypid \
         union all \
         select t.* from base join pg_catalog.pg_type t on base.typtype = 'd' and t.oid = base.typbasetype) \
     select * from base where typtype <> 'd') b";

/// Whether binary column values mean the same on both sides. Those of composite and range types of the
/// user's carry type oids, which differ between databases; those of `regclass` and the like are oids. (So do
/// arrays of user types, in one known place: apply mends that.) And some types, of the server's too, have no binary form.
pub async fn binary_is_portable(provider: &Client, publication: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = format!(
        "select not exists ( \
             select 1 from pg_catalog.pg_publication p \
             join pg_catalog.pg_publication_rel r on r.prpubid = p.oid \
             join pg_catalog.pg_attribute a on a.attrelid = r.prrelid \
             {BASE} \
             left join pg_catalog.pg_type e on e.oid = b.typelem \
             where p.pubname = $1 and a.attnum > 0 and not a.attisdropped \
               and (b.oid >= 16384 and (b.typtype in ('c', 'r', 'm') or e.typtype in ('c', 'r', 'm')) \
                    or b.oid < 16384 and b.typname ~ '^_?reg' \
                    or b.typsend = 0 or b.typreceive = 0 \
                    or b.typcategory = 'A' and (e.typsend = 0 or e.typreceive = 0)))"
    );
    Ok(provider.query_one(&sql, &[&publication]).await?.get(0))
}

/// Whether columns of the provider's own types, of which the stream tells no more than a number, are of a type of the
/// same name on the subscriber, below domains. Else the bytes of one type would be taken for another's.
pub async fn binary_fits(
    provider: &Client,
    subscriber: &Client,
    queue: &QueueName,
) -> Result<bool, tokio_postgres::Error> {
    let own = format!(
        "select array_agg(l.table_name), array_agg(a.attname::text), array_agg(b.typname::text) \
         from londiste.get_table_list($1) l \
         join pg_catalog.pg_attribute a \
           on a.attrelid = londiste.find_table_oid(coalesce(l.dest_table, l.table_name)) \
          and a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384 \
         {BASE} where l.local"
    );
    let row = provider.query_one(&own, &[&queue.as_str()]).await?;
    let Some(tables) = row.get::<_, Option<Vec<String>>>(0) else {
        return Ok(true);
    };
    let (columns, types): (Vec<String>, Vec<String>) = (row.get(1), row.get(2));
    let other = format!(
        "select not exists ( \
             select from unnest($2::text[], $3::text[], $4::text[]) w (table_name, attname, type) \
             join londiste.get_table_list($1) l on l.table_name = w.table_name and l.local \
             join pg_catalog.pg_attribute a \
               on a.attrelid = londiste.find_table_oid(coalesce(l.dest_table, l.table_name)) \
              and a.attname = w.attname and a.attnum > 0 and not a.attisdropped \
             {BASE} where b.typname <> w.type)"
    );
    let row = subscriber
        .query_one(&other, &[&queue.as_str(), &tables, &columns, &types])
        .await?;
    Ok(row.get(0))
}

/// The slot, if there is one. Refuses one that is not ours to use.
pub async fn find(client: &Client, slot: &SlotName) -> Result<Option<Slot>, CaptureError> {
    let row = client
        .query_opt(
            "select plugin::text, database::text = current_database(), wal_status, active_pid, \
                    confirmed_flush_lsn::text, \
                    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 \
             from pg_replication_slots where slot_name = $1",
            &[&slot.as_str()],
        )
        .await?;
    row.map(|row| checked(slot, &row)).transpose()
}

/// How much WAL the provider keeps for the slot.
pub async fn retained_bytes(client: &Client, slot: &SlotName) -> Result<Option<i64>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 \
             from pg_catalog.pg_replication_slots where slot_name = $1",
            &[&slot.as_str()],
        )
        .await?;
    Ok(row.and_then(|row| row.get(0)))
}

fn checked(slot: &SlotName, row: &Row) -> Result<Slot, CaptureError> {
    let refuse = |what: String, fix: &str| {
        Err(CaptureError::Slot {
            slot: slot.clone(),
            what,
            fix: fix.into(),
        })
    };
    let plugin: Option<String> = row.get(0);
    let here: Option<bool> = row.get(1);
    if plugin.as_deref() != Some("pgoutput") || here != Some(true) {
        return refuse(
            "belongs to another plugin or database".into(),
            "set slot_name in the configuration to a name of its own",
        );
    }
    let wal_status: Option<String> = row.get(2);
    if wal_status.as_deref() == Some("lost") {
        return refuse(
            "is lost: the server removed WAL that it still needed".into(),
            "raise max_slot_wal_keep_size, drop the slot, then: skytide londiste CONF resync --all",
        );
    }
    let confirmed: Option<String> = row.get(4);
    let confirmed_flush_lsn = confirmed.and_then(|t| t.parse().ok()).unwrap_or(Lsn::INVALID);
    Ok(Slot {
        confirmed_flush_lsn,
        retained_bytes: row.get(5),
        active_pid: row.get(3),
    })
}

fn denied(e: tokio_postgres::Error, verb: &str, object: &str, privilege: &str) -> CaptureError {
    if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return CaptureError::Provider {
            what: format!("not allowed to {verb} {object}"),
            fix: format!("let the provider's user {privilege}, or do it as a superuser"),
        };
    }
    CaptureError::Sql(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_legal_and_distinct() {
        assert_eq!(identifier_part("orders_1"), "orders_1");
        let (a, b) = (identifier_part("Orders"), identifier_part("orDers"));
        assert_ne!(a, b);
        for text in ["Orders", "a b", &"x".repeat(200)] {
            let part = identifier_part(text);
            assert!(part.len() <= 40 && SlotName::new(part).is_ok());
        }
    }
}
