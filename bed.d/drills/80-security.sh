# Who has a wrong password, certificate or role, or no TLS, is refused; no secret shows in logs, ps or the containers' settings.
# shellcheck shell=bash
hosts="provider ticker leaf worker client walmgr store receive"
profiles=walmgr

# refused WHAT WORDS HOST COMMAND...: it fails, and says so
refused() {
    local what=$1 words=$2 out
    shift 2
    if out=$(on "$@" 2>&1); then
        fails "$what was not refused: $out" || return 1
    fi
    grep -qiE "$words" <<<"$out" || fails "$what: other words than expected: $out" || return 1
    step "refused: $what (${words%%|*})"
}
as() { printf 'host=provider dbname=shop user=%s %s' "$1" "${2:-}"; }

drill() {
    local secret visible host secrets=0
    on client psql -qAtX "$(as app)" -c 'select 1' >/dev/null
    step "as it should be: $(on client psql -qAtX "$(as app)" -c "select version || ', ' || cipher from pg_stat_ssl where pid = pg_backend_pid()"), channel binding"
    on client sh -c 'openssl req -new -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=stranger \
        -keyout stranger.key -out stranger.crt 2>/dev/null'
    on worker sh -c 'cat >stranger.crt' < <(on client cat stranger.crt)

    refused "a wrong password" "password authentication failed" client psql -X "$(as app password=wrong)" -c 'select 1'
    refused "a wrong password, by skytide" "password authentication failed" \
        worker skytide doctor --db "$(as repl_root "password=wrong sslmode=verify-full sslrootcert=$(etc)/ca.crt")" --as root
    refused "an unknown authority" "certificate verify failed" client psql -X "$(as app sslrootcert=stranger.crt)" -c 'select 1'
    refused "an unknown authority, by skytide" "certificate|handshake" \
        worker skytide doctor --db "$(as repl_root "passfile=$(etc)/pgpass sslmode=verify-full sslrootcert=stranger.crt")" --as root
    refused "no TLS" "no encryption" client psql -X "$(as app "sslmode=disable channel_binding=disable")" -c 'select 1'
    refused "no TLS, by skytide" "no encryption" \
        worker skytide doctor --db "$(as repl_root "passfile=$(etc)/pgpass sslmode=disable channel_binding=disable")" --as root
    refused "the superuser from another host" "no pg_hba.conf entry" client psql -X "$(as postgres)" -c 'select 1'

    reissue provider 0
    sql provider "select pg_reload_conf()" >/dev/null
    wait_until 30 "the server shows its new certificate" fails_with client "certificate verify failed" psql -X "$(as app)" -c 'select 1'
    step "refused: an expired certificate (certificate verify failed)"
    # Up to the end of its last second it is good for some.
    wait_until 30 "skytide refuses the certificate" fails_with worker "expired" skytide doctor --db "$(as repl_root "passfile=$(etc)/pgpass sslmode=verify-full sslrootcert=$(etc)/ca.crt")" --as root
    step "refused: an expired certificate, by skytide (expired)"
    reissue provider 3650
    sql provider "select pg_reload_conf()" >/dev/null
    wait_until 30 "a good certificate is taken again" on client psql -qAtX "$(as app)" -c 'select 1'

    refused "the ticker reading the shop's tables" "permission denied" \
        provider bed-host sql -d shop -c "set role ticker" -c "select * from purchase"
    refused "walmgr reading the shop's tables" "permission denied" \
        provider bed-host sql -d shop -c "set role walmgr" -c "select * from purchase"
    refused "the standby's role writing to them" "permission denied" \
        provider bed-host sql -d shop -c "set role replica" -c "delete from purchase"
    refused "the application reading the queue's tables" "permission denied" client psql -X "$(as app)" -c 'select * from pgq.event_template'
    refused "a producer taking events" "permission denied" client psql -X "$(as producer)" -c "select pgq.next_batch('mail', 'thief')"
    refused "a consumer reading the shop's tables" "permission denied" client psql -X "$(as consumer)" -c 'select * from account'
    refused "the application on a table that follows" "change not allowed" \
        client psql -X "host=leaf dbname=shop user=app" -c "update account set balance = 0"
    is provider "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null and not ssl" 0 ||
        fails "there is a session without TLS"

    load_start
    # While everything is at work.
    visible=$(visible)
    load_stop
    grep -q "leaf.ini" <<<"$visible" || fails "no process list to look for secrets in"
    for host in $hosts; do
        while IFS=: read -r _ _ _ _ secret; do
            secrets=$((secrets + 1))
            ! grep -qF "$secret" <<<"$visible" || fails "a password of $host is visible"
        done < <(
            on "$host" cat "$(etc)/pgpass"
            on "$host" sed -n 's/^aws_secret_access_key = /::::/p' "$(etc)/s3" 2>/dev/null || true
        )
    done
    [ "$secrets" -ge 12 ] || fails "only $secrets passwords could be read"
    ! grep -q "BEGIN.*PRIVATE KEY" <<<"$visible" || fails "a private key is visible"
    step "none of $secrets passwords and no key in logs, process lists and settings ($(wc -l <<<"$visible") lines looked through)"
    equal worker leaf
}
fails_with() { # HOST WORDS COMMAND...
    local out
    ! out=$(on "$1" "${@:3}" 2>&1) && grep -q "$2" <<<"$out"
}
