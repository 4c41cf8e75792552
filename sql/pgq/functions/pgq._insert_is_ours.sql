-- pgq._insert_is_ours(): whether pgq.insert_event of seven arguments is the one of these modules, not what somebody
--            put in its place to watch or change events
--   hazard   not immutable at all. It says so that the planner computes it once; a plan that calls pgq.insert_event
--            as well is made anew when that one is replaced. A session test compares the hash
create or replace function pgq._insert_is_ours() returns boolean as $$
begin
    return exists (
        select 1
          from pg_catalog.pg_proc p
         where p.oid = 'pgq.insert_event(text,text,text,text,text,text,text)'::regprocedure
           and md5(p.prosrc) = '0e1ce11e7d41e25af263a0271f5fb0e9');
end;
$$ language plpgsql immutable;
