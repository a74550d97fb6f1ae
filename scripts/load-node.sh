# Sourced by bench.sh and soak.sh: a master node in front of a private MariaDB with data that fits in memory.
#
#   start_node LIMITS ARG…     $folder, $node (its pid), $front and $http (HOST:PORT), $server (MariaDB's pid), $port (MariaDB's)
#
# LIMITS are lines of [master.limits], the ARGs more options of `mariadbd`. TOWLINE names another build of the program.
# shellcheck shell=bash disable=SC2034

folder=$(mktemp -d)
node=
stop_node() {
    if [ -n "$node" ]; then kill "$node" 2> /dev/null || true; wait "$node" 2> /dev/null || true; fi
    rm -rf "$folder"
}

start_node() {
    local limits=$1 argument args='"--innodb-buffer-pool-size=512M", "--innodb-log-file-size=512M"'
    shift
    for argument in "$@"; do args+=", \"$argument\""; done
    port=$((20000 + RANDOM % 10000))
    cat > "$folder/config.toml" << CONFIG
[master.mysql]
data_dir = "data"
port = $port
args = [$args]
[master.mysql_front]
listen = "127.0.0.1:0"
[master.http]
listen = "127.0.0.1:0"
[master.log]
level = "warn"
[master.limits]
$limits
CONFIG
    local towline=${TOWLINE:-}
    if [ -z "$towline" ]; then
        cargo build --release --locked
        towline=target/release/towline
    fi
    mkfifo "$folder/ready"
    "$towline" run --config "$folder/config.toml" --role master > "$folder/ready" 2> "$folder/node.log" &
    node=$!
    exec 3< "$folder/ready"
    local ready
    read -r ready <&3 || { cat "$folder/node.log" >&2; exit 1; }
    front=$(sed -E 's/.*"mysql_front":"([^"]+)".*/\1/' <<< "$ready")
    http=$(sed -E 's/.*"http":"([^"]+)".*/\1/' <<< "$ready")
    mariadb --defaults-file="$folder/data/client.cnf" << 'SQL'
CREATE DATABASE sbtest;
CREATE USER sb@'%' IDENTIFIED BY 'sb';
CREATE USER open@'%';
GRANT ALL ON sbtest.* TO sb@'%';
SQL
    server=$(cat "$folder/data/mariadb/mariadbd.pid")
}
