//! Writes that are tried again, before a real cluster.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable};
use reqwest::StatusCode;
use serde_json::{Value, json};
use towline::wire::capability;
use towline_middleware::{Position, Role};

use super::code;
use crate::support::{
    TestCluster, TestNode, eventually,
    http::answer,
    mysql_node, mysql_server,
    wire_client::{MODERN, Target, WireClient},
};

const LAYER: &str = "[[layer]]\nname = 'idempotency'\n";

/// An account with rights on its own schema alone.
const FEW: (&str, &str) = ("few", "few");

const TABLES: [&str; 6] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.paid (id INT PRIMARY KEY AUTO_INCREMENT, amount INT)",
    "CREATE TABLE shop.total (id INT PRIMARY KEY, n INT)",
    "INSERT INTO shop.total VALUES (1, 0)",
    "CREATE USER few@'%' IDENTIFIED BY 'few'",
    "GRANT ALL ON shop.* TO few@'%'",
];

/// Leaves a transaction open, and an error that does not tell of it.
const LEAVES_OPEN: &str = "CREATE PROCEDURE shop.leaves_open() BEGIN START TRANSACTION; \
     UPDATE shop.total SET n = n + 1; SIGNAL SQLSTATE '45000'; END";

async fn cluster() -> TestCluster {
    let cluster = TestCluster::start_with_layers(1, LAYER).await;
    make_tables(&cluster.master).await;
    cluster
}

async fn make_tables(node: &TestNode) {
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for statement in TABLES {
        server.query_drop(statement).await.unwrap();
    }
}

async fn client(node: &TestNode) -> Conn {
    node.connect(FEW.0, FEW.1).await.unwrap_or_else(|error| panic!("{error}; {}", node.log()))
}

async fn http(node: &TestNode, key: &str, command: Value) -> (StatusCode, Value) {
    let request = reqwest::Client::new().post(node.url("/master")).basic_auth(FEW.0, Some(FEW.1));
    answer(request.header("Idempotency-Key", key).json(&command)).await
}

async fn rows(node: &TestNode) -> u64 {
    let mut conn = client(node).await;
    conn.query_first("SELECT COUNT(*) FROM shop.paid").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_tried_again_has_one_effect() {
    let cluster = cluster().await;
    let node = &cluster.master;
    let mut conn = client(node).await;

    // As text: the same id comes back, and nothing is written twice.
    let pay = "INSERT INTO shop.paid (amount) VALUES (5) /* idempotency-key: text-1 */";
    conn.query_drop(pay).await.unwrap();
    let first = (conn.affected_rows(), conn.last_insert_id());
    assert_eq!(first, (1, Some(1)));
    let mut other = client(node).await;
    for conn in [&mut conn, &mut other] {
        conn.query_drop(pay).await.unwrap();
        assert_eq!((conn.affected_rows(), conn.last_insert_id()), first);
        assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap(), first.1);
    }
    // Prepared: by its text and parameters.
    let add = "UPDATE shop.total SET n = n + ? WHERE id = 1 /* idempotency-key: prepared-1 */";
    for conn in [&mut conn, &mut other] {
        for _ in 0..2 {
            conn.exec_drop(add, (7,)).await.unwrap();
            assert_eq!(conn.affected_rows(), 1);
        }
    }
    assert_eq!(code(conn.exec_drop(add, (8,)).await), Some(1235));
    assert_eq!(conn.query_first("SELECT n FROM shop.total").await.unwrap(), Some(7));
    // Over HTTP, by the header.
    let insert = json!({"action": "insert", "dbname": "shop", "table": "paid", "data": {"amount": 9}});
    let sql = json!({"action": "query", "sql": "INSERT INTO shop.paid (amount) VALUES (?)", "params": [3]});
    for command in [&insert, &sql] {
        let key = if *command == insert { "http-1" } else { "http-2" };
        let (status, first) = http(node, key, command.clone()).await;
        assert_eq!(status, StatusCode::OK, "{first}");
        let (_, again) = http(node, key, command.clone()).await;
        let position = |answer: &Value| answer["position"].as_str().and_then(|text| text.parse::<Position>().ok());
        assert!(position(&first).is_some() && position(&again) > position(&first), "{first}, {again}");
        assert_eq!(again["last_insert_id"], first["last_insert_id"]);
        assert_eq!((&again["affected_rows"], &first["affected_rows"]), (&json!(1), &json!(1)));
    }
    assert_eq!(rows(node).await, 3);

    // A write that fails keeps no key.
    let taken = "INSERT INTO shop.paid (id, amount) VALUES (1, 5) /* idempotency-key: fails */";
    for _ in 0..2 {
        assert_eq!(code(conn.query_drop(taken).await), Some(1062));
    }
    conn.query_drop("INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: fails */").await.unwrap();
    assert_eq!(rows(node).await, 4);

    // What can't be promised is refused, and nothing is done.
    for sql in [
        "INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: text-1 */",
        "INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: a b */",
        "INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: a */ -- idempotency-key: b",
        "INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: rows */ RETURNING id",
        "BEGIN; INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: second */",
        "CREATE TABLE shop.t (id INT) /* idempotency-key: ddl */",
        "CALL shop.p() /* idempotency-key: call */",
        "INSERT INTO shop.paid (amount) VALUES (ROW_COUNT()) /* idempotency-key: count */",
        "PREPARE s FROM 'INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: text */'",
        "EXECUTE IMMEDIATE 'INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: text */'",
    ] {
        assert_eq!(code(conn.query_drop(sql).await), Some(1235), "{sql}");
    }
    for begin in ["BEGIN", "SET autocommit = 0"] {
        conn.query_drop(begin).await.unwrap();
        let sql = "DELETE FROM shop.paid /* idempotency-key: inside */";
        assert_eq!(code(conn.query_drop(sql).await), Some(1235), "{begin}");
        conn.query_drop("ROLLBACK").await.unwrap();
    }
    conn.query_drop("SET autocommit = 1").await.unwrap();
    conn.query_drop("LOCK TABLES shop.paid WRITE").await.unwrap();
    let locked = "DELETE FROM shop.paid /* idempotency-key: locked */";
    assert_eq!(code(conn.query_drop(locked).await), Some(1235));
    conn.query_drop("UNLOCK TABLES").await.unwrap();
    let list = json!([insert, insert]);
    assert_eq!(http(node, "list", list).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(rows(node).await, 4);
    // A key in a value is none, and a read needs none.
    conn.query_drop("UPDATE shop.total SET n = IF('/* idempotency-key: x */' = '', 1, n)").await.unwrap();
    conn.query_drop("SELECT 1 /* idempotency-key: x */").await.unwrap();
    // The session is as it was: it commits by itself.
    assert_eq!(conn.query_first("SELECT @@in_transaction + 10 * @@autocommit").await.unwrap(), Some(10));

    // The keys are on the slave, too, and a slave refuses writes as ever.
    cluster.wait_equal().await;
    let mut slave = cluster.slave(0).await;
    assert_eq!(code(slave.query_drop(pay).await), Some(1290));

    // Another account's key is another key, which no account can lock.
    let mut app = cluster.master().await;
    app.query_drop("SET innodb_lock_wait_timeout = 1").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop("CALL towline_app.keep_2('a', 1, 0, '')").await.unwrap();
    app.query_drop(pay).await.unwrap();
    conn.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(rows(node).await, 5);
    // An old one is forgotten.
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    server.query_drop("UPDATE towline_app.idempotency_2 SET at_s = at_s - 172800").await.unwrap();
    conn.query_drop(pay).await.unwrap();
    assert_eq!(rows(node).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_does_spoils_no_key() {
    let node = TestNode::start("master", Role::Master, LAYER).await;
    make_tables(&node).await;
    let (mut conn, mut other) = (client(&node).await, client(&node).await);

    // Another clock, in the past or the future.
    let pay = "INSERT INTO shop.paid (amount) VALUES (1) /* idempotency-key: clock */";
    conn.query_drop("SET timestamp = 1577836800").await.unwrap();
    other.query_drop("SET timestamp = 2000000000, time_zone = '-12:00'").await.unwrap();
    for conn in [&mut conn, &mut other, &mut client(&node).await] {
        conn.query_drop(pay).await.unwrap();
        assert_eq!((conn.affected_rows(), conn.last_insert_id()), (1, Some(1)));
    }
    assert_eq!(rows(&node).await, 1);

    // An id that the write brings along is not the session's last.
    let insert = "INSERT INTO shop.paid VALUES (100, 1) /* idempotency-key: id */";
    let (mut conn, mut other) = (client(&node).await, client(&node).await);
    for conn in [&mut conn, &mut other] {
        conn.query_drop(insert).await.unwrap();
        assert_eq!(conn.last_insert_id(), Some(100));
        assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap(), Some(0));
    }

    // A transaction that only an error could tell of.
    conn.query_drop(LEAVES_OPEN).await.unwrap();
    let keyed = "INSERT INTO shop.paid (amount) VALUES (2) /* idempotency-key: hidden */";
    for sql in ["CALL shop.leaves_open()", "DELETE FROM shop.paid WHERE id = 0; CALL shop.leaves_open()"] {
        conn.query_drop(sql).await.expect_err("the procedure's own error");
        assert!(conn.query_first::<(String, u16, String), _>("SHOW ERRORS").await.unwrap().is_some(), "{sql}");
        assert_eq!(code(conn.query_drop(keyed).await), Some(1235), "{sql}");
        conn.query_drop("ROLLBACK").await.unwrap();
    }
    assert_eq!(conn.query_first("SELECT n FROM shop.total").await.unwrap(), Some(0));
    // One that an error has ended without a word.
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop("CREATE TABLE shop.paid (id INT)").await.expect_err("it is there");
    conn.query_drop(keyed).await.unwrap();

    // Tables that stay locked, as the last of several statements does not run.
    conn.query_drop("LOCK TABLES shop.paid WRITE; SELECT nonsense; UNLOCK TABLES").await.expect_err("nonsense");
    let locked = "DELETE FROM shop.paid /* idempotency-key: locked */";
    assert_eq!(code(conn.query_drop(locked).await), Some(1235));
    conn.query_drop("UNLOCK TABLES").await.unwrap();
    conn.query_drop(locked).await.unwrap();

    // A client that takes one result is told what it lacks.
    let one_result = MODERN & !(capability::MULTI_RESULTS | capability::MULTI_STATEMENTS);
    let mut one = WireClient::connect(&Target::Front(node.mysql_front()), one_result, FEW, "shop").await;
    let reply = one.query("DELETE FROM paid /* idempotency-key: one */").await;
    assert!(format!("{reply:?}").contains("CLIENT_MULTI_RESULTS"), "{reply:?}");
    one.run("DELETE FROM paid").await;

    // An account that is dropped stays so, where GRANT makes accounts.
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in ["SET GLOBAL sql_mode = 'STRICT_TRANS_TABLES'", "DROP USER few@'%'"] {
        server.query_drop(sql).await.unwrap();
    }
    let refused = conn.query_drop("DELETE FROM shop.paid /* idempotency-key: dropped */").await;
    assert!(refused.unwrap_err().to_string().contains("user table"));
    assert_eq!(server.query_first("SELECT COUNT(*) FROM mysql.user WHERE user = 'few'").await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_earlier_version_are_known() {
    let node = TestNode::start("master", Role::Master, LAYER).await;
    make_tables(&node).await;
    let pay = "INSERT INTO shop.paid (amount) VALUES (5) /* idempotency-key: early */";
    client(&node).await.query_drop(pay).await.unwrap();
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in [
        "CREATE TABLE towline_app.idempotency (account VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
           request_key VARBINARY(255) NOT NULL, fingerprint VARBINARY(32) NOT NULL, \
           at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, repeats BIGINT UNSIGNED NOT NULL DEFAULT 0, \
           affected_rows BIGINT UNSIGNED NOT NULL DEFAULT 0, last_insert_id BIGINT UNSIGNED NOT NULL DEFAULT 0, \
           info VARBINARY(1024) NOT NULL DEFAULT '', PRIMARY KEY (account, request_key), KEY (at))",
        "INSERT INTO towline_app.idempotency (account, request_key, fingerprint, affected_rows, last_insert_id) \
           SELECT account, request_key, fingerprint, affected_rows, last_insert_id FROM towline_app.idempotency_2",
        "DELETE FROM towline_app.idempotency_2",
    ] {
        server.query_drop(sql).await.unwrap();
    }
    assert_eq!(super::reload(&node).await.0, StatusCode::OK);
    let mut conn = client(&node).await;
    conn.query_drop(pay).await.unwrap();
    assert_eq!((conn.affected_rows(), conn.last_insert_id()), (1, Some(1)));
    assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap(), Some(1));
    assert_eq!(rows(&node).await, 1);
    assert_eq!(server.query_first("SELECT COUNT(*) FROM towline_app.idempotency").await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_another_and_sees_it() {
    let node = super::master(LAYER).await;
    let mut conn = super::client(&node).await;
    conn.query_drop("SET innodb_snapshot_isolation = ON").await.unwrap();
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    let mut watcher = Conn::new(node.server_opts()).await.unwrap();
    let add = "UPDATE shop.item SET n = n + 1 WHERE id = 1 /* idempotency-key: waits */";
    // As a new key, and as one that has expired.
    for wanted in [2, 4] {
        server.query_drop("BEGIN").await.unwrap();
        server.query_drop("UPDATE shop.item SET n = n + 1 WHERE id = 1").await.unwrap();
        let commit = async {
            write_waits(&mut watcher).await;
            server.query_drop("COMMIT").await
        };
        tokio::try_join!(conn.query_drop(add), commit).unwrap();
        assert_eq!(watcher.query_first("SELECT n FROM shop.item WHERE id = 1").await.unwrap(), Some(wanted));
        watcher.query_drop("UPDATE towline_app.idempotency_2 SET at_s = at_s - 172800").await.unwrap();
    }
}

/// Waits until an UPDATE with a key waits for its row, and gives its connection.
async fn write_waits(watcher: &mut Conn) -> u64 {
    eventually("the write waits for the row", async || {
        let sql = "SELECT id FROM information_schema.processlist WHERE info LIKE 'UPDATE shop.%idempotency-key%'";
        watcher.query_first(sql).await.unwrap().ok_or("it does not")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tries_at_once_and_a_crash_between_have_one_effect() {
    let mut cluster = cluster().await;
    client(&cluster.master).await.query_drop("DO 1").await.unwrap();
    let node = Arc::new(cluster.master);
    let tries = (0..8).map(|_| {
        let node = node.clone();
        tokio::spawn(async move {
            let mut conn = client(&node).await;
            for round in 0..10 {
                let sql =
                    format!("INSERT INTO shop.paid (amount) VALUES ({round}) /* idempotency-key: round-{round} */");
                conn.query_drop(sql).await.unwrap();
                assert_eq!(conn.affected_rows(), 1);
                assert!(conn.last_insert_id().is_some());
            }
        })
    });
    for one in tries.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(rows(&node).await, 10);
    cluster.master = Arc::into_inner(node).expect("all tries have ended");

    // The key is claimed, and the write waits for a row, when its connection or its node dies.
    let add = "UPDATE shop.total SET n = n + 1 WHERE id = 1 /* idempotency-key: crash */";
    for kills_node in [false, true] {
        let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
        server.query_drop("BEGIN").await.unwrap();
        server.query_drop("SELECT * FROM shop.total FOR UPDATE").await.unwrap();
        let mut conn = client(&cluster.master).await;
        let write = tokio::spawn(async move { conn.query_drop(add).await });
        let mut watcher = Conn::new(cluster.master.server_opts()).await.unwrap();
        let id = write_waits(&mut watcher).await;
        if kills_node {
            cluster.master.kill().await;
        }
        watcher.query_drop(format!("KILL {id}")).await.unwrap();
        assert!(write.await.unwrap().is_err());
        server.query_drop("ROLLBACK").await.unwrap();
        if kills_node {
            cluster.master.restart().await;
        }
    }
    for _ in 0..3 {
        client(&cluster.master).await.query_drop(add).await.unwrap();
    }
    let n: Option<u64> = client(&cluster.master).await.query_first("SELECT n FROM shop.total").await.unwrap();
    assert_eq!(n, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_waits_for_slaves_as_the_first_did() {
    let config = format!("ack = 'all'\nack_timeout_ms = 1000\nack_on_timeout = 'error'\n{LAYER}");
    let mut cluster = TestCluster::start_with(1, &config).await;
    make_tables(&cluster.master).await;
    let mut conn = client(&cluster.master).await;
    let pay = "INSERT INTO shop.paid (amount) VALUES (5) /* idempotency-key: acked */";
    conn.query_drop(pay).await.unwrap();
    cluster.slaves[0].kill().await;
    let refused = conn.query_drop(pay).await.expect_err("no slave has the repeat");
    assert!(refused.to_string().contains("0 of 1"), "{refused}");
    cluster.slaves[0].restart().await;
    eventually("a repeat that the slave has", async || conn.query_drop(pay).await).await;
    assert_eq!((conn.affected_rows(), conn.last_insert_id()), (1, Some(1)));
    assert_eq!(rows(&cluster.master).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_keeps_is_told() {
    let node = super::master("").await;
    let command = json!({"action": "query", "sql": "SELECT 1"});
    let request = reqwest::Client::new().post(node.url("/master")).basic_auth(super::APP.0, Some(super::APP.1));
    let (status, body) = answer(request.header("Idempotency-Key", "a").json(&command)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"]["message"].as_str().unwrap().contains("layer `idempotency`"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_planted_is_not_run() {
    let node = super::master("").await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in [
        "CREATE DATABASE towline_app",
        "CREATE PROCEDURE towline_app.claim_2 (a BLOB, b BLOB, c INT) SQL SECURITY INVOKER DELETE FROM shop.item",
        "CREATE USER ''@'%' IDENTIFIED BY 'nobody'",
    ] {
        server.query_drop(sql).await.unwrap();
    }
    let reload = async |layer: &str| {
        node.write_layers(layer);
        let (status, body) = super::reload(&node).await;
        (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    for (layer, wanted) in [(LAYER, "`towline_app`.`claim_2`"), (&*format!("{LAYER}ttl_s = 0"), "`ttl_s`")] {
        let (status, message) = reload(layer).await;
        assert!(status == StatusCode::BAD_REQUEST && message.contains(wanted), "{message}");
    }
    server.query_drop("DROP PROCEDURE towline_app.claim_2").await.unwrap();
    assert_eq!(reload(LAYER).await, (StatusCode::OK, String::new()));

    // What is granted to the account without a name is granted to everybody.
    let mut nobody = node.connect("whoever", "nobody").await.unwrap();
    let refused = nobody.query_drop("DELETE FROM shop.item /* idempotency-key: a */").await;
    assert!(refused.unwrap_err().to_string().contains("anonymous"));
}

/// A master and a slave on MySQL: its procedures, rights, deadlocks and GTIDs.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_tried_again_has_one_effect_on_mysql() {
    let (Some(first), Some(second)) = (mysql_server(&[]).await, mysql_server(&[]).await) else { return };
    let slave = mysql_node(&second, Role::Slave, LAYER).await;
    let node = mysql_node(&first, Role::Master, &format!("slaves = [{:?}]\nack = 'all'\n{LAYER}", slave.url(""))).await;
    first.run(&TABLES).await;
    // Its own objects it knows again.
    assert_eq!(super::reload(&node).await.0, StatusCode::OK);

    let (mut conn, mut other) = (client(&node).await, client(&node).await);
    for conn in [&mut conn, &mut other] {
        conn.query_drop("INSERT INTO shop.paid (amount) VALUES (5) /* idempotency-key: text */").await.unwrap();
        assert_eq!((conn.affected_rows(), conn.last_insert_id()), (1, Some(1)));
        assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap(), Some(1));
        conn.exec_drop("UPDATE shop.total SET n = n + ? /* idempotency-key: prepared */", (7,)).await.unwrap();
        assert_eq!(conn.affected_rows(), 1);
    }
    assert_eq!(conn.query_first("SELECT n FROM shop.total").await.unwrap(), Some(7));
    let insert = json!({"action": "insert", "dbname": "shop", "table": "paid", "data": {"amount": 9}});
    let mut positions = Vec::new();
    for _ in 0..2 {
        let (status, body) = http(&node, "http", insert.clone()).await;
        assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
        positions.push(body["position"].as_str().expect("a position").parse::<Position>().unwrap());
    }
    assert!(positions[1] > positions[0], "{positions:?}");
    for sql in [
        "DELETE FROM shop.paid /* idempotency-key: text */",
        "WITH a AS (SELECT 1) DELETE FROM shop.paid /* idempotency-key: with */",
        "INSERT INTO shop.paid (amount) VALUES (ROW_COUNT()) /* idempotency-key: count */",
    ] {
        assert_eq!(code(conn.query_drop(sql).await), Some(1235), "{sql}");
    }
    // A transaction that only an error could tell of.
    conn.query_drop(LEAVES_OPEN).await.unwrap();
    conn.query_drop("CALL shop.leaves_open()").await.expect_err("the procedure's own error");
    assert!(conn.query_first::<(String, u16, String), _>("SHOW ERRORS").await.unwrap().is_some());
    let hidden = "INSERT INTO shop.paid (amount) VALUES (6) /* idempotency-key: hidden */";
    assert_eq!(code(conn.query_drop(hidden).await), Some(1235));
    conn.query_drop("ROLLBACK").await.unwrap();
    // An id that the write brings along is not the session's last, and a session's clock no key's.
    for sql in ["SET timestamp = 1577836800", "SET timestamp = 2000000000"] {
        let mut conn = client(&node).await;
        conn.query_drop(sql).await.unwrap();
        conn.query_drop("INSERT INTO shop.paid VALUES (100, 1) /* idempotency-key: id */").await.unwrap();
        assert_eq!(conn.last_insert_id(), Some(100));
        assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap(), Some(0));
    }
    conn.query_drop("DELETE FROM shop.paid WHERE id = 100").await.unwrap();

    conn.query_drop("SELECT * FROM towline_app.idempotency_2")
        .await
        .expect_err("an account has no rights on the table");
    assert_eq!(rows(&node).await, 2);

    let node = Arc::new(node);
    let tries = (0..6).map(|_| {
        let node = node.clone();
        tokio::spawn(async move {
            let mut conn = client(&node).await;
            for round in 0..10 {
                let sql = format!("INSERT INTO shop.paid (amount) VALUES ({round}) /* idempotency-key: {round} */");
                conn.query_drop(sql).await.unwrap();
                assert_eq!(conn.affected_rows(), 1);
            }
        })
    });
    for one in tries.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(rows(&node).await, 12);

    // `ack` has waited: the slave has the keys and the procedures, and refuses writes.
    let (mut master, mut server) = (first.connect().await, second.connect().await);
    for sql in [
        "SELECT GROUP_CONCAT(account, request_key, repeats, affected_rows, last_insert_id ORDER BY request_key) \
         FROM towline_app.idempotency_2",
        "SELECT GROUP_CONCAT(routine_name, definer, security_type ORDER BY 1) FROM information_schema.routines \
         WHERE routine_schema = 'towline_app'",
    ] {
        let wanted: Option<String> = master.query_first(sql).await.unwrap();
        assert_eq!(server.query_first::<String, _>(sql).await.unwrap(), wanted);
    }
    let refused = "INSERT INTO shop.paid (amount) VALUES (5) /* idempotency-key: text */";
    assert_eq!(code(client(&slave).await.query_drop(refused).await), Some(1290));
}
