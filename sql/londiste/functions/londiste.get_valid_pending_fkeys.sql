-- londiste.get_valid_pending_fkeys(queue): dropped foreign keys this queue's worker can restore now
--   note     both tables are attached and ok everywhere, and of all queues that carry them this is the one:
--            that of a combined root before that of a combined branch, else the first by name
create or replace function londiste.get_valid_pending_fkeys(i_queue_name text)
returns setof londiste.pending_fkeys as $$
begin
    return query
    select f.*
      from londiste.pending_fkeys f
     cross join lateral (
            select bool_or(s.dest = f.from_table) as has_from,
                   bool_or(s.dest = f.to_table) as has_to,
                   bool_and(s.is_ok) as all_ok,
                   bool_or(s.queue_name = i_queue_name) as is_ours,
                   coalesce(min(s.queue_name) filter (where s.combined_type = 'root'),
                            min(s.combined_queue) filter (where s.combined_type = 'branch'),
                            min(s.queue_name)) as chosen
              from (select t.queue_name,
                           coalesce(t.dest_table, t.table_name) as dest,
                           coalesce(t.merge_state = 'ok' and t.custom_snapshot is null, false) as is_ok,
                           n.combined_queue, c.node_type as combined_type
                      from londiste.table_info t
                      join pgq_node.node_info n on n.queue_name = t.queue_name
                      left join pgq_node.node_info c on c.queue_name = n.combined_queue
                     where t.local
                       and coalesce(t.dest_table, t.table_name) in (f.from_table, f.to_table)) s) g
     where g.has_from and g.has_to and g.all_ok and g.is_ours and g.chosen = i_queue_name
     order by f.from_table, f.to_table, f.fkey_name;
end;
$$ language plpgsql strict stable;
