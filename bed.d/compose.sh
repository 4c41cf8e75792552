# The world of docker-compose: each host is a container of docker-compose.yml. Where no engine answers, root may have one
# installed from the system's packages and started; `./bed down -v` then stops it again.
# shellcheck shell=bash

project=${COMPOSE_PROJECT_NAME:-bed}
export COMPOSE_PROJECT_NAME=$project
started_engine=/run/skytide-bed-dockerd.pid
engine_log=/var/log/skytide-bed-dockerd.log
# Old and new compose print about the same; without this the old one asks whether to go on.
export COMPOSE_INTERACTIVE_NO_CLI=1 DOCKER_CLI_HINTS=false

compose() {
    if [ -z "${compose_command:-}" ]; then
        compose_command=docker-compose
        ! docker compose version >/dev/null 2>&1 || compose_command="docker compose"
    fi
    $compose_command "$@"
}

# Of the services of all profiles.
everything() { COMPOSE_PROFILES=all,metrics compose "$@"; }

# --- engine and images ------------------------------------------------------------------------------------------------

engine_answers() { docker info >/dev/null 2>&1; }

world_ready() {
    mkdir -p dist
    engine_ready
    build_images
}

engine_ready() {
    if ! command -v docker >/dev/null || ! { docker compose version || docker-compose version; } >/dev/null 2>&1 ||
        { ! engine_answers && ! command -v dockerd >/dev/null; }; then
        install_packages "a container engine and compose" docker.io docker-compose iptables
    fi
    if ! engine_answers; then
        [ "$(id -u)" -eq 0 ] || refuse "no container engine answers" "sudo systemctl start docker" "sudo usermod -aG docker ${USER:-$(id -un)}"
        start_engine
    fi
}

start_engine() {
    say "Starting a container engine (./bed down -v stops it)"
    # One that was killed leaves its pid file, and refuses to start then.
    if [ -f /run/docker.pid ] && [ ! -d "/proc/$(cat /run/docker.pid)" ]; then rm -f /run/docker.pid; fi
    iptables -S FORWARD 2>/dev/null | head -n 1 >"$started_engine.forward" || true
    setsid dockerd ${BED_ENGINE_DIR:+--data-root "$BED_ENGINE_DIR"} >"$engine_log" 2>&1 </dev/null &
    echo $! >"$started_engine"
    disown # nobody waits for its end
    for _ in $(seq 240); do
        if engine_answers; then return; fi
        sleep 0.25
    done
    tail -n 20 "$engine_log" >&2
    stop_engine
    refuse "the container engine does not start; the lines above are its log's last"
}

# Only ours, and what it would leave behind.
stop_engine() {
    [ -f "$started_engine" ] || return 0
    local pid
    pid=$(cat "$started_engine")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
        say "Stopping the container engine"
        kill "$pid"
        for _ in $(seq 120); do
            [ -d "/proc/$pid" ] || break
            sleep 0.25
        done
    fi
    if [ "$(cat "$started_engine.forward" 2>/dev/null)" = "-P FORWARD ACCEPT" ]; then iptables -P FORWARD ACCEPT; fi
    rm -f "$started_engine" "$started_engine.forward"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# Images are built in containers where a registry gives the official ones, and from what the host has otherwise.
build_images() {
    local major majors
    majors=$(printf '%s\n' "${BED_MAJOR:-17}" "${BED_PROVIDER_MAJOR:-${BED_MAJOR:-17}}" "${BED_LEAF_MAJOR:-${BED_MAJOR:-17}}" | sort -u)
    export BED_PROVIDER_MAJOR=${BED_PROVIDER_MAJOR:-${BED_MAJOR:-17}} BED_LEAF_MAJOR=${BED_LEAF_MAJOR:-${BED_MAJOR:-17}}
    if [ -z "${SKYTIDE_BIN:-}" ] && [ -z "${BED_OFFLINE:-}" ] && { has_image rust:1-bookworm || docker pull -q rust:1-bookworm >/dev/null 2>&1; }; then
        build runtime skytide:latest
        for major in $majors; do build server "skytide-server:$major" "$major"; done
        return
    fi
    export SKYTIDE_TARGET=prebuilt SKYTIDE_SERVER_TARGET=server-prebuilt
    base_image
    program
    build prebuilt skytide:latest
    for major in $majors; do
        mkdir -p "dist/postgres-$major"
        tree=$(dirname "$(SKYTIDE_PG_BIN='' .ci/fetch-postgres "$major" | cut -f 2)")
        [ -d "$tree/bin" ] || refuse "PostgreSQL $major could not be had for an image"
        cmp -s "$tree/recipe" "dist/postgres-$major/recipe" || {
            rm -rf "dist/postgres-$major"
            cp -a "$tree" "dist/postgres-$major"
            rm -rf "dist/postgres-$major/include"
        }
        build server-prebuilt "skytide-server:$major" "$major"
    done
}

build() { # target tag [major]
    say "Building the image $2"
    if ! docker build -q --target "$1" -t "$2" --build-arg BASE_IMAGE="${BASE_IMAGE:-debian:bookworm-slim}" \
        ${3:+--build-arg PG_MAJOR="$3"} . >"dist/build.log" 2>&1; then
        tail -n 30 dist/build.log >&2
        refuse "the image $2 could not be built"
    fi
}

# The program, without what only a debugger needs.
program() {
    local program bin=${SKYTIDE_BIN:-}
    mkdir -p dist
    if [ -z "$bin" ]; then
        need_rust
        say "Building skytide (a few minutes the first time)"
        build_programs
        bin=${CARGO_TARGET_DIR:-target}/release/skytide
    fi
    has_programs "$bin"
    for program in skytide skytide-walmgr s3-store; do
        strip -o "dist/$program.new" "$(dirname "$bin")/$program"
        # The same bytes are the same layer.
        cmp -s "dist/$program.new" "dist/$program" || mv "dist/$program.new" "dist/$program"
        rm -f "dist/$program.new"
    done
}

# The host's own Debian, so that its program runs there; from a registry, or made of the system's packages.
base_image() {
    local codename root mirror
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    export BASE_IMAGE=debian:$codename-slim
    has_image "$BASE_IMAGE" && return
    docker pull -q "$BASE_IMAGE" >/dev/null 2>&1 && return
    command -v debootstrap >/dev/null || install_packages "debootstrap, to make a base image" debootstrap
    # shellcheck disable=SC2016 # for apt to expand
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $codename" | head -n 1)}
    say "Making the image $BASE_IMAGE of the packages of ${mirror:-the default mirror}"
    root=$(mktemp -d)
    as_root debootstrap --variant=minbase "$codename" "$root" ${mirror:+"$mirror"} >dist/debootstrap.log 2>&1 || {
        tail -n 20 dist/debootstrap.log >&2
        as_root rm -rf "$root"
        refuse "debootstrap failed"
    }
    as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    as_root tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$BASE_IMAGE" >/dev/null
    as_root rm -rf "$root"
}

# --- commands ---------------------------------------------------------------------------------------------------------

bed_up() {
    local IFS=,
    export COMPOSE_PROFILES=${*:-${COMPOSE_PROFILES:-}}
    unset IFS
    world_ready
    local out there
    out=$(compose up -d --no-build 2>&1) || refuse "the hosts could not be started: $out"
    grep -v -e '^Creating' -e 'is up-to-date$' -e '^ \(Network\|Volume\|Container\) ' <<<"$out" >&2 || true
    mapfile -t there < <(docker ps -a --filter "label=com.docker.compose.project=$project" --format '{{.Label "com.docker.compose.service"}}')
    [ ${#there[@]} -gt 0 ] || refuse "no host was made: $out"
    all_healthy "${there[@]}"
    bed_status
}

bed_down() {
    engine_answers || { stop_engine && return; }
    if [ "${1:-}" = -v ]; then
        everything down -v --remove-orphans
        stop_engine
    else
        everything down --remove-orphans
    fi
}

bed_status() {
    docker ps -a --filter "label=com.docker.compose.project=$project" --format 'table {{.Label "com.docker.compose.service"}}\t{{.Image}}\t{{.Status}}'
    on worker skytide londiste leaf.ini status || true
}

bed_shell() {
    [ $# -gt 0 ] || refuse "a shell on which host?" "./bed shell client"
    exec docker exec -it "$(container "$1")" bed-host run bash
}

# --- world ------------------------------------------------------------------------------------------------------------

declare -A containers=()
container() {
    if [ -z "${containers[$1]:-}" ]; then
        containers[$1]=$(docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" | head -n 1)
        [ -n "${containers[$1]}" ] || { fails "there is no container $1" >&2 && return 1; }
    fi
    printf '%s\n' "${containers[$1]}"
}

world_process() { "$here/bed" "$@" </dev/null; }

# Hosts that are up serve one drill after the other, but for drills that need, and leave behind, something else.
world_for_drill() {
    export COMPOSE_PROFILES=${profiles:-}
    local pair
    for pair in ${majors:-}; do
        case $pair in
        provider=*) export BED_PROVIDER_MAJOR=${pair#*=} ;;
        leaf=*) export BED_LEAF_MAJOR=${pair#*=} ;;
        esac
    done
    if [ -n "${small:-}" ]; then export COMPOSE_FILE=docker-compose.yml:bed.d/compose.small.yml; fi
    if [ -n "${fresh:-}" ]; then
        everything down -v --remove-orphans >/dev/null 2>&1 || true
        build_images
    fi
    compose up -d --no-build "$@" >/dev/null 2>&1 || compose up -d --no-build "$@"
    all_healthy "$@"
}

world_after_drill() {
    if [ "$verdict" = FAILED ] && [ -n "${BED_KEEP:-}" ]; then return; fi
    if [ -n "${fresh:-}" ] || [ "$verdict" = FAILED ]; then
        everything down -v --remove-orphans >/dev/null 2>&1
    fi
}

healthy() {
    case $(docker inspect -f '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$(container "$1")") in
    "running healthy" | "running " | "exited ") true ;;
    *) false ;;
    esac
}
all_healthy() {
    local host
    for host in "$@"; do
        wait_until 300 "$host is healthy" healthy "$host" || {
            logs "$host" 2>&1 | tail -n 20 >&2
            return 1
        }
    done
}

on() { docker exec -i "$(container "$1")" bed-host run "${@:2}"; }
on_stopped() { compose run --rm --no-deps -T "$1" run "${@:2}" 2>/dev/null; }
spawn() { docker exec -d "$(container "$1")" bed-host run "${@:2}"; }
start() { docker start "$(container "$1")" >/dev/null; }
stop() {
    docker stop -t 60 "$(container "$1")" >/dev/null
    # That succeeds, too, where it had to kill.
    [ "$(docker inspect -f '{{.State.ExitCode}}' "$(container "$1")")" != 137 ] || fails "$1 does not stop within 60 s after SIGTERM"
}
kill_host() { docker kill "$(container "$1")" >/dev/null 2>&1 || docker stop -t 0 "$(container "$1")" >/dev/null; }
isolate() { docker network disconnect "${project}_west" "$(container "$1")"; }
rejoin() { docker network connect --alias "$1" "${project}_west" "$(container "$1")"; }
logs() { docker logs "$(container "$1")"; }

etc() { echo /etc/skytide; }
reissue() { compose run --rm secrets secrets certificate ca "$1" server "$2" >/dev/null 2>&1; }
visible() {
    local all
    mapfile -t all < <(docker ps -aq --filter "label=com.docker.compose.project=$project")
    docker inspect "${all[@]}"
    for container in "${all[@]}"; do
        docker logs "$container" 2>&1
        # Without a column for the pid docker shows nothing.
        [ "$(docker inspect -f '{{.State.Running}}' "$container")" != true ] || docker top "$container" -eo pid,args || return 1
    done
}
