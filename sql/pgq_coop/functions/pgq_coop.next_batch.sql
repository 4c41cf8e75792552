-- pgq_coop.next_batch(queue, consumer, subconsumer): open the group's next batch for a subconsumer
--   returns  batch id; null if there is none yet. An open batch is given again
--   errors   as pgq_coop.next_batch_custom
create or replace function pgq_coop.next_batch(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text)
returns bigint as $$
begin
    return pgq_coop.next_batch_custom(i_queue_name, i_consumer_name, i_subconsumer_name,
                                      null, null, null, null);
end;
$$ language plpgsql;

-- pgq_coop.next_batch(queue, consumer, subconsumer, dead interval): the same, or take a dead one's batch over
create or replace function pgq_coop.next_batch(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text, i_dead_interval interval)
returns bigint as $$
begin
    return pgq_coop.next_batch_custom(i_queue_name, i_consumer_name, i_subconsumer_name,
                                      null, null, null, i_dead_interval);
end;
$$ language plpgsql;
