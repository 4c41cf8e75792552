-- pgq._snapshot_contains(later, earlier): whether all that is visible in earlier is visible in later
create or replace function pgq._snapshot_contains(i_later txid_snapshot, i_earlier txid_snapshot)
returns boolean as $$
    select txid_snapshot_xmax(i_later) >= txid_snapshot_xmax(i_earlier)
       and not exists (
            select 1
              from txid_snapshot_xip(i_later) as x (txid)
             where txid_visible_in_snapshot(x.txid, i_earlier));
$$ language sql immutable;
