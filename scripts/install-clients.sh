#!/usr/bin/env bash
# Puts what `make test-clients` needs under target/clients, each package by its exact version, and installs what is
# missing of Debian's packages: PHP, Perl's driver, Node, the C library that mysqlclient is built against. Does nothing
# that was done before. Fails, and says of what, when a registry can't be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
clients=tests/clients
installed=target/clients
mkdir -p "$installed/node" "$installed/plugins"

wanted=
need() { # package, then a command that succeeds where it is there
    local package=$1
    shift
    "$@" > /dev/null 2>&1 || wanted="$wanted $package"
}
need mariadb-server-core command -v mariadbd
need mariadb-client-core command -v mariadb
need php-cli command -v php
need php-mysql php -r 'exit(extension_loaded("pdo_mysql") && extension_loaded("mysqli") ? 0 : 1);'
need libdbd-mariadb-perl perl -MDBD::MariaDB -e 1
need nodejs command -v node
need npm command -v npm
need python3-venv python3 -c 'import ensurepip, venv'
need python3-dev python3 -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))'
need libmariadb-dev command -v mariadb_config
need gcc command -v cc
need pkg-config command -v pkg-config
need openssl command -v openssl
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
if [ -n "$wanted" ]; then
    command -v apt-get > /dev/null || { echo "missing here are Debian's packages$wanted" >&2; exit 1; }
    echo "installing$wanted" >&2
    $sudo apt-get update -q
    # shellcheck disable=SC2086 # several packages
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $wanted
fi

# The server's side of ed25519, from the package whose service isn't wanted.
if [ ! -e "$installed/plugins/auth_ed25519.so" ]; then
    package=$(mktemp -d)
    (cd "$package" && { apt-get download -q mariadb-server || { $sudo apt-get update -q && apt-get download -q mariadb-server; }; })
    dpkg-deb --fsys-tarfile "$package"/mariadb-server_*.deb | tar -xO ./usr/lib/mysql/plugin/auth_ed25519.so > "$package/auth_ed25519.so"
    mv "$package/auth_ed25519.so" "$installed/plugins/"
    rm -r "$package"
fi

# The registries and the compiler at once; each writes to a log of its own, shown when it fails.
python() {
    cmp -s "$clients/python/requirements.txt" "$installed/venv/requirements.txt" && return
    python3 -m venv --clear "$installed/venv"
    "$installed/venv/bin/pip" install --disable-pip-version-check --no-deps --requirement "$clients/python/requirements.txt"
    cp "$clients/python/requirements.txt" "$installed/venv/"
}
node() {
    cmp -s "$clients/node/package-lock.json" "$installed/node/package-lock.json" && [ -d "$installed/node/node_modules" ] && return
    cp "$clients/node/package.json" "$clients/node/package-lock.json" "$installed/node/"
    npm --prefix "$installed/node" ci --no-audit --no-fund --ignore-scripts
}
rust() {
    cargo build --locked --manifest-path "$clients/rust/Cargo.toml" --target-dir "$installed/rust"
}
declare -A running
for registry in python node rust; do
    (set -e; "$registry") > "$installed/$registry.log" 2>&1 &
    running[$registry]=$!
done
failed=
for registry in python node rust; do
    wait "${running[$registry]}" || { failed=1; echo "the $registry clients can't be installed:" >&2; tail -n 30 "$installed/$registry.log" >&2; }
done
[ -z "$failed" ]
