-- what a consumer of another database's queue notes here: batches, events, ticks
\pset null '<NULL>'
select pgq_ext.version(), pgq_ext.upgrade_schema();
set role pgq_writer;
select pgq_ext.is_batch_done('c', 5) as before, pgq_ext.set_batch_done('c', 5) as set, pgq_ext.set_batch_done('c', 5) as again,
       pgq_ext.is_batch_done('c', 5) as after, pgq_ext.is_batch_done('c', 's', 5) as of_sub;
select pgq_ext.set_batch_done('c', 's', 5) as sub, pgq_ext.set_batch_done('c', 4) as earlier, pgq_ext.set_batch_done('c', 0) as zero,
       pgq_ext.set_batch_done('c', -1) as negative, pgq_ext.is_batch_done('c', 4) as kept;
select pgq_ext.is_batch_done(null, 5), pgq_ext.is_batch_done('c', null);
select pgq_ext.set_batch_done(null, 5);

select pgq_ext.is_event_done('c', 1, 10) as before, pgq_ext.set_event_done('c', 1, 10) as set, pgq_ext.set_event_done('c', 1, 10) as again,
       pgq_ext.is_event_done('c', 1, 10) as after, pgq_ext.set_event_done('c', 1, 11) as next, pgq_ext.set_event_done('c', 's', 1, 10) as sub;
select pgq_ext.set_event_done('c', 2, 10) as other_batch, pgq_ext.is_event_done('c', 1, 10) as forgotten,
       pgq_ext.is_event_done('c', 's', 1, 10) as sub_kept;
reset role;
select * from pgq_ext.completed_event order by 1, 2, 3, 4;
select * from pgq_ext.partial_batch order by 1, 2;
set role pgq_writer;

select pgq_ext.get_last_tick('c') as before, pgq_ext.set_last_tick('c', 7) as set, pgq_ext.get_last_tick('c') as after,
       pgq_ext.set_last_tick('c', 3) as back, pgq_ext.get_last_tick('c') as is_back, pgq_ext.get_last_tick('c', 's') as of_sub;
select pgq_ext.set_last_tick('c', 's', 1), pgq_ext.set_last_tick('c', null), pgq_ext.get_last_tick('c'), pgq_ext.get_last_tick('c', 's');
select * from pgq_ext.completed_tick;
reset role;
set role pgq_reader;
select pgq_ext.get_last_tick('c', 's');
reset role;

-- tables of a time without subconsumers
drop table pgq_ext.completed_batch, pgq_ext.completed_event;
create table pgq_ext.completed_batch (consumer_id text, last_batch_id bigint not null, primary key (consumer_id));
create table pgq_ext.completed_event (consumer_id text, batch_id bigint, event_id bigint, primary key (consumer_id, batch_id, event_id));
insert into pgq_ext.completed_batch values ('old', 9);
select pgq_ext.upgrade_schema() as first, pgq_ext.upgrade_schema() as second;
select pgq_ext.is_batch_done('old', 9), pgq_ext.set_batch_done('old', 's', 9), pgq_ext.set_event_done('old', 's', 9, 9);
