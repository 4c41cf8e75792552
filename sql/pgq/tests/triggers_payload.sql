-- what the capture triggers write: every kind of value, names that need quotes, keys of all sorts
\pset null '<NULL>'
\pset format unaligned
\pset tuples_only on
\o /dev/null
select pgq.create_queue('q');
\o
create view events as
    select ev_type, ev_data, ev_extra1, ev_extra2 from pgq.event_template order by ev_id;
create function capture(tab text, variadic args text[] default '{}') returns void as $$
declare
    fn text;
begin
    foreach fn in array array['jsontriga', 'logutriga', 'sqltriga'] loop
        execute format('drop trigger if exists %I on %s', fn, tab);
        execute format('create trigger %I after insert or update or delete on %s for each row execute function pgq.%s(%s)',
                       fn, tab, fn, (select string_agg(quote_literal(a), ', ') from unnest(array['q'] || args) a));
    end loop;
end;
$$ language plpgsql;

-- numbers and booleans
create domain five as integer;
create domain flag as boolean;
create table numbers (
    id int primary key, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(12, 2), m money, b boolean,
    d five, f flag, o oid, i2s int2[], ns numeric[], bs boolean[]);
select capture('numbers');
insert into numbers values
    (1, -32768, 9223372036854775807, 1.5, 0.1, 1.50, 3, 12.34, true, 5, true, 7, '{1,NULL,3}', '{1.0,2.50}', '{t,f,NULL}'),
    (2, 0, -9223372036854775808, 'NaN', 'Infinity', 'NaN', -0.01, -1, false, null, false, 0, '{}', null, '{{t},{f}}'),
    (3, null, null, '-0', '-Infinity', 1e30, null, null, null, null, null, null, null, null, null),
    (4, 1, 1, 1e-10, 1e300, 123456789012345678901234567890.123456789, 0, 0, true, 0, null, 1, '[0:1]={1,2}', '{NaN}', '{}');
update numbers set f8 = 1.0 / 3, f4 = 1.0 / 3, n2 = null where id <> 2;
set extra_float_digits = 0;
update numbers set f8 = 0.1 + 0.2, f4 = 0.7 where id = 1;
reset extra_float_digits;
delete from numbers where id in (2, 3);
select * from events; truncate pgq.event_template;

-- text
create type mood as enum ('so so', 'a "good" one');
create table texts (id int primary key, t text, v varchar(20), c char(5), q "char", e mood, n name, es mood[], ts text[]);
select capture('texts', 'backup');
insert into texts values
    (1, 'plain', 'x y', 'ab', 'z', 'so so', 'n', '{so so,NULL}', '{"a b",c,NULL,""}'),
    (2, '', '', '', '', null, '', '{}', '{"\"","\\"}'),
    (3, 'quote '' double " back\slash $%,@ & = + / ? # ; : ~ * ( ) { } [ ] < > | ^ ` !', '''', E'\\', '"', 'a "good" one', '"', '{"a \"good\" one"}', '{{a,b},{c,d}}'),
    (4, E'tab\tnewline\nreturn\rformfeed\fbackspace\bbell\x07esc\x1bdel\x7fone\x01', E'\n', ' ', E'\t', null, ',', null, array[E'\n', ',']),
    (5, 'grüße ¿ 日本語 € 🦀 %41 100% a+b', 'é', 'ñ', null, null, 'ü', null, '{é}'),
    (6, repeat('a b"', 30) || '%', null, null, null, null, null, null, null),
    (7, 'NULL', 'null', '()', ',', null, '""', null, '{"NULL"}');
update texts set t = t || ' ', v = nullif(v, ''), c = 'x';
update texts set t = t;
delete from texts where id < 4;
select * from events; truncate pgq.event_template;
insert into texts (id, t) select 8, string_agg(chr(g), '') from generate_series(1, 600) g where g not between 128 and 160;
select * from events; truncate pgq.event_template;

-- dates and times; DateStyle, IntervalStyle and TimeZone show in all but the JSON of dates and timestamps
create domain day as date;
create table times (
    id int primary key, d date, t time, tz timetz, ts timestamp, tstz timestamptz(3), iv interval, dd day,
    tss timestamptz[], r tstzrange, dr daterange);
select capture('times');
insert into times values
    (1, '2009-09-19', '11:59:48.5', '11:59:48+05:30', '2009-09-19 11:59:48.599', '2009-09-19 11:59:48.599+00', '1 year 2 mons -3 days 04:05:06.7', '2020-02-29', '{"2020-01-01 00:00:00+00",NULL}', '[2020-01-01 00:00:00+00,)', '[2020-01-01,2020-02-01)'),
    (2, 'infinity', '24:00', '00:00-12', '-infinity', 'infinity', '0', null, '{}', 'empty', '(,)'),
    (3, '0044-03-15 BC', '00:00', null, '0044-03-15 12:00:00 BC', '0044-03-15 12:00:00+00 BC', '-1 day +00:00:01', '0044-03-15 BC', null, null, null),
    (4, '5874897-12-31', null, null, '294276-12-31 23:59:59.999999', '1890-01-01 00:00:00+00', null, null, null, null, null),
    (5, '0001-02-03', null, null, '0001-02-03 00:00:00.1', '0001-02-03 00:00:00+00', '@ 1 hour ago', null, null, null, null);
set timezone = 'Asia/Kolkata';
update times set iv = iv * 2;
set timezone = 'Europe/Amsterdam';
set datestyle = 'SQL, DMY';
set intervalstyle = 'iso_8601';
update times set iv = iv * 2;
set timezone = 'America/St_Johns';
set datestyle = 'German';
set intervalstyle = 'sql_standard';
update times set iv = iv * 2;
set datestyle = 'Postgres, MDY';
set intervalstyle = 'postgres_verbose';
update times set iv = iv * 2;
set datestyle = 'ISO, YMD';
set timezone = 'Africa/Monrovia';
delete from times;
reset datestyle; reset intervalstyle; reset timezone;
select * from events; truncate pgq.event_template;

-- other types
create type pair as (a int, b text);
create domain jd as jsonb;
create table others (
    id int primary key, b bytea, j json, jb jsonb, jdd jd, u uuid, ip inet, net cidr, mac macaddr, bi bit(5), vb varbit,
    p point, bx box, c pair, cs pair[], r int4range, rc regclass, tv tsvector, tq tsquery, iv int2vector, sn txid_snapshot);
select capture('others', 'backup');
insert into others values
    (1, '\xdeadbeef00', '{"a": 1}', '{"b": [1, 2.50], "a": "x\"y"}', '[1]', '6d3a3c6c-5a8f-4b7e-9d0a-0c1b2a3d4e5f', '10.0.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '10101', '101', '(1,2)', '((0,0),(1,1))', '(1,"a b")', '{"(1,x)","(,)"}', '[1,5)', 'numbers', 'a fat cat', 'fat & cat', '1 2', '10:20:10,14'),
    (2, '', 'null', 'null', 'null', null, '10.0.0.1/24', '::/0', null, null, '', '(1e300,-0)', null, '(,)', '{}', 'empty', null, '', '', '', null),
    (3, null, null, null, null, null, '::1', null, null, null, null, null, null, row(null, ''), null, null, null, null, null, null, null);
set bytea_output = 'escape';
update others set j = '{"a":1}', b = b || 'x\\'::bytea, p = p;
reset bytea_output;
update others set cs = cs || row(5, 'q"\')::pair where id = 1;
delete from others;
select * from events; truncate pgq.event_template;

-- names
create schema "We.ird";
create table "We.ird"."T ""x"" ü" (a int, "Id" int, "select" text, "sp ace&=+%" text, "q""'\" text, "ü€" text, primary key ("sp ace&=+%", "Id"));
select capture('"We.ird"."T ""x"" ü"');
insert into "We.ird"."T ""x"" ü" values (1, 5, 'x', 'k 1', 'y', 'z');
update "We.ird"."T ""x"" ü" set "select" = null, "q""'\" = E'\\';
delete from "We.ird"."T ""x"" ü";
select * from events; truncate pgq.event_template;

-- keys: composite in another order, none, given, with ignored columns
create table keys (a int, b int, c text, d text, primary key (c, a));
select capture('keys');
insert into keys values (1, 2, 'x', 'y');
update keys set b = 3;
update keys set b = b;
update keys set a = 2;
update keys set c = 'z', b = 7;
delete from keys;
select capture('keys', 'ignore=b,a');
insert into keys values (1, 2, 'x', 'y');
update keys set b = 3;
update keys set b = 4, d = 'q';
update keys set d = d;
update keys set a = 3, b = 1;
delete from keys;
select capture('keys', 'pkey=b, d');
insert into keys values (1, 2, 'x', 'y');
update keys set a = 3, c = 'k';
update keys set d = 'w';
delete from keys;
select capture('keys', 'pkey=');
insert into keys values (1, null, 'x', 'y');
update keys set a = 3;
delete from keys;
select capture('keys', 'pkey=b');
update keys set a = 3;
delete from keys;
select * from events; truncate pgq.event_template;
create table nokey (a int, b text);
select capture('nokey');
insert into nokey values (1, 'x');
update nokey set b = 'y';
delete from nokey;
select * from events; truncate pgq.event_template;

-- dropped and added columns, in the middle of a session
create table changing (id int primary key, gone text, b text, gone2 int);
select capture('changing');
insert into changing values (1, 'g', 'b', 1);
alter table changing drop column gone;
insert into changing values (2, 'b', 1);
alter table changing drop column gone2, add column n int default 5, add column t text;
insert into changing values (3, 'b', 1, 'x');
update changing set t = b;
alter table changing rename b to bb;
alter table changing alter column n type numeric(5, 2);
update changing set t = 'y', bb = null;
alter table changing rename to changed;
delete from changed;
select * from events; truncate pgq.event_template;

-- many columns, and none
create table nothing ();
select capture('nothing');
insert into nothing default values;
do $$
declare
    n   integer;
begin
    for n in 47..49 loop
        execute format('create table wide%s (id int primary key, %s)', n,
                       (select string_agg(format('c%s text', g), ', ') from generate_series(2, n) g));
        perform capture('wide' || n);
        execute format('insert into wide%s values (1, %s)', n,
                       (select string_agg(quote_literal(case g % 3 when 0 then '' when 1 then 'a "' else 'x' end), ', ')
                          from generate_series(2, n - 1) g));
        execute format('update wide%s set c5 = null, c%s = %L', n, n, 'last');
    end loop;
    foreach n in array array[255, 256, 257, 1000] loop
        execute format('create table wide%s (id int primary key, %s)', n,
                       (select string_agg(format('c%s bool', g), ', ') from generate_series(2, n) g));
        perform capture('wide' || n);
        execute format('insert into wide%s (id, c5, c%s) values (1, true, false)', n, n);
    end loop;
end;
$$;
select ev_type, length(ev_data), md5(ev_data) from events; truncate pgq.event_template;

-- partitions, children
create table parts (id int primary key, v text) partition by range (id);
select capture('parts');
create table parts_1 partition of parts for values from (0) to (10);
create table parts_2 (v text, id int not null);
alter table parts attach partition parts_2 for values from (10) to (20);
insert into parts values (1, 'a'), (11, 'b');
update parts set v = 'c';
update parts set id = id + 14 where id = 1;
delete from parts;
select * from events; truncate pgq.event_template;

-- a row without any value; deferred triggers
create table empty (a text, b int);
select capture('empty');
insert into empty default values;
create table later (id int primary key, v text);
create constraint trigger later after insert or update on later deferrable initially deferred
    for each row execute function pgq.logutriga('q');
begin;
insert into later values (1, 'a');
update later set v = 'b';
select * from events;
commit;
select * from events; truncate pgq.event_template;
