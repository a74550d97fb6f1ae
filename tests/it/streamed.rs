//! Transactions that are too long for memory: applied as one, once, whatever breaks in the middle.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::Role;

use crate::support::{FaultProxy, TestCluster, TestNode, eventually};

/// All below is longer, but for single small rows.
const LIMIT: &str = "transaction_buffer_bytes_max = 65536";

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

const TABLES: [&str; 5] = [
    "CREATE DATABASE shop",
    "USE shop",
    "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(2000), n INT)",
    "CREATE TABLE shop.short (id INT)",
    "CREATE TABLE shop.keyless (id INT, picture LONGBLOB)",
];
/// 3,000 rows of some 500 bytes.
const FILL: &str = "INSERT INTO shop.item SELECT seq, REPEAT('x', 500), seq FROM seq_1_to_3000";

#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_arrive_among_short_ones() {
    let cluster = TestCluster::start_with(2, LIMIT).await;
    let mut client = cluster.master().await;
    let mut other = cluster.master().await;
    run(&mut client, &TABLES).await;
    run(
        &mut client,
        &[
            FILL,
            "UPDATE shop.item SET n = n + 1",
            "BEGIN",
            "INSERT INTO shop.keyless SELECT seq, REPEAT('k', 300) FROM seq_1_to_1000",
            "DELETE FROM shop.item WHERE id % 3 = 0",
            "UPDATE shop.item JOIN shop.keyless USING (id) SET name = 'both', picture = 'both' WHERE id < 500",
        ],
    )
    .await;
    run(&mut other, &["INSERT INTO shop.short VALUES (1)"]).await;
    run(
        &mut client,
        &[
            "COMMIT",
            "INSERT INTO shop.keyless VALUES (0, REPEAT('blob', 5000000))",
            "CREATE TABLE shop.made (PRIMARY KEY (id)) AS SELECT * FROM shop.item",
            "CREATE OR REPLACE TABLE shop.made AS SELECT * FROM shop.item WHERE n > 10",
            "BEGIN",
            FILL.replace("seq, R", "seq + 10000, R").as_str(),
            "ROLLBACK",
            "INSERT INTO shop.item VALUES (-2, 'last', 0)",
        ],
    )
    .await;
    cluster.wait_equal().await;
    let (code, told) = cluster.master.verify().await;
    assert_eq!(code, Some(0), "{told}");
}

/// How many rows a reader finds, and the sum of a column that one long transaction changes.
async fn seen(conn: &mut Conn) -> (u64, u64) {
    conn.query_first("SELECT COUNT(*), IFNULL(SUM(n), 0) FROM shop.item").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_killed_in_the_middle_has_nothing_of_it() {
    let mut cluster = TestCluster::start_with(1, LIMIT).await;
    let mut client = cluster.master().await;
    run(&mut client, &TABLES).await;
    run(&mut client, &[FILL]).await;
    cluster.wait_equal().await;
    let mut reader = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    let before = seen(&mut reader).await;

    // Someone on the slave holds the last of its rows, so the transaction stands in the middle.
    let mut holder = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    run(&mut holder, &["BEGIN", "SELECT * FROM shop.item WHERE id = 3000 FOR UPDATE"]).await;
    let since = updated(&mut reader).await;
    run(&mut client, &["UPDATE shop.item SET n = n + 1000000"]).await;
    wait_for_updates(&mut reader, since).await;
    cluster.slaves[0].kill().await;
    assert_eq!(seen(&mut reader).await, before);
    let since = updated(&mut reader).await;
    cluster.slaves[0].restart().await;
    wait_for_updates(&mut reader, since).await;
    cluster.slaves[0].kill_server();

    // The holder is gone with the server.
    cluster.wait_equal().await;

    // A lock that stays is taken away from who holds it.
    let mut holder = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    run(&mut holder, &["BEGIN", "SELECT * FROM shop.item WHERE id = 3000 FOR UPDATE"]).await;
    run(&mut client, &["UPDATE shop.item SET n = n + 1000000"]).await;
    cluster.wait_equal().await;
    assert!(holder.query_drop("COMMIT").await.is_err(), "its session was to be ended");
}

/// How many rows the server has updated since it started, committed or not.
async fn updated(reader: &mut Conn) -> u64 {
    let row: Option<(String, u64)> = reader.query_first("SHOW GLOBAL STATUS LIKE 'Handler_update'").await.unwrap();
    row.unwrap().1
}

/// Waits until 1,000 rows more than that are updated.
async fn wait_for_updates(reader: &mut Conn, since: u64) {
    eventually("a transaction that has changed rows", async || {
        let updated = updated(reader).await;
        if updated > since + 1000 { Ok(()) } else { Err(updated - since) }
    })
    .await;
}

/// A master and a slave with a network between them that can be cut.
async fn cluster_behind_proxy() -> (TestCluster, FaultProxy) {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let slave = TestNode::start("slave", Role::Slave, secret).await;
    let proxy = FaultProxy::start(slave.http()).await;
    let config = format!("{secret}slaves = [{:?}]\n{LIMIT}", proxy.url());
    let master = TestNode::start("master", Role::Master, &config).await;
    (TestCluster::of(master, vec![slave]).await, proxy)
}

/// The slave would wait half a minute for the rest, which is longer than this test does.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_in_the_middle_does_not_hold_the_slave_up() {
    let (cluster, proxy) = cluster_behind_proxy().await;
    let mut client = cluster.master().await;
    run(&mut client, &TABLES).await;
    cluster.wait_equal().await;
    proxy.leave_after(1_000_000);
    run(&mut client, &[FILL]).await;
    cluster.wait_equal().await;
    assert_eq!(proxy.cuts(), 1, "it was not cut");
    let metrics = reqwest::get(cluster.slaves[0].url("/metrics")).await.unwrap().text().await.unwrap();
    let broke_off = r#"towline_apply_refused_total{refusal="damaged"} 1"#;
    assert!(metrics.lines().any(|line| line == broke_off), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_the_middle_starts_it_again() {
    let (cluster, proxy) = cluster_behind_proxy().await;
    let mut client = cluster.master().await;
    run(&mut client, &TABLES).await;
    cluster.wait_equal().await;
    let mut reader = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    for (cut, rounds) in [(1_000_000, 1_u64), (1_500_000, 2)] {
        proxy.cut_after(cut);
        let statement = if rounds == 1 { FILL } else { "UPDATE shop.item SET n = n + 1000000" };
        let before = seen(&mut reader).await;
        run(&mut client, &[statement]).await;
        let after = seen(&mut client).await;
        eventually("what the master has", async || {
            let now = seen(&mut reader).await;
            assert!(now == before || now == after, "half a transaction: {now:?}");
            if now == after { Ok(()) } else { Err(now) }
        })
        .await;
        assert_eq!(proxy.cuts(), rounds, "it was not cut");
    }
    cluster.wait_equal().await;
}
