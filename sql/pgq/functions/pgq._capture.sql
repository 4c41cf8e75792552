-- pgq._capture(format, operation, when, level, relation, schema, table, arguments, old, new, exact old, exact new):
--            what the capture triggers do: turn a change into an event, and send it
--   format   sql, url, json; colspec: as sql, the second argument says which columns are the key
--   operation ... arguments   of the trigger: TG_OP, TG_WHEN, TG_LEVEL, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME,
--            TG_ARGV
--   old, new   the rows as text. exact: of pgq._exact_text, or null if that would be the same
--   returns  null: done. {SKIP}: done, the operation is to be suppressed. Otherwise the event's six fields, not
--            yet sent: the arguments replace some, which needs the row itself; a seventh is SKIP or null
--   errors   see pgq.sqltriga, pgq.logtriga
--   note     the caller's search path and rights. All is text here, so one compiled copy of this function does
--            for all tables of a session, and nothing is planned for a row.
--            (select i_relid) hides the value from the planner, which would otherwise think that planning again for
--            each value pays
create or replace function pgq._capture(
    i_format text, i_op text, i_when text, i_level text, i_relid oid, i_schema text, i_table text,
    i_args text[], i_old text, i_new text, i_exact_old text, i_exact_new text)
returns text[] as $$
declare
    l_format    text := i_format;
    l_first     integer := array_lower(i_args, 1);
    l_queue     text := i_args[l_first];
    l_usual     boolean := cardinality(i_args) = 1;
    l_arg       text;
    l_skip      text;               -- SKIP: suppress the operation
    l_done      text[];
    l_backup    boolean := false;
    l_deny      boolean := false;
    l_override  boolean := false;
    l_ignore    text[] := '{}';
    l_pkey      text;               -- as given
    l_keynums   smallint[];         -- of the primary key
    l_keys      text[] := '{}';     -- names, in index order
    l_missing   text[];

    l_values    text[];             -- new row, old row on DELETE
    l_olds      text[];             -- old row, on UPDATE
    l_exacts    text[];             -- the same, exact
    l_olds_exact text[];
    l_name      text;
    l_type      oid;
    l_num       smallint;
    l_generated "char";
    i           integer := 0;
    l_value     text;
    l_exact     text;
    l_old       text;
    l_old_exact text;
    l_differs   boolean;
    l_hides     boolean := false;   -- a column changed that is not logged
    l_shows     boolean := false;   -- one that is

    l_names     text := '';
    l_data      text := '';
    l_olddata   text := '';
    l_where     text := '';         -- null once a key column is null
    l_firstkey  text;
    l_magic     text[];             -- pairs: field, value
    f           text[];             -- type, data, extra1 to 4
    l_id        bigint;             -- an assignment is cheaper than PERFORM
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
    elsif not l_usual then
        foreach l_arg in array i_args[l_first + 1 :] loop
            if l_arg = 'SKIP' then
                l_skip := l_arg;
                l_done := array[l_skip];
            elsif l_arg = 'backup' then
                l_backup := true;
            elsif l_arg = 'deny' then
                l_deny := true;
            elsif starts_with(l_arg, 'ignore=') then
                l_ignore := array[''] || pgq._listed_columns(substr(l_arg, 8), i_relid);
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
        if l_ignore <> '{}' then
            raise exception 'Column ignore does not make sense for truncate trigger';
        elsif l_pkey is not null then
            raise exception 'Custom pkey_list does not make sense for truncate trigger';
        elsif l_backup then
            raise exception 'Backup does not make sense for truncate trigger';
        end if;
    elsif i_format = 'colspec' then
        if strpos(i_args[l_first + 1], 'k') = 0 then
            raise exception 'need at least one key column';
        end if;
    elsif l_pkey is not null then
        l_keys := pgq._listed_columns(l_pkey, i_relid);
        l_missing := l_keys;
    else
        -- the conditions after contype hold for each primary key; they make the index the cheaper way even where
        -- the catalog is small
        l_keynums := (
            select c.conkey
              from pg_catalog.pg_constraint c
             where c.conrelid = (select i_relid) and c.contypid = 0 and c.contype = 'p'
               and c.conindid <> 0 and c.convalidated and c.connamespace <> 0);
    end if;
    if i_op in ('UPDATE', 'DELETE') and l_keynums is null and l_keys = '{}' and i_format <> 'colspec' then
        raise exception 'Update/Delete on table without pkey';
    end if;
    if l_skip is not null and i_when = 'AFTER' then
        raise exception 'SKIP does not work in AFTER trigger.';
    end if;
    if l_deny then
        raise exception 'Table ''%.%'' to queue ''%'': change not allowed (%)', i_schema, i_table, l_queue, i_op;
    end if;

    -- the usual trigger has only a queue: the same as below, in as few steps as can be, for steps are what costs
    if l_usual and l_format <> 'sql' and i_op <> 'TRUNCATE' and coalesce(i_exact_old, i_exact_new) is null
        and (i_op <> 'UPDATE' or i_when = 'AFTER')
    then
        l_values := pgq._row_values(case i_op when 'DELETE' then i_old else i_new end);
        if i_op = 'UPDATE' then
            l_olds := pgq._row_values(i_old);
        end if;
        for l_name, l_type, l_num in
            select t.attname::text, t.atttypid, t.attnum
              from pg_catalog.pg_attribute t
             where t.attrelid = (select i_relid) and t.attnum > 0 and not t.attisdropped
             order by t.attnum
        loop
            i := i + 1;
            if l_format = 'json' then
                l_data := l_data || ',' || to_json(l_name) || ':' || pgq._json_value(l_type, l_values[i]);
            else
                l_data := l_data || '&' || pgq._urlencode(l_name) || coalesce('=' || pgq._urlencode(l_values[i]), '');
            end if;
            if l_num = any (l_keynums) then
                l_keys[array_position(l_keynums, l_num)] := l_name;
                if l_values[i] is distinct from l_olds[i] and i_op = 'UPDATE'
                    and pgq._values_differ(i_relid, l_name, l_olds[i], l_values[i])
                then
                    raise exception 'primary key update not allowed';
                end if;
            end if;
        end loop;
        if strpos(l_data, '_pgq_ev_') = 0 then
            l_id := pgq.insert_event(
                l_queue,
                case l_format
                    when 'json' then '{"op":"' || i_op || '","table":[' || to_json(i_schema) || ',' || to_json(i_table)
                        || '],"pkey":' || array_to_json(l_keys) || '}'
                    else left(i_op, 1) || ':' || array_to_string(l_keys, ',')
                end,
                case l_format when 'json' then '{' || substr(l_data, 2) || '}' else substr(l_data, 2) end,
                i_schema || '.' || i_table, null, null, null);
            return null;
        end if;
        i := 0;
        l_data := '';
    end if;

    if i_op = 'TRUNCATE' then
        f[1] := case l_format
            when 'json' then '{"op":"TRUNCATE","table":[' || to_json(i_schema) || ',' || to_json(i_table)
                || '],"pkey":' || array_to_json(array(
                        select a.attname::text
                          from pg_catalog.pg_constraint c
                         cross join lateral unnest(c.conkey) with ordinality as k (num, nr)
                          join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num
                         where c.conrelid = i_relid and c.contype = 'p'
                         order by k.nr)) || '}'
            else 'R'
        end;
        f[2] := case l_format when 'json' then '{}' else '' end;
    else
        l_values := pgq._row_values(case i_op when 'DELETE' then i_old else i_new end);
        l_exacts := coalesce(pgq._row_values(case i_op when 'DELETE' then i_exact_old else i_exact_new end), l_values);
        if i_op = 'UPDATE' then
            l_olds := pgq._row_values(i_old);
            l_olds_exact := coalesce(pgq._row_values(i_exact_old), l_olds);
        end if;

        for l_name, l_type, l_num, l_generated in
            select t.attname::text, t.atttypid, t.attnum, t.attgenerated
              from pg_catalog.pg_attribute t
             where t.attrelid = (select i_relid) and t.attnum > 0 and not t.attisdropped
             order by t.attnum
        loop
            i := i + 1;
            -- not computed where triggers run (PostgreSQL 18)
            continue when l_generated = 'v';
            l_value := l_values[i];
            l_exact := l_exacts[i];

            if l_num = any (l_keynums) then
                l_keys[array_position(l_keynums, l_num)] := l_name;
            elsif i_format = 'colspec' then
                case substr(i_args[l_first + 1], i, 1)
                    when 'k' then l_keys := l_keys || l_name;
                    when 'i', '' then l_ignore := l_ignore || l_name;
                    else null;
                end case;
            end if;

            if i_op = 'UPDATE' then
                l_old := l_olds[i];
                l_old_exact := l_olds_exact[i];
                if i_when = 'BEFORE' and l_generated <> '' then
                    -- not computed yet: the C functions, too, see the old one
                    l_value := l_old;
                    l_exact := l_old_exact;
                end if;
                l_differs := l_exact is distinct from l_old_exact;
                if l_differs and l_name = any (l_keys)
                    and pgq._values_differ(i_relid, l_name, l_old_exact, l_exact)
                then
                    raise exception 'primary key update not allowed';
                end if;
            end if;
            if l_pkey is not null then
                l_missing := array_remove(l_missing, l_name);
            end if;
            if l_format = 'sql' and i_op <> 'INSERT' and l_name = any (l_keys) then
                l_arg := quote_ident(l_name) || '='
                    || quote_literal(case i_op when 'UPDATE' then l_old else l_value end);
                l_where := l_where || ' and ' || l_arg;
                l_firstkey := coalesce(l_firstkey, l_arg);
            end if;

            if starts_with(l_name, '_pgq_ev_') then
                l_magic := l_magic || array[substr(l_name, 9), l_value];
                l_hides := l_hides or l_differs;
                continue;
            elsif l_name = any (l_ignore) then
                l_hides := l_hides or l_differs;
                continue;
            end if;
            l_shows := l_shows or l_differs;

            if l_format = 'json' then
                l_data := l_data || ',' || to_json(l_name) || ':'
                    || pgq._json_value(l_type, case when l_type in (1082, 1114, 1184) then l_exact else l_value end);
            elsif l_format = 'url' then
                l_data := l_data || '&' || pgq._urlencode(l_name) || coalesce('=' || pgq._urlencode(l_value), '');
            elsif i_op = 'INSERT' then
                l_names := l_names || ',' || quote_ident(l_name);
                l_data := l_data || ',' || coalesce(quote_literal(l_value), 'null');
            elsif l_differs then
                l_data := l_data || ',' || quote_ident(l_name) || '=' || coalesce(quote_literal(l_value), 'NULL');
            end if;
            if l_backup and i_op = 'UPDATE' then
                l_olddata := l_olddata || case
                    when l_format = 'json' then ',' || to_json(l_name) || ':'
                        || pgq._json_value(
                            l_type, case when l_type in (1082, 1114, 1184) then l_old_exact else l_old end)
                    else '&' || pgq._urlencode(l_name) || coalesce('=' || pgq._urlencode(l_old), '')
                end;
            end if;
        end loop;
        if l_missing <> '{}' or i_format = 'colspec'
            and cardinality(l_keys) < length(regexp_replace(i_args[l_first + 1], '[^k]', '', 'g'))
        then
            raise exception 'key column does not exist%', coalesce(': ' || array_to_string(l_missing, ','), '');
        end if;
        if i_op = 'UPDATE' and l_hides and not l_shows and (l_format = 'sql' or l_ignore <> '{}') then
            return l_done;
        end if;

        if l_format = 'json' then
            f[1] := '{"op":"' || i_op || '","table":[' || to_json(i_schema) || ',' || to_json(i_table) || '],"pkey":'
                || array_to_json(case when l_pkey is null then l_keys
                                      when l_pkey = '' then array['']
                                      else string_to_array(l_pkey, ',') end) || '}';
            f[2] := '{' || substr(l_data, 2) || '}';
        elsif l_format = 'url' then
            f[1] := left(i_op, 1) || ':' || coalesce(l_pkey, array_to_string(l_keys, ','));
            f[2] := substr(l_data, 2);
        else
            f[1] := left(i_op, 1);
            if l_where is null then
                raise exception 'logtriga: Unexpected NULL key value';
            end if;
            l_where := substr(l_where, 6);
            f[2] := case i_op
                when 'INSERT' then '(' || substr(l_names, 2) || ') values (' || substr(l_data, 2) || ')'
                when 'UPDATE' then
                    case when l_data = '' then l_firstkey else substr(l_data, 2) end || ' where ' || l_where
                else l_where
            end;
        end if;
        if l_backup and i_op = 'UPDATE' then
            f[4] := case l_format when 'json' then '{' || substr(l_olddata, 2) || '}' else substr(l_olddata, 2) end;
        end if;
    end if;

    f[3] := i_schema || '.' || i_table;
    f[6] := f[6];   -- there are six
    for j in 1 .. coalesce(cardinality(l_magic), 0) by 2 loop
        i := array_position(array['type', 'data', 'extra1', 'extra2', 'extra3', 'extra4'], l_magic[j]);
        if i is null then
            raise exception 'Unknown magic column: _pgq_ev_%', l_magic[j];
        end if;
        f[i] := l_magic[j + 1];
    end loop;
    if l_override then
        f[7] := l_skip;
        return f;
    end if;

    l_id := pgq.insert_event(l_queue, f[1], f[2], f[3], f[4], f[5], f[6]);
    return l_done;
end;
$$ language plpgsql;
