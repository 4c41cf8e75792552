# The ticker is killed under load: changes stay where they are until there are ticks again.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local begun ticks
    followed worker leaf
    load_start
    kill_host ticker
    ticks=$(sql provider "select max(tick_id) from pgq.tick join pgq.queue on queue_id = tick_queue where queue_name = 'shop'")
    step "ticker killed; it stays down for $(scaled 20) s"
    sleep "$(scaled 20)"
    load_goes_on
    [ "$(sql provider "select max(tick_id) from pgq.tick join pgq.queue on queue_id = tick_queue where queue_name = 'shop'")" = "$ticks" ] ||
        fails "somebody ticks without the ticker"
    start ticker
    begun=$(now)
    wait_until 120 "the leaf gets what was committed meanwhile" sql_true leaf "select count(*) >= $(ack_count) from purchase"
    measured "leaf has them after the ticker's start" "$(since "$begun") s"
    load_stop
    equal worker leaf
}
