-- an event that fails is retried later and later, then it is a dead letter
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c'), pgq.register_consumer('q', 'd');
select pgq.set_queue_config('q', 'max_retries', '2'), pgq.set_queue_config('q', 'retry_delay', '1 minute'),
       pgq.set_queue_config('q', 'retry_max_delay', '90 seconds');
select pgq.insert_events('q', '{t1,t2,t3}'::text[], '{one,two,three}', '{x1,x2,x3}');
select pgq.tick_now('q');
-- what is due for the consumer, as its next batch
create function next_round() returns bigint language plpgsql as $$
declare
    l_batch bigint := (select sub_batch from pgq.subscription s join pgq.consumer on co_id = sub_consumer where co_name = 'c');
begin
    perform pgq.finish_batch(l_batch);
    update pgq.retry_queue set ev_retry_after = now();
    while pgq.maint_retry_events() > 0 loop end loop;
    return 1;
end $$;
\o
select pgq.next_batch('q', 'c') as batch;
set role pgq_reader;
select pgq.event_nack(1, 1, 'broken') - now() as delay, pgq.event_nack(1, 1) - now() as again;
select ev_id, retry_after - now() as delay from pgq.event_nack(1, array[2, 3, 3]::bigint[]);
select pgq.event_nack(1, 99);
select pgq.event_nack(1, array[1, 99]::bigint[]);
select pgq.event_nack(99, 1);
reset role;
select ev_id, ev_retry from pgq.retry_queue order by ev_id;
select next_round();
select pgq.tick_now('q') as tick;
select pgq.next_batch('q', 'c') as batch;
select ev_id, ev_retry, ev_data from pgq.get_batch_events(2);
select pgq.event_nack(2, 1, 'broken') - now() as at_most_90s;
select pgq.event_dead(2, 2, 'poison'), pgq.event_dead(2, 2, 'again');
select next_round();
select pgq.tick_now('q') as tick;
select pgq.next_batch('q', 'c') as batch;
select pgq.event_nack(3, 1, 'still broken') as dead, pgq.event_nack(3, 1, 'said twice') as again;
set role pgq_reader;
select dl_id, queue_name, consumer_name, reason, ev_id, ev_retry, ev_type, ev_data, ev_extra1 from pgq.get_dead_letters();
select dl_id from pgq.get_dead_letters('q', 'c', 1);
select dl_id from pgq.get_dead_letters('q', 'd');
select dl_id from pgq.get_dead_letters(i_limit => 1);
select pgq.dead_letter_purge(null);
reset role;
set role pgq_writer;
select queue_name, consumer_name, dead_letters, oldest <= newest as ok from pgq.get_dead_letter_info();
select * from pgq.get_dead_letters();
reset role;

-- no time goes backwards
select pgq.set_queue_config('q', 'retry_delay', '-1 second');
select pgq.set_queue_config('q', 'retry_max_delay', '-1 day');
select queue_retry_delay, queue_retry_max_delay from pgq.queue;

-- replay: to that consumer only, and as if it had never failed
set role pgq_admin;
select pgq.dead_letter_replay(99) as none;
reset role;
select array_agg(dl_id) from pgq.dead_letter;
select pgq.dead_letter_replay(min(dl_id)) from pgq.dead_letter;
select next_round();
select pgq.tick_now('q') as tick;
select pgq.next_batch('q', 'c') as batch;
select ev_id, ev_retry, ev_data, ev_extra1 from pgq.get_batch_events(4);
select pgq.event_dead(4, 2, 'poison again');
select pgq.dead_letter_replay('q', 'c') as dead, pgq.dead_letter_replay('q', 'c') as again, pgq.dead_letter_replay('q', 'd') as none;

-- no limit; a limit of none
update pgq.queue set queue_max_retries = -1;
select next_round();
select pgq.tick_now('q') as tick;
select pgq.next_batch('q', 'c') as batch;
select pgq.event_nack(5, 1) - now() as first;
update pgq.queue set queue_max_retries = 0;
select pgq.event_nack(5, 2) as dead;

-- dead letters outlive the consumer, but not the queue
select pgq.unregister_consumer('q', 'c');
select pgq.dead_letter_replay('q', 'c');
select consumer_name, reason from pgq.get_dead_letters();
select pgq.dead_letter_purge('q', 'c', '1 hour') as too_young, pgq.dead_letter_purge('q', 'd') as others;
select pgq.dead_letter_purge('q') as all_of_it;

-- subconsumers: the group's letter
\o /dev/null
select pgq_coop.register_subconsumer('q', 'main', 'sub');
select pgq.insert_event('q', 't', 'shared');
select pgq.tick_now('q');
\o
select pgq_coop.next_batch('q', 'main', 'sub') as batch;
select pgq.event_nack(6, min(ev_id)) as dead from pgq.get_batch_events(6);
select consumer_name, ev_data from pgq.get_dead_letters();
select pgq.set_queue_config('q', 'max_retries', 'many');
select pgq.unregister_consumer('q', c.co_name) from pgq.consumer c; select pgq.drop_queue('q', false);
select pgq.drop_queue('q', true);
select count(*) from pgq.dead_letter;

-- many events at once
\o /dev/null
select pgq.create_queue('many'), pgq.register_consumer('many', 'c');
select pgq.insert_events('many', null, array_agg('event ' || i)) from generate_series(1, 9) i;
select pgq.tick_now('many');
\o
select pgq.next_batch('many', 'c') as many \gset
set role pgq_reader;
select pgq.events_retry(:many, '{2,3}', 0) as two, pgq.events_retry(:many, '{3,4}', 0) as one;
select pgq.events_retry(:many, '{5,99}', 0);
select pgq.events_retry(0, '{5}', 0);
select pgq.event_dead(:many, '{6,7}'::bigint[], 'poison') as two;
select pgq.event_dead(:many, '{8,99}'::bigint[], 'poison');
reset role;
select array_agg(ev_id order by ev_id) as retried from pgq.retry_queue r join pgq.queue q on queue_id = ev_queue
 where queue_name = 'many';
select array_agg(ev_id order by ev_id) as dead from pgq.get_dead_letters('many', 'c');
