//! `towline verify` finds what differs, and nothing else, while clients write.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use mysql_async::{Conn, prelude::Queryable};
use rustix::process::{Signal, kill_process};

use crate::support::{CLIENT, TestCluster, eventually};

const SETUP: [&str; 7] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.item (id INT PRIMARY KEY, n INT, s VARCHAR(50), b BLOB) \
     SELECT seq AS id, seq % 7 AS n, CONCAT('item ', seq) AS s, NULL AS b FROM shop.seq_1_to_25000",
    "CREATE TABLE shop.word (language CHAR(2), word VARCHAR(50), PRIMARY KEY (language, word))",
    "INSERT INTO shop.word SELECT 'en', CONCAT('word', seq) FROM shop.seq_1_to_500",
    "CREATE TABLE shop.keyless (n INT, f FLOAT)",
    "INSERT INTO shop.keyless VALUES (1, 0.1), (1, 0.1), (NULL, NULL)",
    "CREATE TABLE shop.big (id BIGINT UNSIGNED PRIMARY KEY) \
     SELECT 18446744073709551615 AS id UNION SELECT seq FROM shop.seq_1_to_12000",
];

#[tokio::test]
async fn a_difference_is_found_and_named_while_clients_write() {
    let cluster = TestCluster::start(2).await;
    let mut master = Conn::new(cluster.master.server_opts()).await.unwrap();
    for sql in SETUP {
        master.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    cluster.wait_equal().await;
    cluster.wait_streaming().await;

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3_u64)
        .map(|writer| {
            let (stop, opts) = (stop.clone(), cluster.master.opts(CLIENT.0, CLIENT.1));
            tokio::spawn(async move {
                let mut conn = Conn::new(opts).await.unwrap();
                while !stop.load(SeqCst) {
                    // Below the row that is spoiled further down: a change brings a whole row, and would mend it.
                    let id = fastrand::u64(1..=17_000);
                    let update = format!("UPDATE shop.item SET n = n + 1, b = RANDOM_BYTES(20) WHERE id = {id}");
                    conn.query_drop(update).await.unwrap();
                    conn.query_drop(format!("INSERT INTO shop.keyless VALUES ({writer}, RAND())")).await.unwrap();
                }
            })
        })
        .collect();
    let (code, told) = cluster.master.verify().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("equal    shop.item: 25000 rows") && told.contains("shop.keyless"), "{told}");

    // Past the node and the binlog: what no replication can see.
    let mut slave = Conn::new(cluster.slaves[1].server_opts()).await.unwrap();
    for sql in [
        "SET sql_log_bin = 0",
        "UPDATE shop.item SET s = 'spoiled' WHERE id = 17003",
        "DELETE FROM shop.word WHERE word = 'word77'",
        "DELETE FROM shop.keyless WHERE n IS NULL LIMIT 1",
        "ALTER TABLE shop.big COMMENT 'changed'",
    ] {
        slave.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let (code, told) = cluster.master.verify().await;
    assert_eq!(code, Some(1), "{told}");
    for says in [
        "DIFFERS  shop.item",
        "key 17003",
        "key en, word77",
        "500 rows on the master, 499 on the slave",
        "DIFFERS  shop.keyless",
        "the table is defined otherwise",
        ": 4 of 4 tables differ",
        ": 0 of 4 tables differ",
    ] {
        assert!(told.contains(says), "{says} is not in\n{told}");
    }
    stop.store(true, SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let metrics = reqwest::get(cluster.master.url("/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("towline_slave_differing_tables{slave="), "{metrics}");
}

#[tokio::test]
async fn the_background_check_stops_a_slave_that_differs() {
    let cluster = TestCluster::start_with(1, "verify_interval_s = 1\nverify_stops_slave = true").await;
    let mut master = cluster.master().await;
    master.query_drop("CREATE DATABASE test").await.unwrap();
    master.query_drop("CREATE TABLE test.t (id INT PRIMARY KEY)").await.unwrap();
    master.query_drop("INSERT INTO test.t VALUES (1)").await.unwrap();
    cluster.wait_equal().await;
    cluster.wait_streaming().await;
    let mut slave = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    slave.query_drop("SET sql_log_bin = 0").await.unwrap();
    slave.query_drop("DELETE FROM test.t").await.unwrap();
    let state = async || cluster.master.status().await["slaves"][0].clone();
    eventually("a slave that is paused", async || {
        let slave = state().await;
        if slave["state"] == "paused" { Ok(()) } else { Err(slave) }
    })
    .await;
    slave.query_drop("INSERT INTO test.t VALUES (1)").await.unwrap();
    let id = state().await["id"].as_str().unwrap().to_owned();
    let resume = cluster.master.admin(&format!("/admin/slaves/resume?id={id}")).send().await.unwrap();
    assert!(resume.status().is_success(), "{resume:?}");
    master.query_drop("INSERT INTO test.t VALUES (2)").await.unwrap();
    cluster.wait_equal().await;
}

#[tokio::test]
async fn a_slave_that_stands_still_is_left_out_and_keeps_no_other_waiting() {
    let cluster = TestCluster::start(2).await;
    let mut master = cluster.master().await;
    master.query_drop("CREATE DATABASE test").await.unwrap();
    master.query_drop("CREATE TABLE test.t (id INT PRIMARY KEY)").await.unwrap();
    cluster.wait_equal().await;
    cluster.wait_streaming().await;
    let [running, frozen] = &cluster.slaves[..] else { unreachable!("two were started") };
    kill_process(frozen.pid(), Signal::STOP).unwrap();

    let verified = AtomicBool::new(false);
    let verify = async {
        let told = cluster.master.verify().await;
        verified.store(true, SeqCst);
        told
    };
    let write = async {
        let mut slave = Conn::new(running.server_opts()).await.unwrap();
        let mut id = 0;
        while !verified.load(SeqCst) {
            id += 1;
            master.exec_drop("INSERT INTO test.t VALUES (?)", (id,)).await.unwrap();
            eventually("the row on the slave that runs", async || {
                let last: Option<Option<u32>> = slave.query_first("SELECT MAX(id) FROM test.t").await.unwrap();
                if last == Some(Some(id)) { Ok(()) } else { Err(last) }
            })
            .await;
        }
    };
    let ((code, told), ()) = tokio::join!(verify, write);
    kill_process(frozen.pid(), Signal::CONT).unwrap();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("NOT COMPARED") && told.contains("no answer within"), "{told}");
    assert!(told.contains("equal    test.t") && told.contains(": 0 of 1 tables differ"), "{told}");
    cluster.wait_equal().await;
}
