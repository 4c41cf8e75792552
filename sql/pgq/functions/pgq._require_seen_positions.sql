-- pgq._require_seen_positions(): tell "there is none" from "this snapshot is too old to see it"
--   errors   40001 in repeatable read or serializable if positions went to another table since the snapshot
--   note     the row is updated by each turn of pgq.maint_rotate_positions, and a row lock notices that
create or replace function pgq._require_seen_positions() returns void as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        perform 1 from pgq.position_switch for share;
    end if;
end;
$$ language plpgsql;
