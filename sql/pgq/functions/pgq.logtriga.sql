-- pgq.logtriga(queue, column spec [, table]): capture trigger of PgQ 1, as pgq.sqltriga
--   column spec   a letter for each column: k key, v value, i not in the event; further columns are i
--   table         not used, the event has the table's real name
--   errors        not AFTER; no k; a k without a column; a key changes
create or replace function pgq.logtriga() returns trigger as $$
begin
    if tg_when <> 'AFTER' then
        raise exception 'pgq.logtriga must be fired AFTER';
    end if;
    if tg_nargs not in (2, 3) then
        raise exception 'pgq.logtriga must be used with 2 or 3 args';
    end if;
    if tg_level = 'STATEMENT' then
        perform pgq._capture_row('colspec', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
                                 null::text, null::text);
    else
        perform pgq._capture_row('colspec', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
                                 old, new);
    end if;
    return null;
end;
$$ language plpgsql;
