-- compiled capture triggers are londiste's own: left alone, replaced, removed
\o /dev/null
select pgq_node.register_location('q', 'r', 'dbname=r', false);
select pgq_node.create_node('q', 'root', 'r', 'rw', null, null, null);
create table t (id int primary key, v text);
create view triggers as
    select tgname, regexp_replace(tgfoid::regproc::text, '[0-9]+_[0-9a-f]{8}', 'N') as calls from pg_trigger
     where not tgisinternal and tgrelid = 't'::regclass order by 1;
\o
select * from londiste.set_capture('q', 'trigger');
select * from londiste.local_add_table('q', 't');
select * from triggers;
select * from londiste.create_trigger('q', 'public.t', '{}', 'public.t', 'root');
select * from triggers;
select * from londiste.create_trigger('q', 'public.t', '{tgflags=J}', 'public.t', 'root');
select * from triggers;
insert into t values (1, 'a');
select ev_type, ev_data from pgq.event_template where ev_extra1 = 'public.t';
-- an altered table gets another function when the script that altered it is done
select * from londiste.execute_start('q', 'add.sql', 'alter table t add w int', false);
alter table t add w int;
select strpos(p.prosrc, quote_literal(pgq._trigger_layout('t'))) > 0 as fits
  from pg_trigger t join pg_proc p on p.oid = t.tgfoid where t.tgname = '_londiste_q';
select * from londiste.execute_finish('q', 'add.sql');
select strpos(p.prosrc, quote_literal(pgq._trigger_layout('t'))) > 0 as fits
  from pg_trigger t join pg_proc p on p.oid = t.tgfoid where t.tgname = '_londiste_q';
insert into t values (2, 'b', 3);
select ev_type, ev_data from pgq.event_template where ev_extra1 = 'public.t';
-- one that does not own the table still finishes scripts, and the trigger falls back by itself
alter table t add x int;
create role worker;
grant londiste_writer to worker;
set role worker;
select * from londiste.execute_start('q', 'other.sql', 'select 1', false);
select * from londiste.execute_finish('q', 'other.sql');
reset role;
insert into t values (3, 'c', 4, 5);
select ev_data from pgq.event_template where ev_extra1 = 'public.t' order by ev_id desc limit 1;
drop role worker;
select * from londiste.local_remove_table('q', 't');
select * from triggers;
-- no functions are left behind
select count(*) from pg_proc where proname ~ '^_(jsontriga|logutriga)_[0-9]+_[0-9a-f]{8}$';
