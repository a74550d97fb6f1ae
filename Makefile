.PHONY: demo test corpus check fix bench

# A master and two slaves on this machine, each with a private MariaDB. `make demo ARGS=--once` ends by itself.
demo:
	scripts/install-mariadb.sh
	cargo run --locked -- demo $(ARGS)

# Every test, against real servers.
test:
	scripts/install-mariadb.sh mariadb curl
	cargo test --workspace --locked

# Whether what is called a read reads: MariaDB's own test suites, judged by scratch servers. Takes minutes.
corpus:
	scripts/install-mariadb.sh mariadb-test-data
	cargo test --locked --test it -- --ignored --nocapture corpus::

# What CI checks besides the tests; writes nothing.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Formats, and mends what clippy can mend.
fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Point select, read-write and write-only through Towline and directly, in turns, with CPU time per query.
bench:
	scripts/bench.sh
