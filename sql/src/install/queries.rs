//! Catalog reads and ledger writes of the installer.

pub const SERVER_VERSION: &str =
    "select current_setting('server_version_num')::int4, current_setting('server_version')";

/// Function bodies are checked by the tests, not in the order of installing. Settings of the role or the database that would
/// change what is made, or how it is printed, do not count here.
pub const SETTINGS: &str = "\
    set local search_path = pg_catalog, pg_temp; \
    set local check_function_bodies = off; \
    set local standard_conforming_strings = on; \
    set local quote_all_identifiers = off; \
    set local default_tablespace = ''; \
    set local client_min_messages = warning";

/// One installer at a time in a database. The key is \"skytide\" in ASCII.
pub const LOCK: &str = "select pg_catalog.pg_advisory_xact_lock(32487701453038693)";

/// Whether the schema is there, whether the ledger is, and the version of the extension that made the schema.
pub const SCHEMA: &str = "\
    select n.oid is not null, to_regclass('pgq.skytide_module') is not null, e.extversion \
      from (select $1::text as nspname) w \
      left join pg_catalog.pg_namespace n on n.nspname = w.nspname \
      left join pg_catalog.pg_extension e on e.extname = w.nspname";

/// Whether tables of ours are there without a row in the ledger, as after `pg_dump --schema-only`.
pub const LEDGER_IS_EMPTY: &str = "\
    select not exists (select 1 from pgq.skytide_module) \
       and to_regclass('pgq.subscriber') is not null and to_regclass('pgq.position_switch') is not null";

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

// Adopting.

/// The first of the columns and functions that schema `$1` lacks. A view is none of its tables.
pub const MISSING_MARK: &str = "\
    select m.what \
      from (select 'column ' || c as what, split_part(c, '.', 1) as rel, split_part(c, '.', 2) as att, null as fn \
              from unnest($2::text[]) c \
             union all \
            select 'function ' || f, null, null, f from unnest($3::text[]) f) m \
     where case when m.fn is null \
                then not exists (select 1 \
                                   from pg_catalog.pg_attribute a \
                                   join pg_catalog.pg_class r on r.oid = a.attrelid and r.relkind = 'r' \
                                   join pg_catalog.pg_namespace n on n.oid = r.relnamespace \
                                  where n.nspname = $1 and r.relname = m.rel and a.attname = m.att \
                                    and not a.attisdropped) \
                else to_regprocedure(quote_ident($1) || '.' || m.fn) is null end \
     limit 1";

/// A table, sequence or function of the schema whose owner is not the user; a superuser's may stay with another
/// superuser. Functions that define rights would otherwise not reach the new tables.
pub const OTHER_OWNER: &str = "\
    select o.what, o.owner::regrole::text, quote_ident(current_user) \
      from (select 'schema ' || quote_ident(n.nspname) as what, n.nspowner as owner, n.oid as schema \
              from pg_catalog.pg_namespace n \
             union all \
            select 'table ' || c.oid::regclass, c.relowner, c.relnamespace \
              from pg_catalog.pg_class c where c.relkind = 'r' \
             union all \
            select 'function ' || p.oid::regprocedure, p.proowner, p.pronamespace from pg_catalog.pg_proc p \
             union all \
            select 'extension ' || quote_ident(e.extname), e.extowner, n.oid \
              from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.nspname = e.extname) o \
      join pg_catalog.pg_namespace n on n.oid = o.schema and n.nspname = $1 \
      join pg_catalog.pg_roles r on r.oid = o.owner \
     where o.owner <> (select u.oid from pg_catalog.pg_roles u where u.rolname = current_user) \
       and not (r.rolsuper and (select u.rolsuper from pg_catalog.pg_roles u where u.rolname = current_user)) \
     limit 1";

pub const DEPENDENT_EXTENSION: &str = "\
    select quote_ident(e.extname) \
      from pg_catalog.pg_depend d \
      join pg_catalog.pg_extension e on e.oid = d.objid \
      join pg_catalog.pg_extension o on o.oid = d.refobjid \
     where d.classid = 'pg_extension'::regclass and d.refclassid = 'pg_extension'::regclass \
       and o.extname = $1 and e.extname <> all ($2) \
     limit 1";

/// pgq.subscription becomes a view, and what hangs on its columns would have to go.
pub const DEPENDENT_VIEW: &str = "\
    select distinct r.ev_class::regclass::text \
      from pg_catalog.pg_depend d \
      join pg_catalog.pg_rewrite r on r.oid = d.objid \
      join pg_catalog.pg_class c on c.oid = d.refobjid and c.relkind = 'r' \
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid \
     where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass \
       and c.oid = to_regclass('pgq.subscription') \
       and a.attname in ('sub_last_tick', 'sub_active', 'sub_batch', 'sub_next_tick') \
     limit 1";

/// Its columns move to another table, which such a trigger would not see, or stumble over.
pub const DEPENDENT_TRIGGER: &str = "\
    select quote_ident(t.tgname) \
      from pg_catalog.pg_trigger t \
     where t.tgrelid = to_regclass('pgq.subscription') and not t.tgisinternal \
     limit 1";

/// Functions of the schema among `$2`.
pub const COUNT_REPLACED: &str = "\
    select count(*) \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.proname = any ($2)";

pub const COUNT_MEMBERS: &str = "\
    select count(*) \
      from pg_catalog.pg_depend d \
      join pg_catalog.pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass \
     where d.deptype = 'e' and e.extname = $1";

pub const DETACH_MEMBERS: &str = "\
    select format('alter extension %I drop %s %s', e.extname, o.type, o.identity) \
      from pg_catalog.pg_depend d \
      join pg_catalog.pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass \
     cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) o \
     where d.deptype = 'e' and e.extname = $1 \
     order by o.type, o.identity";

/// Functions written in C among `$2`, in words, and how many triggers call them.
pub const COUNT_C_TRIGGERS: &str = "\
    select string_agg(distinct p.proname, ', '), count(t.oid) \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
      join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname = 'c' \
      left join pg_catalog.pg_trigger t on t.tgfoid = p.oid \
     where n.nspname = $1 and p.proname = any ($2)";

/// Those among `$2` that are written in C.
pub const C_FUNCTIONS: &str = "\
    select p.proname::text \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
      join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname = 'c' \
     where n.nspname = $1 and p.proname = any ($2)";

/// Functions other than `$2` that everybody may execute.
pub const COUNT_PUBLIC: &str = "\
    select count(*) \
      from pg_catalog.pg_proc p \
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace \
     where n.nspname = $1 and p.proname <> all ($2) \
       and exists (select 1 \
                     from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
                    where a.grantee = 0)";

/// Event tables are children of pgq.event_template and stay unlocked.
pub const LOCK_TABLES: &str = "\
    select 'lock table ' || string_agg('only ' || to_regclass(t.name), ', ' order by t.nr) || ' in access exclusive mode' \
      from unnest($1::text[]) with ordinality as t (name, nr) \
      join pg_catalog.pg_class c on c.oid = to_regclass(t.name) and c.relkind = 'r'";

/// Locks of a prepared transaction belong to no process; that of its own id shows under which name they go.
pub const HOLDERS: &str = "\
    select coalesce(': held by ' || string_agg(h.who, '; ' order by h.pid nulls first, h.who), '') \
      from (select a.pid, format('process %s (%s, user %s, %s, transaction of %s)', a.pid, \
                                 coalesce(nullif(a.application_name, ''), 'no application name'), a.usename, a.state, \
                                 date_trunc('second', now() - a.xact_start)) as who \
              from pg_catalog.pg_stat_activity a \
             where a.pid <> pg_backend_pid() \
               and exists (select 1 \
                             from pg_catalog.pg_locks l \
                             join unnest($1::text[]) t on l.relation = to_regclass(t) \
                            where l.pid = a.pid and l.granted \
                              and l.database = (select d.oid from pg_catalog.pg_database d \
                                                 where d.datname = current_database())) \
             union all \
            select null, format('prepared transaction %L (user %s, prepared %s ago)', x.gid, x.owner, \
                                date_trunc('second', now() - x.prepared)) \
              from pg_catalog.pg_prepared_xacts x \
             where x.database = current_database() \
               and exists (select 1 \
                             from pg_catalog.pg_locks i \
                             join pg_catalog.pg_locks l using (virtualtransaction) \
                             join unnest($1::text[]) t on l.relation = to_regclass(t) \
                            where i.transactionid = x.transaction and i.pid is null and l.pid is null \
                              and l.granted)) h";

pub const EXISTS: &str = "select to_regclass($1) is not null";

/// Schema, what is kept, the table it needs, and how much there is of it.
pub const KEPT: &[(&str, &str, (&str, &str))] = &[
    ("pgq", "queues", ("pgq.queue", "select count(*) from pgq.queue")),
    (
        "pgq",
        "subscriptions",
        ("pgq.subscription", "select count(*) from pgq.subscription"),
    ),
    (
        "pgq",
        "open batches",
        (
            "pgq.subscription",
            "select count(*) from pgq.subscription where sub_batch is not null",
        ),
    ),
    (
        "pgq",
        "events to be retried",
        ("pgq.retry_queue", "select count(*) from pgq.retry_queue"),
    ),
    (
        "pgq",
        "failed events, as dead letters",
        ("pgq.failed_queue", "select count(*) from pgq.failed_queue"),
    ),
    (
        "pgq_node",
        "nodes",
        ("pgq_node.node_info", "select count(*) from pgq_node.node_info"),
    ),
    (
        "londiste",
        "tables",
        ("londiste.table_info", "select count(*) from londiste.table_info"),
    ),
    (
        "londiste",
        "sequences",
        ("londiste.seq_info", "select count(*) from londiste.seq_info"),
    ),
    (
        "londiste",
        "tables of Londiste 2, unused and not migrated",
        (
            "londiste.subscriber_table",
            "select count(*) from londiste.subscriber_table",
        ),
    ),
];

/// What must be the same before and after, the table it needs, and a query for one text. They read by column
/// names only, which old and new tables share.
pub const CONTENTS: &[(&str, &str, &str)] = &[
    (
        "the queues",
        "pgq.queue",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(concat_ws('|', queue_id, queue_name, queue_ntables, \
                queue_cur_table, queue_switch_step1, queue_switch_step2, queue_external_ticker, queue_data_pfx), \
                E'\\n' order by queue_id)), '') \
           from pgq.queue",
    ),
    (
        "the positions of consumers",
        "pgq.subscription",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(format('%s|%s|%s|%s|%s|%s|%s', s.sub_id, s.sub_queue, \
                c.co_name, s.sub_last_tick, s.sub_active, s.sub_batch, s.sub_next_tick), \
                E'\\n' order by s.sub_queue, c.co_name)), '') \
           from pgq.subscription s join pgq.consumer c on c.co_id = s.sub_consumer",
    ),
    (
        "the ticks",
        "pgq.tick",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(concat_ws('|', tick_queue, tick_id, tick_time, \
                tick_snapshot), E'\\n' order by tick_queue, tick_id)), '') \
           from pgq.tick",
    ),
    (
        "the events to be retried",
        "pgq.retry_queue",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(format('%s|%s|%s|%s|%s', ev_owner, ev_id, ev_retry_after, \
                ev_type, ev_data), E'\\n' order by ev_owner, ev_id)), '') \
           from pgq.retry_queue",
    ),
    (
        "the nodes",
        "pgq_node.node_info",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(concat_ws('|', queue_name, node_type, node_name, \
                worker_name), E'\\n' order by queue_name)), '') \
           from pgq_node.node_info",
    ),
    (
        "the positions of nodes",
        "pgq_node.local_state",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(concat_ws('|', queue_name, consumer_name, \
                provider_node, last_tick_id), E'\\n' order by queue_name, consumer_name)), '') \
           from pgq_node.local_state",
    ),
    (
        "the replicated tables",
        "londiste.table_info",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(format('%s|%s|%s|%s|%s', queue_name, table_name, local, \
                merge_state, custom_snapshot), E'\\n' order by queue_name, table_name)), '') \
           from londiste.table_info",
    ),
    (
        "the replicated sequences",
        "londiste.seq_info",
        "select count(*) || ' rows, ' || coalesce(md5(string_agg(format('%s|%s|%s|%s', queue_name, seq_name, local, \
                last_value), E'\\n' order by queue_name, seq_name)), '') \
           from londiste.seq_info",
    ),
];
