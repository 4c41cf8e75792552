-- pgq.jsontriga(queue, arguments...): capture trigger; events carry the row as a JSON object
--   attach   for each row on insert, update, delete, before or after (or instead of, on a view); for each statement
--            on truncate
--   queue    first argument of the trigger. The others, in any order:
--            SKIP            a BEFORE trigger suppresses the operation, only the event remains
--            ignore=a,b      columns left out; an update of only these is no event
--            pkey=a,b        key columns; default: the primary key's
--            backup          on update, the old row into ev_extra2
--            deny            raise an error instead
--            ev_type=..., ev_data=..., ev_extra1=... to ev_extra4=...   SQL expression over the row for this field
--            when=...          boolean SQL expression; no event where it is false
--   event    ev_type {"op":"UPDATE","table":["schema","table"],"pkey":["id"]}, ev_data {"id":1,"name":"x"}: integers,
--            booleans and null bare, dates and timestamps ISO 8601, all else as strings
--   note     ev_extra1 is schema.table. Columns _pgq_ev_type, _pgq_ev_data, _pgq_ev_extra1 to 4 are not data: their
--            values replace the fields. In role local nothing is done, not even SKIP
--   errors   a key changes; update or delete without key; bad argument; SKIP in an AFTER trigger
create or replace function pgq.jsontriga() returns trigger as $$
declare
    l_skip  boolean := false;
    l_done  text[];
begin
    if tg_level = 'STATEMENT' then
        l_skip := pgq._capture_row(
            'json', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
            null::text, null::text);
    elsif tg_nargs = 1 and pgq._usual_settings(tg_op) then
        l_done := pgq._capture(
            'json', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
            old::text, new::text, null, null);
    else
        l_skip := pgq._capture_row(
            'json', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
            old, new);
    end if;

    if tg_level = 'STATEMENT' or tg_when = 'AFTER' or l_skip then
        return null;
    elsif tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end;
$$ language plpgsql;
