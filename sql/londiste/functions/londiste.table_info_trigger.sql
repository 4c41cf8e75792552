-- londiste.table_info_trigger(): the worker hears of tables that come, change and go; one that leaves the registry
--   loses its capture triggers
create or replace function londiste.table_info_trigger() returns trigger as $$
begin
    if tg_op = 'DELETE' then
        perform londiste.drop_table_triggers(old.queue_name, old.table_name);
        perform pgq_node._changed(old.queue_name);
        return old;
    end if;
    perform pgq_node._changed(new.queue_name);
    return new;
end;
$$ language plpgsql;

drop trigger if exists table_info_trigger_sync on londiste.table_info;
create trigger table_info_trigger_sync
    before insert or delete or update of local, dest_table, table_attrs on londiste.table_info
    for each row execute function londiste.table_info_trigger();
