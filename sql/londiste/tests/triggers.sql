-- capture triggers; stand-ins for the trigger functions, which print nothing
\pset null '<NULL>'
-- a database without them
drop function pgq.sqltriga(), pgq.logutriga(), pgq.jsontriga();
\o /dev/null
select pgq_node.register_location('q', 'r', 'dbname=r', false);
select pgq_node.create_node('q', 'root', 'r', 'rw', null, null, null);
create table t (id int primary key); create table u (id int primary key);
create view triggers as
select tgrelid::regclass as on_table, tgname, pg_get_triggerdef(oid) ~ 'BEFORE' as before, tgtype, regexp_replace(tgfoid::regproc::text, '[0-9]+_[0-9a-f]{8}', 'N') as calls,
       string_to_array(encode(tgargs, 'escape'), '\000') as args
  from pg_trigger where not tgisinternal and tgrelid::regclass::text in ('t', 'u') order by 1, 2;
\o
select * from londiste.set_capture('q', 'trigger');
select * from londiste.local_add_table('q', 't');
select * from triggers;
select * from londiste.local_remove_table('q', 't');

create function pgq.sqltriga() returns trigger language plpgsql as 'begin return null; end';
create function pgq.logutriga() returns trigger language plpgsql as 'begin return null; end';
create function pgq.jsontriga() returns trigger language plpgsql as 'begin return null; end';
select * from londiste.local_add_table('q', 't', '{backup,ignore=x}');
select * from triggers;
create temp table before as select oid from pg_trigger where not tgisinternal and tgname ~ 'londiste';
select * from londiste.create_trigger('q', 'public.t', '{backup,ignore=x}', 'public.t', 'root');
select count(*) as left_alone from pg_trigger where oid in (select oid from before);
-- another handler replaces, none removes
select * from londiste.local_change_handler('q', 'public.t', '{tgflags=BJ,skip}', 'handler=x');
select * from londiste.local_change_handler('q', 'public.t', '{tgflags=BJ,skip}', 'handler=x');
select * from triggers;
select * from londiste.local_change_handler('q', 'public.t', '{tgflags=iQ}', null);
select * from triggers;
select * from londiste.local_change_handler('q', 'public.t', '{no_triggers}', null);
select * from triggers;
select * from londiste.local_change_handler('q', 't', '{}', null);
-- another table name, and somebody else's trigger first
create function noop() returns trigger language plpgsql as 'begin return null; end';
create trigger "AAA" after insert on u for each row execute function noop();
select * from londiste.local_add_table('q', 'global', '{}', null, 'u');
select * from triggers where on_table = 'u'::regclass;
-- deny on a leaf; names that would be cut
\o /dev/null
select pgq_node.register_location(repeat('long', 15), 'r', 'dbname=r', false), pgq_node.register_location(repeat('long', 15), 'leaf', 'dbname=l', false);
select pgq_node.create_node(repeat('long', 15), 'leaf', 'leaf', 'lw', 'r', 1, null);
create table v (id int primary key);
select londiste.global_add_table(repeat('long', 15), 'v');
\o
select * from londiste.local_add_table(repeat('long', 15), 'v');
select * from londiste.create_trigger(repeat('long', 15), 'public.v', '{}', 'public.v', 'leaf');
select tgname, encode(tgargs, 'escape') as args from pg_trigger where tgrelid = 'v'::regclass order by 1;
-- where standard_conforming_strings is off
set standard_conforming_strings = off;
create table w (id int primary key);
select * from londiste.local_add_table('q', 'w', '{backup}');
select * from londiste.local_change_handler('q', 'public.w', '{ignore=x}', 'handler=x');
select tgname, tgargs from pg_trigger where tgrelid = 'w'::regclass order by 1;
select * from londiste.local_remove_table('q', 'w');
select count(*) from pg_trigger where tgrelid = 'w'::regclass;
reset standard_conforming_strings;
-- leaving the registry drops them
select * from pgq_node.drop_node('q', 'r');
select * from pgq_node.drop_node(repeat('long', 15), 'leaf');
select tgrelid::regclass, tgname from pg_trigger where not tgisinternal and tgfoid::regproc::text ~ '^pgq\.(json|logu|sql)triga' order by 1;
