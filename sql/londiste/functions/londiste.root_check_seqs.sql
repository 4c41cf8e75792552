-- londiste.root_check_seqs(queue, buffer): publish sequences whose real value comes near the published one
--   buffer   how far subscribers must be ahead at least; 10000 if null or below 10
--   codes    100; 402 not the root; 404 no node
create or replace function londiste.root_check_seqs(
    in i_queue_name text, in i_buffer bigint,
    out ret_code integer, out ret_note text)
as $$
declare
    s           record;
    l_type      text;
    l_real      bigint;
    l_value     bigint;
    l_buffer    bigint := case when i_buffer >= 10 then i_buffer else 10000 end;
begin
    select n.node_type into l_type from pgq_node.node_info n where n.queue_name = i_queue_name;
    if not found then
        ret_code := 404;
        ret_note := 'Queue not found: ' || i_queue_name;
        return;
    end if;
    if l_type <> 'root' then
        ret_code := 402;
        ret_note := 'Not a root node';
        return;
    end if;
    for s in
        select i.seq_name, i.last_value
          from londiste.seq_info i
         where i.queue_name = i_queue_name and i.local
         order by i.nr
           for update
    loop
        l_real := pgq.seq_getval(s.seq_name);
        if l_real + l_buffer >= s.last_value then
            l_value := l_real + l_buffer * 3;
            perform pgq.insert_event(i_queue_name, 'londiste.update-seq', l_value::text,
                                     s.seq_name, null, null, null);
            update londiste.seq_info set last_value = l_value
             where queue_name = i_queue_name and seq_name = s.seq_name;
        end if;
    end loop;
    ret_code := 100;
    ret_note := 'Sequences updated';
end;
$$ language plpgsql;

-- londiste.root_check_seqs(queue): the same with the usual buffer
create or replace function londiste.root_check_seqs(
    in i_queue_name text,
    out ret_code integer, out ret_note text)
as $$
begin
    select f.ret_code, f.ret_note into ret_code, ret_note
      from londiste.root_check_seqs(i_queue_name, 10000) f;
end;
$$ language plpgsql;
