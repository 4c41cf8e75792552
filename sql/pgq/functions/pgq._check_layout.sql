-- pgq._check_layout(relation, row): refuse a row whose table was altered after the transaction's snapshot
--   errors   40001: the catalog as the snapshot sees it is not what the row is made of; try again
--   note     only where statements do not take a snapshot each
create or replace function pgq._check_layout(i_relid oid, i_row anyelement) returns void as $$
begin
    if array(select json_object_keys(row_to_json(i_row)))
            <> array(select t.attname::text
                       from pg_catalog.pg_attribute t
                      where t.attrelid = i_relid and t.attnum > 0 and not t.attisdropped
                      order by t.attnum)
        or exists (select 1
                     from pg_catalog.pg_class c
                    where c.oid = i_relid and c.relfilenode <> 0 and c.relfilenode <> pg_relation_filenode(c.oid))
    then
        raise exception 'could not serialize access due to concurrent change of %', i_relid::regclass
            using errcode = 'serialization_failure';
    end if;
end;
$$ language plpgsql stable;
