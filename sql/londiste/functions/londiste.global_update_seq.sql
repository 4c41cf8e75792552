-- londiste.global_update_seq(queue, sequence, value): take over what the root published
--   codes    200; 402 this is the root; 404 no node
--   note     an attached sequence moves forward only
create or replace function londiste.global_update_seq(
    in i_queue_name text, in i_seq_name text, in i_value bigint,
    out ret_code integer, out ret_note text)
as $$
declare
    l_type      text;
    l_local     boolean;
    l_fqname    text := londiste.make_fqname(i_seq_name);
begin
    select n.node_type into l_type from pgq_node.node_info n where n.queue_name = i_queue_name;
    if not found then
        ret_code := 404;
        ret_note := 'Set not found: ' || i_queue_name;
        return;
    end if;
    if l_type = 'root' then
        ret_code := 402;
        ret_note := 'Must not run on root node';
        return;
    end if;
    insert into londiste.seq_info (queue_name, seq_name, last_value)
    values (i_queue_name, l_fqname, i_value)
    on conflict (queue_name, seq_name) do update set last_value = excluded.last_value
    returning local into l_local;
    if l_local then
        perform pgq.seq_setval(l_fqname, i_value);
    end if;
    ret_code := 200;
    ret_note := 'Sequence updated';
end;
$$ language plpgsql;
