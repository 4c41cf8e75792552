-- pgq._encode_row(format, names, types, values, hidden): a row as a trigger puts it into an event
--   format   url, json, or sql: the two lists of an INSERT
--   hidden   columns to leave out; null: none
create or replace function pgq._encode_row(
    i_format text, i_names text[], i_types oid[], i_values text[], i_hidden boolean[])
returns text as $$
declare
    l_names text := '';
    l_data  text := '';
begin
    case i_format
    when 'url' then
        for i in 1 .. cardinality(i_names) loop
            continue when i_hidden[i];
            l_data := l_data || '&' || pgq._urlencode(i_names[i]) || coalesce('=' || pgq._urlencode(i_values[i]), '');
        end loop;
        return substr(l_data, 2);
    when 'json' then
        for i in 1 .. cardinality(i_names) loop
            continue when i_hidden[i];
            l_data := l_data || ',' || to_json(i_names[i]) || ':' || pgq._json_value(i_types[i], i_values[i]);
        end loop;
        return '{' || substr(l_data, 2) || '}';
    when 'sql' then
        for i in 1 .. cardinality(i_names) loop
            continue when i_hidden[i];
            l_names := l_names || ',' || quote_ident(i_names[i]);
            l_data := l_data || ',' || coalesce(quote_literal(i_values[i]), 'null');
        end loop;
        return '(' || substr(l_names, 2) || ') values (' || substr(l_data, 2) || ')';
    end case;
end;
$$ language plpgsql stable;
