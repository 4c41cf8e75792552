-- events and batches
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c');
\o
select pgq.insert_event('q', 'type', 'one'), pgq.insert_event('q', null, null, 'x1', 'x2', 'x3', 'x4');
select pgq.insert_event('nosuch', 'type', 'one');
select pgq.insert_event(null, 'type', 'one');
select pgq.insert_event_raw('q', 100, '2001-02-03 04:05:06+00', null, 7, 'raw', 'own id', null, null, null, null);
select pgq.insert_event('q', 'type', 'four');
select pgq.next_batch('q', 'c');
select pgq.next_batch('q', 'nosuch');
select pgq.next_batch('nosuch', 'c');
select pgq.next_batch(null, 'c');
select pgq.next_batch('q', null);
select pgq.tick_now('q');
select batch_id, cur_tick_id, prev_tick_id, cur_tick_event_seq, prev_tick_event_seq from pgq.next_batch_info('q', 'c');
select pgq.next_batch('q', 'c') as the_same_again;
select ev_id, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.get_batch_events(1);
select queue_name, consumer_name, prev_tick_id, tick_id, seq_start, seq_end from pgq.get_batch_info(1);
select * from pgq.get_batch_info(99);
select pgq.batch_event_tables(1);

-- cursors
begin;
select ev_id, ev_data from pgq.get_batch_cursor(1, 'walker', 2);
move 1 in walker;
select name, is_scrollable from pg_cursors where name = 'walker';
select ev_id from pgq.get_batch_cursor(1, 'quiet', 0);
move all in quiet;
select ev_id from pgq.get_batch_cursor(1, 'Odd "name', 10, 'ev_type = ''type''');
select ev_id from pgq.get_batch_cursor(null, 'none', 10);
-- terse would show a position that depends on transaction ids
\set VERBOSITY sqlstate
select ev_id from pgq.get_batch_cursor(1, 'none', 10, 'ev_owner is null');
\set VERBOSITY terse
rollback;
select ev_id from pgq.get_batch_cursor(1, 'walker', 10);
select pgq.get_batch_events(99);
select pgq.get_batch_cursor(99, 'x', 1);
select pgq.batch_event_tables(99);

select pgq.finish_batch(1), pgq.finish_batch(1);
select last_tick, current_batch from pgq.get_consumer_info('q', 'c');

-- batches of a wanted size: ticks at event 10, 25, 30, 35 after the start
\o /dev/null
select pgq.create_queue('sized'), pgq.register_consumer('sized', 'c');
delete from pgq.tick where tick_queue = 2;
insert into pgq.tick (tick_queue, tick_id, tick_event_seq, tick_time)
select 2, i, s, '2001-01-01 00:00+00'::timestamptz + s * interval '1 minute'
  from unnest(array[1, 2, 3, 4, 5], array[0, 10, 25, 30, 35]) as u (i, s);
\o
select n, (pgq.find_tick_helper(2, 1, '2001-01-01 00:00+00', 0, n, null)).*
  from unnest(array[10, 18, 20, 36]) n;
select (pgq.find_tick_helper(2, 1, '2001-01-01 00:00+00', 0, null, '20 minutes')).next_tick_id as by_time,
       (pgq.find_tick_helper(2, 1, '2001-01-01 00:00+00', 0, 1000, '20 minutes')).next_tick_id as either,
       (pgq.find_tick_helper(2, 5, '2001-01-01 00:35+00', 35, 1, null)).next_tick_id as none;
select cur_tick_id from pgq.next_batch_custom('sized', 'c', '1000 years', null, null);
select cur_tick_id from pgq.next_batch_custom('sized', 'c', null, 18, null);
select cur_tick_id from pgq.next_batch_custom('sized', 'c', null, null, null) as the_open_one;

-- a tick that is gone
\o /dev/null
select pgq.finish_batch(2);
update pgq.subscription set sub_last_tick = 77 where sub_queue = 2;
\o
select pgq.next_batch('sized', 'c');
