-- names go into generated functions as names, whatever they hold; maintenance needs no superuser
\set queue 'e$x$ language plpgsql; create table public.broken (); --'
select pgq.create_queue(:'queue');
create table t (id int primary key, "a$x$;$f$ %s" text);
create trigger c after insert on t for each row execute function pgq.jsontriga(:'queue');
select pgq.compile_trigger('t', 'c');
insert into t values (1, 'x');
select ev_type, ev_data from pgq.event_template;
select to_regclass('public.broken') is null as nothing_else_was_run;
update pgq.queue set queue_data_pfx = 'pgq.event_1_0 (ev_id) values (1); drop table t; --';
update pgq.queue set queue_event_seq = 'x''y';

create role maintainer;
grant pgq_admin to maintainer;
select pgq.set_queue_config(:'queue', 'rotation_period', '0');
set role maintainer;
select pgq.maint_rotate_tables_step1(:'queue');
reset role;
select queue_cur_table from pgq.queue;
update pgq.queue set queue_per_tx_limit = 1;
set role maintainer;
select pgq.insert_event_raw(:'queue', null, null, null, null, 'a', 'b', null, null, null, null) > 0 as inserted;
reset role;
drop role maintainer;
