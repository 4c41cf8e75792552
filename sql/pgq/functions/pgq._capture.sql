-- pgq._capture(format, operation, when, level, relation, schema, table, arguments, old, new, exact old, exact new):
--            what the capture triggers do: turn a change into an event, and send it
--   format   sql, url, json; colspec: as sql, the second argument says which columns are the key
--   operation … arguments   of the trigger: TG_OP, TG_WHEN, TG_LEVEL, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME,
--            TG_ARGV
--   old, new   the rows as text; exact: null if these tell each difference
--   returns  null: done. {SKIP}: done, the operation is to be suppressed. Otherwise the event's six fields, not
--            yet sent: the arguments replace some, which needs the row itself; a seventh is SKIP or null
--   errors   see pgq.sqltriga, pgq.logtriga
--   note     the caller's search path and rights. All is text here, so one compiled copy of this function does
--            for all tables of a session, and nothing is planned for a row
create or replace function pgq._capture(
    i_format text, i_op text, i_when text, i_level text, i_relid oid, i_schema text, i_table text,
    i_args text[], i_old text, i_new text, i_exact_old text, i_exact_new text)
returns text[] as $$
declare
    l_format    text := i_format;
    l_first     integer := array_lower(i_args, 1);
    l_queue     text := i_args[l_first];
    l_arg       text;
    l_skip      text;           -- SKIP: suppress the operation
    l_done      text[];
    l_backup    boolean := false;
    l_deny      boolean := false;
    l_ignore    text[];
    l_pkey      text;           -- as given
    l_override  boolean := false;

    l_names     text[];         -- of live columns, in table order
    l_types     oid[];
    l_nums      smallint[];
    l_generated boolean[];
    l_has_magic boolean;
    l_hidden    boolean[];      -- not part of the data; null: none
    l_keynums   smallint[];
    l_keys      text[] := '{}'; -- in index order
    l_count     integer;

    l_values    text[];         -- new row, old row on DELETE
    l_old       text[];
    l_was       text[];         -- to be compared
    l_is        text[];
    l_stale     integer[] := '{}';
    l_changed   boolean[];
    l_hides     boolean := false;
    l_shows     boolean := false;
    l_set       text := '';
    l_where     text := '';
    l_nr        integer;
    f           text[];         -- type, data, extra1 to 4
begin
    if current_setting('session_replication_role') = 'local' then
        return null;
    end if;
    if i_op = 'TRUNCATE' then
        if i_level <> 'STATEMENT' then
            raise exception 'pgq tRuncate trigger must be fired FOR EACH STATEMENT';
        end if;
    elsif i_level <> 'ROW' then
        raise exception 'pgq Ins/Upd/Del trigger must be fired FOR EACH ROW';
    end if;

    if l_queue is null then
        raise exception 'pgq trigger must have destination queue as argument';
    end if;
    if i_format = 'colspec' then
        l_format := 'sql';
    else
        foreach l_arg in array i_args[l_first + 1 :] loop
            if l_arg = 'SKIP' then
                l_skip := l_arg;
                l_done := array[l_skip];
            elsif l_arg = 'backup' then
                l_backup := true;
            elsif l_arg = 'deny' then
                l_deny := true;
            elsif starts_with(l_arg, 'ignore=') then
                l_ignore := regexp_split_to_array(substr(l_arg, 8), '[\s,]+');
            elsif starts_with(l_arg, 'pkey=') then
                l_pkey := substr(l_arg, 6);
            else
                if l_arg !~ '^(ev_(type|data|extra[1-4])|when)=' then
                    raise exception 'bad param to pgq trigger: %', l_arg;
                end if;
                l_override := true;
            end if;
        end loop;
    end if;
    if i_op = 'TRUNCATE' then
        if l_ignore is not null then
            raise exception 'Column ignore does not make sense for truncate trigger';
        elsif l_pkey is not null then
            raise exception 'Custom pkey_list does not make sense for truncate trigger';
        elsif l_backup then
            raise exception 'Backup does not make sense for truncate trigger';
        end if;
    else
        select coalesce(array_agg(a.attname::text), '{}'), array_agg(a.atttypid), array_agg(a.attnum),
               coalesce(bool_or(starts_with(a.attname::text, '_pgq_ev_')), false), count(*),
               case when l_pkey is null and i_format <> 'colspec' then (
                   select c.conkey from pg_catalog.pg_constraint c where c.conrelid = i_relid and c.contype = 'p')
               end
          into l_names, l_types, l_nums, l_has_magic, l_count, l_keynums
          from (select t.attname, t.atttypid, t.attnum
                  from pg_catalog.pg_attribute t
                 where t.attrelid = i_relid and t.attnum > 0 and not t.attisdropped
                 order by t.attnum) a;
        if i_format = 'colspec' then
            l_keys := array(select l_names[k.nr]
                              from generate_series(1, length(i_args[l_first + 1])) as k (nr)
                             where substr(i_args[l_first + 1], k.nr, 1) = 'k');
            l_ignore := array(select l_names[k.nr]
                                from generate_series(1, l_count) as k (nr)
                               where substr(i_args[l_first + 1], k.nr, 1) in ('i', ''));
            if cardinality(l_keys) = 0 then
                raise exception 'need at least one key column';
            elsif array_position(l_keys, null) is not null then
                raise exception 'key column does not exist';
            end if;
        elsif l_pkey is not null then
            l_keys := array_remove(regexp_split_to_array(l_pkey, '[\s,]+'), '');
            if not l_keys <@ l_names then
                raise exception 'key column does not exist: %', l_pkey;
            end if;
        elsif l_keynums is not null then
            foreach l_nr in array l_keynums loop
                l_keys := l_keys || l_names[array_position(l_nums, l_nr::smallint)];
            end loop;
        end if;
        if i_op <> 'INSERT' and cardinality(l_keys) = 0 then
            raise exception 'Update/Delete on table without pkey';
        end if;
    end if;
    if l_skip is not null and i_when = 'AFTER' then
        raise exception 'SKIP does not work in AFTER trigger.';
    end if;
    if l_deny then
        raise exception 'Table ''%.%'' to queue ''%'': change not allowed (%)', i_schema, i_table, l_queue, i_op;
    end if;

    if i_op <> 'TRUNCATE' then
        if l_has_magic or l_ignore is not null then
            for i in 1 .. l_count loop
                l_hidden[i] := l_names[i] = any (l_ignore) or starts_with(l_names[i], '_pgq_ev_');
            end loop;
        end if;
        l_values := pgq._row_values(case when i_op = 'DELETE' then i_old else i_new end, l_count);
    end if;

    if i_op = 'UPDATE' then
        l_old := pgq._row_values(i_old, l_count);
        if i_when = 'BEFORE' then
            -- not computed yet: take the old value, as the C functions do
            for l_nr in
                select array_position(l_nums, t.attnum)
                  from pg_catalog.pg_attribute t
                 where t.attrelid = i_relid and t.attnum > 0 and not t.attisdropped and t.attgenerated <> ''
            loop
                l_values[l_nr] := l_old[l_nr];
                l_stale := l_stale || l_nr;
            end loop;
        end if;
        l_was := l_old;
        l_is := l_values;
        if i_exact_old is not null then
            l_was := pgq._row_values(i_exact_old, l_count);
            l_is := pgq._row_values(i_exact_new, l_count);
            foreach l_nr in array l_stale loop
                l_is[l_nr] := l_was[l_nr];
            end loop;
        end if;
        foreach l_arg in array l_keys loop
            l_nr := array_position(l_names, l_arg);
            if l_is[l_nr] is distinct from l_was[l_nr]
                and pgq._values_differ(i_relid, l_arg, l_was[l_nr], l_is[l_nr])
            then
                raise exception 'primary key update not allowed';
            end if;
        end loop;
        if l_ignore is not null or l_format = 'sql' then
            for i in 1 .. l_count loop
                l_changed[i] := l_is[i] is distinct from l_was[i];
                if l_changed[i] and l_hidden[i] then
                    l_hides := true;
                elsif l_changed[i] then
                    l_shows := true;
                end if;
            end loop;
            if l_hides and not l_shows then
                return l_done;
            end if;
        end if;
    end if;

    -- type, data
    f[6] := null;
    if l_format = 'json' then
        f[1] := '{"op":"' || i_op || '","table":[' || to_json(i_schema) || ',' || to_json(i_table) || ']'
            || case when i_op = 'TRUNCATE' then '}' else ',"pkey":[' end;
        if i_op <> 'TRUNCATE' then
            l_where := '';
            foreach l_arg in array
                case when l_pkey is null then l_keys when l_pkey = '' then array[''] else string_to_array(l_pkey, ',') end
            loop
                l_where := l_where || ',' || to_json(l_arg);
            end loop;
            f[1] := f[1] || substr(l_where, 2) || ']}';
        end if;
        f[2] := '{}';
    else
        f[1] := case i_op when 'TRUNCATE' then 'R' else left(i_op, 1) end;
        if l_format = 'url' and i_op <> 'TRUNCATE' then
            f[1] := f[1] || ':' || coalesce(l_pkey, array_to_string(l_keys, ','));
        end if;
        f[2] := '';
    end if;
    if i_op = 'TRUNCATE' then
        null;
    elsif l_format = 'sql' and i_op <> 'INSERT' then
        for i in 1 .. l_count loop
            if l_changed[i] and not coalesce(l_hidden[i], false) then
                l_set := l_set || ',' || quote_ident(l_names[i]) || '=' || coalesce(quote_literal(l_values[i]), 'NULL');
            end if;
            if l_names[i] = any (l_keys) then
                l_arg := case when i_op = 'UPDATE' then l_old[i] else l_values[i] end;
                if l_arg is null then
                    raise exception 'logtriga: Unexpected NULL key value';
                end if;
                l_where := l_where || ' and ' || quote_ident(l_names[i]) || '=' || quote_literal(l_arg);
            end if;
        end loop;
        f[2] := substr(l_where, 6);
        if i_op = 'UPDATE' then
            if l_set = '' then
                l_set := ',' || split_part(f[2], ' and ', 1);
            end if;
            f[2] := substr(l_set, 2) || ' where ' || f[2];
        end if;
    else
        f[2] := pgq._encode_row(l_format, l_names, l_types, l_values, l_hidden);
    end if;

    f[3] := i_schema || '.' || i_table;
    if l_backup and i_op = 'UPDATE' then
        f[4] := pgq._encode_row(case l_format when 'json' then 'json' else 'url' end,
                                l_names, l_types, l_old, l_hidden);
    end if;

    if l_has_magic then
        for i in 1 .. l_count loop
            continue when not starts_with(l_names[i], '_pgq_ev_');
            l_nr := array_position(array['type', 'data', 'extra1', 'extra2', 'extra3', 'extra4'], substr(l_names[i], 9));
            if l_nr is null then
                raise exception 'Unknown magic column: %', l_names[i];
            end if;
            f[l_nr] := l_values[i];
        end loop;
    end if;
    if l_override then
        f[7] := l_skip;
        return f;
    end if;

    perform pgq.insert_event(l_queue, f[1], f[2], f[3], f[4], f[5], f[6]);
    return l_done;
end;
$$ language plpgsql;
