-- disabled queues and limits; the sequence moves in any case
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
\o
select pgq.insert_event('q', 't', 'd');
update pgq.queue set queue_disable_insert = true;
select pgq.insert_event('q', 't', 'd');
select pgq.current_event_table('q');
set session_replication_role = 'local';
select pgq.insert_event('q', 't', 'd');
set session_replication_role = 'replica';
select pgq.insert_event('q', 't', 'd'), pgq.current_event_table('q');
reset session_replication_role;
update pgq.queue set queue_disable_insert = false, queue_per_tx_limit = 2;
select pgq.current_event_table('q');
select pgq.current_event_table('nosuch');

-- per transaction
begin;
select pgq.insert_event('q', 't', 'd'), pgq.insert_event('q', 't', 'd');
select pgq.insert_event('q', 't', 'd');
rollback;
begin;
select pgq.insert_event('q', 't', 'd'), pgq.insert_event('q', 't', 'd');
commit;
select pgq.insert_event('q', 't', 'd');
update pgq.queue set queue_per_tx_limit = 0;
select pgq.insert_event('q', 't', 'd');
update pgq.queue set queue_per_tx_limit = null;
select pgq.insert_event('q', 't', 'd');
select ev_id from pgq.event_template order by 1;
