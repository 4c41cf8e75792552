-- sequences, EXECUTE and foreign keys
\pset null '<NULL>'
\o /dev/null
select pgq_node.register_location('q', 'r', 'dbname=r', false);
select pgq_node.create_node('q', 'root', 'r', 'rw', null, null, null);
select pgq_node.register_location('l', 'r', 'dbname=r', false), pgq_node.register_location('l', 'leaf', 'dbname=l', false);
select pgq_node.create_node('l', 'leaf', 'leaf', 'lw', 'r', 1, null);
create sequence s1; create sequence s2;
\o
select * from londiste.local_add_seq('q', 's1');
select * from londiste.local_add_seq('q', 's1');
select * from londiste.local_add_seq('q', 'nosuch');
select * from londiste.get_seq_list('q');
select setval('s1', 25000);
select * from londiste.root_check_seqs('q');
select * from londiste.root_check_seqs('q', 5);
select * from londiste.root_check_seqs('l');
select * from londiste.root_check_seqs('nosuch');
select * from londiste.get_seq_list('q');
select * from londiste.global_update_seq('q', 's1', 1);
select * from londiste.global_update_seq('nosuch', 's1', 1);
select * from londiste.local_add_seq('l', 's2');
select * from londiste.global_update_seq('l', 's2', 500);
select * from londiste.local_add_seq('l', 's2');
select * from londiste.global_update_seq('l', 's2', 400);
select last_value from s2;
select * from londiste.local_remove_seq('l', 's2');
select * from londiste.local_remove_seq('l', 's2');
select * from londiste.global_remove_seq('l', 's2');
select * from londiste.local_remove_seq('q', 's1');
select * from londiste.global_remove_seq('q', 's1');

select * from londiste.execute_start('q', 'a.sql', 'create table a ()', true);
select * from londiste.execute_start('q', 'a.sql', 'create table a ()', true);
select * from londiste.execute_start('l', 'b.sql', 'create table b ()', true);
select * from londiste.execute_start('l', 'b.sql', 'create table b ()', false, 'attrs');
select * from londiste.execute_start('nosuch', 'c.sql', 'create table b ()', false);
select * from londiste.execute_finish('q', 'a.sql');
select * from londiste.execute_finish('l', 'b.sql');
select * from londiste.execute_finish('q', 'c.sql');
update londiste.applied_execute set execute_time = now() - interval '4 months' where execute_file = 'a.sql';
select londiste.periodic_maintenance();
select execute_file, execute_attrs from londiste.applied_execute;
select ev_type, ev_data, ev_extra1, ev_extra2 from pgq.event_1 order by ev_id;

-- foreign keys; the saved definition does not depend on the search path
\o /dev/null
create schema s;
create table s.parent (id int primary key);
create table child (id int primary key, p int constraint "to Parent" references s.parent on delete cascade);
create table grandchild (id int primary key references child);
\o
set search_path = s, public;
select * from londiste.find_table_fkeys('child');
reset search_path;
select londiste.drop_table_fkey('public.child', 'to Parent'), londiste.drop_table_fkey('public.child', 'to Parent');
select londiste.drop_table_fkey('child', 'nosuch');
select * from londiste.get_table_pending_fkeys('s.parent');
select * from londiste.get_valid_pending_fkeys('l');
\o /dev/null
select londiste.global_add_table('l', 's.parent'), londiste.global_add_table('l', 'child');
select londiste.local_add_table('l', 's.parent', '{expect_sync}'), londiste.local_add_table('l', 'child');
\o
select * from londiste.get_valid_pending_fkeys('l');
select * from londiste.local_set_table_state('l', 'child', null, 'ok');
select fkey_name from londiste.get_valid_pending_fkeys('l');
select fkey_name from londiste.get_valid_pending_fkeys('q');
select londiste.restore_table_fkey('public.child', 'to Parent', true) as step \gset
:step;
select londiste.restore_table_fkey('public.child', 'to Parent', true) as step \gset
\echo :step
:step;
select londiste.restore_table_fkey('public.child', 'to Parent', true) as done;
select londiste.restore_table_fkey('public.child', 'to Parent') as done;
select londiste.drop_table_fkey('public.grandchild', 'grandchild_id_fkey'), londiste.restore_table_fkey('public.grandchild', 'grandchild_id_fkey');
select count(*) from londiste.pending_fkeys;

select londiste.set_session_replication_role('replica', true);
select londiste.set_session_replication_role('nonsense', true);
select londiste.make_fqname('a'), londiste.make_fqname('a.b'), londiste.quote_fqname('S.t.u'), londiste.split_fqname('a.b.c');
