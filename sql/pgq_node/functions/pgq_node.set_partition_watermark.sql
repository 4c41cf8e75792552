-- pgq_node.set_partition_watermark(combined queue, part queue, tick): move a part's merge leaf behind the combined branch
--   codes    200; 201 no such part leaf here, or the combined queue is no branch; 401 its worker is unknown
create or replace function pgq_node.set_partition_watermark(
    in i_combined_queue_name text, in i_part_queue_name text, in i_watermark bigint,
    out ret_code integer, out ret_note text)
as $$
declare
    l_worker    text;
begin
    select p.worker_name into l_worker
      from pgq_node.node_info p
      join pgq_node.node_info c on c.queue_name = p.combined_queue
     where p.queue_name = i_part_queue_name and p.node_type = 'leaf'
       and c.queue_name = i_combined_queue_name and c.node_type = 'branch';
    if not found then
        ret_code := 201;
        ret_note := 'Part-queue does not exist';
        return;
    end if;
    update pgq_node.local_state
       set last_tick_id = i_watermark
     where queue_name = i_part_queue_name and consumer_name = l_worker;
    if found then
        ret_code := 200;
        ret_note := 'Ok';
    else
        ret_code := 401;
        ret_note := 'Worker registration not found';
    end if;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
