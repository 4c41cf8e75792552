-- triggers compiled for a table: the same events, also after the table, the queue or the settings changed
\pset null '<NULL>'
\pset format unaligned
\pset tuples_only on
\o /dev/null
select pgq.create_queue('q');
\o
create view events as
    select ev_type, ev_data, ev_extra1, ev_extra2 from pgq.event_template order by ev_id;
-- each table has two triggers, of which c is compiled; then their events must come in equal pairs
create function pair(tab regclass, fn text, variadic args text[] default '{}') returns boolean as $$
declare
    l_args  text := (select string_agg(quote_literal(a), ', ') from unnest(array['q'] || args) a);
begin
    execute format('drop trigger if exists c on %s; drop trigger if exists g on %s', tab, tab);
    execute format('create trigger c after insert or update or delete on %s for each row execute function pgq.%s(%s)', tab, fn, l_args);
    execute format('create trigger g after insert or update or delete on %s for each row execute function pgq.%s(%s)', tab, fn, l_args);
    return pgq.compile_trigger(tab, 'c');
end;
$$ language plpgsql;
create function fallen_back(tab regclass) returns boolean language sql as $$
    select pgq._trigger_layout(tab) <> substring(p.prosrc from 'is distinct from ''([^'']*)''')
      from pg_trigger t join pg_proc p on p.oid = t.tgfoid
     where t.tgrelid = tab and t.tgname = 'c'
$$;
create procedure compare() language plpgsql as $$
declare
    l_events    bigint := (select count(*) from pgq.event_template);
    l_pairs     bigint;
begin
    select count(*) into l_pairs
      from (select * from pgq.event_template) a
      join (select * from pgq.event_template) b on b.ev_id = a.ev_id + 1
     where a.ev_id % 2 = (select min(ev_id) from pgq.event_template) % 2
       and (a.ev_type, a.ev_data, a.ev_extra1, a.ev_extra2) is not distinct from (b.ev_type, b.ev_data, b.ev_extra1, b.ev_extra2);
    raise warning '% events, % pairs', l_events, l_pairs;
    truncate pgq.event_template;
end;
$$;

create table t (id int primary key, a text, "B c" bool, d timestamptz, r text);
select pair('t', 'jsontriga', 'backup', 'ignore=r');
insert into t values (1, 'x "y"', true, '2020-01-01'), (2, null, null, null);
update t set a = 'z', "B c" = null; update t set r = 'r'; update t set a = a; update t set id = 3 where id = 2;
delete from t where id = 2;
select * from events; call compare();
select pair('t', 'logutriga', 'ev_extra1=''it''''s''', 'pkey=a,id');
update t set d = null, r = null; delete from t; insert into t values (1, 'x', false, '-infinity', '');
select * from events; call compare();

-- another definition, in the same session: the general function takes over, with the same events
alter table t rename a to aa;
select fallen_back('t');
update t set d = now();
select pair('t', 'jsontriga');
update t set d = now();
select fallen_back('t'); call compare();
alter table t alter column d type date; alter table t alter column "B c" type text;
update t set d = '2021-01-01'; call compare();
select pair('t', 'jsontriga'), fallen_back('t');
alter table t drop column d, add column d2 text;
update t set d2 = 'd2'; call compare();
select pair('t', 'jsontriga'), fallen_back('t');
alter table t drop constraint t_pkey, add primary key (id, aa);
update t set d2 = 'd3'; call compare();
select pair('t', 'jsontriga'), fallen_back('t');
alter table t rename to tt;
update tt set d2 = 'd4'; call compare();
select pair('tt', 'jsontriga'), fallen_back('tt');
-- in one transaction, before it is committed and after it is rolled back
begin;
update tt set d2 = 'd5';
alter table tt rename d2 to d3;
update tt set d3 = 'd6';
select fallen_back('tt');
rollback;
update tt set d2 = 'd7';
select fallen_back('tt'); call compare();
select pair('tt', 'jsontriga');

-- other settings
set datestyle = 'German'; update tt set d2 = 'd8'; reset datestyle;
set extra_float_digits = 0; update tt set d2 = 'd9'; reset extra_float_digits;
set session_replication_role = 'local'; update tt set d2 = 'd10'; reset session_replication_role;
begin isolation level repeatable read; update tt set d2 = 'd11'; commit;
call compare();

-- other arguments and uses of the function than it was made for
create table other (id int primary key, a text);
do $$
declare
    fn  regproc := (select tgfoid from pg_trigger where tgrelid = 'tt'::regclass and tgname = 'c');
begin
    execute format('create trigger c after insert on other for each row execute function %s(''q'', ''backup'')', fn);
    execute format('create trigger b before insert on tt for each row execute function %s(''q'', ''SKIP'')', fn);
end;
$$;
insert into other values (1, 'a');
insert into tt (id, aa) values (100, 'skipped');
select * from events; truncate pgq.event_template;
drop trigger b on tt;

-- what is not compiled, and goes back to the general function
select pair('tt', 'sqltriga'), pair('tt', 'jsontriga', 'when=true'), pair('tt', 'logutriga', 'ev_extra1=id::text'), pair('tt', 'logutriga', 'deny');
select pair('tt', 'logutriga', 'pkey=nosuch'), pair('tt', 'logutriga', 'SKIP'), pair('tt', 'logutriga', 'pkey=');
select pair('tt', 'logutriga');
alter table tt enable always trigger c;
select pgq.compile_trigger('tt', 'c');
alter table tt add column _pgq_ev_extra3 text;
select pgq.compile_trigger('tt', 'c');
select tgfoid::regproc, tgenabled from pg_trigger where tgrelid = 'tt'::regclass and tgname = 'c';
select pgq.compile_trigger('tt', 'nosuch');
alter table tt drop column _pgq_ev_extra3;

-- the queue: limits, disabled, rotated, dropped and made again
select pair('tt', 'logutriga');
update tt set d2 = 'e1';
select pgq.set_queue_config('q', 'rotation_period', '0 seconds'), pgq.ticker('q');
select pgq.maint_rotate_tables_step1('q');
update tt set d2 = 'e2';
select pgq.maint_rotate_tables_step2();
update tt set d2 = 'e3';
select tableoid::regclass, count(*) from pgq.event_template group by 1 order by 1;
call compare();
update pgq.queue set queue_per_tx_limit = 1;
update tt set d2 = 'e4';
update pgq.queue set queue_per_tx_limit = null, queue_disable_insert = true;
update tt set d2 = 'e4';
update pgq.queue set queue_disable_insert = false;
select pgq.drop_queue('q', true);
update tt set d2 = 'e5';
select pgq.create_queue('q');
update tt set d2 = 'e6';

-- who may insert events by calling pgq.insert_event may do so by a compiled trigger, and nobody else, whenever that was granted
select pair('tt', 'logutriga');
drop trigger g on tt;
\o /dev/null
truncate pgq.event_template;
\o
create role producer; create role stranger;
grant all on tt to producer, stranger;
select pgq._insert_is_ours();
set role stranger; update tt set d2 = 'f1'; reset role;
set role producer; update tt set d2 = 'f1'; reset role;
grant execute on function pgq.insert_event(text, text, text, text, text, text, text) to producer;
set role producer; update tt set d2 = 'f2'; reset role;
set role stranger; update tt set d2 = 'f2'; reset role;
select has_function_privilege('producer', 'pgq._insert_event_2(text, text, text, text, text, text)', 'execute') as directly;
select pgq._compile_insert(2);
select has_function_privilege('producer', 'pgq._insert_event_2(text, text, text, text, text, text)', 'execute') as directly;
set role producer; update tt set d2 = 'f3'; reset role;
revoke execute on function pgq.insert_event(text, text, text, text, text, text, text) from producer;
set role producer; update tt set d2 = 'f4'; reset role;
select pgq._compile_insert(2);
select has_function_privilege('producer', 'pgq._insert_event_2(text, text, text, text, text, text)', 'execute') as directly;
set role pgq_writer; select pgq._insert_event_2('t', 'direct', null, null, null, null); reset role;
select * from events; truncate pgq.event_template;
-- one that was put in its place sees them
begin;
update tt set d2 = 'f5';
create or replace function pgq.insert_event(
    queue_name text, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint language plpgsql as
$$ begin raise warning 'insert_event(%, %, %, %)', queue_name, ev_type, ev_data, ev_extra1; return 1; end $$;
select pgq._insert_is_ours();
update tt set d2 = 'f6';
rollback;
update tt set d2 = 'f7';
select * from events; truncate pgq.event_template;
revoke all on tt from producer, stranger;
drop role producer; drop role stranger;
-- functions that no trigger calls any more go: at once where another is made, and in maintenance
create view compiled as
    select tgname, count(*) from pg_proc p left join pg_trigger t on t.tgfoid = p.oid
     where p.proname ~ '^_(jsontriga|logutriga)_[0-9]+_[0-9a-f]{8}$' group by 1 order by 1;
select pgq._drop_unused_triggers(); select * from compiled;
alter table other add column b text;
select pair('other', 'logutriga'); select * from compiled;
drop trigger c on other;
create trigger c after insert on other for each row execute function pgq.jsontriga('q');
select * from pgq.maint_operations() where func_name ~ 'unused';
select pgq.compile_trigger('other', 'c'); select * from compiled;
drop trigger c on other; select * from compiled;
select * from pgq.maint_operations() where func_name ~ 'unused';
begin; select pgq._compile_function('other'::regclass, 'jsontriga', '{q}') is not null; rollback;
select pgq._drop_unused_triggers(); select * from compiled;
select * from pgq.maint_operations() where func_name ~ 'unused';
-- installing again makes them anew, as rights and tables are now
alter table tt add column added text;
select fallen_back('tt');
grant execute on function pgq.insert_event(text, text, text, text, text, text, text) to pgq_reader;
select pgq._compile_again(); select fallen_back('tt'); select * from compiled;
select has_function_privilege('pgq_reader', 'pgq._insert_event_2(text, text, text, text, text, text)', 'execute') as directly;
revoke execute on function pgq.insert_event(text, text, text, text, text, text, text) from pgq_reader;
update tt set added = 'g'; select * from events;
