# Primary and standby change places under load, planned: the old primary is stopped, the standby promoted, and followed by the old one.
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
    on provider sh -c 'echo BED_FOLLOW=standby >settings'
    begun=$(now)
    stop provider
    promote standby
    load_goes_on
    measured "clients without commits" "$(since "$begun") s"
    start provider
    wait_until 90 "the old primary follows the new one" \
        is standby "select count(*) from pg_stat_replication where application_name = 'provider' and state = 'streaming'" 1
    measured "old primary is a standby after" "$(since "$begun") s"
    goes_on_with standby
    load_stop
    equal worker leaf standby
    wait_until 60 "the old primary has all" same_digest standby provider
    step "the old primary has all of it as a standby"
}
