-- a transaction that is longer than a tick comes in the batch that ends after its commit
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c');
begin; select pgq.insert_event('q', 'long', 'prepared first'); prepare transaction 'long';
-- far enough behind for a look-up of its own
do $$ begin for i in 1 .. 150 loop perform txid_current(); begin perform pgq.insert_event('q', 'short', i::text); exception when others then null; end; end loop; end $$;
create procedure burn(n int) language plpgsql as $$ begin for i in 1 .. n loop perform txid_current(); commit; end loop; end $$;
call burn(150);
begin; select pgq.insert_event('q', 'near', 'prepared later'); prepare transaction 'near';
select pgq.tick_now('q');
\o
select pgq.next_batch('q', 'c') as batch \gset
select ev_type, count(*) from pgq.get_batch_events(:batch) group by 1 order by 1;
select pgq.finish_batch(:batch);
commit prepared 'near';
commit prepared 'long';
select pgq.tick_now('q') is not null as ticked;
select pgq.next_batch('q', 'c') as batch \gset
select pgq.batch_event_sql(:batch) ~ ' in \(\d+\)' as long_one_is_looked_up;
select ev_id, ev_type, ev_data from pgq.get_batch_events(:batch);
