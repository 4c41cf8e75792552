# The worker is killed under load, again and again, and started again each time.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local kills
    kills=$(awk -v n="$(scaled 20)" 'BEGIN { print int(n < 5 ? 5 : n) }')
    followed worker leaf
    load_start
    for ((n = 0; n < kills; n++)); do
        sleep "0.$((RANDOM % 9 + 1))"
        kill_host worker
        start worker
    done
    step "killed $kills times"
    load_stop
    equal worker leaf
}
