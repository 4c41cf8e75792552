-- pgq.seq_setval(sequence, value): move a sequence forward, never back
--   returns  its value afterwards
create or replace function pgq.seq_setval(i_seq_name text, i_new_value bigint) returns bigint as $$
declare
    l_value bigint := pgq.seq_getval(i_seq_name);
begin
    if i_new_value > l_value then
        l_value := setval(pgq.quote_fqname(i_seq_name)::regclass, i_new_value);
    end if;
    return l_value;
end;
$$ language plpgsql strict;
