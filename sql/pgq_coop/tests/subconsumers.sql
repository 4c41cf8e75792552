-- subconsumers: registering, batches in parallel, takeover, unregistering by either schema
\pset null '<NULL>'
create view rows as
    select c.co_name, s.sub_last_tick as last, s.sub_next_tick as next, s.sub_batch as batch,
           s.sub_id = (select min(sub_id) from pgq.subscription) as of_group
      from pgq.subscription s join pgq.consumer c on c.co_id = s.sub_consumer order by c.co_name;
select pgq_coop.version() >= '3' as version;
select pgq_coop.register_subconsumer('nosuch', 'main', 'a');
select pgq.create_queue('q');
select pgq_coop.register_subconsumer('q', 'main', null);
select pgq_coop.register_subconsumer('q', 'main', 'a'), pgq_coop.register_subconsumer('q', 'main', 'a'),
       pgq_coop.register_subconsumer('q', 'main', 'b');
select * from rows;
select pgq_coop.next_batch('q', 'main', 'a') as none_yet;
select pgq.next_batch('q', 'main.a');

-- a batch each; the group's position moves on when a batch is taken
\o /dev/null
select pgq.insert_event('q', 't', 'event ' || i), pgq.ticker('q') from generate_series(1, 1) i;
select pgq.insert_event('q', 't', 'event 2');
select pgq.tick_now('q');
select pgq.insert_event('q', 't', 'event 3');
select pgq.tick_now('q');
select pgq.insert_event('q', 't', 'event 4');
select pgq.tick_now('q');
\o
select pgq_coop.next_batch('q', 'main', 'a') as a, pgq_coop.next_batch('q', 'main', 'b') as b,
       pgq_coop.next_batch('q', 'main', 'a') as a_again;
select * from rows;
select queue_name, consumer_name, prev_tick_id, tick_id from pgq.get_batch_info(2);
select ev_data from pgq.get_batch_events(1);
select ev_data from pgq.get_batch_events(2);

-- retried events belong to the group
select pgq.event_retry(2, (select min(ev_id) from pgq.get_batch_events(2)), 0);
select pgq_coop.finish_batch(2), pgq_coop.finish_batch(2), pgq_coop.finish_batch(99);
select pgq.maint_retry_events(), pgq.tick_now('q') is not null as ticked;
select pgq_coop.next_batch('q', 'main', 'b') as b;
select ev_data from pgq.get_batch_events(3);
select pgq_coop.finish_batch(3);
select pgq_coop.next_batch('q', 'main', 'b') as b;
select ev_data, ev_retry from pgq.get_batch_events(4);

-- the original left a position behind here, and held rotation back by it
select pgq.finish_batch(4);
select * from rows where co_name = 'main.b';

-- a plain consumer's batch is none of its business: it would lose its position
select pgq.register_consumer_at('q', 'plain', 1);
select pgq.next_batch('q', 'plain');
select pgq_coop.finish_batch(5);
select * from rows where co_name = 'plain';
select pgq.unregister_consumer('q', 'plain');

-- a minimum that is not met
select pgq_coop.next_batch_custom('q', 'main', 'b', '1 hour', null, null) as too_young,
       pgq_coop.next_batch_custom('q', 'main', 'b', null, 1000, null) as too_small;

-- takeover: the batch keeps its id; an idle one just goes
select pgq_coop.next_batch('q', 'main', 'b', '1 hour') as nobody_is_dead;
select pgq_coop.finish_batch(6);
update pgq.subscription set sub_active = now() - interval '2 hours' where sub_batch = 1;
select pgq_coop.next_batch('q', 'main', 'b', '1 hour') as taken_over;
select * from rows;
select pgq_coop.finish_batch(1);
select pgq_coop.register_subconsumer('q', 'main', 'idle');
update pgq.subscription set sub_active = now() - interval '2 hours' where sub_batch is null and sub_last_tick is null;
select pgq_coop.next_batch('q', 'main', 'c', '1 hour') as idle_one_removed;
select * from rows;

-- taking a batch registers whoever is missing
select pgq_coop.next_batch('q', 'other', 'x');
select co_name from rows;

-- the main consumer must not take batches itself
\o /dev/null
select pgq.tick_now('q');
\o
select pgq.next_batch('q', 'main') is not null as opened;
select pgq_coop.next_batch('q', 'main', 'c');
update pgq.subscription set sub_batch = null, sub_next_tick = null where sub_batch is not null;

-- a name that is taken
select pgq.register_consumer('q', 'main.own');
select pgq_coop.register_subconsumer('q', 'main', 'own');
select pgq_coop.next_batch('q', 'main', 'own');
select pgq_coop.unregister_subconsumer('q', 'main', 'own', 1);

-- unregistering
select pgq_coop.next_batch('q', 'main', 'b') is not null as opened;
select pgq_coop.unregister_subconsumer('q', 'main', 'b', 0);
select pgq_coop.unregister_subconsumer('q', 'main', 'b', null);
select pgq_coop.unregister_subconsumer('q', 'main', 'b', 1) as b, pgq_coop.unregister_subconsumer('q', 'main', 'b', 1) as b_again,
       pgq_coop.unregister_subconsumer('q', 'main', 'c', 0) as c;
\o /dev/null
select pgq_coop.register_subconsumer('q', 'main', x) from unnest('{one,two,three}'::text[]) x;
\o
select pgq.unregister_consumer('q', 'main.one') as one, pgq.unregister_consumer('q', 'main') as three;

-- a main consumer with an open batch takes its group along, too
\o /dev/null
select pgq_coop.register_subconsumer('q', 'main', x) from unnest('{one,two}'::text[]) x;
select pgq.tick_now('q');
select pgq.next_batch('q', 'main');
\o
select pgq.unregister_consumer('q', 'main') as three;
select * from pgq.consumer order by co_name;

set role pgq_reader;
select pgq_coop.next_batch('q', 'other', 'x') is not null as reader_may;
reset role;
set role pgq_writer;
select pgq_coop.next_batch('q', 'other', 'x');
reset role;
