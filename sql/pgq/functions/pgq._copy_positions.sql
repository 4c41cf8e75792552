-- pgq._copy_positions(from, to): copy the positions of a table that are their consumers' newest ones
create or replace function pgq._copy_positions(i_from integer, i_to integer) returns void as $$
begin
    insert into pgq.position
    select i_to, p.pos_queue, p.pos_consumer, p.pos_nr, p.pos_last_tick, p.pos_active, p.pos_batch, p.pos_next_tick
      from pgq.subscription s
      join pgq.position p on p.pos_queue = s.sub_queue and p.pos_consumer = s.sub_consumer and p.pos_nr = s.sub_nr
     where p.pos_table = i_from
    on conflict do nothing;
end;
$$ language plpgsql;
