-- events that wait for their time
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c');
\o
set role pgq_writer;
select pgq.insert_event_at('q', now() + interval '1 hour', 't', 'in an hour') as id;
select pgq.insert_event_at('q', '2999-01-01', 't', 'in a while', 'x1', 'x2', 'x3', 'x4') as id;
select pgq.insert_event_at('q', now() + interval '1 day', 't', 'cancelled') as id;
select pgq.insert_event_at('q', '2001-01-01', 't', 'at once') as id;
select pgq.insert_event_at('q', null, 't', 'at once, too') as id;
select pgq.insert_event_at('nosuch', '2999-01-01', 't', 'x');
select pgq.insert_event_at(null, '2999-01-01', 't', 'x');
select pgq.insert_event_at('q', null, 't', 'by name', ev_extra4 => 'x4') as id;
select pgq.cancel_event_at('q', 3) as cancelled, pgq.cancel_event_at('q', 3) as again, pgq.cancel_event_at('q', 4) as delivered;
reset role;
set role pgq_reader;
select pgq.insert_event_at('q', '2999-01-01', 't', 'x');
reset role;
-- not before
set role pgq_admin;
select pgq.maint_retry_events();
reset role;
select pgq.tick_now('q') as tick, pgq.next_batch('q', 'c') as batch;
select ev_id, ev_data, ev_extra4 from pgq.get_batch_events(1);
select pgq.finish_batch(1);
-- once
update pgq.delayed_event set ev_deliver_at = now() - interval '1 second' where ev_id = 2;
select last_value as before from pgq.event_1_id_seq;
set role pgq_admin;
select pgq.maint_retry_events() as first, pgq.maint_retry_events() as second;
reset role;
select last_value as after from pgq.event_1_id_seq;
select pgq.tick_now('q') as tick, pgq.next_batch('q', 'c') as batch;
select ev_id, now() - ev_time between '1 second' and '1 minute' as age, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.get_batch_events(2);
select pgq.finish_batch(2);
-- a mover that rolls back delivers nothing and loses nothing
update pgq.delayed_event set ev_deliver_at = now();
begin;
select pgq.maint_retry_events();
rollback;
-- a queue that takes no inserts keeps them, others are not held up; a limit of events a transaction does not matter
\o /dev/null
select pgq.create_queue('other');
select pgq.insert_event_at('other', '2999-01-01', 't', i::text) from generate_series(1, 1500) i;
update pgq.delayed_event set ev_deliver_at = now() where ev_queue = 2;
update pgq.queue set queue_disable_insert = true where queue_name = 'q';
update pgq.queue set queue_per_tx_limit = 5 where queue_name = 'other';
\o
select pgq.maint_retry_events() as first, pgq.maint_retry_events() as second, pgq.maint_retry_events() as third;
select pgq.insert_event_at('q', '2999-01-01', 't', 'x');
update pgq.queue set queue_disable_insert = false where queue_name = 'q';
select pgq.maint_retry_events() as kept;
select count(*), count(distinct ev_id), min(ev_data::int), max(ev_data::int) from pgq.event_2;
select pgq.insert_event_at('q', '2999-01-01', 't', 'x') > 0 as goes_with_the_queue;
select pgq.unregister_consumer('q', 'c'); select pgq.drop_queue('q');
select pgq.drop_queue('q', true);
select count(*) from pgq.delayed_event;
