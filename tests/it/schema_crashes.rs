//! Schema changes of a slave with MySQL, with a crash in each window; the applier's own tests have MariaDB's.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};
use towline::fail_point::FailPoint;
use towline_middleware::Role;

use crate::{
    matrix::{
        contents::{answer, contents},
        last_gtid,
        script::Family,
    },
    support::{Mysql9, TestNode, eventually, mysql_node, mysql_server},
};

const SETUP: [&str; 5] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.a (i INT PRIMARY KEY, s VARCHAR(20))",
    "CREATE TABLE shop.b (i INT)",
    "INSERT INTO shop.a VALUES (1, 'a'), (2, 'b')",
    "INSERT INTO shop.b VALUES (1), (2), (3)",
];

/// Each would show, or fail, if it ran twice or not at all.
const STATEMENTS: [&str; 18] = [
    "CREATE TABLE shop.n (i INT PRIMARY KEY)",
    "ALTER TABLE shop.a ADD COLUMN c INT DEFAULT 7, ADD INDEX (s)",
    // Once it swaps the two tables; twice they stay.
    "RENAME TABLE shop.a TO shop.t, shop.b TO shop.a, shop.t TO shop.b",
    "CREATE TABLE shop.copy SELECT * FROM shop.b",
    "CREATE USER clerk IDENTIFIED BY 'x', guard",
    "GRANT SELECT, INSERT ON shop.* TO clerk",
    "TRUNCATE TABLE shop.a",
    "ALTER USER clerk IDENTIFIED BY 'y' PASSWORD EXPIRE",
    "REVOKE INSERT ON shop.* FROM clerk",
    "CREATE TABLE shop.another SELECT i + 10 AS n, s FROM shop.b",
    "CREATE FUNCTION shop.f() RETURNS INT DETERMINISTIC RETURN 1",
    "CREATE EVENT shop.e ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM shop.a",
    "DROP FUNCTION shop.f",
    "ALTER EVENT shop.e RENAME TO shop.e2",
    "DROP TABLE shop.n, shop.copy",
    "DROP USER guard",
    "ALTER TABLE shop.b DROP COLUMN c, RENAME COLUMN s TO r",
    "RENAME TABLE shop.a TO shop.t, shop.b TO shop.a, shop.t TO shop.b",
];

/// Where the node dies, one after the other, while it applies a statement; these take turns.
const DEATHS: [&[FailPoint]; 4] = [
    &[FailPoint::Announced, FailPoint::SchemaChanged, FailPoint::Filled],
    &[FailPoint::ContextSet, FailPoint::SessionRestored, FailPoint::Committed],
    &[FailPoint::SchemaChanged, FailPoint::PositionMoved],
    &[FailPoint::SessionRestored],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_any_window_leaves_each_statement_run_once_on_mysql() {
    let Some(first) = mysql_server(&[]).await else { return };
    let Some(second) = mysql_server(&[]).await else { return };
    let mut slave = mysql_node(&second, Role::Slave, "").await;
    let master = mysql_node(&first, Role::Master, &format!("slaves = [{:?}]", slave.url(""))).await;
    first.run(&SETUP).await;
    wait_equal(&first, &second, "the start", &slave).await;
    for (number, sql) in STATEMENTS.into_iter().enumerate() {
        // Another number than that of the turns, so that the server dies in every window.
        let kills_server = number % 3 == 1;
        let mut has_run = false;
        for point in DEATHS[number % DEATHS.len()] {
            slave.kill().await;
            slave.set_fail_point(Some((*point, 1)));
            slave.restart().await;
            if !has_run {
                first.run(&[sql]).await;
                has_run = true;
            }
            slave.ended().await;
            if kills_server {
                second.crash();
            }
        }
        slave.set_fail_point(None);
        slave.restart().await;
        wait_equal(&first, &second, sql, &slave).await;
    }
    // The log has a statement as often as it ran.
    let (on_master, on_slave) = (statements(&first).await, statements(&second).await);
    assert_eq!(on_slave, on_master);
    assert!(on_master.len() >= STATEMENTS.len(), "{on_master:?}");
    // The master may not have found it again yet.
    eventually("a slave that is compared and is equal", async || match master.verify().await {
        (Some(0), _) => Ok(()),
        (code, told) => Err(format!("{code:?}: {told}")),
    })
    .await;
}

/// Waits until the slave stands where the master stands, and compares what they hold.
async fn wait_equal(master: &Mysql9, slave: &Mysql9, what: &str, node: &TestNode) {
    let mut on_master = master.connect().await;
    let mut on_slave = eventually(what, async || {
        // Asked again each time: the master's node itself writes to its schema.
        let last = last_gtid(Family::MySql, &mut on_master).await;
        let told = |error: mysql_async::Error| format!("{error}; {}", node.log());
        let mut conn = Conn::new(slave.opts()).await.map_err(told)?;
        let at: Option<String> = conn.query_first("SELECT gtid FROM towline.position").await.map_err(told)?;
        if at.as_ref() == Some(&last) { Ok(conn) } else { Err(format!("{at:?} of {last}; {}", node.log())) }
    })
    .await;
    assert_eq!(all_of(&mut on_slave).await, all_of(&mut on_master).await, "{what}");
}

async fn all_of(conn: &mut Conn) -> BTreeMap<String, String> {
    let mut all = contents(conn, "shop").await;
    conn.query_drop("SET SESSION print_identified_with_as_hex = 1").await.unwrap();
    let accounts = "SELECT user FROM mysql.user WHERE user IN ('clerk', 'guard') ORDER BY user";
    for account in conn.query::<String, _>(accounts).await.unwrap() {
        for question in [format!("SHOW GRANTS FOR {account}"), format!("SHOW CREATE USER {account}")] {
            all.insert(question.clone(), answer(conn, &question).await);
        }
    }
    all
}

/// The schema changes in a server's binlog, in order, without what each server does for itself.
async fn statements(server: &Mysql9) -> Vec<String> {
    let mut conn = server.connect().await;
    let files: Vec<(String, u64, String)> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let mut all = Vec::new();
    for (file, ..) in files {
        let events: Vec<mysql_async::Row> = conn.query(format!("SHOW BINLOG EVENTS IN '{file}'")).await.unwrap();
        let queries = events.iter().filter(|event| event.get::<String, _>("Event_type").unwrap() == "Query");
        all.extend(queries.map(|event| event.get::<String, _>("Info").unwrap()).filter_map(|info| {
            let text = info.split(" /* xid=").next().unwrap_or_default();
            // The slave's session keeps the default schema that a statement before has had.
            let sql = text.strip_prefix("use `shop`; ").unwrap_or(text);
            // Whose the event is: without it the account that applies would become its definer.
            let sql = sql.replace("ALTER DEFINER=`root`@`localhost` EVENT", "ALTER EVENT");
            (sql != "BEGIN" && !sql.contains("towline")).then_some(sql)
        }));
    }
    all
}
