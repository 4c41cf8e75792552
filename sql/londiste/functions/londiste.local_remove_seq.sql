-- londiste.local_remove_seq(queue, sequence): detach a sequence here; on a root remove it from the queue
--   codes    200; 400, 404 not there
create or replace function londiste.local_remove_seq(
    in i_queue_name text, in i_seq_name text,
    out ret_code integer, out ret_note text)
as $$
begin
    if pgq_node.is_root_node(i_queue_name) then
        select f.ret_code, f.ret_note into ret_code, ret_note
          from londiste.global_remove_seq(i_queue_name, i_seq_name) f;
        return;
    end if;
    update londiste.seq_info
       set local = false
     where queue_name = i_queue_name and seq_name = londiste.make_fqname(i_seq_name) and local;
    if found then
        ret_code := 200;
        ret_note := 'Sequence removed: ' || londiste.make_fqname(i_seq_name);
    else
        ret_code := 404;
        ret_note := 'Sequence not found: ' || londiste.make_fqname(i_seq_name);
    end if;
end;
$$ language plpgsql strict;
