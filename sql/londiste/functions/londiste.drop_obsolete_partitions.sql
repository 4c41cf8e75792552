-- londiste.drop_obsolete_partitions(parent, retention, period): drop what list_obsolete_partitions lists
--   returns  names of the dropped tables
create or replace function londiste.drop_obsolete_partitions(
    i_parent_table text, i_retention_period interval, i_partition_period text)
returns setof text as $$
declare
    l_part  text;
begin
    for l_part in
        select t.name
          from londiste.list_obsolete_partitions(i_parent_table, i_retention_period, i_partition_period) as t (name)
    loop
        execute 'drop table ' || l_part;
        return next l_part;
    end loop;
end;
$$ language plpgsql;
