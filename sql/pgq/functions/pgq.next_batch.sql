-- pgq.next_batch(queue, consumer): open the next batch
--   returns  batch id; null if there is none yet. An open batch is given again
--   errors   Not subscriber to queue; PgQ corruption
create or replace function pgq.next_batch(i_queue_name text, i_consumer_name text) returns bigint as $$
begin
    return (select b.batch_id
              from pgq.next_batch_custom(i_queue_name, i_consumer_name, null, null, null) b);
end;
$$ language plpgsql;
