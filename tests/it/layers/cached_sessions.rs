//! What one session has set or done gets into no other's results from memory.

use mysql_async::{Conn, prelude::Queryable};
use reqwest::StatusCode;

use super::{
    cache::{CACHE, HITS, READ, warm},
    client, code, figure, master, reload,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_committed_is_kept_from_others() {
    let node = master(CACHE).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    let (mut reader, mut dirty) = (client(&node).await, client(&node).await);
    warm(&node, &mut reader, READ).await;
    let other_row = "SELECT n FROM shop.item WHERE id = 2";
    for level in ["@@tx_isolation = 'READ-UNCOMMITTED'", "TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"] {
        server.query_drop("BEGIN").await.unwrap();
        server.query_drop("UPDATE shop.item SET n = 99 WHERE id = 2").await.unwrap();
        dirty.query_drop(format!("SET {level}")).await.unwrap();
        assert_eq!(dirty.query_first(other_row).await.unwrap(), Some(99));
        server.query_drop("ROLLBACK").await.unwrap();
        for _ in 0..3 {
            assert_eq!(reader.query_first(other_row).await.unwrap(), Some(0), "{level}");
        }
        dirty.reset().await.unwrap();
    }
}

/// A column of this type is shown in the session's time zone.
const ZONED: &str = "SELECT at FROM shop.moment WHERE id = 1";

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_followed_however_they_are_set() {
    let node = master(CACHE).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in [
        "CREATE TABLE shop.moment (id INT PRIMARY KEY, at TIMESTAMP)",
        "INSERT INTO shop.moment VALUES (1, '2026-01-01 12:00:00')",
        "CREATE TABLE shop.zoning (id INT)",
        "CREATE TRIGGER shop.zoning BEFORE INSERT ON shop.zoning FOR EACH ROW SET SESSION time_zone = '+05:00'",
        "CREATE FUNCTION shop.zone() RETURNS INT BEGIN SET SESSION time_zone = '+05:00'; RETURN 1; END",
        "CREATE VIEW shop.zoned AS SELECT shop.zone() AS one",
    ] {
        server.query_drop(sql).await.unwrap();
    }
    let mut other = client(&node).await;
    let plain: Option<String> = other.query_first(ZONED).await.unwrap();
    for sql in [
        "SET time_zone = '+05:00'",
        "/* app */ SET autocommit = 1, time_zone = '+05:00'",
        "INSERT INTO shop.zoning VALUES (1)",
        "SELECT * FROM shop.zoned",
        "SELECT NOW() FROM shop.zoned",
    ] {
        let mut own = client(&node).await;
        for _ in 0..20 {
            assert_eq!(own.query_first(ZONED).await.unwrap(), plain, "before {sql}");
        }
        own.query_drop(sql).await.unwrap();
        let moved: Option<String> = own.query_first(ZONED.replace("SELECT", "SELECT SQL_NO_CACHE")).await.unwrap();
        assert_ne!(moved, plain, "{sql} sets the time zone");
        for _ in 0..3 {
            assert_eq!(own.query_first(ZONED).await.unwrap(), moved, "after {sql}");
            assert_eq!(other.query_first(ZONED).await.unwrap(), plain, "another's, after {sql}");
        }
    }
    // A write that sets nothing takes no prepared statement out of memory.
    let mut own = client(&node).await;
    let prepared = own.prep("SELECT n FROM shop.item WHERE id = ?").await.unwrap();
    for _ in 0..3 {
        own.query_drop("/* app */ INSERT INTO shop.secret VALUES (10) ON DUPLICATE KEY UPDATE id = id").await.unwrap();
        crate::support::eventually("an answer from memory", async || {
            let before = figure(&node, HITS).await;
            assert_eq!(own.exec_first(&prepared, (1,)).await.unwrap(), Some(0));
            if figure(&node, HITS).await > before { Ok(()) } else { Err(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_would_tell_of_a_read_is_not_told_from_memory() {
    let node = master(CACHE).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    server.query_drop("CREATE TABLE shop.counted (id INT AUTO_INCREMENT PRIMARY KEY)").await.unwrap();
    let mut conn = client(&node).await;
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));

    conn.query_drop("INSERT INTO shop.secret VALUES (20), (21)").await.unwrap();
    warm(&node, &mut conn, READ).await;
    assert_eq!(conn.query_first("SELECT ROW_COUNT()").await.unwrap(), Some(-1));
    conn.query_drop("SELECT CAST('x' AS INT)").await.unwrap();
    warm(&node, &mut conn, READ).await;
    assert_eq!(conn.query_first::<(String, u16, String), _>("SHOW WARNINGS").await.unwrap(), None);

    let last = "SELECT id FROM shop.counted WHERE id IS NULL";
    assert_eq!(warm(&node, &mut conn, last).await, None);
    let mut inserting = client(&node).await;
    inserting.query_drop("SET sql_auto_is_null = 1").await.unwrap();
    inserting.query_drop("INSERT INTO shop.counted VALUES ()").await.unwrap();
    assert_eq!(inserting.query_first(last).await.unwrap(), Some(1));
    assert_eq!(conn.query_first::<i64, _>(last).await.unwrap(), None);

    let mut locking = client(&node).await;
    warm(&node, &mut locking, READ).await;
    locking.query_drop("LOCK TABLES shop.secret READ").await.unwrap();
    assert_eq!(code(locking.query_drop(READ).await), Some(1100));
}

/// What is in a transaction ends it with the layers of before the reload.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_reload_overtakes_is_waited_for() {
    let node = master(CACHE).await;
    let (mut writer, mut reader) = (client(&node).await, client(&node).await);
    for n in 1..=10 {
        writer.query_drop("BEGIN").await.unwrap();
        writer.query_drop(format!("UPDATE shop.item SET n = {n} WHERE id = 1")).await.unwrap();
        node.write_layers(&format!("{CACHE}ttl_ms = {}\n", 600_000 + n));
        assert_eq!(reload(&node).await.0, StatusCode::OK);
        assert_eq!(warm(&node, &mut reader, READ).await, Some(n - 1));
        writer.query_drop("COMMIT").await.unwrap();
        assert_eq!(reader.query_first(READ).await.unwrap(), Some(n));
    }
}
