//! Catalog reads and ledger writes of the installer.

pub const SERVER_VERSION: &str =
    "select current_setting('server_version_num')::int4, current_setting('server_version')";

/// Function bodies are checked by the tests, not in the order of installing.
pub const SETTINGS: &str = "\
    set local search_path = pg_catalog, pg_temp; \
    set local check_function_bodies = off; \
    set local client_min_messages = warning";

/// One installer at a time in a database. The key is \"skytide\" in ASCII.
pub const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(32487701453038693)";

/// Whether the schema is there, whether the ledger is, and the extension that owns the schema's objects.
pub const SCHEMA: &str = "\
    select n.oid is not null, to_regclass('pgq.skytide_module') is not null, e.extname::text, e.extversion \
      from (select $1::text as nspname) w \
      left join pg_catalog.pg_namespace n on n.nspname = w.nspname \
      left join pg_catalog.pg_extension e on e.extname = w.nspname";

pub const INSTALLED: &str = "select version, checksum, catalog from pgq.skytide_module where module = $1";

pub const REMEMBER: &str = "\
    insert into pgq.skytide_module (module, version, checksum, catalog) values ($1, $2, $3, $4) \
    on conflict (module) do update \
       set version = excluded.version, checksum = excluded.checksum, catalog = excluded.catalog, \
           installed_at = now()";

pub const COUNT_OVERLOADS: &str = "\
    select count(*) \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.proname = $2";

pub const DROP_OVERLOADS: &str = "\
    select format('drop function %s', p.oid::regprocedure) \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.proname = $2";

pub const UNPINNED: &str = "\
    select p.oid::regprocedure::text \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.prosecdef \
       and 'search_path=pg_catalog, pg_temp' <> all (coalesce(p.proconfig, '{}')) \
     limit 1";

pub const OPEN_TO_PUBLIC: &str = "\
    select p.oid::regprocedure::text \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.proname <> all ($2) \
       and exists (select 1 \
                     from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
                    where a.grantee = 0) \
     limit 1";

/// Everything about the functions that a caller can notice. Built from names and built-in type ids, so
/// that it is the same after a dump and restore and under any search path.
pub const CATALOG_CHECKSUM: &str = "\
    select coalesce(md5(string_agg(f.line, E'\\n' order by f.line collate \"C\")), '') \
      from (select concat_ws('|', p.proname, p.proargtypes::text, p.proallargtypes::text, p.proargmodes::text, \
                             p.proargnames::text, t.typname, p.proretset::text, l.lanname, p.prosecdef::text, \
                             p.proisstrict::text, p.provolatile::text, p.proconfig::text, \
                             (exists (select 1 \
                                        from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
                                       where a.grantee = 0))::text, \
                             md5(p.prosrc)) as line \
              from pg_catalog.pg_proc p \
              join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
              join pg_catalog.pg_type t on t.oid = p.prorettype \
              join pg_catalog.pg_language l on l.oid = p.prolang \
             where n.nspname = $1 and p.proname = any ($2)) f";
