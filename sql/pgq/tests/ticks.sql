-- when a tick is due: no tick younger than the rules want, times set by hand
\pset null '<NULL>'
\o /dev/null
select pgq.create_queue('q');
create function set_times(last interval, gap interval) returns void language plpgsql as $$
begin
    delete from pgq.tick where tick_id not in (select tick_id from pgq.tick order by tick_id desc limit 2);
    update pgq.tick set tick_time = now() - last where tick_id = (select max(tick_id) from pgq.tick);
    update pgq.tick set tick_time = now() - last - gap where tick_id < (select max(tick_id) from pgq.tick);
end $$;
create function new_events(n int) returns void language sql as
$$ update pgq.tick set tick_event_seq = pgq.seq_getval('pgq.event_1_id_seq') - n where tick_id = (select max(tick_id) from pgq.tick) $$;
\o
select pgq.ticker('q') as second_at_once;
-- idle: age and gap
\o /dev/null
begin; select set_times('1.6 s', '0.1 s'); \o
select pgq.ticker('q') is not null as ticks; rollback;
\o /dev/null
begin; select set_times('1.6 s', '1 s'); \o
select pgq.ticker('q') is not null as not_yet; rollback;
\o /dev/null
begin; select set_times('2.1 s', '1 s'); \o
select pgq.ticker('q') is not null as ticks; rollback;
\o /dev/null
begin; select set_times('61 s', '50 s'); \o
select pgq.ticker('q') is not null as ticks; rollback;
-- with events: count and lag
\o /dev/null
begin; select set_times('2 s', '1 s'), new_events(499); \o
select pgq.ticker('q') is not null as not_yet; rollback;
\o /dev/null
begin; select set_times('2 s', '1 s'), new_events(500); \o
select pgq.ticker('q') is not null as ticks; rollback;
\o /dev/null
begin; select set_times('3 s', '1 s'), new_events(1); \o
select pgq.ticker('q') is not null as ticks, pgq.ticker() as no_more; rollback;

-- read from the WAL: transactions count where the queue's event tables are published
create table written (n int);
create function new_transactions(n int) returns void language plpgsql as $$
begin
    for i in 1 .. n loop
        begin
            insert into written values (i);
        exception when others then raise;
        end;
    end loop;
end $$;
\o /dev/null
select pgq.ticker('q'); select new_transactions(500); select set_times('0 s', '10 s'); \o
select pgq.ticker('q') is not null as not_published;
\o /dev/null
create publication p for table pgq.event_1_0; \o
select pgq.ticker('q') is not null as ticks, pgq.ticker() as no_more;
\o /dev/null
select new_transactions(400); select set_times('0 s', '10 s'); \o
select pgq.ticker('q') is not null as not_yet;
\o /dev/null
drop publication p; \o

-- at once, and asked for
select pgq.tick_now('q'), pgq.tick_now('q'), pgq.tick_now('q', '1 hour');
select pgq.tick_now('nosuch');
select pgq.want_tick('q');
select pgq.want_tick('nosuch');

-- forced: the sequence jumps
select nextval('pgq.event_1_id_seq') from generate_series(1, 4);
select pgq.force_tick('q') as newest, nextval('pgq.event_1_id_seq');
select pgq.force_tick('nosuch');

-- refusals
select pgq.ticker('nosuch');
begin isolation level repeatable read; select pgq.ticker('q'); rollback;
begin isolation level serializable; select pgq.tick_now('q'); rollback;
select pgq.set_queue_config('q', 'ticker_paused', 'true');
select pgq.ticker('q');
select pgq.ticker(), pgq.tick_now('q');

-- ticks from outside
select pgq.set_queue_config('q', 'ticker_paused', 'false');
select pgq.ticker('q', 100, '2001-01-01', 5000);
select pgq.set_queue_config('q', 'external_ticker', 'true');
select pgq.ticker('q');
select pgq.ticker('q', 100, '2001-01-01', 5000);
select pgq.ticker('q', 100, '2001-01-01', 5000);
select pgq.ticker('q', 99, '2001-01-01', 5000);
select tick_time, tick_event_seq from pgq.tick where tick_id = 100;
select pgq.seq_getval('pgq.event_1_tick_seq'), pgq.seq_getval('pgq.event_1_id_seq');

-- one bad queue does not stop the others
\o /dev/null
select pgq.create_queue('bad'), pgq.create_queue('good');
update pgq.tick set tick_snapshot = '999999999:999999999:' where tick_queue = 2;
\o
do $$
begin
    perform pgq.ticker('bad');
exception when others then
    raise warning 'refused: %', split_part(sqlerrm, ':', 1);
end $$;
set client_min_messages = error;
-- terse would show the transaction id of the original's error
\set VERBOSITY sqlstate
select pgq.ticker() as all_but_the_bad_one;
