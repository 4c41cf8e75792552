-- pgq._trigger_args(trigger): arguments of a trigger, as it sees them in TG_ARGV; null if it has none
create or replace function pgq._trigger_args(i_trigger oid) returns text[] as $$
    select array_agg(convert_from(decode(a.arg, 'escape'), getdatabaseencoding()) order by a.nr)
      from pg_catalog.pg_trigger t
     cross join lateral unnest(string_to_array(encode(t.tgargs, 'escape'), E'\\000')) with ordinality as a (arg, nr)
     where t.oid = i_trigger and a.nr <= t.tgnargs;
$$ language sql stable;
