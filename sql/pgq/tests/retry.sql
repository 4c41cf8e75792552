-- retried events come back to their consumer only
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c'), pgq.register_consumer('q', 'd');
select pgq.insert_event('q', 't', 'event ' || i) from generate_series(1, 12) i;
select pgq.tick_now('q');
\o
select pgq.next_batch('q', 'c'), pgq.next_batch('q', 'd');
select pgq.event_retry(1, 2, 0), pgq.event_retry(1, 2, 0), pgq.event_retry(1, 3, '2001-01-01'::timestamptz);
select pgq.event_retry(1, 99, 0);
select pgq.event_retry(99, 2, 0);
select pgq.batch_retry(1, 0), pgq.batch_retry(1, 0);
select pgq.batch_retry(99, 0);
select pgq.event_retry_raw('q', 'c', now(), null, now(), 5, 'raw', 'new id', null, null, null, null);
select pgq.event_retry_raw('q', 'c', now(), 2, now(), 5, 'raw', 'waits already', null, null, null, null);
select pgq.event_retry_raw('q', 'nosuch', now(), 2, now(), 5, 'raw', 'x', null, null, null, null);
select pgq.finish_batch(1), pgq.finish_batch(2);
select pgq.maint_retry_events();
select pgq.maint_retry_events();
select pgq.maint_retry_events();
select pgq.tick_now('q') is not null as ticked;
select pgq.next_batch('q', 'c'), pgq.next_batch('q', 'd');
select ev_id, ev_retry, ev_type, ev_data from pgq.get_batch_events(3);
select ev_id from pgq.get_batch_events(4);
-- one that waits since an earlier batch is not of this one
select pgq.event_retry(3, 2, 3600), pgq.event_retry(3, 2, 0), pgq.finish_batch(3), pgq.insert_event('q', 't', 'later') is not null as inserted;
select pgq.tick_now('q') is not null as ticked;
select pgq.next_batch('q', 'c');
select ev_data from pgq.get_batch_events(5);
select pgq.event_retry(5, 2, 0);
-- unregistering forgets them
select pgq.unregister_consumer('q', 'c');
select count(*) from pgq.retry_queue;
-- a queue that takes no inserts, and a limit for producers, hold nothing up
\o /dev/null
select pgq.create_queue('closed'), pgq.create_queue('narrow');
select pgq.register_consumer('closed', 'e'), pgq.register_consumer('narrow', 'e');
select pgq.event_retry_raw(q, 'e', now(), null, now(), 1, 'type', 'data', null, null, null, null)
  from unnest('{closed,narrow,narrow,narrow}'::text[]) q;
update pgq.queue set queue_disable_insert = true where queue_name = 'closed';
update pgq.queue set queue_per_tx_limit = 1 where queue_name = 'narrow';
\o
select pgq.maint_retry_events() as moved;
select count(*) as kept from pgq.retry_queue;
begin isolation level repeatable read;
select pgq.maint_retry_events();
rollback;
