# The leaf's server is killed under load, all of it at once, and started again.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local begun
    followed worker leaf
    load_start
    sleep "$(scaled 10)"
    kill_host leaf
    step "leaf killed; it stays down for $(scaled 20) s"
    sleep "$(scaled 20)"
    start leaf
    begun=$(now)
    wait_until 120 "the leaf gets what was committed meanwhile" sql_true leaf "select count(*) >= $(ack_count) from purchase"
    measured "leaf has them after its start" "$(since "$begun") s"
    load_stop
    equal worker leaf
}
