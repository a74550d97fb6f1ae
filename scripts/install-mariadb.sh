#!/bin/sh
# Installs the MariaDB programs that are missing: mariadbd for a private server, and with `client` also the client that
# tests and benches use. Starts no service. Needs apt-get only when something is missing.
set -eu

wanted=
PATH="$PATH:/usr/sbin:/usr/local/sbin:/usr/libexec"
command -v mariadbd > /dev/null || wanted=mariadb-server-core
if [ "${1:-}" = client ]; then
    command -v mariadb > /dev/null || wanted="$wanted mariadb-client-core"
fi
[ -n "$wanted" ] || exit 0

if ! command -v apt-get > /dev/null; then
    echo "towline needs MariaDB 10.6 or later: install the packages that hold:$(printf ' %s' $wanted), then run this again" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "run as root: apt-get install --no-install-recommends $wanted" >&2; exit 1; }
    sudo=sudo
fi
echo "installing $wanted" >&2
# shellcheck disable=SC2086 # several packages, and no sudo for root
{
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $wanted
}
