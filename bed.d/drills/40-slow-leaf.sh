# The leaf is stopped while the provider writes: the changes go to the worker's disk, and the provider's WAL stays bounded.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local from written
    followed worker leaf
    load_start
    stop leaf
    step "leaf stopped"
    from=$(sql provider "select pg_current_wal_lsn()")
    bulk "$(awk -v n="$(scaled 300)" 'BEGIN { print int(n < 16 ? 16 : n) }')"
    written=$(sql provider "select pg_wal_lsn_diff(pg_current_wal_lsn(), '$from')::bigint")
    measured "WAL written while the leaf is down" "$((written >> 20)) MiB"
    # Where decoding would begin moves with records that a checkpoint writes, too.
    sql provider "checkpoint"
    wait_until 120 "the slot has moved on" \
        sql_true provider "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < $written / 4
            from pg_replication_slots where slot_name = 'skytide_shop_leaf'"
    measured "WAL the slot holds" "$(sql provider "select pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))
        from pg_replication_slots where slot_name = 'skytide_shop_leaf'")"
    measured "spool on the worker's disk" "$(on worker du -sm spool | awk '{ print $1 }') MiB"
    start leaf
    load_stop
    equal worker leaf
}
