-- londiste.set_session_replication_role(role, local): set session_replication_role without being a superuser
--   role     origin, replica, local
--   local    true: to the end of the transaction
--   errors   bad value; or the owner of this function may not set it: it must be a superuser, or from
--            PostgreSQL 15 on be granted SET on the parameter
create or replace function londiste.set_session_replication_role(val text, is_local boolean) returns void as $$
begin
    if val is null or val not in ('origin', 'replica', 'local') then
        raise exception 'bad value for session_replication_role: %', val;
    end if;
    perform set_config('session_replication_role', val, coalesce(is_local, false));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
