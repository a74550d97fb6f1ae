#!/usr/bin/env bash
# What Towline costs: sysbench directly at a server, through HAProxy in TCP mode and through a master node, in turns, as
# ratios to direct, with the CPU time of what is in front of the server. Then the same for results of 1,000 rows.
# Arguments go to sysbench-compare.sh, which tells them with --help, and win over what is chosen here.
#
#   scripts/bench.sh                                         # 1, 16 and 64 threads, text and prepared, 7 rounds: an hour
#   scripts/bench.sh --threads 16 --ps-modes disable --rounds 1 --seconds 5     # a quick look
#   TOWLINE=./towline-old scripts/bench.sh                   # another build of the program
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-mariadb.sh mariadb sysbench haproxy
# shellcheck source=scripts/load-node.sh
. scripts/load-node.sh
haproxy=
stop() {
    if [ -n "$haproxy" ]; then kill "$haproxy" 2> /dev/null || true; wait "$haproxy" 2> /dev/null || true; fi
    stop_node
}
trap stop EXIT
start_node ''

haproxy_port=$((port + 1))
cat > "$folder/haproxy.cfg" << CONFIG
global
    maxconn 2000
    nbthread 2
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen mysql
    bind 127.0.0.1:$haproxy_port
    server m1 127.0.0.1:$port
CONFIG
PATH="$PATH:/usr/sbin" haproxy -db -f "$folder/haproxy.cfg" > "$folder/haproxy.log" 2>&1 &
haproxy=$!

compare() { # raw file, arguments of sysbench-compare.sh
    local raw=$1
    shift
    scripts/sysbench-compare.sh --prepare --rounds 7 --seconds 8 --warmup 2 --server-pid "$server" \
        --pid haproxy="$haproxy" --pid towline="$node" "$@" --raw "$raw" \
        direct=127.0.0.1:"$port" haproxy=127.0.0.1:"$haproxy_port" towline="$front"
}

# Per cell: the medians of the CPU time per query of both proxies, and of the ratio inside a round. What a transaction
# has of queries (1 in a point select, 20 in read-write, 6 in write-only) is in the raw file.
cost() {
    echo
    echo "| workload | threads | ps-mode | CPU us per query: HAProxy | Towline | Towline / HAProxy | min..max | rounds |"
    echo "|---|---:|---|---:|---:|---:|---|---:|"
    awk -F'\t' '
        function median(list,  v, n, i, j, t) {
            n = split(list, v, " ")
            for (i = 2; i <= n; i++) { t = v[i] + 0; for (j = i - 1; j > 0 && v[j] + 0 > t; j--) v[j + 1] = v[j]; v[j + 1] = t }
            low = v[1]; high = v[n]; count = n
            return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
        }
        NR > 1 && $8 != "-" && $5 > 0 {
            if (!($2 in seen)) { seen[$2] = 1; cells[++n] = $2 }
            us = $8 * $4 / $5; at[$1, $2, $3] = us; all[$2, $3] = all[$2, $3] " " us
            if ($1 > rounds) rounds = $1
        }
        END {
            for (c = 1; c <= n; c++) {
                cell = cells[c]; ratios = ""
                for (r = 1; r <= rounds; r++) if (((r, cell, "haproxy") in at) && ((r, cell, "towline") in at)) ratios = ratios " " at[r, cell, "towline"] / at[r, cell, "haproxy"]
                split(cell, part, ":"); ratio = median(ratios); lo = low; hi = high; of = count
                printf "| %s | %s | %s | %.1f | %.1f | %.2f | %.2f..%.2f | %d |\n", part[1], part[2], part[3], median(all[cell, "haproxy"]), median(all[cell, "towline"]), ratio, lo, hi, of
            }
        }' "$1"
}

compare "$folder/raw.tsv" --threads 1,16,64 --ps-modes disable,auto "$@"
cost "$folder/raw.tsv"
echo
echo "Results of 1,000 rows:"
echo
compare "$folder/rows.tsv" --threads 16 "$@" --workloads oltp_read_only \
    --extra "--skip-trx=on --point-selects=0 --simple-ranges=1 --sum-ranges=0 --order-ranges=0 --distinct-ranges=0 --range-size=1000"
cost "$folder/rows.tsv"
