select format(
           E'create sequence %I.%I as %s\n    increment by %s minvalue %s maxvalue %s start with %s cache %s%s;%s',
           s.schemaname, s.sequencename, s.data_type, s.increment_by, s.min_value, s.max_value, s.start_value,
           s.cache_size, case when s.cycle then ' cycle' else '' end,
           coalesce((
               select format(E'\nalter sequence %I.%I owned by %s.%I;', s.schemaname, s.sequencename,
                             d.refobjid::regclass, a.attname)
                 from pg_catalog.pg_depend d
                 join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                  and d.deptype in ('a', 'i')), ''))
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_sequences s on s.schemaname = n.nspname and s.sequencename = c.relname
 where c.oid = to_regclass($1)
