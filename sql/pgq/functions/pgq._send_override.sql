-- pgq._send_override(event, arguments, relation, table, row): replace fields of an event by what the trigger's
--            ev_type=, ev_data=, ev_extra1=, ... arguments say, and send it if its when= is true
--   event        type, data, extra1 to 4
--   arguments    of the trigger. An expression is what may follow SELECT; its first column is taken
--   row          new row, old row on DELETE; its columns can be named, alone or after the table's name
--   relation     null: there is no row (TRUNCATE)
--   errors       Expect 1 row from override query; when= is not boolean, or null; errors of an expression
--   note         the first of equal arguments counts. Polymorphic, so that each table has its own plans
create or replace function pgq._send_override(
    i_event text[], i_args text[], i_relid oid, i_table text, i_row anyelement)
returns void as $$
declare
    l_event     text[] := i_event;
    l_fields    text[] := array['ev_type', 'ev_data', 'ev_extra1', 'ev_extra2', 'ev_extra3', 'ev_extra4', 'when'];
    l_expr      text;
    l_rows      text[];
    l_columns   text[];
begin
    if i_relid is not null then
        l_columns := array(select a.attname::text
                             from pg_catalog.pg_attribute a
                            where a.attrelid = i_relid and a.attnum > 0 and not a.attisdropped);
    end if;
    for i in 1 .. 7 loop
        select substr(a.arg, length(l_fields[i]) + 2) into l_expr
          from unnest(i_args) with ordinality as a (arg, nr)
         where a.nr > 1 and starts_with(a.arg, l_fields[i] || '=')
         order by a.nr
         limit 1;
        continue when not found;
        if l_expr ~ '^[[:space:]]*$' then
            l_expr := 'null';   -- an empty select list was taken for null
        end if;
        execute 'select array(select array[case when num_nulls(s.v) = 0 then format(''%s'', s.v) end,'
                || ' pg_typeof(s.v)::oid::text] from '
                || case when i_relid is null then '' else format('(select ($1).*) as %I, lateral ', i_table) end
                || '(select ' || pgq._quote_columns(l_expr, l_columns) || E'\n) as s (v))'
           into l_rows
          using i_row;
        if coalesce(array_length(l_rows, 1), 0) <> 1 then
            raise exception 'Expect 1 row from override query, got %', coalesce(array_length(l_rows, 1), 0);
        end if;
        if i < 7 then
            l_event[i] := l_rows[1][1];
        elsif l_rows[1][2] <> '16' then
            raise exception 'when= query result must be boolean, got=%', l_rows[1][2];
        elsif l_rows[1][1] is null then
            raise exception 'when= should not be NULL';
        elsif l_rows[1][1] = 'f' then
            return;
        end if;
    end loop;
    perform pgq.insert_event(i_args[array_lower(i_args, 1)],
                             l_event[1], l_event[2], l_event[3], l_event[4], l_event[5], l_event[6]);
end;
$$ language plpgsql;
