# Every host is stopped by SIGTERM and started again, one after the other, under load.
# shellcheck shell=bash
hosts="provider ticker leaf worker client"
drill() {
    local host begun
    followed worker leaf
    load_start
    for host in worker ticker leaf provider; do
        begun=$(now)
        stop "$host"
        start "$host"
        load_goes_on
        measured "$host stopped and started, clients go on" "$(since "$begun") s"
    done
    load_stop
    equal worker leaf
}
