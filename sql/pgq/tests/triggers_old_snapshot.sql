-- a row of a table that was altered after the transaction's snapshot
\pset tuples_only on
\pset format unaligned
\o /dev/null
select pgq.create_queue('q');
\o
create table t (id int primary key, a text, b text);
create table u (id int primary key, a text, b text);
create trigger l after insert or update on t for each row execute function pgq.logutriga('q');
create trigger l after insert or update on u for each row execute function pgq.logutriga('q');
select pgq.compile_trigger('u', 'l');
\setenv PGHOST :HOST
\setenv PGPORT :PORT
\setenv PGUSER :USER
\setenv PGDATABASE :DBNAME
begin isolation level repeatable read;
select count(*) > 0 from pg_class;
\! psql -X -q -c 'alter table u drop a; alter table u add c text default 1'
\! psql -X -q -c 'alter table u rename b to bb'
insert into u values (1, 'x', 'y');
rollback;
begin isolation level repeatable read;
insert into u values (1, 'x', 'y');
commit;
begin;
select count(*) > 0 from pg_class;
\! psql -X -q -c 'alter table u rename bb to b'
insert into u values (2, 'x', 'y');
\! psql -X -q -c 'alter table t rename b to bb'
insert into t values (2, 'x', 'y');
commit;
select ev_type, ev_data from pgq.event_template order by ev_id;
