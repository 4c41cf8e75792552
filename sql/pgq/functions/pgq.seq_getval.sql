-- pgq.seq_getval(sequence): read a sequence without moving it
--   returns  last value; 1 if it was never used
create or replace function pgq.seq_getval(i_seq_name text) returns bigint as $$
declare
    l_value bigint;
begin
    execute 'select last_value from ' || pgq.quote_fqname(i_seq_name) into strict l_value;
    return l_value;
end;
$$ language plpgsql strict;
