-- positions are only inserted; three tables take turns
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
select pgq.register_consumer('q', x) from unnest('{busy,idle,gone}'::text[]) x;
select pgq.tick_now('q');
create view turns as
    select (select pos_table from pgq.position_switch) as current,
           (select count(*) > 10 from pgq.position_0) as many_in_0, (select count(*) > 10 from pgq.position_1) as many_in_1,
           (select count(*) > 10 from pgq.position_2) as many_in_2,
           (select array_agg(distinct pos_table order by pos_table) from pgq.position
             where pos_consumer = (select co_id from pgq.consumer where co_name = 'idle')) as idle_in,
           (select string_agg(consumer_name || ' ' || last_tick || coalesce(' in ' || current_batch, ''), ', ') from pgq.get_consumer_info()) as positions;
create function work(i_times integer) returns bigint language plpgsql as $$
begin
    for i in 1 .. i_times loop
        perform pgq.seek_consumer('q', 'busy', 1 + i % 2);
    end loop;
    return pgq.next_batch('q', 'busy');
end $$;
\o
select pgq.next_batch('q', 'idle') as batch, work(99) as other;
-- not yet: small, young
select count(*) from pgq.maint_operations() where func_name ~ 'positions';
select pgq.maint_rotate_positions();
select * from turns;
select work(16001);
select pgq.maint_rotate_positions();
select * from turns;
update pgq.position_switch set switch_time = now() - interval '11 minutes';
set role pgq_admin;
select func_name, func_arg from pgq.maint_operations() where func_name ~ 'positions';
select pgq.maint_rotate_positions();
reset role;
select * from turns;
-- the second turn copies what still counts out of the first table, the third empties it
select work(16001);
update pgq.position_switch set switch_time = now() - interval '11 minutes';
select pgq.maint_rotate_positions();
select * from turns;
select pgq.unregister_consumer('q', 'gone');
select work(16001);
update pgq.position_switch set switch_time = now() - interval '11 minutes';
-- a writer that read long ago which table to use, and wrote just now
insert into pgq.position
select 0, sub_queue, sub_consumer, sub_nr + 1, 2, now(), null, null
  from pgq.subscription s join pgq.consumer on co_id = sub_consumer where co_name = 'idle';
select pgq.maint_rotate_positions();
select * from turns;
select count(*) as of_the_gone from pgq.position where pos_consumer not in (select co_id from pgq.consumer);
select pgq.next_batch('q', 'idle') as none, pgq.next_batch('q', 'busy') > 0 as open;

-- programs may read and correct the old table
set role pgq_admin;
update pgq.subscription set sub_last_tick = 1, sub_batch = null, sub_next_tick = null where sub_last_tick = 2;
select sub_queue, sub_last_tick, sub_batch, sub_next_tick, sub_paused from pgq.subscription order by sub_id;
update pgq.subscription set sub_paused = true where sub_consumer = (select co_id from pgq.consumer where co_name = 'idle');
update pgq.subscription set sub_queue = 7;
delete from pgq.subscription where sub_paused;
reset role;
select consumer_name, last_tick from pgq.get_consumer_info();
set role pgq_writer;
select count(*) from pgq.subscription;
update pgq.subscription set sub_last_tick = 1;
reset role;
select pgq.drop_queue('q', true);

-- nothing dies: not a row version, however many batches
\o /dev/null
select pgq.create_queue('q');
select pgq.register_consumer('q', 'c');
\o
-- a session that has counted nothing yet
\c -
begin;
do $$
begin
    for i in 1 .. 200 loop
        perform pgq.tick_now('q');
        perform pgq.finish_batch(pgq.next_batch('q', 'c'));
    end loop;
end $$;
select relname, n_tup_ins, n_tup_upd, n_tup_del
  from pg_stat_xact_user_tables
 where schemaname = 'pgq' and n_tup_upd + n_tup_del > 0;
select last_tick from pgq.get_consumer_info();
rollback;
