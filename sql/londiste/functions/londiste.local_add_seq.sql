-- londiste.local_add_seq(queue, sequence): attach a sequence here
--   codes    200; 201 was attached; 400 no such sequence here; 404 the queue does not carry it
create or replace function londiste.local_add_seq(
    in i_queue_name text, in i_seq_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    s           record;
    l_known     boolean;
    l_fqname    text := londiste.make_fqname(i_seq_name);
begin
    if londiste.find_seq_oid(l_fqname) is null then
        ret_code := 400;
        ret_note := 'Sequence not found: ' || l_fqname;
        return;
    end if;
    select i.local, i.last_value into s
      from londiste.seq_info i
     where i.queue_name = i_queue_name and i.seq_name = l_fqname
       for update;
    l_known := found;
    if s.local then
        ret_code := 201;
        ret_note := 'Sequence already added: ' || l_fqname;
        return;
    end if;

    if pgq_node.is_root_node(i_queue_name) then
        insert into londiste.seq_info (queue_name, seq_name, local, last_value)
        values (i_queue_name, l_fqname, true, 0)
        on conflict (queue_name, seq_name) do update set local = true;
        perform londiste.root_check_seqs(i_queue_name);
    elsif l_known then
        update londiste.seq_info set local = true where queue_name = i_queue_name and seq_name = l_fqname;
        perform pgq.seq_setval(l_fqname, s.last_value);
    else
        ret_code := 404;
        ret_note := 'Unknown sequence: ' || l_fqname;
        return;
    end if;
    ret_code := 200;
    ret_note := 'Sequence added: ' || l_fqname;
end;
$$ language plpgsql;
