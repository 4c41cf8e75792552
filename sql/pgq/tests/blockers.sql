-- who holds rotation
\pset null '<NULL>'
create view held as
    select queue_name, kind, who, since is not null as since, held_for >= '0' as held_for, overdue >= '0' as overdue,
           regexp_replace(regexp_replace(detail, '(transaction|last seen) [0-9:]+', '\1 …'), 'database \w+', 'database …') as detail
      from pgq.get_rotation_blockers();
\o /dev/null
select pgq.create_queue('q'), pgq.create_queue('other');
select pgq.register_consumer('q', 'c'), pgq.register_consumer('q', 'd');
\o
set role pgq_writer;
select count(*) as not_due from pgq.get_rotation_blockers();
reset role;
update pgq.queue set queue_rotation_period = '0' where queue_name = 'q';
-- no tick since the last switch
select * from held;
update pgq.queue set queue_ticker_paused = true;
select detail from held;
update pgq.queue set queue_ticker_paused = false;
-- a transaction that was open at the tick
begin;
create table t ();
prepare transaction 'old one';
update pgq.queue set queue_switch_step2 = txid_current() where queue_name = 'q';
select pgq.tick_now('q') as tick;
select * from held;
commit prepared 'old one';
select * from held;
-- consumers that do not move
select pgq.tick_now('q') as tick;
select pgq.next_batch('q', 'c') as batch, pgq.pause_consumer('q', 'd');
select * from held order by who;
select pgq.maint_rotate_tables_step1('q');
select queue_cur_table as not_rotated from pgq.queue where queue_name = 'q';
select pgq.get_rotation_blockers('other');
select pgq.seek_consumer('q', x, 'infinity'::timestamptz) from unnest('{c,d}'::text[]) x;
select * from held;
-- somebody reads the table whose turn it is
begin;
lock table pgq.event_1_1 in access share mode;
select queue_name, kind, who like '% psql' as who, pid = pg_backend_pid() as pid, detail from pgq.get_rotation_blockers();
rollback;
select pgq.maint_rotate_tables_step1('q');
select queue_cur_table as rotated from pgq.queue where queue_name = 'q';
-- a switch that only step 1 knows
select * from held;
select pgq.maint_rotate_tables_step2();
select kind from held;
-- ids around the wrap of 32 bits
select pgq._full_txid(x.txid::text::xid) - n.next as distance
  from (select txid_snapshot_xmax(txid_current_snapshot()) as next) n,
       lateral (values (n.next), (n.next - 1), (n.next + 5), ((n.next + 4294967296 - 2000000) % 4294967296)) as x (txid);
