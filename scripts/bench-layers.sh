#!/usr/bin/env bash
# What layers cost and save: sysbench's point select directly at the server, and through one master node without layers,
# with rules (100), limit, audit and slow_log, and with cache. The four take turns within each round, by reloads of the
# node's layers, so that neighbours in time are compared. Prints medians and spreads over the rounds: queries a second, as
# a ratio to direct of the same round, and the node's CPU time per query.
#
#   scripts/bench-layers.sh [ROUNDS [SECONDS [THREADS]]]        # 7 rounds of 8 seconds with 16 threads: four minutes
#   TOWLINE=./towline-old scripts/bench-layers.sh 3 4           # another build of the program, a quick look
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-7} seconds=${2:-8} threads=${3:-16}

scripts/install-mariadb.sh mariadb sysbench
# shellcheck source=scripts/load-node.sh
. scripts/load-node.sh
trap stop_node EXIT
start_node ''
cp "$folder/config.toml" "$folder/bare.toml"

rules=$(for number in $(seq 100); do echo "[[master.layer.rule]]"; echo "table = 'other.table$number'"; echo "action = 'deny'"; done)
layers_of() {
    case $1 in
        layers) cat << CONFIG
[[master.layer]]
name = "audit"
file = "audit.log"
[[master.layer]]
name = "slow_log"
threshold_ms = 10000
[[master.layer]]
name = "rules"
$rules
[[master.layer]]
name = "limit"
limit = [{ by = "user", running_max = 1000 }]
CONFIG
            ;;
        cache) printf '[[master.layer]]\nname = "cache"\n' ;;
    esac
}

load() { # HOST:PORT, seconds, sysbench's command
    sysbench oltp_point_select --db-driver=mysql --mysql-host="${1%:*}" --mysql-port="${1#*:}" --mysql-user=sb \
        --mysql-password=sb --mysql-db=sbtest --tables=4 --table-size=10000 --threads="$threads" --time="$2" \
        --db-ps-mode=disable --report-interval=0 "$3"
}
# Has the node take its file over, or fails with what it says.
reload() {
    curl --silent --show-error --fail-with-body -X POST "http://$http/admin/reload" > "$folder/reload.json" ||
        { cat "$folder/reload.json" >&2; exit 1; }
}
ticks() { awk '{ print $14 + $15 }' "/proc/$node/stat"; }

load 127.0.0.1:"$port" 0 prepare > /dev/null
echo "round	what	queries/s	CPU us/query" > "$folder/raw.tsv"
for round in $(seq "$rounds"); do
    for what in direct bare layers cache; do
        address=$front
        if [ "$what" = direct ]; then
            address=127.0.0.1:$port
        else
            { cat "$folder/bare.toml"; layers_of "$what"; } > "$folder/config.toml"
            reload
        fi
        # Warms the cache up.
        load "$address" 2 run > /dev/null
        before=$(ticks)
        load "$address" "$seconds" run > "$folder/run.txt"
        after=$(ticks)
        awk -v OFS='\t' -v round="$round" -v what="$what" -v ticks="$((after - before))" -v hz="$(getconf CLK_TCK)" '
            /^ *queries:/ { count = $2; gsub(/[^0-9.]/, "", $3); rate = $3 }
            /^ *ignored errors:/ { errors = $3 }
            END {
                if (!count || errors + 0) { print "sysbench: " count + 0 " queries, " errors + 0 " errors" > "/dev/stderr"; exit 1 }
                print round, what, rate, ticks * 1e6 / hz / count
            }
        ' "$folder/run.txt" | tee -a "$folder/raw.tsv"
    done
done

awk -F'\t' '
    function median(list,  v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++) { t = v[i] + 0; for (j = i - 1; j > 0 && v[j] + 0 > t; j--) v[j + 1] = v[j]; v[j + 1] = t }
        low = v[1]; high = v[n]
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    NR > 1 {
        if ($2 == "direct") direct = $3
        if ($2 == "bare") bare = $4
        ratio[$2] = ratio[$2] " " $3 / direct; cpu[$2] = cpu[$2] " " $4; rise[$2] = rise[$2] " " $4 - bare
    }
    END {
        print "\n| stack | queries/s to direct, median | min..max | CPU us/query | more than without layers | min..max |"
        print "|---|---:|---:|---:|---:|---:|"
        split("bare layers cache", order, " ")
        for (at = 1; at <= 3; at++) {
            what = order[at]
            r = median(ratio[what]); rl = low; rh = high; c = median(cpu[what]); d = median(rise[what])
            printf "| %s | %.2f | %.2f..%.2f | %.1f | %+.1f | %+.1f..%+.1f |\n", what, r, rl, rh, c, d, low, high
        }
    }' "$folder/raw.tsv"
