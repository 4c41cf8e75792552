-- pgq.ticker_round(seen, lag below, after): what the ticker calls in each round (Skytide's addition)
--   seen       of the round before; null: look at the queues even if no transaction has ended since
--   lag below  only queues with a ticker_max_lag above 0 and below this; null: all
--   after      go on after this queue id; null: begin
--   out        ticks         how many were made
--              seen          for the next round; null: unknown
--              due_in        seconds until time makes a queue due, whatever happens; null: at no time, or it was
--                            not looked
--              shortest_lag  shortest ticker_max_lag above 0, in seconds; null: none, or it was not looked
--              go_on         id to go on after, at once; null: all were looked at
--   errors     not read committed; whatever befalls one queue befalls all, and pgq.ticker() tells which it is
--   hazard     like pgq.ticker()
create or replace function pgq.ticker_round(
    in i_seen text, in i_lag_below interval, in i_after integer,
    out ticks bigint, out seen text, out due_in double precision, out shortest_lag double precision,
    out go_on integer)
returns record as $$
declare
    m   record;
begin
    perform pgq._require_read_committed('pgq.ticker_round()');
    ticks := 0;
    if i_seen = txid_current_snapshot()::text then
        seen := i_seen;
        return;
    end if;
    -- each queue takes locks until the end of the transaction, and there are only so many
    select * into m from pgq._make_ticks(null, i_lag_below, i_after, 1000);
    ticks := coalesce(cardinality(m.tick_ids), 0);
    seen := m.seen;
    due_in := extract(epoch from m.due_at - clock_timestamp());
    shortest_lag := extract(epoch from m.shortest_lag);
    go_on := m.last_queue;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
