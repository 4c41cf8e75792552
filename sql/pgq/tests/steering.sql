-- seek, purge, pause
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
update pgq.queue set queue_ticker_max_lag = '0';
select pgq.register_consumer('q', 'c');
select pgq.insert_event('q', 't', 'one');
select pgq.tick_now('q');
select pgq.insert_event('q', 't', 'two');
select pgq.tick_now('q');
select pgq.insert_event('q', 't', 'three');
select pgq.tick_now('q');
update pgq.tick set tick_time = '2001-01-01'::timestamptz + (tick_id || ' hours')::interval;
\o
set role pgq_reader;
select pgq.next_batch('q', 'c') as batch;
select pgq.seek_consumer('q', 'c', 3) as tick;
select last_tick, current_batch from pgq.get_consumer_info('q', 'c');
select pgq.next_batch('q', 'c') as batch;
select ev_data from pgq.get_batch_events(2);
select pgq.seek_consumer('q', 'c', '2001-01-01 02:30+00'::timestamptz) as between,
       pgq.seek_consumer('q', 'c', '2001-01-01 02:00+00'::timestamptz) as at_a_tick,
       pgq.seek_consumer('q', 'c', 'infinity'::timestamptz) as newest,
       pgq.seek_consumer('q', 'c', '-infinity'::timestamptz) as oldest;
select pgq.next_batch('q', 'c') as batch;
select ev_data from pgq.get_batch_events(3);
select pgq.seek_consumer('q', 'c', 99);
select pgq.seek_consumer('q', 'c', null::bigint);
select pgq.seek_consumer('q', 'c', null::timestamptz);
select pgq.seek_consumer('q', 'nosuch', 1);
select pgq.seek_consumer('nosuch', 'c', 1);
-- purge: with what was not ticked yet, and what waits for a retry
select pgq.event_retry(3, 1, 0);
reset role;
select pgq.insert_event('q', 't', 'four') > 0 as inserted;
set role pgq_reader;
select pgq.purge_consumer('q', 'c') as tick;
reset role;
select pgq.maint_retry_events() as retried, pgq.insert_event('q', 't', 'five') > 0 as inserted;
select pgq.tick_now('q') as tick;
set role pgq_reader;
select pgq.next_batch('q', 'c') as batch;
select ev_data from pgq.get_batch_events(4);
select pgq.purge_consumer('q', 'nosuch');
-- pause: the open batch can be finished
select pgq.pause_consumer('q', 'c') as paused, pgq.pause_consumer('q', 'c') as again;
select pgq.next_batch('q', 'c') as still_open, pgq.finish_batch(4);
reset role;
select pgq.insert_event('q', 't', 'six') > 0 as inserted;
select pgq.tick_now('q') as tick;
set role pgq_reader;
select pgq.next_batch('q', 'c') as none;
select pgq.resume_consumer('q', 'c') as resumed, pgq.resume_consumer('q', 'c') as again;
select pgq.next_batch('q', 'c') as batch;
select ev_data from pgq.get_batch_events(5);
select pgq.pause_consumer('q', 'nosuch');
select pgq.resume_consumer('nosuch', 'c');
reset role;
set role pgq_writer;
select pgq.purge_consumer('q', 'c');
reset role;
-- subconsumers: one, or the group
\o /dev/null
select pgq_coop.register_subconsumer('q', 'main', x) from unnest('{a,b}'::text[]) x;
select pgq.insert_event('q', 't', 'seven');
select pgq.tick_now('q');
select pgq.tick_now('q');
select pgq.tick_now('q');
\o
select pgq.pause_consumer('q', 'main.a');
select pgq_coop.next_batch('q', 'main', 'a') as a, pgq_coop.next_batch('q', 'main', 'b') as b;
select pgq_coop.finish_batch(6), pgq.pause_consumer('q', 'main'), pgq.resume_consumer('q', 'main.a');
select pgq_coop.next_batch('q', 'main', 'a') as a, pgq_coop.next_batch('q', 'main', 'b') as b;
select pgq.resume_consumer('q', 'main');
select pgq_coop.next_batch('q', 'main', 'a') as a, pgq_coop.next_batch('q', 'main', 'b') as b;
select pgq.seek_consumer('q', 'main.a', 1);
select pgq.seek_consumer('q', 'main', 1);
