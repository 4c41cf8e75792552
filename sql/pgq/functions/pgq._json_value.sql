-- pgq._json_value(type, text): a column's value in JSON
--   type     the column's declared type, so that a domain is a string
--   text     of the type's output function, DateStyle ISO; null: null
--   returns  integers, boolean and null bare; date and timestamps as ISO 8601 strings; all others as strings
create or replace function pgq._json_value(i_type oid, i_text text) returns text as $$
    select case
        when i_text is null then 'null'
        when i_type in (20, 21, 23) then i_text                            -- int8, int2, int4
        when i_type = 16 then case i_text when 't' then 'true' else 'false' end
        when i_type = 1184 then to_json(i_text::timestamptz)::text
        when i_type = 1114 then to_json(i_text::timestamp)::text
        else to_json(i_text)::text
    end;
$$ language sql stable;
