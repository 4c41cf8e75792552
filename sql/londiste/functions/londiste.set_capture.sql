-- londiste.set_capture(queue, capture): choose how table changes are captured (Skytide's addition)
--   capture  wal or trigger
--   codes    200; 201 it is so; 400 bad word; 404 no node; 405 tables are attached
create or replace function londiste.set_capture(
    in i_queue_name text, in i_capture text,
    out ret_code integer, out ret_note text)
as $$
begin
    if i_capture is null or i_capture not in ('wal', 'trigger') then
        ret_code := 400;
        ret_note := 'Capture must be wal or trigger, not ' || coalesce(i_capture, '<NULL>');
        return;
    end if;
    perform 1 from pgq_node.node_info n where n.queue_name = i_queue_name for update;
    if not found then
        ret_code := 404;
        ret_note := 'No such set: ' || i_queue_name;
        return;
    end if;
    if londiste.get_capture(i_queue_name) = i_capture then
        ret_code := 201;
        ret_note := 'Capture is ' || i_capture || ' already';
        return;
    end if;
    if exists (select 1 from londiste.table_info t where t.queue_name = i_queue_name and t.local) then
        ret_code := 405;
        ret_note := 'Tables are attached to ' || i_queue_name || ', use remove-table first';
        return;
    end if;
    insert into londiste.capture_info (queue_name, capture)
    values (i_queue_name, i_capture)
    on conflict (queue_name) do update set capture = excluded.capture;
    ret_code := 200;
    ret_note := 'Capture set to ' || i_capture;
end;
$$ language plpgsql;
