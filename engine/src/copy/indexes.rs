//! Takes a table's indexes and constraints away before a large copy and builds them again after it.
//!
//! What was taken away is written to `londiste.table_info.dropped_ddl` in the transaction that takes
//! it, so whatever dies, the table can be made whole again. The script is plain SQL: one statement a
//! section, each section headed by a comment line that names what it makes.

use std::sync::{Arc, Mutex};

use skytide_sql::TableName;
use skytide_sql::conn::ConnectString;
use skytide_sql::ident::{quote_ident, quote_literal};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::info;

use super::CopyError;
use crate::apply::connect_subscriber;

const SECTION: &str = "-- ";

/// One thing to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub kind: BuildKind,
    pub name: String,
    pub sql: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildKind {
    /// Built with others of the same table at the same time.
    Index,
    /// Made after all indexes, one after another.
    Constraint,
    /// Marks set on an index or constraint once it is there, comments too.
    Mark,
}

impl BuildKind {
    fn name(self) -> &'static str {
        match self {
            BuildKind::Index => "index",
            BuildKind::Constraint => "constraint",
            BuildKind::Mark => "mark",
        }
    }

    fn parse(text: &str) -> Option<BuildKind> {
        [BuildKind::Index, BuildKind::Constraint, BuildKind::Mark]
            .into_iter()
            .find(|k| k.name() == text)
    }
}

/// The script as stored in `dropped_ddl`.
pub fn script(builds: &[Build]) -> String {
    let section = |b: &Build| format!("{SECTION}{} {}\n{};\n", b.kind.name(), b.name, b.sql);
    builds.iter().map(section).collect()
}

/// Reads a stored script; one that we did not write is one section of SQL.
pub fn parse_script(text: &str) -> Vec<Build> {
    let mut builds: Vec<Build> = Vec::new();
    for line in text.lines() {
        let head = line.strip_prefix(SECTION).and_then(|h| h.split_once(' '));
        match head.and_then(|(kind, name)| Some((BuildKind::parse(kind)?, name))) {
            Some((kind, name)) => builds.push(Build {
                kind,
                name: name.to_owned(),
                sql: String::new(),
            }),
            None => {
                if builds.is_empty() {
                    let name = "script".to_owned();
                    builds.push(Build {
                        kind: BuildKind::Constraint,
                        name,
                        sql: String::new(),
                    });
                }
                if let Some(build) = builds.last_mut() {
                    build.sql.push_str(line);
                    build.sql.push('\n');
                }
            }
        }
    }
    for build in &mut builds {
        build.sql = build.sql.trim_end().trim_end_matches(';').to_owned();
    }
    builds
}

const INDEXES: &str = "
    select ic.relname as index_name, n.nspname as schema_name,
           pg_catalog.pg_get_indexdef(i.indexrelid) as definition,
           con.conname, con.contype::text, pg_catalog.pg_get_constraintdef(con.oid) as constraint_def,
           i.indisclustered, i.indisreplident, i.indisunique,
           coalesce(con.condeferrable, false) as deferrable, coalesce(con.condeferred, false) as deferred,
           s.spcname as tablespace, pg_catalog.has_tablespace_privilege(s.oid, 'create') as may_create,
           pg_catalog.obj_description(ic.oid, 'pg_class') as index_comment,
           pg_catalog.obj_description(con.oid, 'pg_constraint') as constraint_comment,
           array(select a.attnum::int4 from pg_catalog.pg_attribute a
                 where a.attrelid = ic.oid and a.attstattarget >= 0 order by a.attnum) as statistics_columns,
           array(select a.attstattarget::int4 from pg_catalog.pg_attribute a
                 where a.attrelid = ic.oid and a.attstattarget >= 0 order by a.attnum) as statistics
    from pg_catalog.pg_index i
    join pg_catalog.pg_class ic on ic.oid = i.indexrelid
    join pg_catalog.pg_namespace n on n.oid = ic.relnamespace
    left join pg_catalog.pg_tablespace s on s.oid = ic.reltablespace
    left join pg_catalog.pg_constraint con on con.conindid = i.indexrelid and con.contype in ('p', 'u', 'x')
         and con.conrelid = i.indrelid
    where i.indrelid = pg_catalog.to_regclass($1)
    order by ic.relname";

/// Drops the table's indexes and constraints and stores how to build them, in one transaction. Keeps
/// them all if something else depends on one, or one is in a tablespace where this role may not build it.
///
/// `store` runs in the same transaction: it writes the script.
pub async fn take_away(
    client: &mut Client,
    table: &TableName,
    store: impl AsyncFnOnce(&tokio_postgres::Transaction<'_>, &str) -> Result<(), CopyError>,
) -> Result<Vec<Build>, CopyError> {
    let transaction = client.transaction().await?;
    // Definitions must name everything in full.
    transaction
        .batch_execute("set local search_path = pg_catalog")
        .await?;
    let rows = transaction.query(INDEXES, &[&table.quoted()]).await?;
    for row in &rows {
        if row.try_get::<_, Option<bool>>("may_create")? == Some(false) {
            let (index, space): (String, String) = (row.try_get("index_name")?, row.try_get("tablespace")?);
            info!(table = %table, index, tablespace = space, "indexes stay during the copy: no CREATE on the tablespace");
            transaction.rollback().await?;
            return Ok(Vec::new());
        }
    }
    let mut builds = Vec::new();
    let mut drops = Vec::new();
    let quoted = table.quoted();
    for row in &rows {
        let index: String = row.get("index_name");
        let schema: String = row.get("schema_name");
        let definition: String = row.get("definition");
        let constraint: Option<String> = row.get("conname");
        // Neither definition says where it is: statements sent together are one transaction, which this ends with.
        let place = row
            .get::<_, Option<String>>("tablespace")
            .map(|space| format!("set local default_tablespace = {};\n", quote_literal(&space)))
            .unwrap_or_default();
        let index_build = Build {
            kind: BuildKind::Index,
            name: index.clone(),
            sql: format!("{place}{definition}"),
        };
        let marks = notes(row, &quoted, constraint.as_deref())?;
        match constraint {
            Some(name) => {
                let kind: String = row.get("contype");
                let drop = format!("alter table only {quoted} drop constraint {}", quote_ident(&name));
                let add = format!("alter table only {quoted} add constraint {} ", quote_ident(&name));
                if kind == "x" {
                    let definition: String = row.get("constraint_def");
                    let sql = place + &add + &definition;
                    builds.push(Build {
                        kind: BuildKind::Constraint,
                        name,
                        sql,
                    });
                } else {
                    let word = if kind == "p" { "primary key" } else { "unique" };
                    let (deferrable, deferred): (bool, bool) = (row.get("deferrable"), row.get("deferred"));
                    let when = match (deferrable, deferred) {
                        (false, _) => "",
                        (true, false) => " deferrable",
                        (true, true) => " deferrable initially deferred",
                    };
                    let sql = format!("{add}{word} using index {}{when}", quote_ident(&index));
                    builds.push(index_build);
                    builds.push(Build {
                        kind: BuildKind::Constraint,
                        name,
                        sql,
                    });
                }
                drops.push(drop);
            }
            None => {
                drops.push(format!(
                    "drop index {}.{}",
                    quote_ident(&schema),
                    quote_ident(&index)
                ));
                builds.push(index_build);
            }
        }
        let mark = |sql: String| Build {
            kind: BuildKind::Mark,
            name: index.clone(),
            sql,
        };
        if row.get("indisclustered") {
            builds.push(mark(format!(
                "alter table only {quoted} cluster on {}",
                quote_ident(&index)
            )));
        }
        if row.get("indisreplident") {
            let using = quote_ident(&index);
            builds.push(mark(format!(
                "alter table only {quoted} replica identity using index {using}"
            )));
        }
        builds.extend(marks.into_iter().map(mark));
    }
    if drops.is_empty() {
        return Ok(builds);
    }
    if let Err(e) = transaction.batch_execute(&drops.join("; ")).await {
        if e.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
            info!(table = %table, error = %e, "indexes stay during the copy: something depends on them");
            transaction.rollback().await?;
            return Ok(Vec::new());
        }
        return Err(e.into());
    }
    store(&transaction, &script(&builds)).await?;
    transaction.commit().await?;
    Ok(builds)
}

/// What was said about an index, as statements: comments, and statistics targets of its columns.
fn notes(
    row: &tokio_postgres::Row,
    table: &str,
    constraint: Option<&str>,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let (schema, index): (String, String) = (row.try_get("schema_name")?, row.try_get("index_name")?);
    let index = format!("{}.{}", quote_ident(&schema), quote_ident(&index));
    let mut notes = Vec::new();
    if let Some(comment) = row.try_get::<_, Option<String>>("index_comment")? {
        notes.push(format!("comment on index {index} is {}", one_line(&comment)));
    }
    if let (Some(name), Some(comment)) = (
        constraint,
        row.try_get::<_, Option<String>>("constraint_comment")?,
    ) {
        let name = quote_ident(name);
        notes.push(format!(
            "comment on constraint {name} on {table} is {}",
            one_line(&comment)
        ));
    }
    let (columns, targets): (Vec<i32>, Vec<i32>) =
        (row.try_get("statistics_columns")?, row.try_get("statistics")?);
    for (column, target) in columns.iter().zip(&targets) {
        notes.push(format!(
            "alter index {index} alter column {column} set statistics {target}"
        ));
    }
    Ok(notes)
}

/// A literal without line ends: a script's sections begin where a line looks like a heading.
fn one_line(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{}'", text.replace('\n', "\\n").replace('\r', "\\r"))
}

/// Builds what is missing: indexes several at once, then constraints, then marks. What exists already
/// is left alone, so it can be called again after a crash.
pub async fn build_again(
    subscriber: &ConnectString,
    application_name: &str,
    table: &TableName,
    builds: Vec<Build>,
    connections: usize,
) -> Result<(), CopyError> {
    let (indexes, rest): (Vec<_>, Vec<_>) = builds.into_iter().partition(|b| b.kind == BuildKind::Index);
    let queue = Arc::new(Mutex::new(indexes));
    let count = queue
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .len();
    let mut workers = JoinSet::new();
    for _ in 0..connections.clamp(1, count.max(1)) {
        let client = connect_subscriber(subscriber, application_name).await?;
        let queue = Arc::clone(&queue);
        let table = table.clone();
        workers.spawn(async move {
            client
                .batch_execute(
                    "select pg_catalog.set_config('maintenance_work_mem', '256MB', false) \
                     where pg_catalog.pg_size_bytes(current_setting('maintenance_work_mem')) < 268435456",
                )
                .await?;
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .pop()
            };
            while let Some(build) = next() {
                execute(&client, &table, &build).await?;
            }
            Ok::<_, CopyError>(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|_| CopyError::Cancelled)??;
    }
    let client = connect_subscriber(subscriber, application_name).await?;
    for kind in [BuildKind::Constraint, BuildKind::Mark] {
        for build in rest.iter().filter(|b| b.kind == kind) {
            execute(&client, table, build).await?;
        }
    }
    Ok(())
}

async fn execute(client: &Client, table: &TableName, build: &Build) -> Result<(), CopyError> {
    let there =
        match build.kind {
            BuildKind::Mark => None,
            BuildKind::Index => client
                .query_opt(
                    "select 1 from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid \
                     where i.indrelid = pg_catalog.to_regclass($1) and c.relname = $2 and i.indisvalid",
                    &[&table.quoted(), &build.name],
                )
                .await?,
            BuildKind::Constraint => {
                client
                    .query_opt(
                        "select 1 from pg_catalog.pg_constraint \
                     where conrelid = pg_catalog.to_regclass($1) and conname = $2",
                        &[&table.quoted(), &build.name],
                    )
                    .await?
            }
        };
    if there.is_none() {
        client.batch_execute(&build.sql).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_back() {
        let builds = vec![
            Build {
                kind: BuildKind::Index,
                name: "Odd name".into(),
                sql: "CREATE INDEX \"Odd name\" ON s.t USING btree ((a || '\n;'))".into(),
            },
            Build {
                kind: BuildKind::Constraint,
                name: "t_pkey".into(),
                sql: "alter table only \"s\".\"t\" add constraint \"t_pkey\" primary key using index \"t_pkey\""
                    .into(),
            },
        ];
        assert_eq!(parse_script(&script(&builds)), builds);
    }

    #[test]
    fn a_comment_stays_on_its_line() {
        let sql = format!("comment on index i is {}", one_line("it's\n-- index \\x"));
        assert_eq!(sql, r"comment on index i is E'it''s\n-- index \\x'");
        let builds = vec![Build {
            kind: BuildKind::Mark,
            name: "i".into(),
            sql,
        }];
        assert_eq!(parse_script(&script(&builds)), builds);
    }

    #[test]
    fn a_foreign_script_is_one_section() {
        let builds = parse_script("create index a on b (c);\ncreate index d on b (e);\n");
        assert_eq!(builds.len(), 1);
        assert_eq!(builds[0].sql, "create index a on b (c);\ncreate index d on b (e)");
    }
}
