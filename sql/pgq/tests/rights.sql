-- who may do what
\o /dev/null
select pgq.create_queue('q'), pgq.register_consumer('q', 'c');
\o
select r.rolname, t.name,
       has_table_privilege(r.rolname, t.name, 'select') as may_select,
       has_table_privilege(r.rolname, t.name, 'insert') as may_insert,
       has_table_privilege(r.rolname, t.name, 'update') as may_update,
       has_table_privilege(r.rolname, t.name, 'delete') as may_delete
  from (values ('pgq_reader'), ('pgq_writer'), ('pgq_admin')) r (rolname),
       (values ('pgq.queue'), ('pgq.tick'), ('pgq.event_template'), ('pgq.event_1'), ('pgq.event_1_0'), ('pgq.retry_queue')) t (name)
 order by 1, 2;
set role pgq_writer;
select pgq.insert_event('q', 't', 'd');
select pgq.current_event_table('q');
select pgq.register_consumer('q', 'x');
begin isolation level repeatable read; select pgq.insert_event('q', 't', 'd'); rollback;
select ev_data from pgq.event_1_0;
select queue_name from pgq.get_queue_info();
reset role;
set role pgq_reader;
select pgq.insert_event('q', 't', 'd');
select pgq.register_consumer('q', 'x');
select pgq.next_batch('q', 'x');
select ev_data from pgq.event_1_0;
select pgq.ticker();
select pgq.unregister_consumer('q', 'x');
reset role;
set role pgq_admin;
select pgq.tick_now('q');
select pgq.maint_rotate_tables_step1('q'), pgq.maint_rotate_tables_step2(), pgq.maint_retry_events();
select pgq.next_batch('q', 'c');
reset role;
-- a hostile now() in front of pg_catalog is not run by the owner
create role mallory login;
grant pgq_reader to mallory;
create schema mallory authorization mallory;
set session authorization mallory;
create function mallory.now() returns timestamptz language plpgsql as
$$ begin raise notice 'run as %', current_user; return pg_catalog.now(); end $$;
set search_path = mallory, pg_catalog;
set client_min_messages = notice;
select pgq.register_consumer_at('q', 'c', 1);
reset session authorization;
drop schema mallory cascade;
drop role mallory;
