-- pgq.jsontriga(): TODO
create or replace function pgq.jsontriga() returns trigger as $$
declare
    l_event text[];
begin
    if tg_level = 'ROW'
        and (current_setting('datestyle') !~ '^ISO'
             or (tg_op = 'UPDATE' and current_setting('extra_float_digits')::integer < 1))
    then
        l_event := pgq._capture(
            'json', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
            old::text, new::text, pgq._exact_text(old), pgq._exact_text(new));
    else
        l_event := pgq._capture(
            'json', tg_op, tg_when, tg_level, tg_relid, tg_table_schema, tg_table_name, tg_argv,
            old::text, new::text, null, null);
    end if;
    if l_event is null or cardinality(l_event) = 1 then
        null;
    elsif tg_op = 'TRUNCATE' then
        perform pgq._send_override(l_event, tg_argv, null, tg_table_name, null::text);
    else
        perform pgq._send_override(
            l_event, tg_argv, tg_relid, tg_table_name, case tg_op when 'DELETE' then old else new end);
    end if;

    if tg_level = 'STATEMENT' or tg_when = 'AFTER' or l_event[cardinality(l_event)] = 'SKIP' then
        return null;
    elsif tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end;
$$ language plpgsql;
