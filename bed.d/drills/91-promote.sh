# The primary is killed under load and its synchronous standby promoted: no acknowledged commit is lost, the leaf follows the new one.
# shellcheck shell=bash
hosts="provider standby ticker leaf worker client"
profiles=replication
fresh=yes
drill() {
    local begun
    followed worker leaf
    synchronous
    load_start 4 provider,standby
    sleep "$(scaled 20)"
    begun=$(now)
    kill_host provider
    step "primary killed"
    promote standby
    load_goes_on
    measured "clients without commits" "$(since "$begun") s"
    goes_on_with standby
    load_stop
    equal worker leaf standby
}
