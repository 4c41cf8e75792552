# Object storage is away under load, and the other store is not; it gets what it missed, and a server restored from it has every acknowledged commit.
# shellcheck shell=bash
hosts="provider client walmgr store receive"
profiles=walmgr
stores_have() { # LSN
    [ "$(sql provider "select '$(store_safe)'::pg_lsn >= '$1'::pg_lsn")" = t ]
}
store_safe() { on receive skytide walmgr wal.ini status | awk '$1 ~ /^s3:/ && $2 ~ /^[0-9]+$/ { print $3 }'; }
receiving() { is provider "select count(*) from pg_stat_replication where application_name = 'skytide' and state = 'streaming'" 1; }
drill() {
    local begun from said
    wait_until 120 "the WAL is received" receiving
    said=$(on receive skytide walmgr wal.ini backup 2>/dev/null)
    step "$said"
    load_start
    isolate store
    step "store away for $(scaled 600) s"
    from=$(sql provider "select pg_current_wal_lsn()")
    sleep "$(scaled 300)"
    bulk 20
    sql provider "select pg_switch_wal()" >/dev/null
    sleep "$(scaled 300)"
    load_goes_on
    measured "WAL written meanwhile, and kept by the provider" \
        "$(sql provider "select pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), '$from'))")"
    wait_until 90 "the store is missed" says receive "a store takes no WAL.*s3:"
    rejoin store
    begun=$(now)
    wait_until 180 "the store has what was written meanwhile" stores_have "$(sql provider "select pg_current_wal_lsn()")"
    measured "store has all of it after its return" "$(since "$begun") s"
    load_stop
    wait_until 120 "the store has the last commit" stores_have "$(sql provider "select pg_current_wal_flush_lsn()")"
    said=$(on receive skytide walmgr wal.ini stores | awk '/^s3:/ { print "store: " $3 " segments, " $6 " missing" }')
    step "$said"
    begun=$(now)
    on walmgr rm -rf restored
    on walmgr skytide walmgr s3.ini restore latest restored >/dev/null 2>&1
    # shellcheck disable=SC2016 # for that host's shell
    spawn walmgr sh -c 'postgres -D restored -c listen_addresses= -c unix_socket_directories="$BED_DATA"'
    wait_until 180 "the restored server has recovered" sql_true walmgr "select not pg_is_in_recovery()"
    measured "restored and recovered" "$(since "$begun") s"
    holds_all walmgr
    same_digest walmgr provider || fails "the restored server differs from the provider"
    step "the restored server equals the provider"
    on walmgr pg_ctl -D restored -s -m immediate stop
    on walmgr rm -rf restored
}
