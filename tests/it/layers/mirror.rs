//! Reads copied to a second server.

use mysql_async::prelude::Queryable;
use reqwest::StatusCode;
use serde_json::json;
use towline_middleware::Role;

use super::{client, code, figure, http, master, reload};
use crate::support::{TestNode, TestServer, eventually, mysql_node, mysql_server};

const COMPARED: &str = "towline_layer_mirror_compared_total";
const DIFFERENT: &str = "towline_layer_mirror_different_total";
const SKIPPED: &str = "towline_layer_mirror_skipped_total";

const TYPES: [&str; 2] = [
    "CREATE TABLE shop.kinds (id INT PRIMARY KEY, z INT(5) ZEROFILL, f FLOAT, d DOUBLE, p DECIMAL(10,2), a DATE, b DATETIME(6), \
     c TIME(3), e TIMESTAMP NULL, y YEAR, t TEXT CHARACTER SET utf8mb4, x BLOB, u BIGINT UNSIGNED)",
    "INSERT INTO shop.kinds VALUES (1, 7, 1.5, 1e100, 9.90, '2026-01-02', '2026-01-02 03:04:05.678', '-25:00:00.5', \
     '2026-01-02 03:04:05', 2026, 'é', x'00ff', 18446744073709551615), \
     (2, NULL, 0.1, -0.5, 0, NULL, '2026-01-02', '00:00:00', NULL, NULL, '', '', 0)",
];

/// A second server with what [`master`] has, and an account that reads.
async fn second() -> TestServer {
    let second = TestServer::start(Role::Master).await;
    second
        .run(&[
            "CREATE USER reader@'%' IDENTIFIED BY 'reader'",
            "GRANT SELECT ON *.* TO reader@'%'",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40), n INT)",
            "INSERT INTO shop.item VALUES (2, 'chair', 0), (1, 'lamp', 0)",
            TYPES[0],
            TYPES[1],
        ])
        .await;
    second
}

fn layer(second: &TestServer, more: &str) -> String {
    let socket = second.managed().socket().display().to_string().replace('/', "%2F");
    format!("[[layer]]\nname = 'mirror'\nurl = 'mysql://reader:reader@localhost/?socket={socket}'\n{more}")
}

async fn compared(node: &TestNode, wanted: u64) {
    eventually("all reads are compared", async || match figure(node, COMPARED).await {
        found if found == wanted => Ok(()),
        found => Err((found, node.log())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_compared_and_differences_told() {
    let second = second().await;
    let node = master(&layer(&second, "[[layer]]\nname = 'idempotency'")).await;
    let mut server = mysql_async::Conn::new(node.server_opts()).await.unwrap();
    for sql in TYPES {
        server.query_drop(sql).await.unwrap();
    }
    let mut conn = client(&node).await;
    for sql in ["SELECT * FROM shop.item", "SELECT * FROM shop.kinds ORDER BY id", "SELECT a FROM shop.item"] {
        let _: Result<Vec<mysql_async::Row>, _> = conn.query(sql).await;
    }
    let by_id = "SELECT * FROM shop.kinds WHERE id <> ?";
    let _: Vec<mysql_async::Row> = conn.exec(by_id, (3,)).await.unwrap();
    http(&node, by_id, json!([3])).await;
    http(&node, "SELECT name FROM shop.item", json!([])).await;
    conn.query_drop("USE shop").await.unwrap();
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES'").await.unwrap();
    conn.query_drop("SELECT \"name\" FROM item").await.unwrap();
    compared(&node, 6).await;
    assert_eq!(figure(&node, DIFFERENT).await, 0, "{}", node.log());

    // What can't be the same on two servers is not copied, nor what a transaction may see alone.
    for sql in ["SELECT NOW(), n FROM item", "SELECT 1", "SELECT @@hostname", "BEGIN", "SELECT n FROM item", "COMMIT"] {
        conn.query_drop(sql).await.unwrap();
    }
    second.run(&["UPDATE shop.item SET n = 1 WHERE id = 1"]).await;
    conn.query_drop("SELECT id, n FROM shop.item WHERE id = 1").await.unwrap();
    conn.query_drop("SELECT id, n FROM shop.item WHERE id = 2").await.unwrap();
    compared(&node, 8).await;
    assert_eq!(figure(&node, DIFFERENT).await, 1);
    assert!(node.log().contains("in another way"), "{}", node.log());

    // A write with a key leaves nothing behind, nor does a SET that failed; a lock does, until the session is reset.
    conn.query_drop("UPDATE shop.item SET n = 0 WHERE id = 2 /* idempotency-key: a */").await.unwrap();
    assert_eq!(code(conn.query_drop("SET sql_mode = 'NOTHING'").await), Some(1231));
    conn.query_drop("SELECT id, n FROM shop.item WHERE id = 2").await.unwrap();
    compared(&node, 9).await;
    let skipped = figure(&node, SKIPPED).await;
    for sql in [
        "SELECT * FROM information_schema.schemata",
        "EXPLAIN SELECT * FROM shop.item",
        "SELECT GET_LOCK('a', 1)",
        "SELECT id FROM shop.item",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    eventually("three reads are skipped", async || match figure(&node, SKIPPED).await - skipped {
        ..3 => Err(node.log()),
        _ => Ok(()),
    })
    .await;
    conn.reset().await.unwrap();
    conn.query_drop("SELECT id FROM shop.item").await.unwrap();
    compared(&node, 10).await;
    assert_eq!(figure(&node, DIFFERENT).await, 1, "{}", node.log());
    assert_eq!(second.connect().await.query_first("SELECT IS_FREE_LOCK('a')").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_copied_writes_nothing_and_ends_in_time() {
    let second = second().await;
    let node = master(&layer(&second, "timeout_ms = 2000\nconnections_max = 1")).await;
    let mut server = mysql_async::Conn::new(node.server_opts()).await.unwrap();
    let view = "CREATE VIEW shop.seen AS SELECT shop.f(id) AS n FROM shop.item";
    let function = "CREATE FUNCTION shop.f (a INT) RETURNS INT DETERMINISTIC";
    for sql in [&*format!("{function} RETURN a"), view] {
        server.query_drop(sql).await.unwrap();
    }
    let writes = format!("{function} MODIFIES SQL DATA BEGIN INSERT INTO shop.log VALUES (a); RETURN a; END");
    second.run(&["CREATE TABLE shop.log (n INT)", &writes, view]).await;
    let mut conn = client(&node).await;
    conn.query_drop("SELECT n FROM shop.seen").await.unwrap();
    compared(&node, 1).await;
    assert_eq!(figure(&node, DIFFERENT).await, 1);

    // The second server ends what takes too long.
    second.run(&["DROP FUNCTION shop.f", &format!("{function} RETURN SLEEP(60)")]).await;
    conn.query_drop("SELECT n FROM shop.seen").await.unwrap();
    eventually("a failure is counted", async || match figure(&node, "towline_layer_mirror_failed_total").await {
        1 => Ok(()),
        _ => Err(node.log()),
    })
    .await;
    let mut conn = second.connect().await;
    eventually("the second server does nothing more", async || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT n FROM shop.seen%'";
        if conn.query_first(sql).await.unwrap() == Some(0) { Ok(()) } else { Err(()) }
    })
    .await;
    assert_eq!(conn.query_first("SELECT COUNT(*) FROM shop.log").await.unwrap(), Some(0));
}

/// What it has SET before, the second server would not have.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_session_that_is_older_than_the_layer_are_not_copied() {
    let second = second().await;
    let node = master("").await;
    let (mut older, mut newer) = (client(&node).await, client(&node).await);
    older.query_drop("SET sql_mode = 'ANSI_QUOTES'").await.unwrap();
    node.write_layers(&layer(&second, ""));
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    older.query_drop("SELECT \"name\" FROM shop.item").await.unwrap();
    assert_eq!(figure(&node, SKIPPED).await, 1);
    newer.reset().await.unwrap();
    newer.query_drop("SELECT \"name\" FROM shop.item").await.unwrap();
    compared(&node, 1).await;
    assert_eq!(figure(&node, DIFFERENT).await, 0, "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_that_is_away_harms_nobody() {
    let second = second().await;
    let node = master(&layer(&second, "queue_max = 2\nconnections_max = 1")).await;
    drop(second);
    let mut conn = client(&node).await;
    for _ in 0..200 {
        assert_eq!(conn.query_first("SELECT n FROM shop.item WHERE id = 1").await.unwrap(), Some(0));
    }
    assert!(figure(&node, "towline_layer_mirror_dropped_total").await > 0);
    eventually("a failure is counted", async || match figure(&node, "towline_layer_mirror_failed_total").await {
        0 => Err(node.log()),
        _ => Ok(()),
    })
    .await;
}

/// Both servers are the same one, and so are their answers; but for a view that tells who asks.
#[tokio::test(flavor = "multi_thread")]
async fn reads_are_compared_on_mysql() {
    let Some(mysql) = mysql_server(&[]).await else { return };
    mysql
        .run(&[
            "CREATE USER reader@'%' IDENTIFIED BY 'reader'",
            "GRANT SELECT ON *.* TO reader@'%'",
            "CREATE DATABASE shop",
            TYPES[0],
            TYPES[1],
            "CREATE TABLE shop.more (id INT PRIMARY KEY, j JSON, b BIT(9), e ENUM('x', 'y'), s SET('p', 'q'), \
             g GEOMETRY, l VARCHAR(9) CHARACTER SET latin1)",
            "INSERT INTO shop.more VALUES (1, '{\"a\": [1.50, null]}', b'101', 'x', 'p,q', POINT(1, 2), 'é'), \
             (2, NULL, NULL, NULL, NULL, NULL, NULL)",
            "CREATE SQL SECURITY INVOKER VIEW shop.who AS SELECT id, CURRENT_USER() AS own FROM shop.more",
        ])
        .await;
    let socket = mysql.socket.display().to_string().replace('/', "%2F");
    let layer = format!("[[layer]]\nname = 'mirror'\nurl = 'mysql://reader:reader@localhost/?socket={socket}'\n");
    let node = mysql_node(&mysql, Role::Master, &layer).await;
    let mut conn = node.connect("towline", "towline").await.unwrap();
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES', time_zone = '+05:00'").await.unwrap();
    for sql in [
        "SELECT * FROM shop.kinds ORDER BY id",
        "SELECT * FROM shop.more WHERE id > 0",
        "SELECT \"j\"->'$.a' FROM shop.more",
        "SELECT /*+ NO_ICP(more) */ id FROM shop.more UNION TABLE shop.only",
    ] {
        let text: Result<Vec<mysql_async::Row>, _> = conn.query(sql).await;
        let prepared: Result<Vec<mysql_async::Row>, _> = conn.exec(sql, ()).await;
        assert_eq!(text.is_ok(), prepared.is_ok(), "{sql}: {text:?}, {prepared:?}");
    }
    let command = json!({"action": "query", "sql": "SELECT * FROM shop.more WHERE id = ?", "params": [1]});
    let request = reqwest::Client::new().post(node.url("/master")).basic_auth("towline", Some("towline"));
    let (status, body) = crate::support::http::answer(request.json(&command)).await;
    assert!(status.is_success(), "{body}");
    compared(&node, 7).await;
    assert_eq!(
        (figure(&node, DIFFERENT).await, figure(&node, "towline_layer_mirror_failed_total").await),
        (0, 0),
        "{}",
        node.log()
    );
    conn.query_drop("SELECT own FROM shop.who WHERE id = 1").await.unwrap();
    compared(&node, 8).await;
    assert_eq!(figure(&node, DIFFERENT).await, 1, "{}", node.log());
}
