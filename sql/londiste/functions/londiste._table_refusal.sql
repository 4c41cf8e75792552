-- londiste._table_refusal(table, capture): why changes of a table cannot be captured
--   returns  null if they can; else the reason with the ALTER TABLE that helps
--   note     updates and deletes can be decoded only if the row has a replica identity: the primary key,
--            a chosen unique index, or the full row. A deferrable key identifies no row: two may have it for a
--            moment, and the changes would be put together wrongly. A generated column is not sent. Unlogged and
--            temporary tables write no WAL
create or replace function londiste._table_refusal(i_table text, i_capture text) returns text as $$
declare
    t           record;
    l_key       record;
    l_generated text;
    l_alter     text := 'alter table ' || londiste.quote_fqname(i_table);
begin
    select c.oid, c.relpersistence, c.relreplident into t
      from pg_catalog.pg_class c
     where c.oid = londiste.find_table_oid(i_table);
    select i.indimmediate, i.indisvalid, k.conname, pg_catalog.pg_get_constraintdef(k.oid) as def into l_key
      from pg_catalog.pg_index i
      left join pg_catalog.pg_constraint k on k.conindid = i.indexrelid and k.contype = 'p'
     where i.indrelid = t.oid and i.indisprimary;

    if i_capture <> 'wal' then
        return case when l_key is null then 'Primary key missing on table: ' || i_table end;
    end if;
    if t.relpersistence = 't' then
        return 'Temporary table cannot be replicated: ' || i_table;
    end if;
    if t.relpersistence = 'u' then
        return 'Unlogged table writes no WAL: ' || i_table || '; ' || l_alter || ' set logged';
    end if;
    if t.relreplident = 'f' then
        select k.conname, pg_catalog.pg_get_constraintdef(k.oid) as def into l_key
          from pg_catalog.pg_index i
          join pg_catalog.pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u')
         where i.indrelid = t.oid and i.indisunique and not i.indimmediate
           and not exists (
                select 1 from pg_catalog.pg_index o
                 where o.indrelid = t.oid and o.indisunique and o.indimmediate and o.indisvalid
                   and o.indpred is null and o.indexprs is null)
         order by k.contype, k.conname
         limit 1;
        if found then
            return 'Only deferrable keys tell rows of the table apart: ' || i_table || '; ' || l_alter
                || format(' drop constraint %1$I, add constraint %1$I %2$s', l_key.conname,
                          regexp_replace(l_key.def, ' DEFERRABLE.*$', ''));
        end if;
        return null;
    end if;
    select a.attname into l_generated
      from pg_catalog.pg_index i
      join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = any (i.indkey::int2[]) and a.attgenerated <> ''
     where i.indrelid = t.oid
       and case t.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary end
     order by a.attnum
     limit 1;
    if found then
        return format('Replica identity has generated column %I, which is not sent: ', l_generated) || i_table
            || '; create a unique index of other columns, none of them null, and '
            || l_alter || ' replica identity using index ..';
    end if;
    if t.relreplident = 'i' then
        if exists (
            select 1 from pg_catalog.pg_index i
             where i.indrelid = t.oid and i.indisreplident and i.indisvalid and i.indimmediate)
        then
            return null;
        end if;
        return 'Replica identity index is gone from table: ' || i_table || '; ' || l_alter
            || ' replica identity ' || case when l_key is null then 'full' else 'default' end;
    end if;
    if l_key is null then
        return 'Primary key missing on table: ' || i_table || '; add one, or '
            || l_alter || ' replica identity full';
    end if;
    if t.relreplident = 'n' then
        return 'Table has no replica identity: ' || i_table || '; ' || l_alter || ' replica identity '
            || case when l_key.indimmediate then 'default' else 'full' end;
    end if;
    if not l_key.indimmediate then
        return 'Primary key is deferrable and no replica identity: ' || i_table || '; ' || l_alter
            || format(' drop constraint %1$I, add constraint %1$I %2$s', l_key.conname,
                      regexp_replace(l_key.def, ' DEFERRABLE.*$', ''));
    end if;
    return null;
end;
$$ language plpgsql stable;
