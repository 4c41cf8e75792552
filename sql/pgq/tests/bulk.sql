-- many events by one statement
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
select pgq.register_consumer('q', 'c');
\o
set role pgq_writer;
select pgq.insert_events('q', 'type', '{one,two,null}');
select pgq.insert_events('q', array['a', null, 'c'], array['1', '2', '3']);
select pgq.insert_events('q', '{a,b}'::text[], '{1,2}', '{x,null}', null, '{p,q}', '{r,s}');
select pgq.insert_events(queue_name => 'q', ev_type => 'by name', ev_data => '{1}');
select pgq.insert_events('q', 'type', '{}') as none, pgq.insert_events('q', 'type', null) as nulls;
select pgq.insert_events('nosuch', 'type', '{x}');
select pgq.insert_events(null, 'type', '{x}');
select pgq.insert_events('q', '{a,b}'::text[], '{1}');
select pgq.insert_events('q', '{a}'::text[], '{1}', '{}');
reset role;
select pgq.tick_now('q') as tick, pgq.next_batch('q', 'c') as batch;
select ev_id, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.get_batch_events(1);

-- the limit counts them all, with those inserted one by one
update pgq.queue set queue_per_tx_limit = 3;
begin;
select cardinality(pgq.insert_events('q', 't', '{1,2}'));
select pgq.insert_event('q', 't', '3') > 0 as third;
savepoint s;
select pgq.insert_event('q', 't', '4');
rollback to s;
select pgq.insert_events('q', 't', '{4}');
rollback;
select pgq.insert_events('q', 't', '{1,2,3,4}');
select cardinality(pgq.insert_events('q', 't', '{1,2,3}')) as new_transaction;

-- a disabled queue
update pgq.queue set queue_per_tx_limit = null, queue_disable_insert = true;
select pgq.insert_events('q', 't', '{1}');
set session_replication_role = replica;
select cardinality(pgq.insert_events('q', 't', '{1}')) as replica;
set session_replication_role = origin;
update pgq.queue set queue_disable_insert = false;

-- a snapshot older than a switch of tables
begin isolation level repeatable read;
select cardinality(pgq.insert_events('q', 't', '{1}')) as alone;
commit;
set role pgq_reader;
select pgq.insert_events('q', 't', '{1}');
reset role;
