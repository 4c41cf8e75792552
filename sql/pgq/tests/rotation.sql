-- rotation of event tables
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
select pgq.set_queue_config('q', 'rotation_period', '0');
\o
select * from pgq.maint_operations() where func_name like 'pgq.%';
-- nobody needs the ticks, but the newest one stays
select pgq.tick_now('q');
select pgq.maint_rotate_tables_step1('q');
select * from pgq.maint_operations() where func_name like 'pgq.%';
select pgq.maint_rotate_tables_step1('q') as not_before_step_2;
select pgq.maint_rotate_tables_step2();
select pgq.maint_rotate_tables_step1('q');
select pgq.maint_rotate_tables_step2();
select pgq.maint_rotate_tables_step1('q');
select pgq.maint_rotate_tables_step2();
select queue_cur_table, queue_switch_step2 > queue_switch_step1 as in_order from pgq.queue;
select tick_id from pgq.tick;
select pgq.register_consumer('q', 'c');
select pgq.maint_rotate_tables_step1('nosuch');

-- a consumer that does not advance stops it
\o /dev/null
select pgq.insert_event('q', 't', 'kept');
select pgq.tick_now('q');
\o
select pgq.maint_rotate_tables_step1('q');
select queue_cur_table from pgq.queue;
select pgq.next_batch('q', 'c');
select ev_data from pgq.get_batch_events(1);
select pgq.finish_batch(1);
select pgq.tick_now('q') is not null as ticked, pgq.next_batch('q', 'c');
select pgq.finish_batch(2);
select pgq.maint_rotate_tables_step1('q');
select queue_cur_table from pgq.queue;
select pgq.maint_rotate_tables_step2();

-- what else maintenance knows
update pgq.queue set queue_extra_maint = array['public.clean_up', 'other'];
select * from pgq.maint_operations() where func_name not like 'londiste.%';
select pgq.maint_tables_to_vacuum();
