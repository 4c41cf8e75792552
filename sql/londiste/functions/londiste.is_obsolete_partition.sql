-- londiste.is_obsolete_partition(partition, retention, period): whether its name says it is too old
--   returns  null if the name does not end like a partition of such a period
--   errors   not supported i_partition_period
create or replace function londiste.is_obsolete_partition(
    i_partition_table text, i_retention_period interval, i_partition_period text)
returns boolean as $$
declare
    p       record;
    l_base  text;
begin
    select s.suffix, s.pattern into p from londiste._partition_suffix(i_partition_period) s;
    l_base := regexp_replace(i_partition_table, p.pattern, '');
    if l_base = i_partition_table then
        return null;
    end if;
    return i_partition_table collate "C" < l_base || to_char(now() - i_retention_period, p.suffix);
end;
$$ language plpgsql;
