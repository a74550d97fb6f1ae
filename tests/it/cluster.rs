//! A whole cluster: what a client writes on the master is on every slave, whatever breaks.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use mysql_async::{Conn, Opts, TxOpts, prelude::Queryable};
use tokio::{task::JoinHandle, time::sleep};

use crate::support::{CLIENT, TestCluster, eventually};

/// How many clients write at once while things break.
const WRITERS: u64 = 4;
/// How many transactions must have gone through before and after each break.
const STRETCH: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn the_slaves_follow_the_master() {
    let mut cluster = TestCluster::start(2).await;
    let mut client = cluster.master().await;
    client.query_drop("CREATE DATABASE shop").await.unwrap();
    client.query_drop("CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40), n INT)").await.unwrap();
    let rows = (0..1000).map(|id| (id, format!("item {id}"), id % 7));
    client.exec_batch("INSERT INTO shop.item VALUES (?, ?, ?)", rows).await.unwrap();
    client.query_drop("UPDATE shop.item SET n = n + 1 WHERE id % 3 = 0").await.unwrap();
    client.query_drop("DELETE FROM shop.item WHERE id % 10 = 0").await.unwrap();
    client.query_drop("START TRANSACTION").await.unwrap();
    client.query_drop("DELETE FROM shop.item").await.unwrap();
    client.query_drop("ROLLBACK").await.unwrap();
    let checksums = cluster.wait_equal().await;
    assert!(checksums["shop.item"].is_some_and(|checksum| checksum != 0), "{checksums:?}");
    let mut slave = cluster.slave(1).await;
    assert_eq!(slave.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap(), Some(900));
    for node in cluster.slaves.iter_mut().chain([&mut cluster.master]) {
        assert_eq!(node.stop().await, Some(0), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_comes_twice_whatever_is_killed() {
    let mut cluster = TestCluster::start(2).await;
    let mut client = cluster.master().await;
    client.query_drop("CREATE DATABASE shop").await.unwrap();
    // Without a key, so that a row which comes twice stays twice.
    client.query_drop("CREATE TABLE shop.token (writer BIGINT, n BIGINT)").await.unwrap();
    client.query_drop("CREATE TABLE shop.total (writer BIGINT PRIMARY KEY, tokens BIGINT)").await.unwrap();
    let load = Load::start(&cluster).await;

    load.go_on().await;
    cluster.slaves[0].kill().await;
    load.go_on().await;
    cluster.slaves[0].restart().await;
    load.go_on().await;
    cluster.slaves[1].kill_server();
    load.go_on().await;
    cluster.master.kill().await;
    cluster.master.restart().await;
    load.go_on().await;
    cluster.master.kill_server();
    load.go_on().await;

    let acknowledged = load.stop().await;
    cluster.wait_equal().await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    for (writer, acknowledged) in acknowledged {
        let sql = "SELECT n FROM shop.token WHERE writer = ?";
        let written: Vec<u64> = server.exec(sql, (writer,)).await.unwrap();
        let distinct: HashSet<u64> = written.iter().copied().collect();
        assert_eq!(written.len(), distinct.len(), "writer {writer}: a token is there twice");
        let lost: Vec<u64> = acknowledged.into_iter().filter(|n| !distinct.contains(n)).collect();
        assert!(lost.is_empty(), "writer {writer} was told that {lost:?} are committed");
        let total: Option<usize> =
            server.exec_first("SELECT tokens FROM shop.total WHERE writer = ?", (writer,)).await.unwrap();
        assert_eq!(total, Some(written.len()), "writer {writer}: half a transaction");
    }
}

/// Clients that write through the master all the time and note what they were told is committed.
struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<(u64, Vec<u64>)>>,
}

impl Load {
    async fn start(cluster: &TestCluster) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let opts = cluster.master.opts(CLIENT.0, CLIENT.1);
        let writers = (0..WRITERS).map(|writer| {
            let (stop, committed, opts) = (stop.clone(), committed.clone(), opts.clone());
            tokio::spawn(async move { (writer, write(writer, opts, &stop, &committed).await) })
        });
        Self { writers: writers.collect(), stop, committed }
    }

    /// Waits until so many more transactions have been committed.
    async fn go_on(&self) {
        let wanted = self.committed.load(SeqCst) + STRETCH;
        eventually("transactions that go through", async || {
            let committed = self.committed.load(SeqCst);
            if committed >= wanted { Ok(()) } else { Err(format!("{committed} of {wanted}")) }
        })
        .await;
    }

    /// Each writer with the tokens that it was told are committed.
    async fn stop(self) -> Vec<(u64, Vec<u64>)> {
        self.stop.store(true, SeqCst);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.push(writer.await.unwrap());
        }
        acknowledged
    }
}

async fn write(writer: u64, opts: Opts, stop: &AtomicBool, committed: &AtomicU64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut tokens = 0_u64..;
    while !stop.load(SeqCst) {
        let Ok(mut connection) = Conn::new(opts.clone()).await else {
            // The node or its server is being started again.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        for token in tokens.by_ref() {
            match write_one(&mut connection, writer, token).await {
                Ok(()) => acknowledged.push(token),
                // Committed or not: nobody was told.
                Err(_) => break,
            }
            committed.fetch_add(1, SeqCst);
            if stop.load(SeqCst) {
                break;
            }
        }
    }
    acknowledged
}

async fn write_one(connection: &mut Conn, writer: u64, token: u64) -> Result<(), mysql_async::Error> {
    let mut transaction = connection.start_transaction(TxOpts::default()).await?;
    transaction.exec_drop("INSERT INTO shop.token VALUES (?, ?)", (writer, token)).await?;
    let count = "INSERT INTO shop.total VALUES (?, 1) ON DUPLICATE KEY UPDATE tokens = tokens + 1";
    transaction.exec_drop(count, (writer,)).await?;
    transaction.commit().await
}
