-- londiste._partition_suffix(period): how names of partitions of such a period end
--   out      to_char format, and a pattern for what it prints
--   errors   not supported i_partition_period
create or replace function londiste._partition_suffix(i_period text, out suffix text, out pattern text)
as $$
begin
    suffix := case
        when i_period in ('year', 'yearly') then '_YYYY'
        when i_period in ('month', 'monthly') then '_YYYY_MM'
        when i_period in ('day', 'daily') then '_YYYY_MM_DD'
        when i_period in ('hour', 'hourly') then '_YYYY_MM_DD_HH24'
    end;
    if suffix is null then
        raise exception 'not supported i_partition_period: %', i_period;
    end if;
    pattern := '_[0-9]{4}' || repeat('_[0-9]{2}', (length(suffix) - 5) / 3) || '$';
end;
$$ language plpgsql immutable;
