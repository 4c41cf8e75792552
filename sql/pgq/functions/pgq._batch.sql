-- pgq._batch(batch): the subscription that has a batch open
--   note     pgq.subscription alone would look at the positions of all consumers
create or replace function pgq._batch(i_batch_id bigint) returns setof pgq.subscription as $$
    select s.*
      from pgq.subscription s
     where s.sub_batch = i_batch_id
       and (s.sub_queue, s.sub_consumer) in (
            select p.pos_queue, p.pos_consumer from pgq.position p where p.pos_batch = i_batch_id);
$$ language sql stable;
