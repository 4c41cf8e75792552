# The leaf's site loses its link to the provider, silently, while clients write; then it comes back.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local begun before cut
    # Long enough for the server to give the connection up (wal_sender_timeout, 5 s).
    cut=$(awk -v s="$(scaled 60)" 'BEGIN { print (s < 8) ? 8 : s }')
    followed worker leaf
    load_start
    isolate worker
    before=$(ack_count)
    step "cut for $cut s"
    sleep "$cut"
    load_goes_on
    sql_true leaf "select count(*) < $(ack_count) from purchase" || fails "the leaf was not cut off"
    measured "commits while cut" "$(($(ack_count) - before))"
    rejoin worker
    begun=$(now)
    wait_until 90 "the leaf gets what was committed while it was cut off" \
        sql_true leaf "select count(*) >= $(ack_count) from purchase"
    measured "leaf has the commits of the cut after healing" "$(since "$begun") s"
    load_stop
    equal worker leaf
}
