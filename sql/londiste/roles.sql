-- Roles and grants of schema londiste.
--   londiste_reader   may look (member of pgq_reader)
--   londiste_writer   runs nodes (member of pgq_admin); needs rights on the replicated tables besides
-- Where the roles exist already, no right to create roles is needed.

do $$
declare
    r   record;
begin
    for r in select * from (values ('londiste_writer', 'pgq_admin'), ('londiste_reader', 'pgq_reader')) as v (name, member_of) loop
        if not exists (select 1 from pg_catalog.pg_roles p where p.rolname = r.name) then
            begin
                execute pg_catalog.format('create role %I nologin', r.name);
            exception when duplicate_object or unique_violation then
                null;   -- another database of this cluster was first
            end;
        end if;
        if not exists (
            select 1
              from pg_catalog.pg_auth_members m
              join pg_catalog.pg_roles g on g.oid = m.roleid and g.rolname = r.member_of
              join pg_catalog.pg_roles a on a.oid = m.member and a.rolname = r.name)
        then
            execute pg_catalog.format('grant %I to %I', r.member_of, r.name);
        end if;
    end loop;
end;
$$;

revoke all on all functions in schema londiste from public;

grant select
    on londiste.table_info, londiste.seq_info, londiste.applied_execute, londiste.pending_fkeys,
       londiste.capture_info
    to public, londiste_reader;
grant select, insert, update, delete
    on londiste.table_info, londiste.seq_info, londiste.applied_execute, londiste.pending_fkeys,
       londiste.capture_info
    to pgq_admin;
grant usage on sequence londiste.table_info_nr_seq, londiste.seq_info_nr_seq to londiste_writer;

-- everybody: information, names
grant execute on function
    londiste.version(),
    londiste.make_fqname(text),
    londiste.quote_fqname(text),
    londiste.split_fqname(text),
    londiste.find_column_types(text),
    londiste.find_rel_oid(text, text),
    londiste.find_table_oid(text),
    londiste.find_seq_oid(text),
    londiste.find_table_fkeys(text),
    londiste.is_replica_func(oid)
to public;

-- looking
grant execute on function
    londiste.get_table_list(text),
    londiste.get_seq_list(text),
    londiste._coordinate_copy(text, text),
    londiste.get_capture(text)
to londiste_reader, londiste_writer;

-- maintenance, also run by the ticker
grant execute on function
    londiste.periodic_maintenance(),
    londiste.root_check_seqs(text, bigint),
    londiste.root_check_seqs(text)
to londiste_writer, pgq_admin;

-- running a node
grant execute on function
    londiste.upgrade_schema(),
    londiste.table_info_trigger(),
    londiste.local_show_missing(text),
    londiste._compile_triggers(text),
    londiste.local_add_table(text, text),
    londiste.local_add_table(text, text, text[]),
    londiste.local_add_table(text, text, text[], text),
    londiste.local_add_table(text, text, text[], text, text),
    londiste.local_remove_table(text, text),
    londiste.local_change_handler(text, text, text[], text),
    londiste.local_set_table_state(text, text, text, text),
    londiste.local_set_table_attrs(text, text, text),
    londiste.local_set_table_struct(text, text, text),
    londiste.global_add_table(text, text),
    londiste.global_remove_table(text, text),
    londiste._table_refusal(text, text),
    londiste._trigger_name(text, text, text),
    londiste._put_trigger(text, text, text, text, text, text, text[]),
    londiste._drop_unused_functions(text),
    londiste.create_trigger(text, text, text[], text, text),
    londiste.drop_table_triggers(text, text),
    londiste.set_capture(text, text),
    londiste.local_add_seq(text, text),
    londiste.local_remove_seq(text, text),
    londiste.global_update_seq(text, text, bigint),
    londiste.global_remove_seq(text, text),
    londiste.execute_start(text, text, text, boolean),
    londiste.execute_start(text, text, text, boolean, text),
    londiste.execute_finish(text, text),
    londiste.get_table_pending_fkeys(text),
    londiste.get_valid_pending_fkeys(text),
    londiste.drop_table_fkey(text, text),
    londiste.restore_table_fkey(text, text, boolean),
    londiste._partition_suffix(text),
    londiste.create_partition(text, text, text, text, timestamptz, text),
    londiste.is_obsolete_partition(text, interval, text),
    londiste.list_obsolete_partitions(text, interval, text),
    londiste.drop_obsolete_partitions(text, interval, text),
    londiste.root_notify_change(text, text, text),
    londiste.set_session_replication_role(text, boolean)
to londiste_writer;
