-- table registry of a root that captures from the WAL, and of a leaf
\pset null '<NULL>'
\o /dev/null
select pgq_node.register_location('q', 'r', 'dbname=r', false);
select pgq_node.create_node('q', 'root', 'r', 'rw', null, null, null);
create schema "Odd s";
create table t1 (id int primary key, v text);
create table "Odd s"."a.b" (id int generated always as identity primary key);
create table other_name (id serial primary key);
create table dropped (gone int, v text, id int primary key); alter table dropped drop column gone;
create table no_key (id int);
create table whole (id int); alter table whole replica identity full;
create table by_index (id int not null unique); alter table by_index replica identity using index by_index_id_key;
create table lost_index (id int primary key, u int not null unique); alter table lost_index replica identity using index lost_index_u_key; alter table lost_index drop constraint lost_index_u_key;
create table nothing (id int primary key); alter table nothing replica identity nothing;
create table later (id int primary key deferrable);
create unlogged table unlogged (id int primary key);
create table parted (id int primary key) partition by range (id);
create view v as select 1 as id;
\o
select londiste.get_capture('q'), londiste.get_capture('nosuch');
select * from londiste.local_add_table('q', 't1');
select * from londiste.local_add_table('q', 'public.t1');
select * from londiste.local_add_table('q', 't1', '{}', 'handler=x');
select * from londiste.local_add_table('q', 'Odd s.a.b', '{skip_truncate}', 'handler=x');
select * from londiste.local_add_table('q', 'global_name', '{expect_sync}', null, 'other_name');
select * from londiste.local_add_table('q', 'dropped');
select * from londiste.local_add_table('q', 'virtual', '{virtual_table}');
select * from londiste.local_add_table('nosuch', 't1');
select * from londiste.local_add_table('q', 'nosuch');
select * from londiste.local_add_table('q', 'parted');
select * from londiste.local_add_table('q', 'v');
select * from londiste.local_add_table('q', null);
select * from londiste.local_add_table('q', 't1', '{merge_all,no_merge}');
-- what can be decoded
select * from londiste.local_add_table('q', 'no_key');
select * from londiste.local_add_table('q', 'whole');
select * from londiste.local_add_table('q', 'by_index');
select * from londiste.local_add_table('q', 'lost_index');
select * from londiste.local_add_table('q', 'nothing');
select * from londiste.local_add_table('q', 'later');
select * from londiste.local_add_table('q', 'unlogged');
select table_name, local, merge_state, table_attrs, copy_role, copy_pos, dest_table from londiste.get_table_list('q');
select * from londiste.local_show_missing('q');
select * from londiste.local_show_missing('nosuch');
select londiste.find_column_types('dropped'), londiste.find_column_types('nosuch');
select tgname from pg_trigger where not tgisinternal and tgrelid = 't1'::regclass;
select * from londiste.set_capture('q', 'trigger');

-- state
select * from londiste.local_set_table_state('q', 't1', '10:10:', 'in-copy');
select * from londiste.local_set_table_state('q', 'nosuch', null, null);
select * from londiste.local_set_table_struct('q', 'public.t1', 'create index on t1 (v)');
select * from londiste.local_set_table_struct('q', 't1', 'create index on t1 (v)');
select * from londiste.local_set_table_attrs('q', 'public.t1', 'a=b');
select * from londiste.local_set_table_attrs('q', 'nosuch', 'a=b');
begin; select * from londiste.local_set_table_state('q', 't1', null, 'ok'); rollback;
select merge_state, custom_snapshot, table_attrs, dropped_ddl from londiste.get_table_list('q') where table_name = 'public.t1';

-- removing; a copy under way is undone
insert into t1 values (1);
select * from londiste.local_remove_table('q', 't1');
select count(*), (select count(*) from pg_indexes where tablename = 't1') as indexes from t1;
select * from londiste.local_remove_table('q', 't1');
select * from londiste.local_add_seq('q', 'other_name_id_seq');
select * from londiste.local_add_seq('q', 'Odd s.a.b_id_seq');
select * from londiste.get_seq_list('q');
select * from londiste.local_remove_table('q', 'global_name');
select * from londiste.local_remove_table('q', 'Odd s.a.b');
select * from londiste.get_seq_list('q');
select * from londiste.global_remove_table('q', 'public.dropped');
select * from londiste.global_remove_table('q', 'public.dropped');
select ev_type, ev_data, ev_extra1 from pgq.event_1 order by ev_id;

-- a leaf
\o /dev/null
select pgq_node.register_location('l', 'r', 'dbname=r', false), pgq_node.register_location('l', 'leaf', 'dbname=l', false);
select pgq_node.create_node('l', 'leaf', 'leaf', 'lw', 'r', 1, null);
\o
select * from londiste.local_add_table('l', 't1');
select * from londiste.global_add_table('l', 't1');
select * from londiste.global_add_table('l', 't1');
select * from londiste.global_add_table('nosuch', 't1');
select * from londiste.local_show_missing('l');
select * from londiste.local_add_table('l', 't1');
select table_name, local, merge_state from londiste.get_table_list('l');
select * from londiste.local_remove_table('l', 't1');
select * from londiste.local_remove_table('l', 't1');
select * from londiste.global_remove_table('l', 't1');
select londiste.root_notify_change('l', 'x', 'y');
select * from londiste.set_capture('l', 'trigger');
select * from londiste.set_capture('l', 'trigger');
select * from londiste.set_capture('l', 'guess');
select * from londiste.set_capture('nosuch', 'wal');
select londiste.get_capture('l');
-- the registry goes with the node
select * from pgq_node.drop_node('q', 'r');
select (select count(*) from londiste.table_info), (select count(*) from londiste.capture_info);
