-- londiste.global_remove_seq(queue, sequence): the queue does not carry the sequence any more
--   codes    200; 400 not there
create or replace function londiste.global_remove_seq(
    in i_queue_name text, in i_seq_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_fqname    text := londiste.make_fqname(i_seq_name);
begin
    delete from londiste.seq_info where queue_name = i_queue_name and seq_name = l_fqname;
    if not found then
        ret_code := 400;
        ret_note := 'Sequence not found: ' || l_fqname;
        return;
    end if;
    if pgq_node.is_root_node(i_queue_name) then
        perform londiste.root_notify_change(i_queue_name, 'londiste.remove-seq', l_fqname);
    end if;
    ret_code := 200;
    ret_note := 'Sequence removed: ' || l_fqname;
end;
$$ language plpgsql strict;
