-- rounds: many queues by one statement, in parts, and of queues in a hurry only
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q'), pgq.create_queue('r'), pgq.create_queue('s');
select pgq.set_queue_config('s', 'ticker_max_lag', '50 ms');
\o
select cardinality(tick_ids) as ticks, last_queue from pgq._make_ticks(null, null, null, 2);
select cardinality(tick_ids) as ticks, last_queue from pgq._make_ticks(null, null, 2, 2);
select cardinality(tick_ids) as ticks, shortest_lag from pgq._make_ticks(null, '3 s', null, null);
select ticks, shortest_lag, go_on from pgq.ticker_round(null, null, null);

-- rounds come a little early or late: half a millisecond is not too early
begin;
select count(pgq.insert_event('s', 't', 'x')) as inserted from generate_series(1, 2);
update pgq.tick set tick_time = now() - interval '49.4 ms' where tick_queue = 3;
select cardinality(tick_ids) as ticks from pgq._make_ticks(3, null, null, null);
update pgq.tick set tick_time = now() - interval '49.5 ms' where tick_queue = 3;
select cardinality(tick_ids) as ticks from pgq._make_ticks(3, null, null, null);
rollback;

-- damage of one queue is a warning, and the others get their ticks
\o /dev/null
update pgq.tick set tick_time = tick_time - interval '1 hour';
drop sequence pgq.event_2_id_seq cascade;
\o
select ticks from pgq.ticker_round(null, null, null);
\o /dev/null
update pgq.tick set tick_time = tick_time - interval '1 hour';
drop sequence pgq.event_3_tick_seq;
\o
select ticks from pgq.ticker_round(null, null, null);
select pgq.ticker();

-- to be told
select pgq.watch_ticks('q'), pgq.watch_ticks('q');
select pgq.watch_ticks('nosuch');
select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();

begin isolation level repeatable read; select ticks from pgq.ticker_round(null, null, null); rollback;
