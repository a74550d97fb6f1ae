.PHONY: demo test torture snapshot test-clients corpus check fix bench bench-replication soak

# A master and two slaves on this machine, each with a private MariaDB. `make demo ARGS=--once` ends by itself.
demo:
	scripts/install-mariadb.sh
	cargo run --locked -- demo $(ARGS)

# Every test, against real servers. The examples are tests of their own.
test: EXAMPLES = no_bulk_delete shout who_asked
test:
	scripts/install-mariadb.sh mariadb curl sysbench
	cargo test --workspace --locked
	for example in $(EXAMPLES); do "$${CARGO_TARGET_DIR:-target}/debug/examples/$$example" || exit 1; done

# A cluster on which everything breaks at once, for each of these seeds: `make torture SEEDS=7 SECONDS=600`.
torture: SEEDS = $(shell seq 20)
torture: SECONDS = 120
torture:
	scripts/install-mariadb.sh mariadb
	for seed in $(SEEDS); do TORTURE_SEED=$$seed TORTURE_SECONDS=$(SECONDS) \
		cargo test --workspace --locked --test it -- --ignored --nocapture torture:: || exit 1; done

# Whether what is called a read reads: MariaDB's own test suites, judged by scratch servers. Takes minutes, and writes
# tests/it/corpus/counts.md.
corpus:
	scripts/install-mariadb.sh mariadb-test-data
	cargo test --locked --test it -- --ignored --nocapture corpus::

# A new slave of a master with 1 GB of data that is written to, cut twice in the middle and killed. Takes minutes.
snapshot:
	scripts/install-mariadb.sh
	SNAPSHOT_MB=1000 TEST_DEADLINE_S=1200 cargo test --locked --test it -- --nocapture a_new_slave_is_whole

# Every client of the README's table, directly at MariaDB and MySQL and through Towline, compared.
test-clients:
	scripts/install-clients.sh
	cargo build --locked
	tests/clients/run $(ARGS)

# What CI checks besides the tests; writes nothing.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Formats, and mends what clippy can mend.
fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Point select, read-write, write-only and long results directly, through HAProxy and through Towline, in turns, with CPU
# time per query.
bench:
	scripts/bench.sh $(ARGS)

# Towline beside the server's own replication: catching up, under load, until a write is visible. 20 minutes on a quiet
# machine; ARGS="--rounds 1" for a look.
bench-replication:
	scripts/install-mariadb.sh sysbench
	cargo bench --locked --bench replication -- $(ARGS)

# Clients in great number, in great haste and of bad manners.
soak:
	scripts/soak.sh $(ARGS)
