-- several queues fill one table: who copies when
\pset null '-'
\o /dev/null
select pgq_node.register_location(q, 'r', 'dbname=r', false), pgq_node.register_location(q, 'leaf', 'dbname=l', false)
  from unnest(array['p1', 'p2', 'p3']) q;
select pgq_node.create_node(q, 'leaf', 'leaf', q || '_w', 'r', 1, null) from unnest(array['p1', 'p2', 'p3']) q;
create table t (id int primary key);
select londiste.global_add_table(q, 't') from unnest(array['p1', 'p2', 'p3']) q;
\o
select * from londiste.local_add_table('p1', 't');
select * from londiste.local_add_table('p1', 't', '{merge_all}');
select queue_name, local, merge_state from londiste.table_info order by 1;
select * from londiste.local_add_table('p2', 't', '{merge_all}');
\o /dev/null
select londiste.local_remove_table('p2', 't');
\o
select * from londiste.local_add_table('p2', 't');
select local from londiste.table_info where queue_name = 'p2';
select * from londiste.local_add_table('p2', 't', '{no_merge}');

create function roles(p1 text, p2 text, p3 text) returns text language plpgsql as $$
begin
    update londiste.table_info i
       set merge_state = ltrim(s.state, '!'), dropped_ddl = case when s.state ~ '^!' then 'ddl' end
      from unnest(array['p1', 'p2', 'p3'], array[p1, p2, p3]) as s (queue, state)
     where i.queue_name = s.queue;
    return (select string_agg(coalesce(c.copy_role, '-') || ':' || c.copy_pos, ', ' order by q)
              from unnest(array['p1', 'p2', 'p3']) q, londiste.get_table_list(q) c);
end $$;
select a, b, c, roles(a, b, c)
  from unnest(array['in-copy', '!in-copy', 'catching-up', '!catching-up']) a,
       unnest(array['in-copy', 'catching-up', '!in-copy']) b,
       unnest(array['in-copy', 'catching-up', 'ok']) c;
