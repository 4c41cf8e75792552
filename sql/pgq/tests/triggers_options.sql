-- arguments of the capture triggers, their checks, what replaces fields
\pset null '<NULL>'
\pset format unaligned
\pset tuples_only on
\o /dev/null
select pgq.create_queue('q');
\o
create view events as
    select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.event_template order by ev_id;
create procedure put(tab text, fn text, variadic args text[] default '{}') as $$
begin
    execute format('drop trigger if exists t on %s', tab);
    execute format('create trigger t after insert or update or delete on %s for each row execute function pgq.%s(%s)',
                   tab, fn, (select string_agg(quote_literal(a), ', ') from unnest(array['q'] || args) a));
end;
$$ language plpgsql;
create procedure try(statement text) as $$
begin
    execute statement;
exception when others then
    raise warning '%', sqlerrm;
end;
$$ language plpgsql;
create procedure change(tab text) as $$
begin
    call try(format('insert into %s values (1, ''a'', ''b'')', tab));
    call try(format('update %s set b = ''c''', tab));
    call try(format('update %s set b = b', tab));
    call try(format('update %s set id = 2', tab));
    call try(format('delete from %s', tab));
end;
$$ language plpgsql;
create table t (id int primary key, a text, b text);

-- ignore
call put('t', 'jsontriga', 'ignore=b', 'backup'); call change('t');
call put('t', 'logutriga', 'ignore=b', 'backup'); call change('t');
call put('t', 'sqltriga', 'ignore=a,b'); call change('t');
call put('t', 'sqltriga', 'backup', E'ignore= a ,\tb', 'ignore=id,nosuch'); call change('t');
call put('t', 'logutriga', 'ignore=id,a,b'); call change('t');
call put('t', 'sqltriga', 'ignore=id,a,b'); call change('t');
call put('t', 'jsontriga', 'ignore='); call change('t');
select * from events; truncate pgq.event_template, t;

-- pkey
call put('t', 'jsontriga', 'pkey=b,,id '); call change('t');
call put('t', 'logutriga', 'pkey=b  id'); call change('t');
call put('t', 'sqltriga', 'pkey=id', 'pkey=b,id'); call change('t');
select * from events; truncate pgq.event_template, t;

-- deny, and arguments that make no sense
call put('t', 'logutriga', 'deny'); call change('t');
call put('t', 'logutriga', 'deny', 'pkey='); call change('t');
call put('t', 'sqltriga', 'SKIP'); call change('t');
create trigger s after insert on t for each statement execute function pgq.logutriga('q');
call change('t');
drop trigger s on t;
drop trigger t on t;
create trigger t after insert on t for each row execute function pgq.jsontriga();
call change('t');
select * from events; truncate pgq.event_template, t;

-- expressions
call put('t', 'jsontriga', 'ev_extra1=(id+3)::text', 'ev_extra2=a||b', 'ev_extra3=true', 'ev_extra4=1.50'); call change('t');
call put('t', 'logutriga', 'ev_type=b', 'ev_data=''x'' || id', 'ev_extra1=null', 'backup', 'ev_extra3=''str''', 'ev_extra4=row(id, null)'); call change('t');
call put('t', 'sqltriga', 'ev_extra2=a', 'ev_extra2=b', 'ev_extra3=a, b', 'ev_extra4=row(null)'); call change('t');
call put('t', 'sqltriga', 'ev_extra2=count(*) from pg_database where datname = current_database()', 'ev_extra3=(select max(g) from generate_series(1, id) g)', 'ev_extra4=a -- or b'); call change('t');
call put('t', 'sqltriga', 'ev_extra2=generate_series(1,3)'); call change('t');
call put('t', 'sqltriga', 'ev_extra2=a from generate_series(1,id-1)'); call change('t');
call put('t', 'sqltriga', 'ev_extra3='); call change('t');
call put('t', 'logutriga', 'when=b = ''b'''); call change('t');
call put('t', 'logutriga', 'when=null::boolean'); call change('t');
call put('t', 'logutriga', 'when=null'); call change('t');
call put('t', 'logutriga', 'when=id'); call change('t');
call put('t', 'logutriga', 'when=''t'''); call change('t');
call put('t', 'jsontriga', 'when=id=1', 'when=false', 'ignore=b'); call change('t');
select * from events; truncate pgq.event_template, t;

-- magic columns
create table m (
    id int primary key, a text, b text, _pgq_ev_type text, _pgq_ev_extra2 int, _pgq_ev_data text, _pgq_ev_extra1 bool,
    _pgq_ev_extra3 char(3), _pgq_ev_extra4 numeric);
call put('m', 'jsontriga', 'backup');
insert into m values (1, 'a', 'b', 'T', 5, 'D', true, 'x', 1.50), (2, 'a');
update m set b = 'c';
update m set _pgq_ev_type = 'SKIP';
delete from m;
call put('m', 'sqltriga', 'backup', 'ev_extra1=''e''', 'ev_extra3=_pgq_ev_extra4 + 1');
insert into m values (1, 'a', 'b', 'T', 5, 'D', true, 'x', 1.50), (2, 'a');
update m set b = 'c';
update m set _pgq_ev_type = 'Z';
delete from m;
alter table m rename _pgq_ev_extra4 to _pgq_ev_extra5;
call put('m', 'logutriga');
call try('insert into m values (1)');
call put('m', 'logutriga', 'ignore=_pgq_ev_extra5');
call try('insert into m values (1)');
alter table m rename _pgq_ev_extra5 to _pgq_ev;
alter table m drop _pgq_ev_data;
call put('m', 'logutriga', 'ignore=_pgq_ev_type');
insert into m values (1, '_pgq_ev_');
update m set _pgq_ev_extra1 = false, _pgq_ev_type = 'T';
update m set _pgq_ev_extra1 = false;
delete from m;
select * from events; truncate pgq.event_template;

-- a value like a magic column is just a value
call put('t', 'jsontriga');
insert into t values (1, '_pgq_ev_type', '"_pgq_ev_type":');
delete from t;
select * from events; truncate pgq.event_template;

-- BEFORE, SKIP, INSTEAD OF; what happens to the row
create table g (id int primary key, a text, g text generated always as (a || '!') stored);
create trigger b before insert or update or delete on g for each row execute function pgq.sqltriga('q', 'backup');
insert into g values (1, 'x'); update g set a = 'y'; update g set a = 'y';
select * from g;
delete from g;
drop trigger b on g;
create trigger b before insert or update or delete on g for each row execute function pgq.jsontriga('q', 'backup');
insert into g values (1, 'x'); update g set a = 'y';
drop trigger b on g;
create trigger a after insert or update or delete on g for each row execute function pgq.sqltriga('q', 'backup');
update g set a = 'z';
drop trigger a on g;
create trigger b before insert or update or delete on g for each row execute function pgq.logutriga('q', 'SKIP', 'when=id=1');
insert into g values (2, 'x'), (3, 'x'); update g set a = 'w'; delete from g;
drop trigger b on g;
create trigger b before insert or update or delete on g for each row execute function pgq.logutriga('q', 'SKIP', 'ignore=a,g');
update g set a = 'w'; update g set a = a;
select * from g;
drop trigger b on g;
create view v as select id, a from g;
create trigger i instead of insert or update or delete on v for each row execute function pgq.logutriga('q', 'pkey=id');
insert into v values (5, 'v'); update v set a = 'w'; delete from v;
with x as (update v set a = 'w' returning *) select * from x;
drop trigger i on v;
create trigger i instead of insert or update or delete on v for each row execute function pgq.sqltriga('q', 'pkey=id', 'SKIP');
with x as (update v set a = 'w' returning *) select * from x;
drop trigger i on v;
create trigger i instead of insert or update or delete on v for each row execute function pgq.sqltriga('q');
call try('insert into v values (5)');
call try('delete from v');
select * from events; truncate pgq.event_template;

-- TRUNCATE
create table tr (id int);
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q');
create trigger l before truncate on tr for each statement execute function pgq.logutriga('q', 'SKIP');
create trigger s after truncate on tr for each statement execute function pgq.sqltriga('q');
insert into tr values (1);
truncate tr;
select * from tr;
create table trk (a int, "B ""b" int, c text, primary key (c, "B ""b"));
create trigger j after truncate on trk for each statement execute function pgq.jsontriga('q');
truncate trk;
drop trigger l on tr; drop trigger j on tr;
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q', 'ignore=id');
call try('truncate tr'); drop trigger j on tr;
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q', 'pkey=id');
call try('truncate tr'); drop trigger j on tr;
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q', 'backup');
call try('truncate tr'); drop trigger j on tr;
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q', 'deny');
call try('truncate tr'); drop trigger j on tr;
create trigger j after truncate on tr for each statement execute function pgq.jsontriga('q', 'SKIP');
call try('truncate tr'); drop trigger j on tr;
select * from events; truncate pgq.event_template;

-- replication roles
create table r (id int primary key, a text);
create trigger n after insert or update on r for each row execute function pgq.logutriga('q', 'ev_extra3=''normal''');
create trigger a after insert or update on r for each row execute function pgq.logutriga('q', 'ev_extra3=''always''');
create trigger e after insert or update on r for each row execute function pgq.logutriga('q', 'ev_extra3=''replica''');
create trigger s before insert or update on r for each row execute function pgq.logutriga('q', 'SKIP', 'ev_extra3=''skip''');
create trigger b before insert or update on r for each row execute function pgq.logutriga('nosuch', 'bad argument');
alter table r enable always trigger a, enable replica trigger e, disable trigger b;
insert into r values (1, 'origin');
set session_replication_role = 'replica';
insert into r values (2, 'replica');
set session_replication_role = 'local';
alter table r enable trigger b;
insert into r values (3, 'local');
update r set a = 'changed';
update r set id = id + 10;
alter table r disable trigger b;
reset session_replication_role;
select * from r;
select * from events; truncate pgq.event_template;
update pgq.queue set queue_disable_insert = true;
call try('insert into r values (4)');
set session_replication_role = 'replica';
insert into r values (4);
reset session_replication_role;
update pgq.queue set queue_disable_insert = false;
select * from events; truncate pgq.event_template;

-- rights: of insert_event, where there is an event
create role triggers_options_nobody;
grant insert, update on t to triggers_options_nobody;
call put('t', 'logutriga', 'when=id>1');
set role triggers_options_nobody;
insert into t values (1);
insert into t values (2);
reset role;
grant pgq_writer to triggers_options_nobody;
set role triggers_options_nobody;
insert into t values (2);
reset role;
drop owned by triggers_options_nobody;
drop role triggers_options_nobody;
select * from events; truncate pgq.event_template;

-- who replaces insert_event sees all that is sent
create or replace function pgq.insert_event(
    queue_name text, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
begin
    raise warning '%', array[queue_name, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4];
    return 1;
end;
$$ language plpgsql;
call put('t', 'logutriga'); call change('t');
call put('t', 'jsontriga', 'backup', 'ev_extra3=5'); call change('t');
