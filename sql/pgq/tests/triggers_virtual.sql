-- Virtual columns (PostgreSQL 18) are not computed where triggers run: they are not in events.
-- Elsewhere the tables are made without them, and the events are the same.
select current_setting('server_version_num')::int >= 180000 as has_virtual \gset
select pgq.create_queue('q');
create table t (v0 int, id int primary key, a int, v int, s int generated always as (a * 3) stored, b text, w int);
alter table t drop column v0, drop column v, drop column w;
\if :has_virtual
drop table t;
create table t (v0 int generated always as (a) virtual, id int primary key, a int, v int generated always as (a * 2) virtual,
                s int generated always as (a * 3) stored, b text, w int generated always as (a * 4) virtual);
\endif
create trigger json after insert or update or delete on t for each row execute function pgq.jsontriga('q', 'backup');
create trigger url after insert or update or delete on t for each row execute function pgq.logutriga('q', 'ignore=b');
create trigger sql after insert or update or delete on t for each row execute function pgq.sqltriga('q');
insert into t (id, a, b) values (1, 5, 'x');
update t set a = 6;
delete from t;
select pgq.compile_trigger('t', 'json'), pgq.compile_trigger('t', 'url');
insert into t (id, a, b) values (1, 5, 'x');
update t set a = 6;
delete from t;
select ev_type, ev_data, ev_extra1, ev_extra2 from pgq.event_1 order by ev_id;
