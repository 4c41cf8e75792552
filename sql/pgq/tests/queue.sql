-- life of a queue
\pset null '<NULL>'
select pgq.version() >= '3' as old_clients_accept_it;
select pgq.create_queue(null);
select pgq.create_queue('q'), pgq.create_queue('q'), pgq.create_queue('odd "q" ''x');
select queue_id, queue_name, queue_ntables, queue_cur_table, queue_data_pfx, queue_event_seq, queue_tick_seq
  from pgq.queue order by 1;
select c.relname, c.relkind, c.reloptions from pg_class c
 where relname ~ '^event_1' order by 1;
select tick_queue, tick_id, tick_event_seq from pgq.tick order by 1;

-- settings
select pgq.set_queue_config('q', 'ticker_max_count', '10');
select pgq.set_queue_config('q', 'ticker_max_lag', '5 seconds');
select pgq.set_queue_config('q', 'rotation_period', '00:10');
select pgq.set_queue_config('q', 'ticker_max_count', 'many');
select pgq.set_queue_config('q', 'queue_name', 'x');
select pgq.set_queue_config('q', 'ticker_max_lag', null);
select pgq.set_queue_config('nosuch', 'ticker_max_lag', '1s');
select pgq.set_queue_config(null, 'ticker_max_lag', '1s');
select queue_ticker_max_count, queue_ticker_max_lag, queue_rotation_period from pgq.queue where queue_name = 'q';

-- consumers
select pgq.register_consumer('nosuch', 'c');
select pgq.register_consumer('q', null);
select pgq.register_consumer('q', 'c'), pgq.register_consumer('q', 'c');
select pgq.register_consumer_at('q', 'c', 77);
select pgq.register_consumer_at('q', 'c', 1), pgq.register_consumer_at('q', 'd', 1);
select queue_name, consumer_name, last_tick, current_batch, next_tick, pending_events from pgq.get_consumer_info();
select consumer_name from pgq.get_consumer_info('q', 'd');
select pgq.drop_queue('q');
select pgq.unregister_consumer('q', 'd'), pgq.unregister_consumer('q', 'd'), pgq.unregister_consumer('nosuch', 'd');
select co_name from pgq.consumer;

-- a main consumer and its subconsumers share a sub_id; it is the name that tells them apart
insert into pgq.consumer (co_name) values ('c.one'), ('c.two');
insert into pgq.subscription (sub_id, sub_queue, sub_consumer, sub_last_tick)
select m.sub_id, m.sub_queue, s.co_id, null
  from pgq.subscription m, pgq.consumer s where s.co_name like 'c.%';
select pgq.tick_now('q'), pgq.next_batch('q', 'c');
select pgq.unregister_consumer('q', 'c.one');
select pgq.unregister_consumer('q', 'c');

-- the end
select pgq.register_consumer('q', 'c');
select pgq.drop_queue('q', true), pgq.drop_queue('odd "q" ''x');
select pgq.drop_queue('q');
select (select count(*) from pgq.queue), (select count(*) from pgq.tick), (select count(*) from pg_class where relname ~ '^event_[0-9]');

-- names with and without a schema
select pgq.quote_fqname('a.b.c'), pgq.quote_fqname('Table'), pgq.quote_fqname('S.t');
create sequence plain_seq;
select pgq.seq_getval('plain_seq'), pgq.seq_setval('plain_seq', 10), pgq.seq_setval('plain_seq', 5), pgq.seq_getval('plain_seq');
select pgq.seq_getval('public.nosuch');
