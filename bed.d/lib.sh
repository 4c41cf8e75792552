# What drills are written with. A world (net.sh, compose.sh) gives them hosts:
#
#   world_up HOST...     world_down          hosts that run, and none any more
#   on HOST COMMAND...                       a command there, with that host's passwords, in its data directory
#   start HOST           stop HOST           stop is SIGTERM, and waits
#   kill_host HOST                           SIGKILL for all of it at once
#   isolate HOST         rejoin HOST         its link to the provider's network goes dark, silently; and comes back
#   spawn HOST COMMAND...                    the same, and it is not waited for
#   on_stopped HOST COMMAND...               the same with the disk of a host that does not run
#   logs HOST            etc                 what a host said; where it has certificates and passwords
#   reissue HOST DAYS                        its server's certificate anew
#   visible                                  all that anybody sees of hosts: logs, process lists, settings
# shellcheck shell=bash

# Times of a drill are for production; BED_SCALE=0.1 makes them short.
scaled() { awk -v s="$1" -v f="${BED_SCALE:-1}" 'BEGIN { t = s * f; print (t < 1) ? 1 : t }'; }

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

step() { printf '    %s\n' "$*"; }
measured() { printf '      %-52s %s\n' "$1" "$2"; }
fails() {
    printf '    FAILED: %s\n' "$*"
    return 1
}

# wait_until SECONDS WHAT COMMAND...: the condition, not a time, decides; the limit is for what never comes.
wait_until() {
    local limit=$1 what=$2 end
    shift 2
    end=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fails "not within $limit s: $what" || return 1
        sleep 0.1
    done
}

# As the administrator of a server, on its own host.
sql() { # HOST SQL
    on "$1" bed-host sql -d shop -c "$2"
}
sql_true() { [ "$(sql "$1" "$2")" = t ]; }
is() { [ "$(sql "$1" "$2")" = "$3" ]; } # HOST SQL VALUE

# skytide, and object storage beside it.
build_programs() {
    cargo build --release --quiet -p skytide -p skytide-fixtures --features skytide-fixtures/s3
}
has_programs() { # PROGRAM
    [ -x "$1" ] || refuse "there is no $1"
    [ -x "$(dirname "$1")/s3-store" ] || refuse "there is no s3-store beside $1" \
        "cargo build -p skytide-fixtures --features s3 --bin s3-store"
}

# says HOST PATTERN. In a pipe, who writes on when grep has found it would be killed, and that be a failure.
says() { grep -q "$2" < <(logs "$1" 2>&1); }

# --- load -----------------------------------------------------------------------------------------------------------

load_start() { # [clients] [hosts]
    spawn client env BED_TARGETS="${2:-provider}" bed-host load "${1:-4}"
    wait_until 60 "the first commits" acks_over 20
    step "load: ${1:-4} clients write to ${2:-provider}"
}
acks() { on client sh -c 'cat load/acks.*'; }
ack_count() { acks | wc -l; }
acks_over() { [ "$(ack_count)" -gt "$1" ]; }
# The clients got commits after now.
load_goes_on() { wait_until 90 "clients commit again" acks_over "$(($(ack_count) + 20))"; }
load_stop() {
    on client touch load/stop
    wait_until 90 "clients end" on client test -e load/over
    measured "commits acknowledged" "$(ack_count)"
}

# bulk MIB: rows that compress badly, a transaction for each four MiB; nobody acknowledges them, digests count them
bulk() {
    local n
    for ((n = 0; n < $1; n += 4)); do
        sql provider "insert into purchase (client, seq, account, amount, note)
            select 0, (extract(epoch from clock_timestamp()) * 1e6)::bigint * 1000 + n, 1, 0,
                (select string_agg(md5(random()::text || m || n), '') from generate_series(1, 256) m)
            from generate_series(0, 511) n"
    done
}

# --- data -----------------------------------------------------------------------------------------------------------

# How many acknowledged commits a server does not have.
missing_on() {
    acks | on "$1" bed-host sql -d shop -c "create temp table acked (client int, seq bigint)" \
        -c "\\copy acked from pstdin with (delimiter ' ')" \
        -c "select count(*) from acked left join purchase using (client, seq) where purchase.seq is null"
}

# count and sum of all rows: computed here, apart from skytide's own compare
digest() {
    sql "$1" "select 'purchase', count(*), sum(hashtextextended(p::text, 0)::numeric) from purchase p union all
        select 'account', count(*), sum(hashtextextended(a::text, 0)::numeric) from account a order by 1"
}

same_digest() {
    local one other
    one=$(digest "$1") && other=$(digest "$2") && [ -n "$one" ] && [ "$one" = "$other" ]
}

# No acknowledged commit is missing on a server, and no half transaction is there.
holds_all() {
    local missing sums
    acks_over 0 || fails "the clients' list of commits cannot be read" || return 1
    missing=$(missing_on "$1")
    [ "$missing" = 0 ] || fails "$missing acknowledged commits are not on $1" || return 1
    sums=$(sql "$1" "select (select coalesce(sum(amount), 0) from purchase) - (select sum(balance) from account)")
    [ "$sums" = 0 ] || fails "$1 has halves of transactions: sums differ by $sums" || return 1
}

# The clients have ended: provider and leaf are equal, and have all that was acknowledged.
equal() { # worker's host, leaf, [provider]
    local worker=$1 leaf=$2 provider=${3:-provider} begun out
    begun=$(now)
    out=$(on "$worker" skytide londiste "$leaf.ini" compare --patience 120) ||
        fails "compare says: $out" || return 1
    measured "$leaf in step after the load's end" "$(since "$begun") s"
    holds_all "$provider" && holds_all "$leaf" || return 1
    same_digest "$provider" "$leaf" || fails "digests of $provider and $leaf differ" || return 1
    step "$leaf equals $provider; all acknowledged commits are on both (${out##*$'\n'})"
}

followed() { # worker's host, leaf: every table has been copied
    wait_until 120 "the tables of $2 are copied" on "$1" skytide londiste "$2.ini" wait-sync
}

# --- promotion --------------------------------------------------------------------------------------------------------

# Commits are acknowledged when the standby has them on its disk.
synchronous() {
    wait_until 90 "the standby streams" is provider "select count(*) from pg_stat_replication where application_name = 'standby' and state = 'streaming'" 1
    sql provider "alter system set synchronous_standby_names = 'standby'"
    sql provider "select pg_reload_conf()" >/dev/null
    wait_until 60 "the standby is synchronous" is provider "select sync_state from pg_stat_replication where application_name = 'standby'" sync
    step "the standby is synchronous"
}

# From the standby's host, where its WAL is read; the old primary is known by name only.
promote() { # HOST
    # What the worker said before has nothing to do with it.
    worker_said=$(logs worker 2>&1 | wc -l)
    # shellcheck disable=SC2016 # its shell's
    on "$1" sh -c '
        printf "[walmgr]\nstores = %s\n" "$BED_DATA/no-store"
        printf "[promote]\nnodes = provider, %s\nfence_required = no\n" "$1"
        printf "[node provider]\ndb = host=provider user=postgres dbname=postgres sslmode=disable\n"
        printf "[node %s]\ndb = host=%s user=postgres dbname=postgres\ndata = %s\n" "$1" "$BED_DATA" "$PGDATA"
        ' sh "$1" | on "$1" sh -c 'cat >promote.ini && skytide walmgr promote.ini create-store && skytide promote promote.ini --to "$0" --yes' "$1" ||
        fails "$1 was not promoted"
    is "$1" "select pg_is_in_recovery()" f || fails "$1 was not promoted"
    step "$1 promoted, timeline $(sql "$1" "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int")"
}

# The leaf's worker finds the promoted server. It goes on, or stops and says what it would lack; then the tables are
# copied again.
worker_says() { logs worker 2>&1 | tail -n "+$((worker_said + 1))"; }
worker_stopped() { grep -q "belongs to timeline" < <(worker_says); }
worker_decided() { worker_stopped || sql_true leaf "select count(*) >= $1 from purchase"; }
goes_on_with() { # HOST
    local begun wanted
    begun=$(now)
    wanted=$(sql "$1" "select count(*) from purchase")
    wait_until 120 "the leaf's worker goes on, or says why not" worker_decided "$wanted"
    if ! worker_stopped; then
        measured "the leaf follows $1 after" "$(since "$begun") s"
        return
    fi
    step "the worker says: $(worker_says | grep "belongs to timeline" | tail -n 1 | sed 's/^.*error=//; s/^[A-Z]*: *//')"
    kill_host worker
    on_stopped worker rm -rf spool
    on_stopped worker skytide londiste leaf.ini resync --all >/dev/null
    start worker
    followed worker leaf
    measured "copied again, the leaf follows $1 after" "$(since "$begun") s"
}

# --- drills -----------------------------------------------------------------------------------------------------------

drills_dir=$(dirname "${BASH_SOURCE[0]}")/drills
all_drills() { (cd "$drills_dir" && printf '%s\n' [0-9]*-*.sh | sed 's/^[0-9]*-\(.*\)\.sh$/\1/'); }
drill_file() {
    local files=("$drills_dir"/[0-9]*-"$1".sh)
    [ -f "${files[0]}" ] || return 1
    printf '%s\n' "${files[0]}"
}
# about FILE: its first comment
about() { sed -n '/^# /{s/^# //p};/^[^#]/q' "$1"; }
