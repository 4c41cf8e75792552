-- pgq._urlencode(text): encode as in a URL, each byte that is not a letter, digit, or one of _ . -
--   returns  a blank as +, other bytes of the server encoding as % and two lower-case hex digits
create or replace function pgq._urlencode(i_text text) returns text as $$
    select case when i_text collate "C" !~ '[^A-Za-z0-9_.-]' then i_text else pgq._urlencode_all(i_text) end;
$$ language sql immutable;
