-- londiste.find_seq_oid(sequence): oid of a sequence; null if there is none
create or replace function londiste.find_seq_oid(seq text) returns oid as $$
    select londiste.find_rel_oid(seq, 'S');
$$ language sql strict stable;
