#!/usr/bin/env bash
# Practices 1 and 2, typed with redis-cli as users type them: a primary and a backup, with a witness and without; a
# primary with replicas A and B and a password. Processes are killed with -9 and started again in every order; both
# keys must be everywhere, always. Ends with 0 (good), 1 (a key was lost, or another wrong answer), 3 (could not run)
# or 77 (skipped: there is no redis-cli).
#
#   ./practices.sh [--binary PATH]
set -u

binary=$(dirname "$0")/../../target/release/strandline
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$2; shift 2 ;;
        *) echo "usage: $0 [--binary PATH]" >&2; exit 3 ;;
    esac
done
if ! command -v redis-cli >/dev/null; then
    echo "skipped: redis-cli is missing (Debian: apt-get install redis-tools): practices 1 and 2 were NOT tried" >&2
    exit 77
fi
if [ ! -x "$binary" ]; then
    echo "cannot run: $binary is missing: cargo build --release" >&2
    exit 3
fi
binary=$(realpath "$binary")
work=$(mktemp -d "${TMPDIR:-/tmp}/strandline-practices.XXXXXX") || exit 3
declare -A pids ports flags
failed=0 checks=0

cleanup() {
    for name in "${!pids[@]}"; do kill -9 "${pids[$name]}" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 3' INT TERM

# --- What the practices are made of ---

free_port() {
    local port
    for _ in $(seq 200); do
        port=$((20000 + RANDOM % 12000))
        case " ${ports[*]-} $* " in *" $port "*) continue ;; esac
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    echo "cannot run: no free port" >&2
    exit 3
}

# node NAME [FLAG ...]: a new node with an empty directory, started.
node() {
    local name=$1; shift
    ports[$name]=${ports[$name]:-$(free_port)}
    flags[$name]="$*"
    rm -rf "${work:?}/$name"
    start "$name"
}

# start NAME: starts it, again or for the first time, with the same flags and directory.
start() {
    local name=$1
    # What an earlier life has said must not pass for this one's.
    : >"$work/$name.out"
    # Flags here have no blanks within.
    # shellcheck disable=SC2086
    "$binary" serve --dir "$work/$name" --listen "127.0.0.1:${ports[$name]}" ${flags[$name]} \
        >"$work/$name.out" 2>>"$work/$name.log" &
    pids[$name]=$!
    for _ in $(seq 600); do
        grep -q '^ready' "$work/$name.out" && return
        kill -0 "${pids[$name]}" 2>/dev/null || break
        sleep 0.05
    done
    echo "cannot run: $name does not start:" >&2
    tail -5 "$work/$name.log" >&2
    exit 3
}

# crash NAME ...: kill -9
crash() {
    for name in "$@"; do
        kill -9 "${pids[$name]}"
        wait "${pids[$name]}" 2>/dev/null
        unset "pids[$name]"
    done
}

# The end of a practice: its nodes go.
over() {
    crash "${!pids[@]}"
    ports=() flags=()
}

# on NAME COMMAND ...: what a user types.
on() {
    local name=$1; shift
    redis-cli -p "${ports[$name]}" ${REDISCLI_AUTH:+--no-auth-warning} "$@" 2>&1
}

note() {
    checks=$((checks + 1))
    if [ "$1" = bad ]; then
        failed=$((failed + 1))
        echo "FAILED: $2" >&2
        for log in "$work"/*.log; do echo "--- $log" >&2; tail -4 "$log" >&2; done
    fi
}

# expect ANSWER NAME COMMAND ...: the answer is this one now. While a cluster elects it says that nothing was done and
# to try again, and so does the user.
expect() {
    local wanted=$1 found; shift
    for _ in $(seq 400); do
        found=$(on "$@")
        case $found in CLUSTERDOWN* | TRYAGAIN*) sleep 0.05 ;; *) break ;; esac
    done
    if [[ $found == $wanted ]]; then note good; else note bad "$*: '$found', expected '$wanted'"; fi
}

# until_is ANSWER NAME COMMAND ...: the answer becomes this one (a pattern) within some seconds.
until_is() {
    local wanted=$1 found; shift
    for _ in $(seq 400); do
        found=$(on "$@")
        if [[ $found == $wanted ]]; then note good; return; fi
        sleep 0.05
    done
    note bad "$*: '$found' for 20 s, expected '$wanted'"
}

link_is() { until_is "*master_link_status:$2*" "$1" INFO replication; }

both_keys() {
    for name in "$@"; do
        expect one "$name" GET first
        expect two "$name" GET second
    done
}

say() { echo "-- $*"; }

# --- Practice 1 ---

practice_1_with_a_witness() {
    say "practice 1: a primary, a backup and a witness"
    ports=([p]=$(free_port))
    ports[b]=$(free_port); ports[w]=$(free_port)
    local pp bp wp nodes
    pp=$(free_port); bp=$(free_port "$pp"); wp=$(free_port "$pp" "$bp")
    nodes="1=127.0.0.1:${ports[p]}@$pp,2=127.0.0.1:${ports[b]}@$bp,3=127.0.0.1:${ports[w]}@$wp+witness"
    node p --node-id 1 --cluster "$nodes"
    node b --node-id 2 --cluster "$nodes"
    node w --node-id 3 --cluster "$nodes"
    # Typed on the BACKUP. It is so already, or the lead is handed over: either way the answer is OK.
    until_is 'OK*' b SLAVEOF 127.0.0.1 "${ports[p]}"
    until_is '*role:master*' p INFO replication
    expect OK p SET first one
    expect OK p SET second two
    expect 1 p WAIT 1 2000
    both_keys p b
    crash p
    local began ended
    began=$(date +%s%N)
    until_is OK b SET third three
    ended=$(date +%s%N)
    say "the backup took over; the first write after kill -9 was acknowledged after $(((ended - began) / 1000000)) ms"
    expect 'OK*' b SLAVEOF NO ONE
    both_keys b
    start p
    until_is three p GET third
    both_keys p b
    until_is '*role:slave*' p INFO replication
    # Typed on the primary by mistake, naming the backup: the lead is handed over and nothing is lost.
    until_is 'OK*' b REPLICAOF localhost "${ports[p]}"
    until_is '*role:master*' p INFO replication
    both_keys p b
    expect 'ERR node 3 is a witness*' b REPLICAOF 127.0.0.1 "${ports[w]}"
    for order in 'p b w' 'w b p' 'b w p' 'b p w' 'p w b' 'w p b'; do
        crash p b w
        for name in $order; do start "$name"; done
        until_is one p GET first
        until_is one b GET first
        both_keys p b
        until_is OK p SET third "$order"
        expect "$order" b GET third
    done
    over
}

practice_1_without() {
    say "practice 1: a primary and a backup, without a witness"
    node p
    node b
    expect OK p SET first one
    expect OK p SET second two
    expect OK b SLAVEOF 127.0.0.1 "${ports[p]}"
    expect 1 p WAIT 1 20000
    both_keys p b
    expect 'READONLY *' b SET third three
    # Typed on the primary by mistake. Redis wipes it.
    expect 'ERR *follows this one*' p REPLICAOF 127.0.0.1 "${ports[b]}"
    both_keys p b
    crash p
    link_is b down
    until_is '*master_link_error:*cannot be reached*' b INFO replication
    both_keys b
    start p
    link_is b up
    both_keys p b
    expect OK p SET third three
    until_is three b GET third
    for order in 'p b' 'b p'; do
        crash p b
        for name in $order; do start "$name"; done
        both_keys p b
        link_is b up
    done

    say "practice 1: the primary comes back with an empty disk"
    crash p
    node p
    until_is '*master_link_refused:1*' b INFO replication
    expect '*is empty and this one has data*REPLICAOF NO ONE*DISCARD*' b INFO replication
    both_keys b
    expect 'DIVERGED *' b REPLICAOF localhost "${ports[p]}"
    both_keys b
    crash b
    start b
    both_keys b
    # The way that keeps the data: the backup leads, and the empty one follows.
    expect OK b REPLICAOF NO ONE
    expect OK p REPLICAOF 127.0.0.1 "${ports[b]}"
    until_is two p GET second
    both_keys p b

    say "practice 1: both were written to"
    expect OK p REPLICAOF NO ONE
    expect OK p SET fork left
    expect OK b SET fork right
    expect 'DIVERGED this node has entries * DISCARD' p REPLICAOF 127.0.0.1 "${ports[b]}"
    expect left p GET fork
    expect OK p SET still writable
    expect OK p REPLICAOF 127.0.0.1 "${ports[b]}" DISCARD
    until_is right p GET fork
    both_keys p b
    over
}

# --- Practice 2 ---

in_every_order() {
    local round=0
    for order in 'p a b' 'p b a' 'a p b' 'a b p' 'b p a' 'b a p'; do
        crash p a b
        for name in $order; do
            start "$name"
            both_keys "$name"
        done
        # And they follow on: nothing has to be typed again.
        link_is a up
        link_is b up
        round=$((round + 1))
        expect OK p SET round $round
        expect 2 p WAIT 2 20000
        expect $round a GET round
        expect $round b GET round
        both_keys p a b
    done
}

practice_2_typed() {
    say "practice 2: typed, with a password"
    export REDISCLI_AUTH=tide
    for name in p a b; do node $name --requirepass tide; done
    expect OK p SET first one
    expect OK p SET second two
    for name in a b; do
        expect '*CONFIG SET masterauth*' $name masterauth tide
        # The password is forgotten at first: the answer says what is missing.
        expect 'OK *CONFIG SET masterauth*' $name REPLICAOF 127.0.0.1 "${ports[p]}"
        expect OK $name CONFIG SET masterauth tide
        expect 'OK*' $name REPLICAOF 127.0.0.1 "${ports[p]}"
        link_is $name up
        expect '*role:slave*' $name INFO replication
    done
    expect 2 p WAIT 2 20000
    both_keys a b
    expect '*connected_slaves:2*' p INFO replication
    in_every_order

    say "practice 2: the primary comes back with an empty disk"
    crash p
    node p --requirepass tide
    for name in a b; do
        until_is '*master_link_refused:1*' $name INFO replication
        both_keys $name
    done
    expect OK p SET other thing
    sleep 0.3
    both_keys a b
    # A leads now, B follows it, and the old primary gives up what it has.
    expect OK a REPLICAOF NO ONE
    expect OK b REPLICAOF 127.0.0.1 "${ports[a]}"
    link_is b up
    expect OK p CONFIG SET masterauth tide
    expect 'DIVERGED *' p REPLICAOF 127.0.0.1 "${ports[a]}"
    expect thing p GET other
    expect OK p REPLICAOF 127.0.0.1 "${ports[a]}" DISCARD
    until_is two p GET second
    both_keys p a b
    expect OK a SET third three
    expect 2 a WAIT 2 20000
    expect three p GET third
    expect three b GET third
    over
    unset REDISCLI_AUTH
}

practice_2_flags() {
    say "practice 2: the same as flags and in a file"
    export REDISCLI_AUTH=tide
    node p --requirepass tide
    node a --requirepass tide --masterauth tide --replicaof 127.0.0.1 "${ports[p]}"
    printf 'requirepass "tide"\nmasterauth tide\nslaveof 127.0.0.1 %s\n' "${ports[p]}" >"$work/b.conf"
    node b --config "$work/b.conf"
    expect OK p SET first one
    expect OK p SET second two
    expect 2 p WAIT 2 20000
    both_keys a b
    in_every_order
    # What is typed counts more than the flag that was there before, across a crash.
    expect OK a REPLICAOF NO ONE
    crash a
    start a
    expect '*role:master*' a INFO replication
    expect 'OK*' a SLAVEOF localhost "${ports[p]}"
    link_is a up
    both_keys p a b
    # Sides are changed as planned: the old primary follows, and b follows the old primary.
    expect OK p FAILOVER TO 127.0.0.1 "${ports[a]}"
    expect '*role:master*' a INFO replication
    expect OK a SET fourth four
    until_is four p GET fourth
    until_is four b GET fourth
    both_keys p a b
    over
    unset REDISCLI_AUTH
}

practice_1_with_a_witness
practice_1_without
practice_2_typed
practice_2_flags
echo "{\"checks\": $checks, \"failed\": $failed}"
[ $failed -eq 0 ]
