-- londiste.create_partition(table, partition, keys, field, time, period): create a partition by inheritance
--   keys     not used
--   field    column the partition is checked by; null or empty: no check
--   time     any moment of the partition
--   period   a unit of date_trunc
--   returns  1 created; 0 a relation of that name exists
--   errors   need table and part; parent table missing; 42703 no such field
--   note     takes over columns, indexes, owner, grants, triggers and rules with their state; no foreign
--            keys. Borders are those of the session's time zone, written so that they do not move with it
create or replace function londiste.create_partition(
    i_table text, i_part text, i_pkeys text, i_part_field text,
    i_part_time timestamptz, i_part_period text)
returns integer as $$
declare
    l_parent    text := londiste.quote_fqname(i_table);
    l_part      text := londiste.quote_fqname(i_part);
    l_oid       oid;
    l_type      regtype;
    l_from      text;
    l_to        text;
    l_head      text;
    l_def       text;
    l_at        integer;
    r           record;
begin
    if i_table is null or i_part is null then
        raise exception 'need table and part';
    end if;

    -- one at a time: workers of several queues may fill one table
    lock table londiste.table_info in share update exclusive mode;
    if to_regclass(l_part) is not null then
        return 0;
    end if;
    l_oid := l_parent::regclass;

    execute format('create table %s (like %s including all) inherits (%s)', l_part, l_parent, l_parent);
    select pg_get_userbyid(c.relowner) as name into r
      from pg_class c
     where c.oid = l_oid and c.relowner <> (select p.relowner from pg_class p where p.oid = to_regclass(l_part));
    if found then
        execute format('alter table %s owner to %I', l_part, r.name);
    end if;

    if i_part_field <> '' then
        select a.atttypid into l_type
          from pg_attribute a
         where a.attrelid = l_oid and a.attname = i_part_field and a.attnum > 0 and not a.attisdropped;
        if l_type = 'timestamptz'::regtype then
            l_from := date_trunc(i_part_period, i_part_time);
            l_to := date_trunc(i_part_period, i_part_time) + ('1 ' || i_part_period)::interval;
        else
            l_from := date_trunc(i_part_period, i_part_time::timestamp);
            l_to := date_trunc(i_part_period, i_part_time::timestamp) + ('1 ' || i_part_period)::interval;
        end if;
        execute format('alter table %s add check (%I >= %L and %I < %L)',
                       l_part, i_part_field, l_from, i_part_field, l_to);
    end if;

    for r in
        select a.privilege_type, a.is_grantable,
               case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
          from pg_class c
         cross join lateral aclexplode(c.relacl) a
         where c.oid = l_oid and a.grantee <> c.relowner
    loop
        execute format('grant %s on %s to %s%s', r.privilege_type, l_part, r.grantee,
                       case when r.is_grantable then ' with grant option' else '' end);
    end loop;

    -- the definition names its table once after its own name, qualified because the search path is empty
    for r in
        select t.tgname as name, t.tgenabled as state, 'trigger' as kind, pg_get_triggerdef(t.oid) as def,
               ' ON ' || l_parent || ' ' as at_table, ' ON ' || l_part || ' ' as at_part
          from pg_trigger t
         where t.tgrelid = l_oid and not t.tgisinternal
        union all
        select w.rulename, w.ev_enabled, 'rule', pg_get_ruledef(w.oid),
               ' TO ' || l_parent, ' TO ' || l_part
          from pg_rewrite w
         where w.ev_class = l_oid
         order by kind, name
    loop
        l_head := split_part(r.def, quote_ident(r.name), 1) || quote_ident(r.name);
        l_def := substr(r.def, length(l_head) + 1);
        l_at := strpos(l_def, r.at_table);
        execute l_head || overlay(l_def placing r.at_part from l_at for length(r.at_table));
        if r.state <> 'O' then
            execute format('alter table %s %s %s %I', l_part,
                           case r.state when 'D' then 'disable' when 'R' then 'enable replica'
                                        else 'enable always' end,
                           r.kind, r.name);
        end if;
    end loop;
    return 1;
end;
$$ language plpgsql set search_path = pg_catalog, pg_temp set datestyle = 'ISO, YMD';
