# What ./test, ./quickstart and .ci/run share: find or install PostgreSQL and Rust.
# To be sourced by bash, with `set -euo pipefail` on and the repository's root as working directory.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*" >&2; }

# Stop with what is missing and the exact commands that help.
refuse() {
    printf 'ERROR:  %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then
        printf 'HINT:  Run this, then start again:\n' >&2
        printf '\t%s\n' "$@" >&2
    fi
    exit 2
}

# Run a command as root: directly, or by sudo where that needs no password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    else
        return 1
    fi
}

can_be_root() { as_root true; }

# install_packages WHAT PACKAGE...: from the system's own package source; never asks a question.
install_packages() {
    local what=$1
    shift
    if ! command -v apt-get >/dev/null; then
        refuse "$what is missing, and this system has no apt-get to install it with" \
            "install with your package manager: $*"
    fi
    if ! can_be_root; then
        refuse "$what is missing, and installing it needs root" \
            "sudo apt-get update" "sudo apt-get install --no-install-recommends $*"
    fi
    say "Installing $what: $*"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Directories that hold a whole server, newest first; SKYTIDE_PG_BIN names them outright, with colons.
postgres_bins() {
    local dir
    if [ -n "${SKYTIDE_PG_BIN:-}" ]; then
        tr ':' '\n' <<<"$SKYTIDE_PG_BIN"
        return
    fi
    for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin; do
        if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then
            printf '%s\n' "$dir"
        fi
    done | sort -Vr
    dir=$(dirname "$(command -v postgres 2>/dev/null || echo /nonexistent/postgres)")
    if [ -x "$dir/initdb" ]; then
        printf '%s\n' "$dir"
    fi
}

# version_of DIR: of the server there. A tree outside the system has its libraries beside the named directory.
version_of() { LD_LIBRARY_PATH=${1%/bin}/lib-ld "$1/postgres" --version | awk '{ print $3 }'; }

# bin_of MAJOR: the directory of an installed server's programs, or of a fetched one's
bin_of() {
    local dir
    while read -r dir; do
        if [[ $(version_of "$dir") == "$1"[.a-z]* ]]; then
            printf '%s\n' "$dir"
            return
        fi
    done < <(postgres_bins)
    .ci/fetch-postgres "$1" | cut -f 2
}

# The packages would start a server of their own; we ask them not to, for this one installation.
install_postgres() {
    local drop_in=/etc/postgresql-common/createcluster.d/skytide.conf
    if can_be_root && [ ! -e "$drop_in" ]; then
        as_root mkdir -p "$(dirname "$drop_in")"
        printf 'create_main_cluster = false\n' | as_root tee "$drop_in" >/dev/null
        # shellcheck disable=SC2064 # the name is known now, not later
        trap "as_root rm -f '$drop_in'" EXIT
        install_packages "PostgreSQL" postgresql postgresql-client
        as_root rm -f "$drop_in"
        trap - EXIT
    else
        install_packages "PostgreSQL" postgresql postgresql-client
    fi
}

need_postgres() {
    if [ -z "$(postgres_bins)" ] || ! command -v psql >/dev/null; then
        install_postgres
    fi
    if [ -z "$(postgres_bins)" ]; then
        refuse "PostgreSQL's packages are installed, but no directory has both postgres and initdb" \
            "export SKYTIDE_PG_BIN=/path/to/postgresql/bin"
    fi
    # A server refuses to run as root: as root, test servers belong to this user.
    if [ "$(id -u)" -eq 0 ] && ! id postgres >/dev/null 2>&1; then
        refuse "running as root, and there is no user postgres to run servers as" "useradd --system postgres"
    fi
    say "PostgreSQL: $("$(postgres_bins | head -n 1)/postgres" --version)"
}

# Old programs and modules that tests compare with, where Debian's packages are at hand. Never fails: without
# them these tests say that they are skipped.
want_peers() {
    local major package wanted=() missing=()
    command -v apt-get >/dev/null && can_be_root || return 0
    major=$(postgres_bins | sed -n 's,^/usr/lib/postgresql/\([0-9]*\)/bin$,\1,p' | head -n 1)
    if [ -n "$major" ]; then
        wanted+=("postgresql-$major-pgq3" "postgresql-$major-pgq-node" "postgresql-$major-londiste-sql")
    fi
    wanted+=(python3-pgq python3-londiste)
    # This package starts a service, which nobody but a CI machine would want.
    if [ -n "${CI:-}" ]; then
        wanted+=(pgqd)
    fi
    if [ -z "$(apt-cache policy python3-pgq 2>/dev/null)" ]; then
        as_root apt-get update -qq || return 0
    fi
    for package in "${wanted[@]}"; do
        case $(apt-cache policy "$package" 2>/dev/null) in
        *"Candidate: (none)"*) ;;
        *"Installed: (none)"*) missing+=("$package") ;;
        esac
    done
    if [ ${#missing[@]} -gt 0 ]; then
        say "Installing what tests compare with: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            say "NOTE: that failed; tests that need it say that they are skipped"
    fi
}

need_rust() {
    local home=${CARGO_HOME:-$HOME/.cargo}
    if ! command -v cargo >/dev/null && [ -x "$home/bin/cargo" ]; then
        PATH=$home/bin:$PATH
    fi
    if ! command -v cc >/dev/null; then
        install_packages "a C compiler and linker" build-essential
    fi
    if command -v cargo >/dev/null; then
        return
    fi
    if ! command -v curl >/dev/null; then
        install_packages "curl, to fetch rustup" curl ca-certificates
    fi
    say "Installing Rust by rustup into $home"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --profile minimal --component rustfmt --component clippy --no-modify-path ||
        refuse "rustup could not install Rust" \
            "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
            "or, on Debian 13 and later: sudo apt-get install rustup && rustup default stable"
    PATH=$home/bin:$PATH
}

# cargo-nextest runs each test as a process of its own. Without it cargo's own runner does.
# Sets TEST_RUNNER.
need_nextest() {
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "Building cargo-nextest, once (SKYTIDE_NO_NEXTEST=1 does without)"
        if [ -n "${SKYTIDE_NO_NEXTEST:-}" ] || ! cargo install cargo-nextest --locked --quiet; then
            say "NOTE: without cargo-nextest the tests run under cargo test: same tests, no groups, slower"
            TEST_RUNNER=cargo-test
            return
        fi
    fi
    # shellcheck disable=SC2034 # read by ./test
    TEST_RUNNER=nextest
}
