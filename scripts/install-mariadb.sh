#!/bin/sh
# Installs what is missing of MariaDB: `mariadbd`, which a node's private server needs, and what the arguments name:
# `mariadb` (the client), `curl` and `mariadb-test-data` (the server's own test suites) for tests, `haproxy` and `python3`
# for the benches, `sysbench` for both. Starts no service; does nothing when all is there.
set -eu

PATH="$PATH:/usr/sbin:/usr/local/sbin:/usr/libexec"
wanted=
for program in mariadbd "$@"; do
    [ "$program" = mariadb-test-data ] && [ -d /usr/share/mysql/mysql-test/suite ] && continue
    command -v "$program" > /dev/null && continue
    case $program in
        mariadbd) wanted="$wanted mariadb-server-core" ;;
        mariadb) wanted="$wanted mariadb-client-core" ;;
        curl | sysbench | haproxy | python3 | mariadb-test-data) wanted="$wanted $program" ;;
        *) echo "usage: $0 [mariadb] [curl] [mariadb-test-data] [sysbench] [haproxy] [python3]" >&2; exit 2 ;;
    esac
done
[ -n "$wanted" ] || exit 0

if ! command -v apt-get > /dev/null; then
    echo "missing here are Debian's packages$wanted: install what holds the same programs on this system" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "run as root: apt-get install --no-install-recommends$wanted" >&2; exit 1; }
    sudo=sudo
fi
echo "installing$wanted" >&2
$sudo apt-get update -q
# shellcheck disable=SC2086 # several packages
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $wanted
