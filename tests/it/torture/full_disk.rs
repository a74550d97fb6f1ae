//! A server whose disk is full for a while.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};
use tokio::time::timeout;
use towline_middleware::Role;

use crate::support::{CLIENT, SmallDisk, TestCluster, TestNode, checksums, eventually};

const SECRET: &str = "[cluster]\nsecret = 'a secret of the tests'\npush_timeout_ms = 1000\n";
/// What an empty server needs, and some more.
const MEGABYTES: u32 = 200;

/// A master and two slaves, of which the master's server or the first slave's is on a small disk; none where there can't
/// be one.
async fn cluster(master_is_small: bool) -> Option<TestCluster> {
    let mut mounted = false;
    let mut disk = |is_small: bool, path: &std::path::Path| {
        let disk = is_small.then(|| SmallDisk::mount(path, MEGABYTES))?;
        mounted = disk.is_some();
        disk
    };
    let first = TestNode::start_on("slave-1", Role::Slave, SECRET, |path| disk(!master_is_small, path)).await;
    let second = TestNode::start("slave-2", Role::Slave, SECRET).await;
    let config = format!("{SECRET}slaves = [{:?}, {:?}]\n", first.url(""), second.url(""));
    let master = TestNode::start_on("master", Role::Master, &config, |path| disk(master_is_small, path)).await;
    if !mounted {
        return None;
    }
    let cluster = TestCluster::of(master, vec![first, second]).await;
    let mut client = cluster.master().await;
    client.query_drop("CREATE DATABASE shop").await.unwrap();
    client.query_drop("CREATE TABLE shop.t (id INT PRIMARY KEY, filling LONGBLOB)").await.unwrap();
    cluster.wait_equal().await;
    Some(cluster)
}

fn megabyte(id: u32) -> String {
    format!("INSERT INTO shop.t VALUES ({id}, REPEAT(RANDOM_BYTES(1024), 1024))")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_without_room_goes_on_when_there_is_some_and_the_others_do_not_wait() {
    let Some(cluster) = cluster(false).await else { return };
    let [full, other] = &cluster.slaves[..] else { panic!("two slaves") };
    full.fill_disk();
    let mut client = cluster.master().await;
    for id in 0..20 {
        client.query_drop(megabyte(id)).await.unwrap();
    }
    let master = checksums(&cluster.master).await.unwrap();
    eventually("the other slave", async || match checksums(other).await.unwrap() {
        found if found == master => Ok(()),
        found => Err(found),
    })
    .await;
    let found: Option<u64> =
        Conn::new(full.server_opts()).await.unwrap().query_first("SELECT COUNT(*) FROM shop.t").await.unwrap();
    assert!(found.is_some_and(|found| found < 20), "its disk was not full");
    full.clear_disk();
    // By itself the server looks for room once a minute only.
    full.kill_server();
    cluster.wait_equal().await;
}

/// MariaDB has them in its binlog before they are in its tables for accounts, which are not InnoDB's.
#[tokio::test(flavor = "multi_thread")]
async fn a_slave_without_room_loses_no_statement_on_accounts() {
    let Some(cluster) = cluster(false).await else { return };
    let full = &cluster.slaves[0];
    let mut client = Conn::new(cluster.master.server_opts()).await.unwrap();
    let people = async |node: &TestNode| {
        let mut server = Conn::new(node.server_opts()).await?;
        server.query::<String, _>("SELECT user FROM mysql.global_priv WHERE user LIKE 'keeper%' ORDER BY 1").await
    };
    for round in 0..4 {
        full.fill_disk();
        for number in 0..60 {
            client.query_drop(format!("CREATE USER keeper{round}_{number}")).await.unwrap();
        }
        eventually("a slave that waits for room", async || {
            let status = cluster.master.status().await;
            let slaves = status["slaves"].as_array().unwrap();
            if slaves.iter().any(|slave| slave["state"] == "away") { Ok(()) } else { Err(status) }
        })
        .await;
        full.clear_disk();
        full.kill_server();
        let expected = people(&cluster.master).await.unwrap();
        eventually("the accounts on the slave", async || match people(full).await {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(format!("the master has {expected:?}, the slave {found:?}")),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_room_loses_nothing_that_it_has_acknowledged() {
    let Some(cluster) = cluster(true).await else { return };
    let mut client = cluster.master().await;
    let mut acknowledged = Vec::new();
    for id in 0..5 {
        client.query_drop(megabyte(id)).await.unwrap();
        acknowledged.push(id);
    }
    cluster.master.fill_disk();
    for id in 5..25 {
        match timeout(Duration::from_secs(1), client.query_drop(megabyte(id))).await {
            Ok(Ok(())) => acknowledged.push(id),
            Ok(Err(_)) => {}
            // The server waits for room, and this session with it.
            Err(_) => break,
        }
    }
    assert!(acknowledged.len() < 25, "its disk was not full");
    cluster.master.clear_disk();
    cluster.master.kill_server();
    let mut client = eventually("the master", async || cluster.master.connect(CLIENT.0, CLIENT.1).await).await;
    client.query_drop(megabyte(25)).await.unwrap();
    acknowledged.push(25);
    cluster.wait_equal().await;
    let whole: Vec<u32> = client.query("SELECT id FROM shop.t WHERE LENGTH(filling) = 1 << 20").await.unwrap();
    for id in &acknowledged {
        assert!(whole.contains(id), "{acknowledged:?} were acknowledged, {whole:?} are there");
    }
}
