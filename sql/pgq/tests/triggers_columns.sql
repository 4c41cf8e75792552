-- Columns whose names are reserved words, or have blanks, in the arguments of capture triggers.

\set QUIET 1
\pset format unaligned
select pgq.create_queue('q');

create table reserved (id int primary key, "user" text, "order" int, "desc" text, "table" text, "left" text);
create trigger words after insert on reserved for each row execute function
    pgq.jsontriga('q', 'ev_data=user', 'ev_extra1=order', 'ev_extra2=coalesce(desc, ''-'') || table', 'ev_extra3=left',
                  'ev_extra4=''user'' || user', 'when=user=''bob''');
insert into reserved values (1, 'bob', 2, null, 'tab', 'l');
insert into reserved values (2, 'eve', 1, 'd', 'tab', 'l');

-- words that expressions need are columns only where nothing else is there
create table grammar (id int primary key, "user" text, "order" int, "end" text, "from" text);
create trigger words after insert on grammar for each row execute function
    pgq.logutriga('q', 'ev_data=substring(''abc'' from 2 for 1) || user', 'ev_extra1= end ', 'ev_extra2=from',
                  'ev_extra3=case when order > 1 then grammar.user else USER::text end',
                  'ev_extra4=(select string_agg(v.x, '','' order by v.x) from (values (user), (''a'')) as v (x))');
insert into grammar values (1, 'bob', 2, 'e', 'f');

create table blanks (id int, "Order No" int, "No" int, "Last Seen" text, "a.b c" text, v text);
create trigger three after insert or update or delete on blanks for each row execute function
    pgq.jsontriga('q', 'pkey=id,Order No', 'ignore=Last Seen,a.b c');
create trigger four after insert or update or delete on blanks for each row execute function
    pgq.logutriga('q', 'pkey=Order No', 'ignore=Last Seen');
create trigger five after insert or update or delete on blanks for each row execute function
    pgq.sqltriga('q', 'pkey=Order No,id', 'ignore=a.b c Last Seen');
insert into blanks values (1, 2, 3, 'now', 'x', 'v');
update blanks set "Last Seen" = 'then';
update blanks set v = 'w';
update blanks set "No" = 4;
update blanks set "Order No" = 4;
delete from blanks;
drop trigger three on blanks;
create trigger three after insert on blanks for each row execute function pgq.jsontriga('q', 'pkey=id,Order Nr');
insert into blanks values (1, 2, 3, 'now', 'x', 'v');

select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from pgq.event_template order by ev_id;
truncate pgq.event_template;

-- a compiled trigger knows the same names
delete from blanks;
drop trigger three on blanks; drop trigger five on blanks;
select pgq.compile_trigger('blanks', 'four');
truncate pgq.event_template;
insert into blanks values (1, 2, 3, 'now', 'x', 'v');
update blanks set "Last Seen" = 'then';
update blanks set v = 'w';
update blanks set "Order No" = 4;
select ev_type, ev_data, ev_extra1 from pgq.event_template order by ev_id;
