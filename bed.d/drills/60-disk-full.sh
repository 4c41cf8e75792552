# The disk of the worker's spool is full: capture waits, nothing is torn, and it goes on when there is room.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
fresh=yes
small="worker" # its disk has 64 MiB
full() { says worker "no disk space for another spool segment"; }
drill() {
    local begun
    followed worker leaf
    load_start
    # With the leaf down the spool can only grow.
    stop leaf
    on worker sh -c 'dd if=/dev/zero of=ballast bs=64k 2>/dev/null || true; truncate -s -8M ballast'
    step "leaf stopped, worker's disk filled but for 8 MiB"
    bulk 24
    wait_until 120 "the worker notices" full
    measured "WAL the provider keeps for it" "$(sql provider "select pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))
        from pg_replication_slots where slot_name = 'skytide_shop_leaf'")"
    load_goes_on
    on worker rm ballast
    step "room made"
    begun=$(now)
    wait_until 120 "capture goes on" \
        sql_true provider "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) < 1000000
            from pg_replication_slots where slot_name = 'skytide_shop_leaf'"
    measured "capture is up to date after" "$(since "$begun") s"
    start leaf
    load_stop
    equal worker leaf
}
