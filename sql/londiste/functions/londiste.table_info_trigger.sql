-- londiste.table_info_trigger(): a table that leaves the registry loses its capture triggers
create or replace function londiste.table_info_trigger() returns trigger as $$
begin
    if tg_op = 'DELETE' then
        perform londiste.drop_table_triggers(old.queue_name, old.table_name);
    end if;
    return old;
end;
$$ language plpgsql;

drop trigger if exists table_info_trigger_sync on londiste.table_info;
create trigger table_info_trigger_sync before delete on londiste.table_info
    for each row execute function londiste.table_info_trigger();
