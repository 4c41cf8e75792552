-- londiste._coordinate_copy(queue, table): who copies first, when several queues fill one table
--   out      copy_role  null: alone or free to go on; lead: drop indexes, copy, restore them when all are
--                       through; wait-copy: do not begin; wait-replay: leave indexes alone, or wait
--            copy_pos   how many others are to copy before
create or replace function londiste._coordinate_copy(
    in i_queue_name text, in i_table_name text,
    out copy_role text, out copy_pos integer)
as $$
declare
    me          record;
    l_total     integer;
    l_done      integer;
    l_ddl       text;
    l_leader    text;
    l_before    integer;
begin
    copy_pos := 0;
    select coalesce(t.dest_table, t.table_name) as dest, t.merge_state, t.dropped_ddl, n.combined_queue
      into me
      from londiste.table_info t
      join pgq_node.node_info n on n.queue_name = t.queue_name
     where t.queue_name = i_queue_name and t.table_name = i_table_name and t.local;
    if not found or me.merge_state is null or me.merge_state not in ('in-copy', 'catching-up') then
        return;
    end if;

    select count(*),
           count(*) filter (where t.merge_state <> 'in-copy'),
           min(t.queue_name) filter (where t.dropped_ddl is not null),
           min(t.queue_name),
           count(*) filter (where t.merge_state = 'in-copy' and t.queue_name < i_queue_name)
      into l_total, l_done, l_ddl, l_leader, l_before
      from londiste.table_info t
      join pgq_node.node_info n on n.queue_name = t.queue_name
     where coalesce(t.dest_table, t.table_name) = me.dest
       and t.local
       and n.combined_queue is not distinct from me.combined_queue
       and (t.merge_state is null or t.merge_state <> 'ok');
    l_leader := coalesce(l_ddl, l_leader);

    if me.merge_state = 'in-copy' and l_leader <> i_queue_name then
        copy_pos := l_before;
    end if;
    if l_total = 1 then
        return;
    end if;

    if l_leader = i_queue_name then
        if me.merge_state = 'in-copy' then
            if me.dropped_ddl is null and l_done > 0 then
                copy_role := 'wait-replay';
            elsif l_done < l_total then
                copy_role := 'lead';
            end if;
        elsif me.dropped_ddl is not null and l_done < l_total then
            copy_role := 'wait-replay';
        end if;
    elsif me.merge_state = 'in-copy' then
        copy_role := case when l_ddl is not null or l_done > 0 then 'wait-replay' else 'wait-copy' end;
    elsif l_ddl is not null then
        copy_role := 'wait-replay';
    end if;
end;
$$ language plpgsql strict stable;
