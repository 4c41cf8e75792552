-- londiste.periodic_maintenance(): forget SQL files that were run more than three months ago
--   returns  0
create or replace function londiste.periodic_maintenance() returns integer as $$
begin
    delete from londiste.applied_execute where execute_time < now() - interval '3 months';
    return 0;
end;
$$ language plpgsql;
