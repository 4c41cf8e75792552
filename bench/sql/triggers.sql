-- What capture triggers add to a row, in bulk: psql -X -q -f this in a database with the modules or with the original
-- extension. Prints microseconds a row, the least of five rounds, less what the same costs without a trigger.
\o /dev/null
select pgq.create_queue('bench_triggers');
\o
create table bench_plain (id bigint primary key, a int, b int, v text, at timestamptz, n numeric(10, 2));
create table bench_json (like bench_plain including all);
create table bench_url (like bench_plain including all);
create table bench_json_compiled (like bench_plain including all);
create table bench_url_compiled (like bench_plain including all);
create trigger c after insert or update on bench_json for each row execute function pgq.jsontriga('bench_triggers');
create trigger c after insert or update on bench_url for each row execute function pgq.logutriga('bench_triggers');
create trigger c after insert or update on bench_json_compiled for each row execute function pgq.jsontriga('bench_triggers');
create trigger c after insert or update on bench_url_compiled for each row execute function pgq.logutriga('bench_triggers');
do $$
declare
    l_rows      constant integer := 5000;
    l_tables    text[] := '{bench_plain,bench_json,bench_url}';
    l_table     text;
    l_statement text;
    l_start     timestamptz;
    l_least     float8;
    l_plain     float8;
begin
    if to_regprocedure('pgq.compile_trigger(regclass, name)') is not null then
        perform pgq.compile_trigger('bench_json_compiled', 'c'), pgq.compile_trigger('bench_url_compiled', 'c');
        l_tables := l_tables || '{bench_json_compiled,bench_url_compiled}'::text[];
    end if;
    foreach l_statement in array array[
        'insert into %I select g, g, g, ''a new row with some text '' || g, now(), g * 1.01 from generate_series(1, %s) g',
        'update %I set a = a + 1, v = ''a changed row '' || a where id <= %s']
    loop
        foreach l_table in array l_tables loop
            l_least := 'infinity';
            for l_round in 1 .. 5 loop
                if l_statement like 'insert%' then
                    execute format('truncate %I', l_table);
                end if;
                l_start := clock_timestamp();
                execute format(l_statement, l_table, l_rows);
                l_least := least(l_least, extract(epoch from clock_timestamp() - l_start) * 1e6 / l_rows);
            end loop;
            if l_table = 'bench_plain' then
                l_plain := l_least;
            end if;
            raise notice '% %: % us', left(l_statement, 6), l_table, round((l_least - l_plain)::numeric, 1);
        end loop;
    end loop;
end;
$$;
drop table bench_plain, bench_json, bench_url, bench_json_compiled, bench_url_compiled;
\o /dev/null
select pgq.drop_queue('bench_triggers');
