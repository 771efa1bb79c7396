#!/usr/bin/env bash
# Redis's own test suite, in its external mode, against our server.
#
#   redis_suite.sh --start [unit ...]   starts a server for it in a temporary directory
#   redis_suite.sh PORT [unit ...]      runs against the server on this port, whose data it deletes
#
# `--binary FILE` or BINARY names the server; target/release/strandline unless told. The suite is that
# of Debian's source package `redis` 7.0; it is fetched once with apt, by the machine's own package
# sources and signatures, into target/redis-suite/, and nothing of it is kept in the repository.
#
# A test that fails must be in redis_suite.expected, with its reason; where the reason is an absent
# command, the failure must really name it. Any other failure ends the run with 1. Ends with 77 and one
# line `skipped: ...` where the suite cannot be had or run.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
expected=$here/redis_suite.expected
work=$root/target/redis-suite
binary=${BINARY:-$root/target/release/strandline}
units_all="type/string type/incr bitops expire keyspace scan protocol quit info-command other
    introspection slowlog"
# What the suite cannot do, or does not mean, with a server that it did not start itself.
tags="-needs:repl -needs:debug -needs:save -needs:config-maxmemory -slow -cluster:only"
# Longer than any unit takes on a machine that is busy.
unit_seconds_max=900

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
skip() {
    echo "skipped: $*"
    exit 77
}

start=no port= units=
while [ $# -gt 0 ]; do
    case $1 in
        --start) start=yes ;;
        --binary) [ $# -gt 1 ] || usage; shift; binary=$1 ;;
        [0-9]*) port=$1 ;;
        -*) usage ;;
        *) units="$units $1" ;;
    esac
    shift
done
[ "$start" = yes ] || [ -n "$port" ] || usage
units=${units:-$units_all}

# Puts the suite into $work/redis, with the sources that this machine already trusts.
fetch() {
    local file apt=$work/apt
    rm -rf "$apt"
    mkdir -p "$apt/etc" "$apt/lists/partial" "$apt/cache/archives/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ -f "$file" ] && grep -qi debian "$file" || continue
        case $file in
            *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" ;;
            *) sed -n 's/^deb /deb-src /p' "$file" ;;
        esac >"$apt/etc/$(basename "$file")"
    done
    [ -n "$(ls "$apt/etc")" ] || skip "no package sources of Debian: Redis's suite"
    # Its own state, so that nothing of the machine is changed and no privilege is needed.
    printf '%s\n' 'Dir::Etc::SourceList "/dev/null";' "Dir::Etc::SourceParts \"$apt/etc\";" \
        "Dir::State::Lists \"$apt/lists\";" "Dir::Cache \"$apt/cache\";" >"$apt/apt.conf"
    (
        cd "$apt" && export APT_CONFIG=$apt/apt.conf &&
            apt-get -qq update && apt-get -qq source --download-only redis
    ) >"$work/fetch.log" 2>&1 || skip "apt cannot fetch the source package redis, see $work/fetch.log"
    file=$(ls "$apt"/redis_7.0.*.orig.tar.* 2>/dev/null | head -n 1)
    [ -n "$file" ] || skip "the source package redis is not 7.0, of which the expected failures are"
    rm -rf "$work/unpacked"
    mkdir -p "$work/unpacked"
    tar -xf "$file" -C "$work/unpacked" --strip-components=1 || skip "cannot unpack $file"
    mv "$work/unpacked" "$work/redis"
    rm -rf "$apt"
}

command -v tclsh >/dev/null || skip "no tclsh: Redis's suite (apt-get install tcl)"
mkdir -p "$work/logs"
if [ ! -x "$work/redis/runtest" ]; then
    command -v apt-get >/dev/null || skip "no apt-get to fetch Redis's suite with"
    fetch
fi

server= scratch=
finish() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null
    [ -z "$scratch" ] || rm -rf "$scratch"
}
trap finish EXIT
if [ "$start" = yes ]; then
    [ -x "$binary" ] || { echo "cannot run: $binary is missing: cargo build --release" >&2; exit 3; }
    scratch=$(mktemp -d)
    # The suite pipelines more at a time than the server's own deadline allows on a busy machine.
    STRANDLINE_WRITE_TIMEOUT_MS=60000 \
        "$binary" serve --dir "$scratch/data" --listen 127.0.0.1:0 >"$scratch/out" 2>"$work/logs/server.txt" &
    server=$!
    while ! port=$(sed -n 's/^ready.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$scratch/out") || [ -z "$port" ]; do
        kill -0 "$server" 2>/dev/null ||
            { echo "cannot run: the server ended, see $work/logs/server.txt" >&2; exit 3; }
        sleep 0.1
    done
fi

# Judges the log of one unit: prints what failed and one line of counts; ends with 1 if it is bad.
judge() {
    awk -v unit="$1" '
        function settle() {
            if (name == "") return
            failed++
            said = tolower(details)
            reason = name in reasons ? reasons[name] : ""
            word = reason
            sub(/^[a-z]*:/, "", word)
            if (reason == "") why = "not expected"
            else if (reason ~ /^command:/ && !index(said, "unknown command \047" word "\047"))
                why = "expected for the absent command " word ", which it does not name"
            else if (reason ~ /^subcommand:/ && !index(said, "unknown subcommand \047" word "\047"))
                why = "expected for the absent subcommand " word ", which it does not name"
            else why = ""
            if (why != "") { bad++; printf "BAD     %s: %s: %s\n%s", unit, name, why, details }
            else { excused++; printf "failed  %s: %s (%s)\n", unit, name, reason }
            seen[name] = 1
            name = ""
        }
        FNR == NR {
            if ($0 ~ /^#/ || $1 != unit) next
            if ($2 == "ok") { ok_min = $3; next }
            reason = $2
            sub(/^[^ ]+ +[^ ]+ +/, "")
            reasons[$0] = reason
            next
        }
        { gsub(/\033\[[0-9;]*m/, "") }
        /^\[/ || /^Test / { settle() }
        /^\[ok\]: / { ok++; sub(/^\[ok\]: /, ""); sub(/ \([0-9]+ ms\)$/, ""); passed[$0] = 1; next }
        /^\[err\]: / {
            sub(/^\[err\]: /, "")
            # What fails outside of a test takes the rest of the unit with it.
            if (!sub(/ in tests\/unit\/.*$/, "")) { aborted++; $0 = "outside of a test: " $0 }
            name = $0; details = ""
            next
        }
        /^\[(ignore|skip)\]: / { ignored++; next }
        /^\[exception\]/ { aborted++; bad++; print "BAD     " unit ": " $0; next }
        /^\[[0-9]+\/[0-9]+ done\]/ { done = 1 }
        name != "" { if (length(details) < 2000) details = details "        " substr($0, 1, 300) "\n" }
        END {
            settle()
            if (!done) { bad++; aborted++; printf "BAD     %s: it did not run to its end\n", unit }
            if (ok < ok_min) { bad++; printf "BAD     %s: %d tests ok, expected %d\n", unit, ok, ok_min }
            for (test in reasons) if (test in passed)
                printf "note    %s: %s passes now: take it off the list\n", unit, test
            printf "unit    %s: %d ok, %d failed (%d expected), %d aborted, %d ignored by tag\n", \
                unit, ok, failed, excused, aborted, ignored
            exit bad > 0
        }' "$expected" "$2"
}

bad=0 count=0
for unit in $units; do
    log=$work/logs/$(printf '%s' "$unit" | tr / -).txt
    (cd "$work/redis" && timeout -k 5 "$unit_seconds_max" ./runtest --host 127.0.0.1 --port "$port" \
        --ignore-encoding --ignore-digest --durable --tags "$tags" --single "unit/$unit") \
        >"$log" 2>&1
    judge "$unit" "$log" || bad=$((bad + 1))
    count=$((count + 1))
done
echo "Redis's suite: $count units, $bad with unexpected results; logs in target/redis-suite/logs"
[ "$bad" -eq 0 ]
