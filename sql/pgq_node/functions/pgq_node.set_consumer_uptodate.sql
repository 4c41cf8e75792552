-- pgq_node.set_consumer_uptodate(queue, consumer, flag): a consumer tells that it saw the last change
--   codes    200; 404 unknown consumer
create or replace function pgq_node.set_consumer_uptodate(
    in i_queue_name text, in i_consumer_name text, in i_uptodate boolean,
    out ret_code integer, out ret_note text)
as $$
begin
    update pgq_node.local_state
       set uptodate = i_uptodate
     where queue_name = i_queue_name and consumer_name = i_consumer_name;
    if found then
        ret_code := 200;
        ret_note := 'Consumer uptodate = ' || i_uptodate::integer;
    else
        ret_code := 404;
        ret_note := 'Consumer not known: ' || i_queue_name || '/' || i_consumer_name;
    end if;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
