-- capture triggers where standard_conforming_strings is off: functions are parsed under the session's setting
\pset null '<NULL>'
\pset format unaligned
\pset tuples_only on
set standard_conforming_strings = off;
set escape_string_warning = off;
\o /dev/null
select pgq.create_queue('q');
select count(*) > 0 as compiles from pg_proc where oid = to_regprocedure('pgq.compile_trigger(regclass,name)') \gset
\o
create view events as
    select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3 from pgq.event_template order by ev_id;
create procedure put(tab text, fn text, variadic args text[] default '{}') as $$
begin
    execute format('drop trigger if exists t on %s', tab);
    execute format('create trigger t after insert or update or delete on %s for each row execute function pgq.%s(%s)',
                   tab, fn, (select string_agg(quote_literal(a), ', ') from unnest(array['q'] || args) a));
end;
$$ language plpgsql;
create procedure change() as $$
begin
    insert into t values (1, E'a\\b ''c'' & d=é%\n', 's1', 's2', E'\\');
    update t set b = E'\\000', "Mixed" = null where id = 1;
    update t set b = 's3' where id = 1;
    delete from t;
end;
$$ language plpgsql;
create table t (id int primary key, a text, b text, s text, "Mixed" text);

call put('t', 'logutriga'); call change();
call put('t', 'jsontriga'); call change();
call put('t', 'sqltriga'); call change();
call put('t', 'logutriga', 'ignore=b, s', 'backup'); call change();
call put('t', 'jsontriga', 'ignore=b  s,a', 'pkey=id, a', 'backup'); call change();
call put('t', 'sqltriga', 'ignore=b, s', 'pkey=id, a'); call change();
call put('t', 'logutriga', 'ev_extra1= ', 'ev_extra2=E''\\\\'' || s', 'ev_extra3=''\\'' x Mixed'' || Mixed'); call change();
select * from events; truncate pgq.event_template;

-- compiled, where that can be done: the same
call put('t', 'logutriga', 'ignore=b, s', 'backup');
\if :compiles
\o /dev/null
select pgq.compile_trigger('t', 't');
\o
\endif
call change();
call put('t', 'jsontriga', 'ignore=b  s,a', 'pkey=id, a', 'backup');
\if :compiles
\o /dev/null
select pgq.compile_trigger('t', 't');
\o
\endif
call change();
create table "o\n'e" (id int primary key, "a\b'" text);
call put(E'"o\\n''e"', 'logutriga', E'ev_extra1=''x y''');
\if :compiles
\o /dev/null
select pgq.compile_trigger('"o\\n''e"', 't');
\o
\endif
insert into "o\n'e" values (1, 'x\\y');
set standard_conforming_strings = on;
update "o\n'e" set "a\b'" = 'x\y';
select * from events;
