-- Tables of older versions, brought to the form that tables.sql goes on from. Londiste 2 had other tables:
-- they stay, unused, beside the new ones.
alter table if exists londiste.table_info
    add column if not exists dropped_ddl    text,
    add column if not exists table_attrs    text,
    add column if not exists dest_table     text;
alter table if exists londiste.applied_execute
    add column if not exists execute_attrs  text;
do $$
declare
    c   record;
begin
    if to_regclass('londiste.table_info') is null then
        return;
    end if;
    for c in
        select k.conname
          from pg_catalog.pg_constraint k
         where k.conrelid = 'londiste.table_info'::regclass and k.contype = 'c'
           and pg_get_constraintdef(k.oid) !~ 'catching-up'
    loop
        execute format('alter table londiste.table_info drop constraint %I', c.conname);
        alter table londiste.table_info
            add constraint table_info_check check (dropped_ddl is null or merge_state in ('in-copy', 'catching-up'));
    end loop;

    -- a file counts once in a database, whatever the queue, and outlives its node
    for c in
        select k.conname, k.contype
          from pg_catalog.pg_constraint k
         where k.conrelid = to_regclass('londiste.applied_execute')
           and (k.contype = 'f'
                or k.contype = 'p' and pg_get_constraintdef(k.oid) <> 'PRIMARY KEY (execute_file)')
    loop
        execute format('alter table londiste.applied_execute drop constraint %I', c.conname);
        if c.contype = 'p' then
            alter table londiste.applied_execute
                add constraint applied_execute_pkey primary key (execute_file);
        end if;
    end loop;
end;
$$;
