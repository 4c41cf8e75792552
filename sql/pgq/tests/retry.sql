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
-- unregistering forgets them
select pgq.event_retry(3, 2, 0);
select pgq.unregister_consumer('q', 'c');
select count(*) from pgq.retry_queue;
