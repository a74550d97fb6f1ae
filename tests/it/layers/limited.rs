//! Limits, and who must not wait for one.

use mysql_async::{Conn, prelude::Queryable};

use super::{client, code, master, until_it_runs};

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_locks_is_not_held_up() {
    let node = master("[[layer]]\nname = 'limit'\nlimit = [{ by = 'all', running_max = 1 }]\n").await;
    let mut conn = client(&node).await;
    // A transaction that only a failed read has begun.
    let mut reader = client(&node).await;
    reader.query_drop("SET autocommit = 0").await.unwrap();
    reader.query_drop("SELECT (SELECT 1 UNION SELECT 2) FROM shop.item").await.expect_err("two rows for one");

    let mut open = client(&node).await;
    open.query_drop("BEGIN").await.unwrap();

    // Somebody has the only place, and keeps it.
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in ["BEGIN", "SELECT * FROM shop.item FOR UPDATE"] {
        server.query_drop(sql).await.unwrap();
    }
    let mut busy = client(&node).await;
    let running = tokio::spawn(async move { busy.query_drop("UPDATE shop.item SET n = 1").await });
    until_it_runs(&mut server, "UPDATE shop.item%").await;

    for (sql, code_wanted) in [
        ("SELECT 1", Some(1226)),
        ("LOCK TABLES shop.secret WRITE", None),
        ("INSERT INTO shop.secret VALUES (1)", None),
        ("SELECT COUNT(*) FROM shop.secret", None),
        ("UNLOCK TABLES", None),
        ("SELECT COUNT(*) FROM shop.secret", Some(1226)),
        ("SELECT GET_LOCK('a', 0)", None),
        ("SELECT 1", Some(1226)),
        ("DO RELEASE_LOCK('a')", None),
        ("SELECT GET_LOCK('a', 0) FROM shop.secret", Some(1226)),
        ("BEGIN", Some(1226)),
    ] {
        assert_eq!(code(conn.query_drop(sql).await), code_wanted, "{sql}");
    }
    for conn in [&mut reader, &mut open] {
        conn.query_drop("SELECT COUNT(*) FROM shop.item").await.unwrap();
        conn.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(code(conn.query_drop("SELECT COUNT(*) FROM shop.item").await), Some(1226));
    }

    server.query_drop("ROLLBACK").await.unwrap();
    running.await.unwrap().unwrap();
}
