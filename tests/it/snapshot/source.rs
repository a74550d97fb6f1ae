//! The master's side of a snapshot, asked by HTTP as a slave asks it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use mysql_async::{Conn, prelude::Queryable};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    TestServer, eventually,
    http::{TestHttp, answer},
};

/// Begins a snapshot.
async fn begin(http: &TestHttp) -> Value {
    let (status, plan) = answer(http.bare(Method::POST, "/admin/snapshots").json(&json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    plan
}

/// Asks for a table's rows.
async fn ask(http: &TestHttp, plan: &Value, table: &str) -> reqwest::Response {
    let tables = plan["tables"].as_array().unwrap();
    let number = tables.iter().position(|known| known["table"] == table).unwrap();
    let question = json!({"snapshot": plan["id"], "table": number, "after": []});
    http.bare(Method::POST, "/admin/snapshots/rows").json(&question).send().await.unwrap()
}

/// The lines of a table's rows.
async fn rows(http: &TestHttp, plan: &Value, table: &str) -> Vec<Value> {
    let text = ask(http, plan, table).await.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn rows_of_a_table_that_was_put_in_the_place_of_another_never_travel() {
    let (master, http) = TestHttp::master().await;
    master
        .run(&[
            "CREATE TABLE shop.`ä b` (i INT PRIMARY KEY)",
            "INSERT INTO shop.`ä b` VALUES (1)",
            "CREATE TABLE shop.other (i INT PRIMARY KEY)",
            "INSERT INTO shop.other VALUES (2)",
            "CREATE TABLE shop.parted (i INT PRIMARY KEY) PARTITION BY RANGE (i) (PARTITION a VALUES LESS THAN (10), \
             PARTITION b VALUES LESS THAN MAXVALUE)",
            "INSERT INTO shop.parted VALUES (3)",
            "CREATE TABLE shop.part (i INT PRIMARY KEY)",
            "INSERT INTO shop.part VALUES (4)",
        ])
        .await;
    let swaps = [
        ("ä b", "RENAME TABLE shop.`ä b` TO shop.t, shop.other TO shop.`ä b`, shop.t TO shop.other"),
        ("parted", "ALTER TABLE shop.parted EXCHANGE PARTITION a WITH TABLE shop.part"),
        ("part", "ALTER TABLE shop.parted EXCHANGE PARTITION a WITH TABLE shop.part"),
    ];
    for (table, swap) in swaps {
        let plan = begin(&http).await;
        let before = rows(&http, &plan, table).await;
        assert_eq!((before.len(), &before[1]), (2, &json!("end")), "{before:?}");
        master.run(&[swap]).await;
        // What is no longer as it was is told, and nothing of it.
        let after = rows(&http, &plan, table).await;
        let [told] = &after[..] else { panic!("{after:?}") };
        let told = told["lost"].as_str().unwrap();
        assert!(told.contains(table) && told.contains("RENAME TABLE or EXCHANGE PARTITION"), "{told}");
        let (status, _) = answer(http.bare(Method::POST, "/admin/snapshots").json(&json!({"id": plan["id"]}))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "a snapshot that is lost must be begun anew");
    }
}

#[tokio::test]
async fn rows_of_a_table_that_was_altered_in_an_instant_never_travel() {
    let (master, http) = TestHttp::master().await;
    master
        .run(&[
            "CREATE TABLE shop.t (i INT PRIMARY KEY AUTO_INCREMENT, a INT, b INT)",
            "INSERT INTO shop.t (a, b) VALUES (1, 2)",
        ])
        .await;
    let alters = [
        "ALTER TABLE shop.t CHANGE a a_old INT, ADD a INT DEFAULT 5, ALGORITHM=INSTANT",
        "ALTER TABLE shop.t RENAME COLUMN a TO b, RENAME COLUMN b TO a, ALGORITHM=INSTANT",
    ];
    for alter in alters {
        let plan = begin(&http).await;
        // It is told from what each new row changes.
        master.run(&["INSERT INTO shop.t (b) VALUES (3)"]).await;
        let before = rows(&http, &plan, "t").await;
        assert_eq!(before.last(), Some(&json!("end")), "{before:?}");
        master.run(&[alter]).await;
        let after = rows(&http, &plan, "t").await;
        let [told] = &after[..] else { panic!("{after:?}") };
        assert!(told["lost"].as_str().unwrap().contains("ALTER TABLE"), "{told}");
    }
}

#[tokio::test]
async fn a_snapshot_outlives_new_tables_and_a_server_without_room() {
    let (master, http) = TestHttp::master().await;
    let mut conn = master.connect().await;
    master
        .run(&[
            "CREATE DATABASE `ä`",
            "CREATE TABLE `ä`.`ä b` (i INT PRIMARY KEY)",
            "INSERT INTO `ä`.`ä b` VALUES (1)",
            "CREATE TABLE `ä`.`ä c` (i INT PRIMARY KEY)",
        ])
        .await;
    let plan = begin(&http).await;
    // The first can't be told by its name from the one that is read.
    master.run(&["CREATE TABLE `ä`.`ö b` (i INT)", "CREATE TABLE `ä`.`日本` (i INT)", "DROP TABLE `ä`.`ä c`"]).await;
    let lines = rows(&http, &plan, "ä b").await;
    assert_eq!((lines.len(), &lines[1]), (2, &json!("end")), "{lines:?}");

    master.run(&["SET GLOBAL max_connections = 10"]).await;
    let mut held = Vec::new();
    while let Ok(conn) = Conn::new(master.opts()).await {
        held.push(conn);
    }
    let before = refused(&mut conn).await;
    let let_go = async {
        eventually("a connection that is refused", async || match refused(&mut conn).await {
            now if now > before => Ok(()),
            now => Err(now),
        })
        .await;
        held.clear();
    };
    let (lines, ()) = tokio::join!(rows(&http, &plan, "ä b"), let_go);
    assert_eq!((lines.len(), &lines[1]), (2, &json!("end")), "{lines:?}");
}

/// How many connections the server had no room for.
async fn refused(conn: &mut Conn) -> u64 {
    let row: Option<(String, u64)> =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'Connection_errors_max_connections'").await.unwrap();
    row.unwrap().1
}

/// A connection that writes until it is told to stop, and for each statement gives its number in the binlog and what it
/// has written.
async fn write(
    server: &TestServer,
    stop: &Arc<AtomicBool>,
    sql: fn(u64) -> String,
) -> tokio::task::JoinHandle<Vec<(u64, u64)>> {
    let (mut conn, stop) = (server.connect().await, Arc::clone(stop));
    tokio::spawn(async move {
        let mut written = Vec::new();
        while !stop.load(SeqCst) {
            let n = written.len() as u64;
            let value: Option<u64> = conn.query_first(sql(n)).await.unwrap();
            written.push((last_number(&mut conn).await, value.unwrap_or(n)));
        }
        written
    })
}

async fn last_number(conn: &mut Conn) -> u64 {
    let gtid: Option<String> = conn.query_first("SELECT @@last_gtid").await.unwrap();
    gtid.unwrap().rsplit('-').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_sequences_are_those_of_the_position() {
    let (master, http) = TestHttp::master().await;
    master.run(&["CREATE SEQUENCE shop.number NOCACHE"]).await;
    // So that there is time between the first definition and the position.
    for n in 0..60 {
        master.run(&[&format!("CREATE TABLE shop.t{n} (i INT PRIMARY KEY)")]).await;
    }
    let stop = Arc::default();
    let accounts = write(&master, &stop, |n| format!("CREATE USER u{n}@'%'")).await;
    let numbers = write(&master, &stop, |_| "SELECT NEXTVAL(shop.number)".to_owned()).await;
    let mut plans = Vec::new();
    for _ in 0..4 {
        plans.push(begin(&http).await);
    }
    stop.store(true, SeqCst);
    let (accounts, numbers) = (accounts.await.unwrap(), numbers.await.unwrap());
    for plan in plans {
        let mark: u64 = plan["mark"]["gtid"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        let expected: BTreeSet<String> =
            accounts.iter().filter(|(at, _)| *at <= mark).map(|(_, n)| format!("u{n}@%")).collect();
        let before = plan["before"].as_array().unwrap();
        let found: BTreeSet<String> = before
            .iter()
            .filter_map(|definition| definition["account"].as_str())
            .filter(|account| account.starts_with('u'))
            .map(str::to_owned)
            .collect();
        assert_eq!(found, expected, "at {mark}");

        let written = numbers.iter().filter(|(at, _)| *at <= mark).map(|(_, value)| *value).max().unwrap_or(0);
        let after = plan["after"].as_array().unwrap().iter();
        let sql = after.map(|definition| BASE64_STANDARD.decode(definition["sql"].as_str().unwrap()).unwrap());
        let set = sql.map(|sql| String::from_utf8_lossy(&sql).into_owned()).find(|sql| sql.contains("SETVAL")).unwrap();
        let next: u64 = set.split(", ").nth(1).unwrap().parse().unwrap();
        assert!(next > written, "{set}, but {written} was given out before {mark}");
    }
}

#[tokio::test]
async fn rows_that_nobody_waits_for_are_not_read_on() {
    let (master, http) = TestHttp::master().await;
    master
        .run(&[
            "USE shop",
            "CREATE TABLE shop.big (i INT PRIMARY KEY, s VARCHAR(1000))",
            "INSERT INTO shop.big SELECT seq, REPEAT('x', 1000) FROM seq_1_to_40000",
        ])
        .await;
    let plan = begin(&http).await;
    // More often than there are sessions.
    for _ in 0..7 {
        let mut answer = ask(&http, &plan, "big").await;
        assert!(answer.chunk().await.unwrap().is_some());
    }
    let mut conn = master.connect().await;
    eventually("queries that are ended", async || {
        let (_, ended): (String, u64) = conn.query_first("SHOW GLOBAL STATUS LIKE 'Com_kill'").await.unwrap().unwrap();
        if ended == 7 { Ok(()) } else { Err(ended) }
    })
    .await;
    // The sessions go on, and see what they saw.
    master.run(&["DELETE FROM shop.big"]).await;
    let lines = rows(&http, &plan, "big").await;
    let count: u64 = lines.iter().filter_map(|line| line["rows"]["rows"].as_u64()).sum();
    assert_eq!((count, lines.last().unwrap()), (40_000, &json!("end")));
}
