# The world of network namespaces: each host has a network stack, processes and a directory of its own, on this machine.
# All of it lives in namespaces of one process (mounts, processes, shared memory too), so nothing is left when that ends,
# however it ends. Root only.
#
#   west: provider, standby, branch, ticker, workers, walmgr, receive, store, client      east: leaf, worker, client
# shellcheck shell=bash

declare -A address=([provider]=11 [standby]=12 [branch]=13 [leaf]=14 [ticker]=21 [worker]=22 [worker-branch]=23
    [walmgr]=31 [receive]=32 [store]=33 [client]=41)
declare -A command=([provider]=server [standby]=standby [branch]=server [leaf]=server [ticker]=ticker [worker]=worker
    [worker-branch]=worker [walmgr]=archive [receive]=receive [store]=store [client]=client)
declare -A settings=([provider]="BED_NODE=root" [leaf]="BED_NODE=leaf" [branch]="BED_NODE=branch"
    [standby]="BED_UPSTREAM=provider" [worker]="BED_NODE=leaf" [worker-branch]="BED_NODE=branch")
declare -A major=() bins=() main_pid=()

networks_of() {
    case $1 in
    leaf) echo east ;;
    worker | client) echo west east ;;
    *) echo west ;;
    esac
}

# What keeps drills from running here, if anything does.
world_lacks() {
    [ "$(id -u)" -eq 0 ] || { echo "network namespaces need root" && return; }
    unshare --mount --pid --ipc --net --fork true 2>/dev/null || echo "this system lets nobody make namespaces"
}

world_ready() {
    local lacks
    lacks=$(world_lacks)
    if [ -n "$lacks" ]; then
        say "SKIPPED: drills in network namespaces: $lacks"
        [ -z "${CI:-}" ] || exit 1
        exit 0
    fi
    command -v ip >/dev/null || install_packages "ip, to make network namespaces" iproute2
    command -v openssl >/dev/null || install_packages "openssl" openssl
    need_postgres
    if [ -z "${SKYTIDE_BIN:-}" ]; then
        need_rust
        build_programs
        export SKYTIDE_BIN=${CARGO_TARGET_DIR:-target}/release/skytide
    fi
    has_programs "$SKYTIDE_BIN"
}

# Each drill in namespaces of its own, where everything ends with it.
world_process() {
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc --ipc "$here/bed" --net "$@"
}

# Servers after their first start, of which several drills get copies.
world_template() {
    export BED_TEMPLATE=
    world_for_drill provider leaf
    stop provider
    stop leaf
    cp -a "$bed/etc" "$bed/data" "$1"
    world_after_drill
}

world_for_drill() {
    mkdir -p /run/netns
    mount -t tmpfs tmpfs /run/netns
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    # Every host finds its own things under this name.
    mount -t tmpfs tmpfs /srv
    mkdir /srv/etc
    bed=$(mktemp -d "${TMPDIR:-/tmp}/skytide-bed.XXXXXX")
    chmod 755 "$bed"
    install -d -o postgres -g postgres "$bed"/{etc,data}
    mkdir -p "$bed"/{log,bin}
    # The servers' user may not be allowed to enter the directory of this repository.
    for program in skytide s3-store; do
        touch "$bed/bin/$program"
        mount --bind "$(dirname "$(readlink -f "$SKYTIDE_BIN")")/$program" "$bed/bin/$program"
    done
    cp -r "$here/bed.d/host" "$bed/host"
    chmod -R a+rX "$bed/host"
    ln -s ../host/bed-host "$bed/bin/bed-host"
    bed_major=${BED_MAJOR:-$(version_of "$(postgres_bins | head -n 1)" | sed 's/[^0-9].*//')}
    for pair in ${majors:-}; do
        major[${pair%=*}]=${pair#*=}
        [ -n "$(bin_of "${pair#*=}")" ] || skip "PostgreSQL ${pair#*=} is neither installed nor could it be fetched"
    done
    world_up "$@"
}

world_after_drill() {
    world_down
    rm -rf "$bed"
}

world_down() {
    local host
    for host in "${!main_pid[@]}"; do kill_host "$host" 2>/dev/null || true; done
    umount "$bed"/data/* "$bed"/bin/{skytide,s3-store} 2>/dev/null || true
}

# world_up HOST...: makes the network, then starts all of them; each waits for what it needs.
world_up() {
    local host network net number
    ip netns add switch
    for network in west east; do
        ip -n switch link add "$network" type bridge
        ip -n switch link set "$network" up
    done
    printf '127.0.0.1 localhost\n' >"$bed/hosts"
    for host in "$@"; do
        ip netns add "$host"
        ip -n "$host" link set lo up
        for network in $(networks_of "$host"); do
            ip link add "$network" netns "$host" type veth peer name "${network:0:1}-$host" netns switch
            case $network in west) net=10.77.0 ;; east) net=10.78.0 ;; esac
            ip -n "$host" addr add "$net.${address[$host]}/24" dev "$network"
            ip -n "$host" link set "$network" up
            ip -n switch link set "${network:0:1}-$host" master "$network" up
            # The first one is that which others know it by.
            grep -q " $host\$" "$bed/hosts" || printf '%s %s\n' "$net.${address[$host]}" "$host" >>"$bed/hosts"
        done
        install -d -o postgres -g postgres -m 700 "$bed/data/$host"
        # A disk of its own, which can be filled.
        [ "$host" != "${small:-}" ] || mount -t tmpfs -o "size=64M,mode=700,uid=$(id -u postgres),gid=$(id -g postgres)" \
            tmpfs "$bed/data/$host"
    done
    mount --bind "$bed/hosts" /etc/hosts
    for number in "$bed_major" "${major[@]}"; do
        bins[$number]=$(bin_of "$number")
        [ -n "${bins[$number]}" ] || fails "no PostgreSQL $number"
    done
    if [ -n "${BED_TEMPLATE:-}" ] && [ -z "${majors:-}" ]; then
        cp -a "$BED_TEMPLATE/etc/." "$bed/etc"
        for host in provider leaf; do
            [ ! -d "$bed/data/$host" ] || [ "$host" = "${small:-}" ] || cp -a "$BED_TEMPLATE/data/$host/." "$bed/data/$host"
        done
    else
        as_host none env BED_SECRETS="$bed/etc" bed-host secrets
    fi
    for host in "$@"; do start "$host"; done
    for host in "$@"; do wait_until 300 "$host is up" up_or_ended "$host"; up "$host"; done
}
up() { on "$1" bed-host health "${command[$1]}" 2>/dev/null; }
# What ended by itself will not come up any more.
up_or_ended() { ! kill -0 "${main_pid[$1]}" || up "$1"; }

# exec_host HOST COMMAND...: become a command of user postgres in the host's network, with an environment of its own
exec_host() {
    local host=$1 bin lib enter=()
    shift
    bin=${bins[${major[$host]:-$bed_major}]}
    lib=${bin%/bin}/lib-ld
    # shellcheck disable=SC2016 # for that shell to expand
    [ "$host" = none ] || enter=(nsenter --net="/run/netns/$host" unshare --mount
        sh -c 'mount --bind "$0" /srv/etc && exec "$@"' "$bed/etc/$host")
    local environment=(PATH="$bed/bin:$bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$bed/data/$host" LC_ALL=C.UTF-8
        BED_HOST="$host" BED_ETC=/srv/etc BED_DATA="$bed/data/$host" BED_FSYNC=off BED_PROFILES="${profiles:-}")
    [ ! -d "$lib" ] || environment+=(LD_LIBRARY_PATH="$lib")
    exec "${enter[@]}" setpriv --reuid=postgres --regid=postgres --init-groups env -i "${environment[@]}" "$@"
}

as_host() { (exec_host "$@"); }

on() {
    local host=$1
    shift
    as_host "$host" bed-host run "$@"
}
on_stopped() { on "$@"; }
spawn() { exec_host "$1" bed-host run "${@:2}" >>"$bed/log/$1.log" 2>&1 </dev/null & }

start() {
    # shellcheck disable=SC2086 # settings are words
    exec_host "$1" env ${settings[$1]:-} bed-host "${command[$1]}" >>"$bed/log/$1.log" 2>&1 </dev/null &
    main_pid[$1]=$!
    disown # no word from the shell when it is killed
}
pids_of() { ip netns pids "$1"; }
gone() { [ -z "$(pids_of "$1")" ]; }
stop() {
    kill -TERM "${main_pid[$1]}" 2>/dev/null || true
    wait_until 90 "$1 stops after SIGTERM" gone "$1"
}
kill_host() {
    local pids
    for _ in 1 2 3 4 5; do
        pids=$(pids_of "$1")
        [ -n "$pids" ] || break
        # shellcheck disable=SC2086 # words
        kill -KILL $pids 2>/dev/null || true
    done
    wait_until 30 "$1 is dead" gone "$1"
}
isolate() { ip -n switch link set "w-$1" down; }
rejoin() { ip -n switch link set "w-$1" up; }
logs() { cat "$bed/log/$1.log"; }

etc() { echo /srv/etc; }
reissue() { as_host none env BED_SECRETS="$bed/etc" bed-host secrets certificate ca "$1" server "$2"; }
visible() {
    local file
    cat "$bed"/log/*.log "$bed"/data/*/first.log 2>/dev/null
    for file in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do tr '\0' '\n' <"$file" 2>/dev/null; done
}
