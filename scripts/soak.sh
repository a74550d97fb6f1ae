#!/usr/bin/env bash
# What clients in great number, in great haste and of bad manners do to a master node. Exits 1 when one of these fails:
#
#   idle     10,000 idle sessions, or as many as the limit of open files lets the node have: memory per session < 40 kB
#   churn    1,000 logins and farewells a second, for SECONDS: memory and descriptors afterwards as before
#   slow     clients that send a byte a second, before or after their login, and that never read, beside sysbench: it
#            sees no error, and its latency is less than twice what it is without them
#
#   scripts/soak.sh [slow] [churn] [idle]      # all three, in this order, without arguments
#   SECONDS_PER_PART=10 scripts/soak.sh churn  # instead of 60
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${SECONDS_PER_PART:-60}

scripts/install-mariadb.sh mariadb sysbench python3
# shellcheck source=scripts/load-node.sh
. scripts/load-node.sh
trap stop_node EXIT
ulimit -n "$(ulimit -Hn)"
# A session is two descriptors of the node's, which has some 30 of its own.
sessions=$((($(ulimit -n) - 100) / 2))
[ "$sessions" -lt 10000 ] || sessions=10000
start_node "connections_max = 10100" --max-connections=10200 --thread-handling=pool-of-threads --back-log=4000

# Runs sysbench for so many seconds and prints the 95th percentile of a transaction's latency in ms.
others() { # SECONDS NAME
    # An error that isn't named ends sysbench, and its exit code says so; deadlocks are its own.
    sysbench oltp_read_write "${login[@]}" --threads=4 --time="$1" --mysql-ignore-errors=1213,1205 run > "$folder/$2.log" ||
        { cat "$folder/$2.log" >&2; return 1; }
    awk '/95th percentile:/ { print $3 }' "$folder/$2.log"
}

failed=0
for part in "${@:-slow churn idle}"; do
    # shellcheck disable=SC2086 # the default is three words
    for part in $part; do
        case $part in
            idle)
                [ "$sessions" -ge 10000 ] || echo "idle: 10000 sessions need 20100 descriptors; ulimit -Hn allows $(ulimit -n), so $sessions are tried"
                python3 scripts/soak.py idle "$front" "$node" "$sessions" || failed=1
                ;;
            churn) python3 scripts/soak.py churn "$front" "$node" "$seconds" || failed=1 ;;
            slow)
                login=(--mysql-host="${front%:*}" --mysql-port="${front##*:}" --mysql-user=sb --mysql-password=sb --tables=2 --table-size=10000)
                sysbench oltp_read_write "${login[@]}" prepare > "$folder/prepare.log" || { cat "$folder/prepare.log"; exit 1; }
                others 2 warm > /dev/null
                alone=$(others 20 alone) || failed=1
                python3 scripts/soak.py slow "$front" "$node" "$((seconds + 2))" &
                slow=$!
                beside=$(others "$seconds" beside) || failed=1
                wait "$slow" || failed=1
                echo "slow: others' latency at the 95th percentile $alone ms alone, $beside ms beside them"
                awk -v alone="$alone" -v beside="$beside" 'BEGIN { exit !(alone > 0 && beside < 2 * alone) }' || { echo "slow: FAILED"; failed=1; }
                ;;
            *) echo "usage: $0 [idle] [churn] [slow]" >&2; exit 2 ;;
        esac
    done
done
cat "$folder/node.log"
exit "$failed"
