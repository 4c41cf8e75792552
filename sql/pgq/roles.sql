-- Roles and grants of schema pgq. Functions are taken from PUBLIC first, then given by group.
--   pgq_reader   consumes: registers, takes and finishes batches
--   pgq_writer   produces events
--   pgq_admin    both, and queues, ticks, maintenance
-- Where the roles exist already, no right to create roles is needed.

do $$
declare
    l_role  text;
begin
    foreach l_role in array array['pgq_reader', 'pgq_writer', 'pgq_admin'] loop
        if not exists (select 1 from pg_catalog.pg_roles r where r.rolname = l_role) then
            begin
                execute pg_catalog.format('create role %I nologin', l_role);
            exception when duplicate_object or unique_violation then
                null;   -- another database of this cluster was first
            end;
        end if;
    end loop;
    foreach l_role in array array['pgq_reader', 'pgq_writer'] loop
        if not exists (
            select 1
              from pg_catalog.pg_auth_members m
              join pg_catalog.pg_roles g on g.oid = m.roleid and g.rolname = l_role
              join pg_catalog.pg_roles a on a.oid = m.member and a.rolname = 'pgq_admin')
        then
            execute pg_catalog.format('grant %I to pgq_admin', l_role);
        end if;
    end loop;
end;
$$;

revoke all on all functions in schema pgq from public;

-- tables
grant select on pgq.queue, pgq.consumer, pgq.tick, pgq.subscription to public, pgq_reader;
grant select, insert, update, delete on pgq.queue, pgq.consumer, pgq.tick, pgq.subscription to pgq_admin;
grant select on pgq.subscriber, pgq.position, pgq.position_switch to public;
grant select on pgq.event_template to pgq_reader;
grant select, insert, truncate on pgq.event_template to pgq_admin;
grant select, insert, update, delete on pgq.retry_queue, pgq.delayed_event to pgq_admin;
grant select on pgq.dead_letter to pgq_reader;
grant select, insert, update, delete on pgq.dead_letter to pgq_admin;
grant select on pgq.skytide_module to public;

-- everybody: information
grant execute on function
    pgq.version(),
    pgq.quote_fqname(text),
    pgq.seq_getval(text),
    pgq.get_queue_info(),
    pgq.get_queue_info(text),
    pgq.get_consumer_info(),
    pgq.get_consumer_info(text),
    pgq.get_consumer_info(text, text),
    pgq.get_dead_letter_info(),
    pgq._full_txid(xid),
    pgq.get_rotation_blockers(text)
to public;

-- everybody: a trigger runs as whoever changes the table; the right to produce is asked for by insert_event
grant execute on function
    pgq._capture(text, text, text, text, oid, text, text, text[], text, text, text, text),
    pgq._row_values(text),
    pgq._capture_row(text, text, text, text, oid, text, text, text[], anyelement, anyelement),
    pgq._trigger_layout(regclass),
    pgq._usual_settings(text),
    pgq._insert_is_ours(),
    pgq._check_layout(oid, anyelement),
    pgq._exact_text(anyelement),
    pgq._urlencode(text),
    pgq._urlencode_all(text),
    pgq._json_value(oid, text),
    pgq._values_differ(oid, text, text, text),
    pgq._send_override(text[], text[], oid, text, anyelement),
    pgq._quote_columns(text, text[]),
    pgq._listed_columns(text, oid)
to public;

-- producing
grant execute on function
    pgq.insert_event(text, text, text),
    pgq.insert_event(text, text, text, text, text, text, text),
    pgq.insert_events(text, text, text[]),
    pgq.insert_events(text, text[], text[], text[], text[], text[], text[]),
    pgq.insert_event_at(text, timestamptz, text, text, text, text, text, text),
    pgq.cancel_event_at(text, bigint),
    pgq.current_event_table(text),
    pgq.jsontriga(),
    pgq.logutriga(),
    pgq.sqltriga(),
    pgq.logtriga()
to pgq_writer;

-- consuming
grant execute on function
    pgq.register_consumer(text, text),
    pgq.register_consumer_at(text, text, bigint),
    pgq.unregister_consumer(text, text),
    pgq.seek_consumer(text, text, bigint),
    pgq.seek_consumer(text, text, timestamptz),
    pgq.purge_consumer(text, text),
    pgq.pause_consumer(text, text),
    pgq.resume_consumer(text, text),
    pgq.next_batch(text, text),
    pgq.next_batch_info(text, text),
    pgq.next_batch_custom(text, text, interval, integer, interval),
    pgq.find_tick_helper(integer, bigint, timestamptz, bigint, bigint, interval),
    pgq._batch(bigint),
    pgq.batch_event_sql(bigint),
    pgq.batch_event_tables(bigint),
    pgq.get_batch_events(bigint),
    pgq.get_batch_cursor(bigint, text, integer),
    pgq.get_batch_cursor(bigint, text, integer, text),
    pgq.get_batch_info(bigint),
    pgq.finish_batch(bigint),
    pgq.event_retry(bigint, bigint, timestamptz),
    pgq.event_retry(bigint, bigint, integer),
    pgq.events_retry(bigint, bigint[], integer),
    pgq.batch_retry(bigint, integer),
    pgq.event_nack(bigint, bigint, text),
    pgq.event_nack(bigint, bigint[], text),
    pgq.event_dead(bigint, bigint, text),
    pgq.event_dead(bigint, bigint[], text),
    pgq.get_dead_letters(text, text, bigint, integer),
    pgq.force_tick(text),
    pgq.want_tick(text),
    pgq.watch_ticks(text)
to pgq_reader;

-- administration
grant execute on function
    pgq.create_queue(text),
    pgq.drop_queue(text, boolean),
    pgq.drop_queue(text),
    pgq.set_queue_config(text, text, text),
    pgq.grant_perms(text),
    pgq._grant_perms_from(text, text, text, text),
    pgq.tune_storage(text),
    pgq.compile_trigger(regclass, name),
    pgq._compile_function(oid, text, text[]),
    pgq._compile_lock_class(),
    pgq._trigger_args(oid),
    pgq._drop_unused_triggers(oid),
    pgq.upgrade_schema(),
    pgq.insert_event_raw(text, bigint, timestamptz, integer, integer, text, text, text, text, text, text),
    pgq.event_retry_raw(text, text, timestamptz, bigint, timestamptz, integer, text, text, text, text, text, text),
    pgq.maint_retry_events(),
    pgq._deliver_delayed(integer),
    pgq._require_read_committed(text),
    pgq.dead_letter_replay(bigint),
    pgq.dead_letter_replay(text, text),
    pgq.dead_letter_purge(bigint),
    pgq.dead_letter_purge(text, text, interval),
    pgq.ticker(),
    pgq.ticker(text),
    pgq.ticker(text, bigint, timestamptz, bigint),
    pgq.ticker_round(text, interval, integer),
    pgq.tick_now(text, interval),
    pgq.tick_now_if_free(text),
    pgq.lock_ticks(text),
    pgq.tick_at_snapshot(text, txid_snapshot, text, text),
    pgq.maint_operations(),
    pgq._snapshot_is_held(integer),
    pgq._count_in_transaction(text, integer, integer, integer, bigint),
    pgq._require_current_table(text),
    pgq.maint_rotate_tables_step1(text),
    pgq.maint_rotate_tables_step2(),
    pgq._positions_are_due(),
    pgq.maint_rotate_positions(),
    pgq.maint_tables_to_vacuum(),
    pgq.seq_setval(text, bigint)
to pgq_admin;

-- rights as they are now for what was compiled before
do $$
begin
    perform pgq._compile_again();
end;
$$;
