-- pgq._capture_row(format, operation, when, level, relation, schema, table, arguments, old, new): pgq._capture for
--            triggers with arguments and sessions with unusual settings, which need more of a row than its text
--   returns  whether a BEFORE trigger has to suppress the operation
--   note     polymorphic, so that each table has its own plans. For a statement trigger the rows are null::text
create or replace function pgq._capture_row(
    i_format text, i_op text, i_when text, i_level text, i_relid oid, i_schema text, i_table text,
    i_args text[], i_old anyelement, i_new anyelement)
returns boolean as $$
declare
    l_event text[];
begin
    if i_level = 'STATEMENT' or pgq._usual_settings(i_op) then
        l_event := pgq._capture(i_format, i_op, i_when, i_level, i_relid, i_schema, i_table, i_args,
                                i_old::text, i_new::text, null, null);
    else
        if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
            perform pgq._check_layout(i_relid, case i_op when 'DELETE' then i_old else i_new end);
        end if;
        l_event := pgq._capture(i_format, i_op, i_when, i_level, i_relid, i_schema, i_table, i_args,
                                i_old::text, i_new::text, pgq._exact_text(i_old), pgq._exact_text(i_new));
    end if;
    if cardinality(l_event) > 1 then
        perform pgq._send_override(
            l_event, i_args, case i_level when 'ROW' then i_relid end, i_table,
            case i_op when 'DELETE' then i_old else i_new end);
    end if;
    return coalesce(l_event[cardinality(l_event)] = 'SKIP', false);
end;
$$ language plpgsql;
