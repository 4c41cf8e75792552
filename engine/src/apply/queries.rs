//! What the applier asks the subscriber's catalogs.

use skytide_sql::Oid;
use skytide_sql::ident::quote_literal;
use tokio_postgres::error::SqlState;

/// What a table's columns are: another text after each ALTER that matters to rows.
macro_rules! signature {
    ($oid:literal) => {
        concat!(
            "(select md5(string_agg(concat_ws(' ', x.attnum, x.attname, x.atttypid, x.atttypmod, \
                                              x.attgenerated, x.attidentity), ',' order by x.attnum)) \
                from pg_catalog.pg_attribute x \
               where x.attrelid = ",
            $oid,
            " and x.attnum > 0 and not x.attisdropped)"
        )
    };
}

/// A table's columns, domains resolved to their base types; their signature; whether there is a primary key; the
/// base types' names, and whether they have a binary form. $1 schema, $2 table.
pub(super) const COLUMNS: &str = concat!(
    "
with recursive cols as (
    select c.oid as table_oid, c.relkind = 'p' as partitioned, a.attnum, a.attname,
           a.attgenerated <> '' as generated, a.attidentity = 'a' as identity_always,
           pg_catalog.format_type(a.atttypid, -1) as type_name,
           t.oid as base, t.typtype, t.typbasetype
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      join pg_catalog.pg_type t on t.oid = a.atttypid
     where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')
    union all
    select cols.table_oid, cols.partitioned, cols.attnum, cols.attname, cols.generated,
           cols.identity_always, cols.type_name, t.oid, t.typtype, t.typbasetype
      from cols
      join pg_catalog.pg_type t on t.oid = cols.typbasetype
     where cols.typtype = 'd'
)
select table_oid, partitioned, attname::text, generated, identity_always, type_name, base, ",
    signature!("cols.table_oid"),
    ",
       exists (select from pg_catalog.pg_index i where i.indrelid = cols.table_oid and i.indisprimary),
       pg_catalog.format_type(base, -1),
       (select b.typreceive <> 0 from pg_catalog.pg_type b where b.oid = base)
  from cols
 where typtype <> 'd'
 order by attnum"
);

/// Fails if a table is not what it was when its shape was read. For the end of a transaction that has written to the
/// tables: nobody can alter them any more. COPY's binary form names no types, so that the server would take the bytes
/// of one type for another of its size.
pub(super) fn unaltered<'a>(tables: impl Iterator<Item = (Oid, &'a str)>) -> Option<String> {
    let tables: Vec<String> = tables
        .map(|(oid, signature)| format!("({}::oid, {})", oid.get(), quote_literal(signature)))
        .collect();
    (!tables.is_empty()).then(|| {
        let altered = signature!("v.o");
        format!(
            "do $skytide$ declare l_altered text; begin \
             select v.o::regclass::text into l_altered from (values {}) v (o, s) where v.s is distinct from {altered}; \
             if found then raise exception 'table % was altered meanwhile', l_altered using errcode = '{}'; end if; \
             end $skytide$",
            tables.join(", "),
            SqlState::FEATURE_NOT_SUPPORTED.code(),
        )
    })
}

/// A table's unique indexes that can find a row: columns with their equality operators, the primary key first, then
/// those without nulls. Not the deferrable ones: nothing checks them where session_replication_role is replica, so that
/// two rows may have one key for good. $1 table oid.
pub(super) const UNIQUE_INDEXES: &str = "
select array_agg(a.attname::text order by k.n),
       array_agg(format('operator(%I.%s)', n.nspname, o.oprname) order by k.n)
  from pg_catalog.pg_index i
 cross join lateral generate_series(0, i.indnkeyatts - 1) as k(n)
  join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k.n]
  join pg_catalog.pg_opclass c on c.oid = i.indclass[k.n]
  join pg_catalog.pg_amop s on s.amopfamily = c.opcfamily and s.amopstrategy = 3
       and s.amoplefttype = c.opcintype and s.amoprighttype = c.opcintype
  join pg_catalog.pg_operator o on o.oid = s.amopopr
  join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
 where i.indrelid = $1 and i.indisunique and i.indimmediate and i.indisvalid
   and i.indpred is null and i.indexprs is null
 group by i.indexrelid, i.indisprimary
 order by i.indisprimary desc, bool_and(a.attnotnull) desc, i.indexrelid";

/// How a type's binary form names other types. $1 type oid.
pub(super) const TYPE: &str = "
select t.typtype::text, t.typcategory = 'A' and t.typlen = -1 as is_array, t.typelem, t.typrelid, t.typbasetype,
       coalesce(r.rngsubtype, 0::oid),
       (select array_agg(a.atttypid order by a.attnum) from pg_catalog.pg_attribute a
         where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
       t.typname::text
  from pg_catalog.pg_type t
  left join pg_catalog.pg_range r on r.rngtypid = t.oid
 where t.oid = $1";

/// True if a table outside the list refers to one in it: TRUNCATE would be refused. $1 table oids.
pub(super) const REFERRED_FROM_OUTSIDE: &str = "
select exists (select from pg_catalog.pg_constraint
                where contype = 'f' and confrelid = any ($1) and not conrelid = any ($1))";

/// Ends the session that holds an advisory lock. $1 key.
pub(super) const EVICT_HOLDER: &str = "
select pg_catalog.pg_terminate_backend(pid)
  from pg_catalog.pg_locks
 where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_catalog.pg_backend_pid()
   and database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
   and classid::int8 = ($1::int8 >> 32) & 4294967295 and objid::int8 = $1 & 4294967295";

/// Waits for an advisory lock and keeps it. $1 key.
pub(super) const HOLD: &str = "select pg_catalog.pg_advisory_lock($1)";
