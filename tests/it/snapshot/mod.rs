//! A new slave gets its master's data by a snapshot, and follows.

mod leftovers;
mod mysql;
mod source;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use mysql_async::{Conn, prelude::Queryable};
use towline::replication::{
    apply::{Applier, ApplyOptions},
    progress::ApplyState,
    snapshot::SnapshotOptions,
};
use towline_middleware::{Role, layers::admission::AdmissionLayer};

use crate::{
    matrix::contents::{answer, contents},
    support::{CLIENT, FaultProxy, TestCluster, TestNode, TestServer, eventually, http::TestHttp},
};

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Something of each kind, with some rows.
const SHOP: [&str; 34] = [
    "CREATE DATABASE shop CHARACTER SET latin1",
    "USE shop",
    "CREATE TABLE kinds (i INT PRIMARY KEY, a TINYINT, b BIGINT UNSIGNED, f FLOAT, d DOUBLE, n DECIMAL(65,30), bits BIT(13), \
     day DATE, t TIME(6), at DATETIME(3), stamp TIMESTAMP(6) NULL, y YEAR, c CHAR(9), g VARCHAR(99) CHARACTER SET gbk, \
     wide TEXT CHARACTER SET utf16, v VARBINARY(300), e ENUM('x', 'y'), s SET('p', 'q'), j JSON, place GEOMETRY, \
     ip INET6, u UUID, twice INT AS (i * 2), hidden INT INVISIBLE DEFAULT 5)",
    "SET NAMES utf8mb4, sql_mode = 'ALLOW_INVALID_DATES'",
    "INSERT INTO kinds VALUES (1, -1, 18446744073709551615, 1.1, -2.25e300, 12345678901234567890.000000000000000001, \
     b'1010101010101', '0000-00-00', '-838:59:59.999999', '1000-01-01 00:00:00.123', '2038-01-19 03:14:07.999999', 2155, \
     'ö', '中文', 'ünï 😀', X'00275C0A1A22', 'y', 'p,q', '{\"k\": [1, null]}', ST_GeomFromText('LINESTRING(0 0, 1 1)'), \
     '::1', '123e4567-e89b-12d3-a456-426614174000', DEFAULT)",
    "INSERT INTO kinds (i, day, e) VALUES (2, '2026-02-31', ''), (-3, NULL, NULL)",
    "UPDATE kinds SET hidden = 9 WHERE i = 2",
    "CREATE TABLE big (a INT, b INT, s VARCHAR(600), PRIMARY KEY (a, b))",
    "INSERT INTO big SELECT seq % 7, seq, REPEAT('x', 500) FROM seq_1_to_8000",
    "CREATE TABLE keyless (i INT, s VARCHAR(600))",
    "INSERT INTO keyless SELECT seq % 100, REPEAT('k', 500) FROM seq_1_to_4000",
    "CREATE TABLE word (w VARCHAR(20) PRIMARY KEY, parent VARCHAR(20), FOREIGN KEY (parent) REFERENCES word (w))",
    "INSERT INTO word VALUES ('a', 'a'), ('b', 'a'), ('Z', 'b')",
    "CREATE TABLE history (i INT PRIMARY KEY, n INT) WITH SYSTEM VERSIONING",
    "INSERT INTO history VALUES (1, 1), (2, 2)",
    "UPDATE history SET n = 7 WHERE i = 1",
    "DELETE FROM history WHERE i = 2",
    "CREATE TABLE `odd name` (`a b` INT PRIMARY KEY AUTO_INCREMENT)",
    "INSERT INTO `odd name` VALUES (), ()",
    "CREATE TABLE log (i INT, told VARCHAR(20))",
    "CREATE TRIGGER told AFTER INSERT ON log FOR EACH ROW UPDATE word SET parent = 'a' WHERE w = 'Z'",
    "CREATE SEQUENCE number START 5 INCREMENT 3",
    "SELECT NEXTVAL(number), NEXTVAL(number)",
    "CREATE TABLE numbered (i INT DEFAULT (NEXTVAL(number)), n INT)",
    "CREATE FUNCTION half(n INT) RETURNS INT DETERMINISTIC RETURN n / 2",
    "CREATE PROCEDURE fill() INSERT INTO log VALUES (half(4), 'ö')",
    // The first by name needs the second.
    "CREATE VIEW b_view AS SELECT i, half(n) AS h FROM history",
    "CREATE VIEW a_view AS SELECT * FROM b_view",
    "CREATE EVENT later ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM log",
    "CREATE ROLE reader",
    "GRANT SELECT ON shop.* TO reader",
    "CREATE USER teller@'%' IDENTIFIED BY 'tells'",
    "GRANT reader TO teller@'%'",
    "SET DEFAULT ROLE reader FOR teller@'%'",
];

/// What a slave must have in common with its master.
async fn assert_same(master: &TestNode, slave: &TestNode) {
    let mut servers = [Conn::new(master.server_opts()).await.unwrap(), Conn::new(slave.server_opts()).await.unwrap()];
    let [mut expected, mut found] = [BTreeMap::new(), BTreeMap::new()];
    for (server, all) in servers.iter_mut().zip([&mut expected, &mut found]) {
        *all = contents(server, "shop").await;
        // Rows without a key have no order.
        all.remove("SELECT * FROM `keyless` LIMIT 1000");
        // It ends with when the trigger was made there.
        if let Some(trigger) = all.get_mut("SHOW CREATE TRIGGER `told`") {
            trigger.truncate(trigger.rfind(" | ").unwrap());
        }
        for question in ["SHOW GRANTS FOR teller@'%'", "SHOW CREATE USER teller@'%'", HISTORY] {
            all.insert(question.to_owned(), answer(server, question).await);
        }
    }
    for (what, expected) in &expected {
        assert_eq!(found.get(what), Some(expected), "{what}");
    }
    assert_eq!(found.len(), expected.len());
}

const HISTORY: &str = "SELECT i, n, row_start, row_end FROM shop.history FOR SYSTEM_TIME ALL ORDER BY i, row_start";

/// Waits until a node says this of whether it can serve.
pub(crate) async fn told(node: &TestNode, wanted: &str) {
    eventually("an answer of the node's", async || {
        let text = reqwest::get(node.url("/readyz")).await.unwrap().text().await.unwrap();
        if text.contains(wanted) { Ok(()) } else { Err((text, node.log())) }
    })
    .await;
}

/// Removes what the master's binlog holds so far.
pub(crate) async fn forget_history(administrator: &mut Conn) {
    run(administrator, &["FLUSH BINARY LOGS"]).await;
    let files: Vec<(String, u64)> = administrator.query("SHOW BINARY LOGS").await.unwrap();
    let last = &files.last().unwrap().0;
    eventually("old binlogs that are gone", async || {
        let purged = administrator.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await;
        let left: Vec<(String, u64)> = administrator.query("SHOW BINARY LOGS").await.unwrap();
        // The server keeps one while it may need it after a crash, or a reader has it.
        if left.len() == 1 { Ok(()) } else { Err((purged.err().map(|error| error.to_string()), left)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_that_fell_off_the_binlog_says_so_and_fetches_a_new_snapshot_when_told() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let config = format!("{secret}master = {:?}", master.url(""));
    let mut cluster = TestCluster::of(master, Vec::new()).await;
    let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT)"]).await;
    cluster.slaves.push(TestNode::start("slave", Role::Slave, &config).await);
    told(&cluster.slaves[0], "ready\n").await;
    run(&mut administrator, &["INSERT INTO shop.t VALUES (1)"]).await;
    cluster.wait_equal().await;

    assert_eq!(cluster.slaves[0].stop().await, Some(0));
    run(&mut administrator, &["INSERT INTO shop.t VALUES (2)", "CREATE DATABASE later", "DROP TABLE shop.t"]).await;
    run(&mut administrator, &["CREATE TABLE later.t (i INT)", "INSERT INTO later.t VALUES (3)"]).await;
    // What memory holds goes with the process.
    cluster.master.kill().await;
    forget_history(&mut administrator).await;
    cluster.master.restart().await;
    cluster.slaves[0].restart().await;
    told(&cluster.slaves[0], "cluster.resnapshot").await;
    let mut server = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    assert_eq!(server.query_first("SELECT i FROM shop.t").await.unwrap(), Some(1), "it stays where it is");

    // Who has read a table and does nothing more must not hold up what is to replace it.
    run(&mut server, &["BEGIN", "SELECT * FROM shop.t"]).await;
    assert_eq!(cluster.slaves[0].stop().await, Some(0));
    cluster.slaves[0].set("cluster", "resnapshot", true);
    cluster.slaves[0].restart().await;
    let fetched =
        async || if cluster.slaves[0].log().contains("is whole") { Ok(()) } else { Err(cluster.slaves[0].log()) };
    eventually("a new snapshot", fetched).await;
    run(&mut administrator, &["INSERT INTO later.t VALUES (4)"]).await;
    cluster.wait_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_slave_is_whole_however_often_it_is_cut_and_killed() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let mut cluster = TestCluster::of(master, Vec::new()).await;
    let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &SHOP).await;
    // `make snapshot` wants more of it.
    let megabytes: u32 = std::env::var("SNAPSHOT_MB").map_or(0, |megabytes| megabytes.parse().unwrap());
    for n in 0..megabytes / 50 {
        run(
            &mut administrator,
            &[
                &format!("CREATE TABLE shop.large{n} (a INT, b INT, s VARCHAR(1000), PRIMARY KEY (a, b))"),
                &format!("INSERT INTO shop.large{n} SELECT seq % 7, seq, REPEAT(CHAR(65 + seq % 26), 990) FROM seq_1_to_50000"),
            ],
        )
        .await;
    }
    forget_history(&mut administrator).await;

    // Someone writes all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let mut client = cluster.master().await;
    let writer = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut n = 0;
            while !stop.load(SeqCst) {
                n += 1;
                run(
                    &mut client,
                    &[
                        &format!("INSERT INTO shop.big VALUES (99, {n}, 'new')"),
                        "BEGIN",
                        &format!("UPDATE shop.big SET s = 'changed' WHERE a = {} AND b % 50 = {}", n % 7, n % 50),
                        &format!("DELETE FROM shop.keyless WHERE i = {} LIMIT 3", n % 100),
                        &format!("INSERT INTO shop.keyless VALUES ({n}, 'new')"),
                        "COMMIT",
                    ],
                )
                .await;
            }
        }
    });

    let proxy = FaultProxy::start(cluster.master.http()).await;
    // A third of it, each time; in base64.
    let third = i64::from(megabytes) * 400_000;
    proxy.cut_after(2_000_000 + third);
    let config = format!("{secret}master = {:?}", proxy.url());
    let mut slave = TestNode::start("slave", Role::Slave, &config).await;
    let cut = async |cuts| {
        eventually("a cut", async || if proxy.cuts() == cuts { Ok(()) } else { Err(proxy.cuts()) }).await;
    };
    cut(1).await;
    let answer = reqwest::get(slave.url("/readyz")).await.unwrap();
    assert_eq!(answer.status(), 503, "{:?}", answer.text().await);
    proxy.cut_after(1_500_000 + third);
    cut(2).await;
    slave.kill().await;
    slave.restart().await;
    told(&slave, "ready\n").await;
    stop.store(true, SeqCst);
    writer.await.unwrap();
    cluster.slaves.push(slave);
    cluster.wait_equal().await;
    assert_same(&cluster.master, &cluster.slaves[0]).await;
    let mut client = cluster.slave(0).await;
    assert_eq!(client.query_first("SELECT CURRENT_USER()").await.unwrap(), Some(format!("{}@%", CLIENT.0)));

    // What is there now is followed, and not fetched once more.
    run(&mut administrator, &["CALL shop.fill()", "INSERT INTO shop.numbered (n) VALUES (1)"]).await;
    cluster.slaves[0].kill().await;
    cluster.slaves[0].restart().await;
    cluster.wait_equal().await;
    assert_same(&cluster.master, &cluster.slaves[0]).await;
    let log = cluster.slaves[0].log();
    assert!(log.matches("the snapshot is whole").count() <= 1, "{log}");
    let (code, told) = cluster.master.verify().await;
    assert_eq!(code, Some(0), "{told}");
}

fn fetching(server: &TestServer, master: &TestHttp, replace: bool) -> (Applier, AdmissionLayer) {
    let admission = AdmissionLayer::default();
    let master = format!("http://{}", master.addr);
    let snapshot = SnapshotOptions { master, secret: None, replace, again: false, admission: admission.clone() };
    (Applier::start(ApplyOptions { snapshot: Some(snapshot), ..ApplyOptions::new(server.opts()) }), admission)
}

#[tokio::test]
async fn data_of_another_is_replaced_only_when_told() {
    let ((_master, http), server) = tokio::join!(TestHttp::master(), TestServer::start(Role::Slave));
    let mine = ["CREATE DATABASE mine", "CREATE TABLE mine.t (i INT)", "INSERT INTO mine.t VALUES (1)"];
    server.run(&mine).await;
    server.run(&["CREATE USER old@'%'", "CREATE ROLE old_role", "GRANT SELECT ON *.* TO PUBLIC"]).await;
    let (applier, _) = fetching(&server, &http, false);
    eventually("a refusal", async || match applier.progress().state {
        ApplyState::Unavailable { error } if error.contains("`mine`") && error.contains("--replace") => Ok(()),
        state => Err(state),
    })
    .await;
    applier.stop().await;
    let mut conn = server.connect().await;
    assert_eq!(conn.query_first("SELECT i FROM mine.t").await.unwrap(), Some(1));

    let (applier, _) = fetching(&server, &http, true);
    eventually("a slave", async || match applier.progress().state {
        ApplyState::Running => Ok(()),
        state => Err(state),
    })
    .await;
    assert_eq!(conn.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap(), Some(2));
    assert!(conn.query_drop("SELECT i FROM mine.t").await.is_err(), "it was to be replaced");
    let old = "SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'old%'";
    assert_eq!(conn.query_first(old).await.unwrap(), Some(0));
    let public: Vec<String> = conn.query("SHOW GRANTS FOR PUBLIC").await.unwrap();
    assert!(!public.iter().any(|grant| grant.contains("SELECT")), "{public:?}");
    applier.stop().await;

    // A replacement that is broken off goes on without being told so once more.
    server.run(&["CREATE USER old@'%'", "INSERT INTO towline.snapshot VALUES (1, 'gone', 0)"]).await;
    let (applier, _) = fetching(&server, &http, false);
    eventually("a slave", async || match applier.progress().state {
        ApplyState::Running => Ok(()),
        state => Err(state),
    })
    .await;
    assert_eq!(conn.query_first(old).await.unwrap(), Some(0));
    applier.stop().await;

    // Of another cluster, or of this one where a newer master has pushed.
    let own: Option<String> = conn.query_first("SELECT cluster FROM towline.position").await.unwrap();
    for (cluster, fence, wanted) in [("other", 0, "the cluster other"), (&own.unwrap(), 9, "epoch 9")] {
        let record = "UPDATE towline.position SET cluster = ?, fence = ?, epoch = 0, seq = 0, gtid = ''";
        conn.exec_drop(record, (cluster, fence)).await.unwrap();
        let (applier, _) = fetching(&server, &http, true);
        eventually("a refusal", async || match applier.progress().state {
            ApplyState::Unavailable { error } if error.contains(wanted) => Ok(()),
            state => Err(state),
        })
        .await;
        applier.stop().await;
        let begun: Option<u64> = conn.query_first("SELECT COUNT(*) FROM towline.snapshot").await.unwrap();
        assert_eq!(begun, Some(0), "{wanted}");
    }
    assert_eq!(conn.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap(), Some(2), "it stays as it is");
}

#[tokio::test]
async fn a_table_without_moments_is_named() {
    let ((master, http), server) = tokio::join!(TestHttp::master(), TestServer::start(Role::Slave));
    master.run(&["CREATE TABLE shop.old (i INT) ENGINE=MyISAM"]).await;
    let (applier, _) = fetching(&server, &http, false);
    eventually("what is wrong", async || match applier.progress().state {
        ApplyState::Unavailable { error } if error.contains("ALTER TABLE `shop`.`old` ENGINE=InnoDB") => Ok(()),
        state => Err(state),
    })
    .await;
    master.run(&["ALTER TABLE shop.old ENGINE=InnoDB"]).await;
    eventually("a slave", async || match applier.progress().state {
        ApplyState::Running => Ok(()),
        state => Err(state),
    })
    .await;
    applier.stop().await;
}
