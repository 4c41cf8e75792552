-- pgq._compile_function(table, function, arguments): make a trigger function for one table and one list of arguments
--   function  jsontriga or logutriga
--   returns   its name: pgq._<function>_<table's id>_<hash of the arguments>; null: there is nothing to gain, as the
--             arguments or columns need the general function
--   note      the same events as from the general function, which it falls back to whenever the table is not as it
--             was, or the session's settings are unusual
create or replace function pgq._compile_function(i_table oid, i_function text, i_args text[]) returns text as $$
declare
    l_json      boolean := i_function = 'jsontriga';
    l_name      text := format('_%s_%s_%s', i_function, i_table, left(md5(i_args::text), 8));
    l_queue     integer := (select q.queue_id from pgq.queue q where q.queue_name = i_args[1]);
    l_schema    text;
    l_table     text;
    l_extra1    text;
    l_ignore    text[] := '{}';
    l_pkey      text;
    l_backup    boolean := false;
    l_arg       text;
    l_keys      text[];
    l_count     integer;
    l_data      text[] := '{}';     -- arguments of concat() for the new row
    l_olddata   text[] := '{}';     -- the same for the old row
    l_value     text;               -- @ for the row
    l_layout    text := pgq._trigger_layout(i_table);   -- first, so that it is never newer than what follows
    l_size      integer;            -- of the smallest row type
    l_pending   text;               -- constant text before the next value
    l_checks    text := '';
    l_some      text := '';         -- ignore=: an ignored column changed
    l_none      text := '';         --          and no other
    l_before    text;               -- of ev_type, around the operation
    l_after     text;
    l_body      text;
    a           record;
begin
    perform pg_advisory_xact_lock_shared(pgq._compile_lock_class(), i_table::integer);
    select n.nspname, c.relname into l_schema, l_table
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.oid = i_table and c.relkind in ('r', 'p');
    l_extra1 := l_schema || '.' || l_table;
    foreach l_arg in array i_args[2:] loop
        if l_arg = 'backup' then
            l_backup := true;
        elsif starts_with(l_arg, 'ignore=') then
            l_ignore := pgq._listed_columns(substr(l_arg, 8), i_table);
        elsif starts_with(l_arg, 'pkey=') then
            l_pkey := substr(l_arg, 6);
        elsif l_arg ~ E'^ev_extra1=''([^''\\\\]|'''')*''$' and l_extra1 = l_schema || '.' || l_table then
            l_extra1 := replace(substr(l_arg, 12, length(l_arg) - 12), '''''', '''');
        else
            return null;
        end if;
    end loop;
    if l_pkey is null then
        select array_agg(t.attname::text order by k.nr) into l_keys
          from pg_catalog.pg_constraint c
          cross join unnest(c.conkey) with ordinality as k (attnum, nr)
          join pg_catalog.pg_attribute t on t.attrelid = c.conrelid and t.attnum = k.attnum
         where c.conrelid = i_table and c.contype = 'p';
    else
        l_keys := pgq._listed_columns(l_pkey, i_table);
    end if;
    select count(*) into l_count
      from pg_catalog.pg_attribute t
     where t.attrelid = i_table and t.attnum > 0 and not t.attisdropped;
    if l_queue is null or i_function not in ('jsontriga', 'logutriga') or l_schema is null
        or coalesce(cardinality(l_keys), 0) = 0 or l_count not between 1 and 48
        or exists (select 1 from pg_catalog.pg_attribute t
                    where t.attrelid = i_table and starts_with(t.attname::text, '_pgq_ev_'))
        or exists (select 1 from unnest(l_keys) k
                    where not exists (select 1 from pg_catalog.pg_attribute t
                                       where t.attrelid = i_table and t.attnum > 0 and t.attname::text = k
                                         and t.attgenerated <> 'v'))
    then
        return null;
    end if;

    l_pending := case when l_json then '{' else '' end;
    for a in
        select t.attname::text as name, t.atttypid as type, 'f' || row_number() over (order by t.attnum) as field,
               t.attgenerated = 'v' as virtual
          from pg_catalog.pg_attribute t
         where t.attrelid = i_table and t.attnum > 0 and not t.attisdropped
         order by t.attnum
    loop
        -- not computed where triggers run (PostgreSQL 18)
        continue when a.virtual;
        if a.name = any (l_keys) then
            l_checks := l_checks || format($f$
        if r.%1$s is distinct from o.%1$s and pgq._values_differ(%2$s, %3$L, o.%1$s, r.%1$s) then
            raise exception 'primary key update not allowed';
        end if;$f$, a.field, i_table, a.name);
        end if;
        if a.name = any (l_ignore) then
            l_some := l_some || format(' or r.%1$s is distinct from o.%1$s', a.field);
            continue;
        end if;
        l_none := l_none || format(' and r.%1$s is not distinct from o.%1$s', a.field);
        if l_json then
            l_pending := l_pending || to_json(a.name) || ':';
            l_value := case
                when a.type in (20, 21, 23) then format('coalesce(@.%s, ''null'')', a.field)
                when a.type = 16 then
                    format('case @.%s when ''t'' then ''true'' when ''f'' then ''false'' else ''null'' end', a.field)
                when a.type = 1184 then format('coalesce(to_json(@.%s::timestamptz)::text, ''null'')', a.field)
                when a.type = 1114 then format('coalesce(to_json(@.%s::timestamp)::text, ''null'')', a.field)
                else format('coalesce(to_json(@.%s)::text, ''null'')', a.field)
            end;
        else
            l_pending := l_pending || pgq._urlencode(a.name);
            -- bool, integers, oid, numeric, uuid have nothing to encode; concat takes null for an empty text
            l_value := case
                when a.type in (16, 20, 21, 23, 26, 1700, 2950) then format('''='' || @.%s', a.field)
                else format('''='' || pgq._urlencode(@.%s)', a.field)
            end;
        end if;
        l_data := l_data || quote_literal(l_pending) || replace(l_value, '@', 'r');
        l_olddata := l_olddata || quote_literal(l_pending) || replace(l_value, '@', 'o');
        l_pending := case when l_json then ',' else '&' end;
    end loop;
    l_pending := case when l_json and cardinality(l_data) = 0 then '{}' when l_json then '}' else '' end;
    l_data := l_data || quote_literal(l_pending);
    l_olddata := l_olddata || quote_literal(l_pending);
    l_size := case when l_count <= 8 then 8 when l_count <= 16 then 16 else 48 end;
    if l_json then
        l_before := '{"op":"';
        l_after := '","table":[' || to_json(l_schema) || ',' || to_json(l_table) || '],"pkey":'
            || array_to_json(case when l_pkey is null then l_keys else string_to_array(l_pkey, ',') end) || '}';
    else
        l_before := '';
        l_after := ':' || coalesce(l_pkey, array_to_string(l_keys, ','));
    end if;

    -- the body goes in as one literal: names in it must not end it
    l_body := format($f$
-- made by pgq.compile_trigger, for one table
declare
    l_skip  boolean := false;
    l_id    bigint;
    l_type  text;
    l_data  text;
    l_old   text;
    r       pgq._row_%14$s;     -- new row, old row on DELETE
    o       pgq._row_%14$s;     -- old row on UPDATE
begin
    if pgq._trigger_layout(%2$L::regclass) is distinct from %3$L
        or tg_relid <> %2$s or tg_level <> 'ROW' or tg_when <> 'AFTER' or tg_op = 'TRUNCATE' or tg_argv <> %4$L::text[]
        or current_setting('session_replication_role') = 'local' or not pgq._usual_settings(tg_op)
    then
        -- not what this was made for
        if tg_level = 'STATEMENT' then
            l_skip := pgq._capture_row(
                %5$L, tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
                null::text, null::text);
        else
            l_skip := pgq._capture_row(
                %5$L, tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv, old, new);
        end if;
        if tg_level = 'STATEMENT' or tg_when = 'AFTER' or l_skip then
            return null;
        elsif tg_op = 'DELETE' then
            return old;
        end if;
        return new;
    end if;

    if tg_op = 'DELETE' then
        r := (left(old::text, -1) || %6$L)::pgq._row_%14$s;
    else
        r := (left(new::text, -1) || %6$L)::pgq._row_%14$s;
    end if;
    if tg_op = 'UPDATE' then
        o := (left(old::text, -1) || %6$L)::pgq._row_%14$s;%7$s
    end if;
    l_type := case tg_op when 'INSERT' then %9$L when 'UPDATE' then %10$L else %11$L end;
    l_data := %12$s;
    -- the first call is never made, for l_skip is not null. It is here for the right to call it, without which the
    -- condition fails as any call would, and to have the second one answered anew when that function was replaced
    if (l_skip is not null or pgq.insert_event('', '', '', '', '', '', '') is null)
        and pgq._insert_is_ours()
        and has_function_privilege('pgq.%8$I(text,text,text,text,text,text)'::regprocedure, 'execute')
    then
        l_id := pgq.%8$I(l_type, l_data, %13$L, l_old, null, null);
    else
        l_id := pgq.insert_event(%15$L, l_type, l_data, %13$L, l_old, null, null);
    end if;
    return null;
end;
$f$,
        l_name, i_table, l_layout, ('[0:' || cardinality(i_args) - 1 || ']=' || i_args::text),
        case when l_json then 'json' else 'url' end,
        repeat(',', l_size - l_count) || ')',
        l_checks
        || case when l_some <> '' then format($f$
        if (%s)%s then
            return null;
        end if;$f$, substr(l_some, 5), l_none) else '' end
        || case when l_backup then format($f$
        l_old := %s;$f$, 'concat(' || array_to_string(l_olddata, ', ') || ')') else '' end,
        pgq._compile_insert(l_queue),
        l_before || case when l_json then 'INSERT' else 'I' end || l_after,
        l_before || case when l_json then 'UPDATE' else 'U' end || l_after,
        l_before || case when l_json then 'DELETE' else 'D' end || l_after,
        'concat(' || array_to_string(l_data, E',\n            ') || ')', l_extra1, l_size, i_args[1]);
    execute format('create or replace' || ' function pgq.%I() returns trigger as %L language plpgsql', l_name, l_body);
    execute format('revoke all on function pgq.%I() from public', l_name);
    execute format('grant execute on function pgq.%I() to pgq_writer', l_name);
    return l_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
