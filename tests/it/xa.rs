//! XA transactions in two phases: slaves get them where they are committed, whatever comes between.

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::time::timeout;
use towline::{
    capture::{Capture, CaptureError, CaptureOptions, Rereading},
    replication::protocol::{Change, Mark, Transaction},
};
use towline_middleware::{Epoch, Role};

use crate::{
    capture::DEADLINE,
    snapshot::{forget_history, told},
    support::{Mysql9, TestCluster, TestNode, TestServer, eventually, mysql_node, mysql_server},
};

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Removes the binlog's files but the last.
pub(crate) async fn forget_all_but_last(conn: &mut Conn) {
    eventually("the files are purged", async || {
        let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
        let last: String = files.last().expect("a file").get(0).expect("its name");
        conn.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
        let left: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
        if left.len() == 1 { Ok(()) } else { Err(left.len()) }
    })
    .await;
}

/// Prepares a transaction in a session.
async fn prepare(conn: &mut Conn, xid: &str, sql: &str) {
    let [start, end, prepare] = ["START", "END", "PREPARE"].map(|verb| format!("XA {verb} {xid}"));
    run(conn, &[start.as_str(), sql, end.as_str(), prepare.as_str()]).await;
}

/// Completes a transaction by name. One whose session has just ended may not be free yet.
async fn complete(conn: &mut Conn, sql: &str) {
    eventually("a prepared transaction that is free", async || conn.query_drop(sql).await).await;
}

fn options(opts: &Opts, from: &Mark, transaction_bytes_max: usize) -> CaptureOptions {
    CaptureOptions { opts: opts.clone(), epoch: Epoch(3), from: from.clone(), transaction_bytes_max }
}

/// What was written after a transaction, up to the schema `the_end`. Those above the limit are read a second time.
async fn captured(opts: &Opts, from: &Mark, transaction_bytes_max: usize) -> Result<Vec<Transaction>, CaptureError> {
    let mut options = options(opts, from, transaction_bytes_max);
    let mut capture = Capture::open(&options).await?;
    let mut all = Vec::new();
    loop {
        let captured = timeout(DEADLINE, capture.next()).await.expect("a transaction in time")?;
        let mut transaction = captured.transaction;
        if let Some(streamed) = &captured.streamed {
            assert_eq!(transaction.changes, []);
            let mut changes = Rereading::open(&options, &transaction.gtid, streamed).await?;
            while let Some(change) = timeout(DEADLINE, changes.next()).await.expect("a change in time")? {
                transaction.changes.push(change);
            }
        }
        let has_rows = transaction.changes.iter().any(|change| matches!(change, Change::Rows(_)));
        assert_eq!(captured.format.map_or(0, |format| format.id), transaction.format);
        assert_eq!(transaction.format != 0, has_rows);
        options.from = transaction.mark();
        let ends = matches!(&transaction.changes[..], [Change::Schema(change)] if change.sql.0.ends_with(b"the_end"));
        all.push(transaction);
        if ends {
            return Ok(all);
        }
    }
}

/// The bytes of a transaction's rows.
fn rows(transaction: &Transaction) -> Vec<u8> {
    let events = |change: &Change| match change {
        Change::Rows(rows) => rows.events.0.clone(),
        Change::Schema(_) => Vec::new(),
    };
    transaction.changes.iter().flat_map(events).collect()
}

/// Writes prepared transactions over several binlog files; whoever reads from any place on finds the same. `setup` is
/// run in every session.
async fn every_start_finds_what_was_prepared(opts: Opts, setup: &[&str]) {
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let mut session = Conn::new(opts.clone()).await.unwrap();
        run(&mut session, setup).await;
        sessions.push(session);
    }
    let [first, second, big, other, plain] = &mut sessions[..] else { panic!("five") };
    let longest = format!("'{}','{}',2147483647", "g".repeat(64), "b".repeat(64));
    run(plain, &["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT PRIMARY KEY, s LONGTEXT)"]).await;
    prepare(other, "'reused'", "INSERT INTO shop.t VALUES (0, 'row-0')").await;
    run(other, &["XA COMMIT 'reused'"]).await;
    prepare(first, &longest, "INSERT INTO shop.t VALUES (1, 'row-1')").await;
    run(plain, &["FLUSH BINARY LOGS", "INSERT INTO shop.t VALUES (2, 'row-2')"]).await;
    prepare(second, "X'00ff27',X'',5", "INSERT INTO shop.t VALUES (3, 'row-3')").await;
    // Too long to be kept, and then to be held.
    let long = "INSERT INTO shop.t VALUES (4, REPEAT('x', 3000000)), (5, CONCAT('row-5', REPEAT('y', 3000000)))";
    prepare(big, "'big'", long).await;
    prepare(other, "'reused'", "INSERT INTO shop.t VALUES (6, 'never')").await;
    run(plain, &["FLUSH BINARY LOGS"]).await;
    run(other, &["XA ROLLBACK 'reused'"]).await;
    prepare(other, "'reused'", "INSERT INTO shop.t VALUES (7, 'row-7')").await;
    run(first, &[&format!("XA COMMIT {longest}")]).await;
    let once =
        ["XA START 'one'", "INSERT INTO shop.t VALUES (8, 'row-8')", "XA END 'one'", "XA COMMIT 'one' ONE PHASE"];
    run(first, &once).await;
    run(other, &["XA COMMIT 'reused'"]).await;
    run(plain, &["FLUSH BINARY LOGS", "INSERT INTO shop.t VALUES (9, 'row-9')"]).await;
    run(second, &["XA COMMIT X'00ff27',X'',5"]).await;
    run(big, &["XA COMMIT 'big'"]).await;
    run(plain, &["CREATE DATABASE the_end"]).await;

    let all = captured(&opts, &Mark::default(), 64 << 20).await.unwrap();
    let with_rows: Vec<Vec<u8>> = all.iter().map(rows).filter(|rows| !rows.is_empty()).collect();
    let expected = ["row-0", "row-2", "row-1", "row-8", "row-7", "row-9", "row-3", "row-5"];
    assert_eq!(with_rows.len(), expected.len());
    for (rows, text) in with_rows.iter().zip(expected) {
        assert!(rows.windows(text.len()).any(|window| window == text.as_bytes()), "{text} is not in its place");
    }
    for (n, from) in all.iter().map(Transaction::mark).enumerate().take(all.len() - 1) {
        for limit in [64 << 20, 1 << 20] {
            let found = captured(&opts, &from, limit).await.unwrap_or_else(|error| panic!("after {from:?}: {error}"));
            assert!(found == all[n + 1..], "after {from:?}, held up to {limit} bytes");
        }
    }

    // What is purged can't be found. The server keeps files that a reader may still need.
    let last = all.iter().rposition(|transaction| rows(transaction).windows(5).any(|window| window == b"row-9"));
    let before = all[last.expect("it is there")].mark();
    forget_all_but_last(plain).await;
    let error = captured(&opts, &before, 64 << 20).await.expect_err("it is purged");
    assert!(matches!(error, CaptureError::PrepareGone { .. }) && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("X'00ff27',X'',5") && error.to_string().contains("snapshot"), "{error}");
}

#[tokio::test]
async fn every_start_finds_what_was_prepared_on_mariadb() {
    let compressed = ["--log-bin-compress=ON", "--log-bin-compress-min-len=10"];
    for arguments in [&[][..], &compressed] {
        let server = TestServer::start_with(Role::Master, arguments).await;
        every_start_finds_what_was_prepared(server.opts(), &[]).await;
    }
}

#[tokio::test]
async fn every_start_finds_what_was_prepared_on_mysql() {
    for setup in [&[][..], &["SET SESSION binlog_transaction_compression = ON"]] {
        let Some(server) = Mysql9::start_with(&["--max-connections=2000"]).await else { return };
        every_start_finds_what_was_prepared(server.opts(), setup).await;
    }
}

const SHOP: [&str; 3] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.t (i INT PRIMARY KEY, s LONGTEXT)",
    "INSERT INTO shop.t VALUES (0, '')",
];

async fn count(opts: Opts) -> u64 {
    let mut server = Conn::new(opts).await.unwrap();
    server.query_first("SELECT COUNT(*) FROM shop.t").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slaves_get_what_was_prepared_when_it_is_committed() {
    let options = "ack = 'all'\nack_on_timeout = 'error'\ntransaction_buffer_bytes_max = 65536";
    let mut cluster = TestCluster::start_with(2, options).await;
    let mut plain = cluster.master().await;
    run(&mut plain, &SHOP).await;

    // Nobody sees it before; the OK of each phase waits for the slaves.
    let mut client = cluster.master().await;
    prepare(&mut client, "'seen late'", "INSERT INTO shop.t VALUES (1, 'x')").await;
    run(&mut plain, &["INSERT INTO shop.t VALUES (2, 'x')"]).await;
    for slave in &cluster.slaves {
        assert_eq!(count(slave.server_opts()).await, 2);
    }
    let prepared: Vec<(u32, u32, u32, String)> = plain.query("XA RECOVER").await.unwrap();
    assert_eq!(prepared, [(1, 9, 0, "seen late".to_owned())]);
    run(&mut client, &["XA COMMIT 'seen late'"]).await;
    for slave in &cluster.slaves {
        assert_eq!(count(slave.server_opts()).await, 3);
    }
    let mut slave = cluster.slave(0).await;
    for sql in ["XA START 'a'", "XA COMMIT 'seen late'"] {
        let refused = slave.query_drop(sql).await;
        assert!(matches!(&refused, Err(mysql_async::Error::Server(error)) if error.code == 1290), "{sql}: {refused:?}");
    }
    let none: Vec<mysql_async::Row> = slave.query("XA RECOVER").await.unwrap();
    assert!(none.is_empty());

    // The master's node ends in between, with a long one and a short one; and then its server.
    prepare(&mut client, "'long'", "INSERT INTO shop.t SELECT seq, REPEAT('l', 500) FROM shop.seq_1000_to_3000").await;
    prepare(&mut plain, "'short'", "INSERT INTO shop.t VALUES (3, 'x')").await;
    cluster.master.kill().await;
    cluster.master.restart().await;
    let mut client = cluster.master().await;
    complete(&mut client, "XA COMMIT 'long'").await;
    cluster.wait_equal().await;
    cluster.master.kill_server();
    eventually("the server", async || cluster.master.connect("app", "app").await.map(drop)).await;
    let mut client = cluster.master().await;
    complete(&mut client, "XA COMMIT 'short'").await;
    cluster.wait_equal().await;
    assert_eq!(count(cluster.slaves[0].server_opts()).await, 2005);

    // A slave is away for both phases, and memory forgets them.
    assert_eq!(cluster.slaves[0].stop().await, Some(0));
    cluster.master.set("cluster", "ack", "none");
    assert_eq!(cluster.master.stop().await, Some(0));
    cluster.master.restart().await;
    let (mut client, mut plain) = (cluster.master().await, cluster.master().await);
    prepare(&mut client, "'first'", "INSERT INTO shop.t SELECT seq, REPEAT('l', 500) FROM shop.seq_4000_to_5000").await;
    prepare(&mut plain, "'second'", "INSERT INTO shop.t VALUES (6, 'x')").await;
    run(&mut plain, &["XA COMMIT 'second'", "INSERT INTO shop.t VALUES (7, 'x')"]).await;
    run(&mut client, &["XA COMMIT 'first'"]).await;
    assert_eq!(cluster.master.stop().await, Some(0));
    cluster.master.restart().await;
    cluster.slaves[0].restart().await;
    cluster.wait_equal().await;
    let (code, told) = cluster.master.verify().await;
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_slave_gets_what_was_prepared_before_its_snapshot_unless_it_is_purged() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let config = format!("{secret}master = {:?}", master.url(""));
    let mut cluster = TestCluster::of(master, Vec::new()).await;
    let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &SHOP).await;
    // So that it needs a snapshot.
    forget_history(&mut administrator).await;
    let (mut first, mut second) = (cluster.master().await, cluster.master().await);
    prepare(&mut first, "'in time'", "INSERT INTO shop.t VALUES (1, 'x')").await;
    prepare(&mut second, "'too late'", "INSERT INTO shop.t VALUES (2, 'x')").await;
    cluster.slaves.push(TestNode::start("slave", Role::Slave, &config).await);
    told(&cluster.slaves[0], "ready\n").await;
    cluster.wait_equal().await;
    assert_eq!(count(cluster.slaves[0].server_opts()).await, 1);
    assert!(cluster.slaves[0].log().contains("is whole"), "{}", cluster.slaves[0].log());
    run(&mut first, &["XA COMMIT 'in time'"]).await;
    cluster.wait_equal().await;

    // The new process has not seen it, and the binlog no longer holds it.
    cluster.master.kill().await;
    forget_history(&mut administrator).await;
    cluster.master.restart().await;
    complete(&mut administrator, "XA COMMIT 'too late'").await;
    told(&cluster.slaves[0], "cluster.resnapshot").await;
    assert_eq!(count(cluster.slaves[0].server_opts()).await, 2, "it stays where it is");
    assert!(cluster.master.log().contains("does not hold: "), "{}", cluster.master.log());
    assert_eq!(cluster.slaves[0].stop().await, Some(0));
    cluster.slaves[0].set("cluster", "resnapshot", true);
    cluster.slaves[0].restart().await;
    run(&mut administrator, &["INSERT INTO shop.t VALUES (3, 'x')"]).await;
    cluster.wait_equal().await;
    assert_eq!(count(cluster.slaves[0].server_opts()).await, 4);
}

/// Prepares transactions and ends them in this way, until the master's server has died and has one prepared again.
async fn lose_end(cluster: &TestCluster, end: &str, rows: std::ops::Range<u32>) -> String {
    for row in rows {
        let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
        run(&mut administrator, &["SET GLOBAL innodb_flush_log_at_trx_commit = 1"]).await;
        prepare(&mut administrator, &format!("'{row}'"), &format!("INSERT INTO shop.t VALUES ({row}, 'x')")).await;
        run(&mut administrator, &["SET GLOBAL innodb_flush_log_at_trx_commit = 0", &format!("{end} '{row}'")]).await;
        cluster.master.kill_server();
        eventually("the server", async || cluster.master.connect("app", "app").await.map(drop)).await;
        let left: Option<(u32, u32, u32, String)> = cluster.master().await.query_first("XA RECOVER").await.unwrap();
        if let Some((.., left)) = left {
            return left;
        }
    }
    panic!("nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_master_s_server_loses_of_an_end_no_slave_keeps() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let config = format!("{secret}master = {:?}\nresnapshot = true", master.url(""));
    let slave = TestNode::start("slave", Role::Slave, &config).await;
    let cluster = TestCluster::of(master, vec![slave]).await;
    run(&mut cluster.master().await, &SHOP).await;

    // The first time nobody has anything of it yet, then the slave has it and needs a snapshot.
    let ends = [("XA ROLLBACK", "XA COMMIT"), ("XA COMMIT", "XA COMMIT"), ("XA COMMIT", "XA ROLLBACK")];
    for ((lost, end), first) in ends.into_iter().zip([100, 200, 300]) {
        let xid = lose_end(&cluster, lost, first + 1..first + 100).await;
        let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
        complete(&mut administrator, &format!("{end} '{xid}'")).await;
        run(&mut administrator, &[&format!("INSERT INTO shop.t VALUES ({first}, 'x')")]).await;
        cluster.wait_equal().await;
        let log = cluster.master.log();
        assert_eq!(log.contains("committed before"), lost == "XA COMMIT", "{lost}, {end}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mysql_too_what_was_prepared_outlives_nodes_and_the_server() {
    let options = ["--max-allowed-packet=1G"];
    let Some(first) = mysql_server(&options).await else { return };
    let Some(second) = mysql_server(&options).await else { return };
    let mut slave = mysql_node(&second, Role::Slave, "").await;
    let cluster = format!(
        "slaves = [{:?}]\ntransaction_buffer_bytes_max = 65536\nack = 'all'\nack_on_timeout = 'error'",
        slave.url("")
    );
    let mut master = mysql_node(&first, Role::Master, &cluster).await;
    first.run(&SHOP).await;
    // The OK of each phase waits for the slave.
    first.run(&["CREATE USER app@'%' IDENTIFIED BY 'app'", "GRANT ALL ON *.* TO app@'%'"]).await;
    let (mut client, mut other) =
        (master.connect("app", "app").await.unwrap(), master.connect("app", "app").await.unwrap());
    for (xid, before, after) in [("'own'", 1, 2), ("'another session''s'", 2, 3)] {
        prepare(&mut client, xid, &format!("INSERT INTO shop.t VALUES ({after}, 'x')")).await;
        assert_eq!(count(second.opts()).await, before);
        let committing = if after == 2 { &mut client } else { &mut other };
        run(committing, &[&format!("XA COMMIT {xid}")]).await;
        assert_eq!(count(second.opts()).await, after);
    }
    let (mut long, mut short) = (first.connect().await, first.connect().await);
    let mut lasting = first.connect().await;
    prepare(&mut lasting, "'lasting'", "INSERT INTO shop.t VALUES (4, 'x')").await;
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1900)";
    prepare(&mut long, "'long'", &format!("INSERT INTO shop.t {rows} SELECT i, REPEAT('l', 500) FROM n")).await;
    prepare(&mut short, "'short'", "INSERT INTO shop.t VALUES (5, 'x')").await;
    master.kill().await;
    master.restart().await;
    run(&mut long, &["XA COMMIT 'long'"]).await;
    eventually("the long one", async || match count(second.opts()).await {
        904 => Ok(()),
        rows => Err((rows, slave.log(), master.log())),
    })
    .await;
    assert_eq!(slave.stop().await, Some(0));
    run(&mut short, &["XA COMMIT 'short'"]).await;
    let mut third = first.connect().await;
    prepare(&mut third, "'third'", "DELETE FROM shop.t WHERE i > 1800").await;
    run(&mut third, &["XA COMMIT 'third'"]).await;
    master.kill().await;
    master.restart().await;
    slave.restart().await;
    eventually("what was written while it was away", async || match count(second.opts()).await {
        805 => Ok(()),
        rows => Err((rows, slave.log(), master.log())),
    })
    .await;
    first.crash();
    eventually("the server", async || {
        let mut conn = Conn::new(first.opts()).await?;
        conn.query_drop("XA COMMIT 'lasting'").await
    })
    .await;
    eventually("what outlived the server", async || match count(second.opts()).await {
        806 => Ok(()),
        rows => Err((rows, slave.log(), master.log())),
    })
    .await;
    let (code, told) = master.verify().await;
    assert_eq!(code, Some(0), "{told}");
}
