# From PostgreSQL 13 to 18 by Londiste: the clients move to the leaf, which is the newer server, within seconds.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
fresh=yes
majors="provider=13 leaf=18"
drill() {
    local begun said
    step "provider: $(sql provider "show server_version"), leaf: $(sql leaf "show server_version")"
    followed worker leaf
    load_start 4 provider,leaf
    sleep "$(scaled 10)"
    begun=$(now)
    # The clients may not write to the old server any more, whatever session they have, and look for another one.
    # Ticker and worker go on.
    sql provider "revoke insert, update on account, purchase from app"
    sql provider "alter role app set default_transaction_read_only = on"
    sql provider "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'" >/dev/null
    wait_until 30 "the clients' last transactions end" is provider "select count(*) from pg_stat_activity
        where usename = 'app' and backend_xid is not null" 0
    said=$(on worker skytide londiste leaf.ini compare | tail -n 1)
    step "$said"
    same_digest provider leaf || fails "digests of provider and leaf differ"
    on worker skytide londiste leaf.ini remove-table --all >/dev/null
    load_goes_on
    measured "clients without commits, compare of all rows included" "$(since "$begun") s"
    load_stop
    holds_all leaf
    step "the clients work on $(sql leaf "show server_version"); all acknowledged commits are there"
}
