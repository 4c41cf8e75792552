-- pgq_node.set_consumer_paused(queue, consumer, flag): pause or resume a consumer
--   codes    200; 201 it is so; 404 unknown consumer
--   note     clears uptodate: the consumer sets it when it has seen the change
create or replace function pgq_node.set_consumer_paused(
    in i_queue_name text, in i_consumer_name text, in i_paused boolean,
    out ret_code integer, out ret_note text)
as $$
declare
    l_paused    boolean;
    l_word      text := case when i_paused then 'paused' else 'resumed' end;
begin
    select s.paused into l_paused
      from pgq_node.local_state s
     where s.queue_name = i_queue_name and s.consumer_name = i_consumer_name
       for update;
    if not found then
        ret_code := 404;
        ret_note := 'Unknown consumer: ' || i_consumer_name;
        return;
    end if;
    if l_paused = i_paused then
        ret_code := 201;
        ret_note := 'Consumer ' || i_consumer_name || ' already ' || l_word;
        return;
    end if;
    update pgq_node.local_state
       set paused = i_paused, uptodate = false
     where queue_name = i_queue_name and consumer_name = i_consumer_name;
    perform pgq_node._changed(i_queue_name);
    ret_code := 200;
    ret_note := 'Consumer ' || i_consumer_name || ' tagged as ' || l_word;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
