-- where the original capture triggers are wrong: each of these prints something else there
\pset null '<NULL>'
\pset format unaligned
\pset tuples_only on
\o /dev/null
select pgq.create_queue('q');
\o
create view events as
    select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.event_template order by ev_id;

-- a renamed key column has its new name
create table renamed (id int primary key, v text);
alter table renamed rename id to nr;
create trigger l after insert or update or delete on renamed for each row execute function pgq.logutriga('q');
create trigger s after insert or update or delete on renamed for each row execute function pgq.sqltriga('q');
insert into renamed values (1, 'a'); update renamed set v = 'b'; update renamed set nr = 2; delete from renamed;
select * from events; truncate pgq.event_template;

-- a column that is only included in the key's index is no key
create table included (id int, v text, w text, primary key (id) include (v));
create trigger j after insert or update or delete on included for each row execute function pgq.jsontriga('q');
create trigger s after insert or update or delete on included for each row execute function pgq.sqltriga('q');
insert into included values (1, 'a'); update included set v = 'b'; delete from included;
select * from events; truncate pgq.event_template;

-- changes that compare equal are changes, but a key may change so
create table equal (n numeric primary key, m numeric, f float8, o text);
create trigger s after update on equal for each row execute function pgq.sqltriga('q');
create trigger z after update on equal for each row execute function pgq.logutriga('q', 'ignore=o');
insert into equal values (1.0, 1.0, 0);
update equal set m = 1.00;
update equal set f = '-0', o = 'x';
update equal set n = 1.00;
update equal set n = 2;
update equal set o = 'y';
set extra_float_digits = 0;
update equal set f = 0.1;
update equal set f = 0.1 + 1e-17 + 2e-17, o = 'z';
reset extra_float_digits;
select * from events; truncate pgq.event_template;

-- a key column after the first changed column is looked at
create table late_key (v text, id int primary key, w text);
create trigger l after update on late_key for each row execute function pgq.logutriga('q', 'ignore=w');
create trigger j after update on late_key for each row execute function pgq.jsontriga('q', 'ignore=w');
insert into late_key values ('a', 1, 'w');
update late_key set v = 'b', id = 2;
update late_key set w = 'x', id = 2;
update late_key set v = 'b';
select * from events; truncate pgq.event_template;

-- expressions: names as SQL has them, and the exact names of old
create table "Ex" (id int primary key, a text, "B c" text, "Id" int, text text, now int, lower text);
create function put(variadic args text[]) returns void as $$
begin
    drop trigger if exists t on "Ex";
    execute format('create trigger t after insert or update or delete on "Ex" for each row execute function pgq.logutriga(%s)',
                   (select string_agg(quote_literal(a), ', ') from unnest(array['q'] || args) a));
end;
$$ language plpgsql;
select put('ev_extra1="B c"||a', 'ev_extra2=A', 'ev_extra3=id::text || '':Id'' || Id', 'ev_extra4="Ex".a');
insert into "Ex" values (1, 'A', 'B', 2, 't', 3, 'L');
select put('ev_extra1=now::text || text', 'ev_extra2=(now() is null)::text', 'ev_extra3=lower("Ex".lower)',
           'ev_extra4=''Id'' || E''\''Id'' || $x$Id$x$ || $$''Id$$ || "Id" /* Id '' */ || Id::text -- Id');
update "Ex" set a = 'y';
select put('ev_extra1=(select string_agg(a, '','') from (values (''q'')) x (a))', 'when=("Ex").id = "Id" - 1');
update "Ex" set a = 'z';
delete from "Ex";
select * from events; truncate pgq.event_template;

-- key columns that do not exist
create table nokey (id int, a text);
create trigger l after insert or update or delete on nokey for each row execute function pgq.logutriga('q', 'pkey=id,nosuch');
insert into nokey values (1, 'a');
drop trigger l on nokey;
create trigger l after insert or update or delete on nokey for each row execute function pgq.sqltriga('q', 'pkey=nosuch');
insert into nokey values (1, 'a');
select * from events; truncate pgq.event_template;

-- constant expressions of a TRUNCATE trigger
create table physical (id int);
create trigger l after truncate on physical for each statement execute function pgq.logutriga('q', 'ev_extra1=''public.logical''', 'ev_extra4=1 + 1');
create trigger j after truncate on physical for each statement execute function pgq.jsontriga('q', 'when=false');
truncate physical;
drop trigger l on physical;
create trigger l after truncate on physical for each statement execute function pgq.sqltriga('q', 'ev_extra1=id::text');
truncate physical;
select * from events; truncate pgq.event_template;

-- the search path is the user's, also in expressions
create schema own;
create function own.mark() returns text language sql as $$ select 'own' $$;
set search_path = own, public;
create table own.t (id int primary key);
create trigger l after insert on own.t for each row execute function pgq.logutriga('q', 'ev_extra2=mark()', 'ev_extra3=current_setting(''search_path'')');
insert into t values (1);
reset search_path;
select * from events; truncate pgq.event_template;

-- old logtriga
create table old (id int, v text, w text, gone int, k2 text);
alter table old drop gone;
create trigger o after insert or update or delete or truncate on old for each statement execute function pgq.logtriga('q', 'kvik');
truncate old;
drop trigger o on old;
create trigger o after insert or update or delete on old for each row execute function pgq.logtriga('q', 'kvik');
insert into old values (1, 'a', 'b', 'x');
update old set w = 'c';
update old set v = 'c';
update old set v = v;
update old set k2 = 'y';
delete from old;
drop trigger o on old;
create trigger o after insert or update or delete on old for each row execute function pgq.logtriga('q', 'vk', 'public.other');
insert into old values (1, 'a', 'b', 'x'), (2, null);
update old set id = 2 where v = 'a';
update old set id = 2 where v is null;
delete from old where v = 'a';
drop trigger o on old;
create trigger o before insert on old for each row execute function pgq.logtriga('q', 'k');
insert into old values (1);
drop trigger o on old;
create trigger o after insert on old for each row execute function pgq.logtriga('q');
insert into old values (1);
drop trigger o on old;
create trigger o after insert on old for each row execute function pgq.logtriga('q', 'vv');
insert into old values (1);
drop trigger o on old;
create trigger o after insert on old for each row execute function pgq.logtriga('q', 'kvvvvk');
insert into old values (1);
select * from events; truncate pgq.event_template;
select pgq.jsontriga();
