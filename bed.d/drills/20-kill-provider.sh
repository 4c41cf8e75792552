# The provider's processes are killed under load, all at once; it is started again and recovers.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local begun
    followed worker leaf
    load_start
    sleep "$(scaled 10)"
    kill_host provider
    begun=$(now)
    step "provider killed"
    start provider
    load_goes_on
    measured "clients commit again after" "$(since "$begun") s"
    load_stop
    equal worker leaf
}
