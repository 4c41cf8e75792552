-- partitions: made by inheritance with all that hangs on the parent, found and dropped by name
\pset null '<NULL>'
create role part_owner;
create role part_user;
create schema "Odd s";
create table public.parent (id int primary key, at timestamptz not null default now(), n int check (n > 0), t text);
create index on parent (t);
alter table parent owner to part_owner;
grant select, update on parent to part_user with grant option;
grant insert on parent to public;
create table log (what text);
create function note_it() returns trigger language plpgsql as $$
begin
    insert into log values (format('%s of %s by %s', tg_op, tg_table_name, tg_name));
    return new;
end $$;
create trigger noted after insert on parent for each row when (new.n is not null) execute procedure note_it();
create trigger "No ""ON"" one" before update of t, n on parent for each row execute procedure note_it('public.parent');
create trigger off before insert on parent for each row execute procedure note_it();
alter table parent disable trigger off;
create trigger on_replica before insert on parent for each row execute procedure note_it();
alter table parent enable replica trigger on_replica;
create trigger always after delete on parent for each row execute procedure note_it();
alter table parent enable always trigger always;
create rule "To keep" as on delete to parent where old.t = 'kept' do instead nothing;
alter table parent disable rule "To keep";

set timezone = 'Europe/Tallinn';
select londiste.create_partition('parent', 'parent_2026_02', 'id', 'at', '2026-02-03 04:05:06+00', 'month');
select londiste.create_partition('parent', 'parent_2026_02', 'id', 'at', '2026-02-03 04:05:06+00', 'month');
select londiste.create_partition('public.parent', 'Odd s.p.art', 'id', '', null, null);
select londiste.create_partition(null, 'x', 'id', 'at', now(), 'day');
select londiste.create_partition('parent', null, 'id', 'at', now(), 'day');
select londiste.create_partition('nosuch', 'nosuch_1', 'id', 'at', now(), 'day');
select londiste.create_partition('parent', 'parent_bad', 'id', 'nosuch', now(), 'day');
set timezone = 'UTC';
\d parent_2026_02
\d "Odd s"."p.art"
-- from PostgreSQL 17 on an owner has MAINTAIN too
select c.relname, pg_get_userbyid(c.relowner), replace(c.relacl::text, 'Dxtm', 'Dxt') as relacl, c.relacl = p.relacl as same
  from pg_class c, pg_class p where c.relname in ('parent', 'parent_2026_02') and p.relname = 'parent' order by 1;
select tgname, tgenabled from pg_trigger where tgrelid = 'parent_2026_02'::regclass order by 1;
select rulename, ev_enabled from pg_rewrite where ev_class = 'parent_2026_02'::regclass;
insert into parent_2026_02 values (1, '2026-02-03', 1, 'a');
insert into parent_2026_02 values (2, '2026-03-03', 1, 'a');
update parent set t = 'b';
select * from log;

-- the border does not depend on who asks
insert into parent_2026_02 values (3, '2026-01-31 21:59:59+00', 1, 'a');
insert into parent_2026_02 values (3, '2026-01-31 22:00:00+00', 1, 'a');

-- other kinds of field
create table by_day (id int primary key, d date, ts timestamp);
set datestyle = 'SQL, DMY';
select londiste.create_partition('by_day', 'by_day_d', 'id', 'd', '2026-02-03 04:05:06+00', 'week'),
       londiste.create_partition('by_day', 'by_day_ts', 'id', 'ts', '2026-02-03 04:05:06+00', 'hour');
reset datestyle;
select conrelid::regclass, pg_get_constraintdef(oid) from pg_constraint where contype = 'c' and conrelid::regclass::text like 'by_day%' order by 1;

-- age by name
select londiste.is_obsolete_partition('public.t_2001_01_01', '1 month', 'day') as old,
       londiste.is_obsolete_partition('public.t_9001_01_01', '1 month', 'daily') as young,
       londiste.is_obsolete_partition('public.t_2001', '1 month', 'day') as other,
       londiste.is_obsolete_partition('public.t_2001', '1 month', 'yearly') as y,
       londiste.is_obsolete_partition('public.t_2001_01', '1 month', 'month') as m,
       londiste.is_obsolete_partition('public.t_2001_01_01_10', '1 month', 'hour') as h;
select londiste.is_obsolete_partition('public.t_2001_01_01', '1 month', 'week');
create table "a.b+" (i int);
create table "a.b+_2001_01" (i int);
create table "a.b+_9001_01" (i int);
create table "a.b+_2001_01_01" (i int);
create table "axbb_2001_01" (i int);
create table "Odd s"."a.b+_2001_01" (i int);
select * from londiste.list_obsolete_partitions('public.a.b+', '1 year', 'monthly');
select * from londiste.list_obsolete_partitions('Odd s.a.b+', '1 year', 'month');
select * from londiste.list_obsolete_partitions('nosuch', '1 year', 'month');
select * from londiste.drop_obsolete_partitions('public.a.b+', '1 year', 'month');
select * from londiste.drop_obsolete_partitions('public.a.b+', '1 year', 'month');
select * from londiste.list_obsolete_partitions('t', '1 year', 'decade');
drop owned by part_owner, part_user;
drop role part_owner, part_user;
