//! Tables: whether their changes can be decoded, and whether the two sides fit.

use std::collections::BTreeMap;

use skytide_sql::TableName;
use skytide_sql::ident::{quote_ident, quote_literal};

use super::{Findings, Pair, Role, Side, Unasked};
use crate::capture::slot::{self, Narrowing};
use crate::cli::shell;
use crate::table::registry::provider_tables;

/// Tables with what decides on their replica identity. Without a list, all of the users' tables.
const IDENTITY: &str = "
    select n.nspname::text, c.relname::text, c.relpersistence::text, c.relreplident::text,
           p.indexrelid is not null as has_key, coalesce(p.indimmediate, false) as immediate,
           exists (select 1 from pg_catalog.pg_index i
                   where i.indrelid = c.oid and i.indisreplident and i.indisvalid and i.indimmediate) as chosen,
           (select u.indexrelid::regclass::text from pg_catalog.pg_index u
            where u.indrelid = c.oid and u.indisunique and u.indisvalid and u.indimmediate
              and u.indpred is null and u.indexprs is null
              and not exists (select 1 from pg_catalog.pg_attribute a
                              where a.attrelid = c.oid and a.attnum = any (u.indkey) and not a.attnotnull)
            order by u.indnatts limit 1) as candidate
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    left join pg_catalog.pg_index p on p.indrelid = c.oid and p.indisprimary
    where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'pgq', 'pgq_node', 'londiste')
      and ($1::text[] is null or format('%s.%s', n.nspname, c.relname) = any ($1))
    order by 1, 2";

pub async fn identity(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let mut set: Option<Vec<String>> = None;
    if let (Some(queue), true, Role::Provider) = (&side.queue, side.has_modules().await?, side.role) {
        let tables = provider_tables(&side.session, queue).await;
        set = tables
            .ok()
            .map(|tables| tables.iter().map(|(_, dest)| dest.to_string()).collect());
    }
    let in_set = set.is_some();
    let rows = side.session.query(IDENTITY, &[&set]).await?;
    let mut usable = 0;
    for row in &rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let facts = Identity {
            persistence: row.get(2),
            identity: row.get(3),
            has_key: row.get(4),
            key_is_immediate: row.get(5),
            chosen_index: row.get(6),
            candidate: row.get(7),
        };
        match refusal(&table, &facts) {
            None => usable += 1,
            // Nobody has said yet that this table shall be replicated.
            Some((why, fix)) if !in_set => {
                out.warn(table.to_string(), format!("could not be added: {why}"), fix)
            }
            Some((why, fix)) => out.fail(table.to_string(), why, fix),
        }
    }
    if usable == rows.len() {
        out.ok("tables", format!("{usable}, each with a usable replica identity"));
    }
    Ok(())
}

struct Identity {
    persistence: String,
    identity: String,
    has_key: bool,
    key_is_immediate: bool,
    chosen_index: bool,
    candidate: Option<String>,
}

/// Why updates and deletes of the table cannot be decoded, and what helps.
fn refusal(table: &TableName, facts: &Identity) -> Option<(&'static str, String)> {
    let alter = format!("alter table {}", table.quoted());
    if facts.persistence == "u" {
        return Some(("is unlogged: it writes no WAL", format!("{alter} set logged;")));
    }
    // Two rows may have such a key for a moment.
    let only_deferrable = facts.has_key && !facts.key_is_immediate && facts.candidate.is_none();
    let (why, usable_key) = match (facts.identity.as_str(), facts.has_key, facts.key_is_immediate) {
        ("f", _, _) if only_deferrable => ("only its deferrable primary key tells rows apart", false),
        ("f", _, _) | ("d", true, true) => return None,
        ("i", _, _) if facts.chosen_index => return None,
        ("i", key, immediate) => ("its replica identity index is gone", key && immediate),
        ("n", key, immediate) => ("its replica identity is nothing", key && immediate),
        (_, true, false) => (
            "its primary key is deferrable, which is no replica identity",
            false,
        ),
        _ => ("it has no primary key", false),
    };
    if only_deferrable {
        return Some((
            why,
            format!("{alter} drop constraint …, add primary key (…);  -- not deferrable"),
        ));
    }
    let identity = match (usable_key, &facts.candidate) {
        (true, _) => "default".to_owned(),
        // `regclass` quotes and qualifies; the clause wants the bare name.
        (false, Some(index)) => format!("using index {}", bare(index)),
        (false, None) => "full".to_owned(),
    };
    let fix = format!("{alter} replica identity {identity};");
    Some((
        why,
        if facts.has_key {
            fix
        } else {
            format!("{alter} add primary key (…); or: {fix}")
        },
    ))
}

/// The last part of a name that `regclass` wrote, quotes and all.
fn bare(name: &str) -> &str {
    let mut quoted = false;
    let mut start = 0;
    for (at, c) in name.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => start = at + 1,
            _ => {}
        }
    }
    name.get(start..).unwrap_or(name)
}

/// Columns as the two sides are compared: name → type, not null, whether it is part of the identity.
const COLUMNS: &str = "
    select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
           c.relreplident <> 'f' and coalesce(a.attnum = any (i.indkey), false)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_index i on i.indrelid = c.oid
         and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
    where n.nspname = $1 and c.relname = $2 and c.relkind = 'r'
    order by a.attnum";

/// Whether there is a unique index on exactly these columns.
const UNIQUE: &str = "
    select exists (
        select 1 from pg_catalog.pg_index i
        join pg_catalog.pg_class c on c.oid = i.indrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = $2 and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null
          and (select array_agg(a.attname::text order by a.attname::text collate \"C\")
               from pg_catalog.pg_attribute a
               where a.attrelid = c.oid and a.attnum = any (i.indkey)) = $3::text[])";

struct Column {
    type_name: String,
    generated: bool,
    key: bool,
}

async fn columns(side: &Side, table: &TableName) -> Result<BTreeMap<String, Column>, Unasked> {
    let rows = side.session.query(COLUMNS, &[&table.schema, &table.name]).await?;
    let column = |row: &tokio_postgres::Row| {
        let (type_name, generated, key) = (row.get(1), row.get(2), row.get(3));
        let facts = Column {
            type_name,
            generated,
            key,
        };
        (row.get(0), facts)
    };
    Ok(rows.iter().map(column).collect())
}

pub async fn compare(pair: &Pair, out: &mut Findings) -> Result<(), Unasked> {
    let rows = pair
        .subscriber
        .session
        .query(
            "select table_name, coalesce(dest_table, table_name) from londiste.table_info \
             where queue_name = $1 and local order by 1",
            &[&pair.queue.as_str()],
        )
        .await?;
    let upstream = provider_tables(&pair.provider.session, &pair.queue)
        .await
        .unwrap_or_default();
    let before = out.list.len();
    if let Some(Narrowing { what, fix }) =
        slot::narrowing(&pair.provider.session, &pair.publications.tables).await?
    {
        out.fail(pair.publications.tables.clone(), what, fix);
    }
    for row in &rows {
        let name = TableName::parse(row.get(0))?;
        let dest = TableName::parse(row.get(1))?;
        let source = upstream
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(&name, |(_, physical)| physical);
        compare_table(pair, source, &dest, out).await?;
    }
    lost_keys(pair, out).await?;
    if out.list.len() == before {
        out.ok("followed tables", format!("{} fit on both sides", rows.len()));
    }
    Ok(())
}

/// Foreign keys that were put aside for a copy and have a table that nobody follows (any more).
const LOST_KEYS: &str = "
    select f.from_table, f.fkey_name, f.fkey_def, o.name
    from londiste.pending_fkeys f
    cross join lateral (
        select name from unnest(array[f.from_table, f.to_table]) name
        where not exists (select 1 from londiste.table_info t
                          where t.local and coalesce(t.dest_table, t.table_name) = name)
        limit 1) o
    order by 1, 2";

/// The worker brings a foreign key back when both its tables are in sync.
async fn lost_keys(pair: &Pair, out: &mut Findings) -> Result<(), Unasked> {
    for row in &pair.subscriber.session.query(LOST_KEYS, &[]).await? {
        let (from, key, definition, other): (String, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        out.warn(
            format!("{from}, foreign key {key}"),
            format!("was put aside for a copy and does not come back by itself: {other} is not followed"),
            format!(
                "{definition}; delete from londiste.pending_fkeys where from_table = {} and fkey_name = {};  \
                 -- on the subscriber",
                quote_literal(&from),
                quote_literal(&key)
            ),
        );
    }
    Ok(())
}

async fn compare_table(
    pair: &Pair,
    source: &TableName,
    dest: &TableName,
    out: &mut Findings,
) -> Result<(), Unasked> {
    let from = columns(&pair.provider, source).await?;
    let to = columns(&pair.subscriber, dest).await?;
    if from.is_empty() {
        out.fail(
            source.to_string(),
            "does not exist on the provider",
            format!("skytide londiste {} remove-table {source}", pair.conf.display()),
        );
        return Ok(());
    }
    if to.is_empty() {
        out.fail(
            dest.to_string(),
            "does not exist on the subscriber",
            format!(
                "pg_dump -s -t {} {} | psql {}",
                shell::quote(source.quoted()),
                shell::quote(pair.provider.dsn.without_password()),
                shell::quote(pair.subscriber.dsn.without_password())
            ),
        );
        return Ok(());
    }
    let published = pair
        .provider
        .session
        .query_opt(
            "select 1 from pg_catalog.pg_publication_tables \
             where pubname = $1 and schemaname = $2 and tablename = $3",
            &[&pair.publications.tables, &source.schema, &source.name],
        )
        .await?;
    if published.is_none() {
        out.fail(
            source.to_string(),
            format!(
                "is not in the provider's publication {}",
                pair.publications.tables
            ),
            format!("skytide londiste ROOT.ini add-table {source}  -- with the root's configuration"),
        );
    }
    for (name, column) in from.iter().filter(|(_, column)| !column.generated) {
        match to.get(name) {
            None => out.warn(
                format!("{dest}.{name}"),
                "is missing on the subscriber: the column is not replicated",
                format!(
                    "alter table {} add column {} {};  -- on the subscriber, then: skytide londiste {} resync {dest}",
                    dest.quoted(),
                    quote_ident(name),
                    column.type_name,
                    pair.conf.display()
                ),
            ),
            Some(other) if other.type_name != column.type_name => out.warn(
                format!("{dest}.{name}"),
                format!("is {} there, {} here", column.type_name, other.type_name),
                format!(
                    "alter table {} alter column {} type {};  -- on the subscriber",
                    dest.quoted(),
                    quote_ident(name),
                    column.type_name
                ),
            ),
            Some(_) => {}
        }
    }
    let mut key: Vec<&str> = from
        .iter()
        .filter(|(_, c)| c.key)
        .map(|(name, _)| name.as_str())
        .collect();
    key.sort_unstable();
    if !key.is_empty() {
        let row = pair
            .subscriber
            .session
            .query_one(UNIQUE, &[&dest.schema, &dest.name, &key])
            .await?;
        if !row.get::<_, bool>(0) {
            let list: Vec<String> = key.iter().map(|c| quote_ident(c)).collect();
            out.fail(
                dest.to_string(),
                format!(
                    "has no unique index on ({}), by which rows are found",
                    key.join(", ")
                ),
                format!(
                    "create unique index concurrently on {} ({});  -- on the subscriber",
                    dest.quoted(),
                    list.join(", ")
                ),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(identity: &str, has_key: bool, immediate: bool, candidate: Option<&str>) -> Identity {
        Identity {
            persistence: "p".into(),
            identity: identity.into(),
            has_key,
            key_is_immediate: immediate,
            chosen_index: false,
            candidate: candidate.map(Into::into),
        }
    }

    #[test]
    fn each_refusal_names_the_alter_table_that_helps() {
        let table = TableName::new("public", "t");
        let fix = |facts: Identity| refusal(&table, &facts).map(|(_, fix)| fix);
        assert_eq!(fix(facts("d", true, true, None)), None);
        assert_eq!(fix(facts("f", false, false, None)), None);
        assert_eq!(
            fix(facts("n", true, true, None)).unwrap(),
            format!("alter table {} replica identity default;", table.quoted())
        );
        for identity in ["d", "f", "n"] {
            let deferrable = fix(facts(identity, true, false, None)).unwrap();
            assert!(deferrable.ends_with("-- not deferrable"), "{deferrable}");
        }
        assert!(
            fix(facts("d", false, false, None))
                .unwrap()
                .ends_with("replica identity full;")
        );
        assert!(
            fix(facts("d", false, false, Some("s.\"a.b\"")))
                .unwrap()
                .ends_with("replica identity using index \"a.b\";")
        );
    }
}
