-- pgq._full_txid(xid): a transaction id with its epoch, as snapshots have it
--   note     the one nearest to the present
create or replace function pgq._full_txid(i_xid xid) returns bigint as $$
    select n.next - ((n.next - i_xid::text::bigint + 6442450944) % 4294967296 - 2147483648)
      from (select txid_snapshot_xmax(txid_current_snapshot()) as next) n;
$$ language sql;
