//! A node that dies between two steps, at every place where it can.

use mysql_async::{Conn, prelude::Queryable};
use towline::fail_point::FailPoint;
use towline_middleware::Role;

use crate::support::{TestCluster, TestNode, eventually};

/// Rows, schema changes, both in one, and a transaction that is streamed in several pieces; no two of these kinds are
/// applied as one.
const STATEMENTS: [&str; 6] = [
    "INSERT INTO shop.t VALUES (NULL, 'a'), (NULL, 'b')",
    "ALTER TABLE shop.t ADD COLUMN n INT DEFAULT 7",
    "CREATE OR REPLACE TABLE shop.copy AS SELECT * FROM shop.t",
    "INSERT INTO shop.t (s) SELECT REPEAT(UUID(), 5) FROM shop.seq_1_to_10000",
    "ALTER TABLE shop.t DROP COLUMN n",
    "TRUNCATE TABLE shop.t",
];
const SMALL: &str = "[cluster]\nsecret = 'a secret of the tests'\ntransaction_buffer_bytes_max = 65536\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_that_dies_between_two_steps_goes_on_where_it_was() {
    // Each time in another kind of transaction.
    walk(false, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_between_two_steps_goes_on_where_it_was() {
    walk(true, 2).await;
}

/// Lets a node die at each point when it has passed it so often, up to that number of times; every second time its server
/// dies, too.
async fn walk(masters: bool, passages: u32) {
    let mut slave = TestNode::start("slave", Role::Slave, SMALL).await;
    slave.kill().await;
    slave.set_fail_point(Some((FailPoint::Joined, 1)));
    slave.restart().await;
    let config = format!("{SMALL}slaves = [{:?}]\n", slave.url(""));
    let master = TestNode::start("master", Role::Master, &config).await;
    slave.ended().await;
    slave.set_fail_point(None);
    slave.restart().await;
    let mut cluster = TestCluster::of(master, vec![slave]).await;
    for statement in ["CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, s TEXT)"] {
        run(&cluster, statement).await;
    }
    // The last one is of snapshots.
    let points = FailPoint::ALL.into_iter().filter(|point| !matches!(point, FailPoint::Joined | FailPoint::StoodIn));
    for point in points.filter(|point| point.is_masters() == masters) {
        for passage in 1..=passages {
            cluster.wait_equal().await;
            let node = if masters { &mut cluster.master } else { &mut cluster.slaves[0] };
            node.restart_to_die(point, passage).await;
            if matches!(point, FailPoint::Captured | FailPoint::Noted) {
                // What comes before it begins is never captured: the slave gets it from the binlog.
                eventually("a master that captures", async || match reqwest::get(node.url("/readyz")).await {
                    Ok(answer) if answer.status().is_success() => Ok(()),
                    // It has died already: there was something to capture.
                    Err(error) if error.is_connect() => Ok(()),
                    answer => Err(answer),
                })
                .await;
            }
            for statement in STATEMENTS {
                run(&cluster, statement).await;
            }
            let node = if masters { &mut cluster.master } else { &mut cluster.slaves[0] };
            node.ended().await;
            if passage % 2 == 0 {
                node.kill_server();
            }
            node.set_fail_point(None);
            node.restart().await;
        }
    }
    cluster.wait_equal().await;
}

/// Runs a statement on the master's server, past the node.
async fn run(cluster: &TestCluster, statement: &str) {
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    server.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    server.disconnect().await.unwrap();
}
