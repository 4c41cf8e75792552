-- londiste._table_refusal(table, capture): why changes of a table cannot be captured
--   returns  null if they can; else the reason with the ALTER TABLE that helps
--   note     updates and deletes can be decoded only if the row has a replica identity: the primary key,
--            a chosen unique index, or the full row. Unlogged and temporary tables write no WAL
create or replace function londiste._table_refusal(i_table text, i_capture text) returns text as $$
declare
    t           record;
    l_key       record;
    l_alter     text := 'alter table ' || londiste.quote_fqname(i_table);
begin
    select c.oid, c.relpersistence, c.relreplident into t
      from pg_catalog.pg_class c
     where c.oid = londiste.find_table_oid(i_table);
    select i.indimmediate, i.indisvalid into l_key
      from pg_catalog.pg_index i
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
        return null;
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
        return 'Primary key is deferrable and no replica identity: ' || i_table || '; '
            || l_alter || ' replica identity full';
    end if;
    return null;
end;
$$ language plpgsql stable;
