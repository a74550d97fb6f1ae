#!/usr/bin/env bash
# What Towline costs: sysbench through a master node and directly at the server behind it, in turns, as ratios, with the
# node's CPU time. Arguments go to sysbench-compare.sh, which tells them with --help.
#
#   scripts/bench.sh                            # 16 threads, 3 rounds of 15 s
#   scripts/bench.sh --rounds 1 --seconds 5     # a quick look
#   TOWLINE=./towline-old scripts/bench.sh      # another build of the program
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-mariadb.sh mariadb sysbench
towline=${TOWLINE:-}
if [ -z "$towline" ]; then
    cargo build --release --locked
    towline=target/release/towline
fi

folder=$(mktemp -d)
node=
stop() {
    if [ -n "$node" ]; then kill "$node" 2> /dev/null || true; wait "$node" 2> /dev/null || true; fi
    rm -rf "$folder"
}
trap stop EXIT

# The data fits in memory, so that the server is fast and what is in front of it shows.
port=$((20000 + RANDOM % 10000))
cat > "$folder/config.toml" << CONFIG
[master.mysql]
data_dir = "data"
port = $port
args = ["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=512M"]
[master.mysql_front]
listen = "127.0.0.1:0"
[master.http]
listen = "127.0.0.1:0"
[master.log]
level = "warn"
CONFIG
mkfifo "$folder/ready"
"$towline" run --config "$folder/config.toml" --role master > "$folder/ready" 2> "$folder/node.log" &
node=$!
exec 3< "$folder/ready"
read -r ready <&3 || { cat "$folder/node.log" >&2; exit 1; }
front=$(sed -E 's/.*"mysql_front":"([^"]+)".*/\1/' <<< "$ready")

mariadb --defaults-file="$folder/data/client.cnf" << 'SQL'
CREATE DATABASE sbtest;
CREATE USER sb@'%' IDENTIFIED BY 'sb';
GRANT ALL ON sbtest.* TO sb@'%';
SQL
server=$(cat "$folder/data/mariadb/mariadbd.pid")
raw="$folder/raw.tsv"
scripts/sysbench-compare.sh --prepare --server-pid "$server" --pid towline="$node" --raw "$raw" "$@" \
    direct=127.0.0.1:"$port" towline="$front"

# A transaction is 1 query in point select, 20 in read-write and 6 in write-only: the node's cost is told per query too.
echo
echo "| workload | threads | ps-mode | Towline's CPU per query, median, us | rounds |"
echo "|---|---:|---|---:|---:|"
awk -F'\t' '$3 == "towline" && $8 != "-" && $5 > 0 { print $2 "\t" $8 * $4 / $5 }' "$raw" | sort -t"$(printf '\t')" -k1,1 -k2,2n |
    awk -F'\t' '
        function tell() { if (n) { split(cell, p, ":"); printf "| %s | %s | %s | %.1f | %d |\n", p[1], p[2], p[3], v[int((n + 1) / 2)], n } }
        $1 != cell { tell(); cell = $1; n = 0 }
        { v[++n] = $2 }
        END { tell() }'
