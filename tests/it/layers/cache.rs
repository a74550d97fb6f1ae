//! The cache before a real cluster, torn at by concurrent writers.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
};

use mysql_async::{Conn, prelude::Queryable};
use reqwest::StatusCode;
use serde_json::{Value, json};
use towline_middleware::{Position, Role};

use super::{client, code, figure, http, master, reload};
use crate::support::{TestCluster, TestNode, eventually, mysql_node, mysql_server};

pub(super) const CACHE: &str = "[[layer]]\nname = 'cache'\n";
pub(super) const HITS: &str = "towline_layer_cache_hits_total";
pub(super) const READ: &str = "SELECT n FROM shop.item WHERE id = 1";

/// Reads until it is answered from memory, and returns what.
pub(super) async fn warm(node: &TestNode, conn: &mut Conn, sql: &str) -> Option<i64> {
    eventually("an answer from memory", async || {
        let before = figure(node, HITS).await;
        let value = conn.query_first(sql).await.unwrap();
        if figure(node, HITS).await > before { Ok(value) } else { Err(value) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_lives_until_a_change_of_what_it_was_read_from() {
    let node = master(CACHE).await;
    let mut conn = client(&node).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));

    // Through the node: the next read is newer, at once.
    for n in 1..20 {
        conn.query_drop(format!("UPDATE shop.item SET n = {n} WHERE id = 1")).await.unwrap();
        assert_eq!(conn.query_first(READ).await.unwrap(), Some(n));
    }
    // Behind its back, as soon as the node's position has passed.
    assert_eq!(warm(&node, &mut conn, READ).await, Some(19));
    server.query_drop("UPDATE shop.item SET n = 100 WHERE id = 1").await.unwrap();
    eventually("the change behind the node's back", async || match conn.query_first(READ).await.unwrap() {
        Some(100) => Ok(()),
        other => Err::<(), Option<i64>>(other),
    })
    .await;

    // Another table's change leaves it where it is.
    assert_eq!(warm(&node, &mut conn, READ).await, Some(100));
    server.query_drop("INSERT INTO shop.secret VALUES (7)").await.unwrap();
    assert_eq!(warm(&node, &mut conn, READ).await, Some(100));

    // A foreign key that cascades changes rows that are in no binlog.
    for sql in [
        "CREATE TABLE shop.parent (id INT PRIMARY KEY)",
        "CREATE TABLE shop.child (id INT PRIMARY KEY, n INT, FOREIGN KEY (id) REFERENCES shop.parent (id) ON DELETE CASCADE)",
        "INSERT INTO shop.parent VALUES (1)",
        "INSERT INTO shop.child VALUES (1, 5)",
    ] {
        server.query_drop(sql).await.unwrap();
    }
    let child = "SELECT n FROM shop.child WHERE id = 1";
    assert_eq!(warm(&node, &mut conn, child).await, Some(5));
    conn.query_drop("DELETE FROM shop.parent").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(child).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_gets_nothing_that_another_of_its_name_has_read() {
    let node = master(CACHE).await;
    let mut conn = client(&node).await;
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    // The server takes this one for whom the node connects, and it may not read the table.
    server.query_drop("CREATE USER app@localhost IDENTIFIED BY 'secret'").await.unwrap();
    let mut other = client(&node).await;
    assert_eq!(other.query_first("SELECT CURRENT_USER()").await.unwrap(), Some("app@localhost".to_owned()));
    assert_eq!(code(other.query_drop(READ).await), Some(1142));
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));
}

/// What a prepared statement means was settled when it was prepared.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_is_kept_as_what_it_was_prepared_as() {
    let node = master(CACHE).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in
        ["CREATE DATABASE other", "CREATE TABLE other.item (id INT, n INT)", "INSERT INTO other.item VALUES (1, 7)"]
    {
        server.query_drop(sql).await.unwrap();
    }
    let sql = "SELECT n FROM item WHERE id = ?";
    let (mut of_shop, mut of_other) = (client(&node).await, client(&node).await);
    of_shop.query_drop("USE shop").await.unwrap();
    of_other.query_drop("USE other").await.unwrap();
    let (in_shop, in_other) = (of_shop.prep(sql).await.unwrap(), of_other.prep(sql).await.unwrap());
    eventually("an answer from memory", async || {
        let before = figure(&node, HITS).await;
        assert_eq!(of_shop.exec_first(&in_shop, (1,)).await.unwrap(), Some(0));
        if figure(&node, HITS).await > before { Ok(()) } else { Err(()) }
    })
    .await;
    of_shop.query_drop("USE other").await.unwrap();
    eventually("answers from memory among right ones", async || {
        let before = figure(&node, HITS).await;
        assert_eq!(of_shop.exec_first(&in_shop, (1,)).await.unwrap(), Some(0));
        assert_eq!(of_other.exec_first(&in_other, (1,)).await.unwrap(), Some(7));
        if figure(&node, HITS).await == before + 2 { Ok(()) } else { Err(()) }
    })
    .await;
    of_other.query_drop("UPDATE shop.item SET n = 5 WHERE id = 1").await.unwrap();
    assert_eq!(of_shop.exec_first(&in_shop, (1,)).await.unwrap(), Some(5));

    let quoted = "SELECT \"name\" FROM shop.item WHERE id = 1";
    let (mut plain, mut ansi) = (client(&node).await, client(&node).await);
    let as_text = plain.prep(quoted).await.unwrap();
    eventually("an answer from memory", async || {
        let before = figure(&node, HITS).await;
        assert_eq!(plain.exec_first(&as_text, ()).await.unwrap(), Some("name".to_owned()));
        if figure(&node, HITS).await > before { Ok(()) } else { Err(()) }
    })
    .await;
    for conn in [&mut plain, &mut ansi] {
        conn.query_drop("SET sql_mode = 'ANSI_QUOTES'").await.unwrap();
    }
    let as_column = ansi.prep(quoted).await.unwrap();
    for _ in 0..3 {
        assert_eq!(plain.exec_first(&as_text, ()).await.unwrap(), Some("name".to_owned()));
        assert_eq!(ansi.exec_first(&as_column, ()).await.unwrap(), Some("lamp".to_owned()));
    }
}

/// What such a session has done nobody has seen: here it hides a table from itself alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_older_than_the_layer_gives_and_gets_nothing() {
    let node = master("").await;
    let (mut older, mut other) = (client(&node).await, client(&node).await);
    for _ in 0..2 {
        let own = "CREATE TEMPORARY TABLE shop.item (id INT, n INT) SELECT 1 AS id, 99 AS n";
        older.query_drop(own).await.unwrap();
        node.write_layers(CACHE);
        assert_eq!(reload(&node).await.0, StatusCode::OK);
        other.reset().await.unwrap();
        assert_eq!(warm(&node, &mut other, READ).await, Some(0));
        for _ in 0..3 {
            assert_eq!(older.query_first(READ).await.unwrap(), Some(99), "its own table");
            assert_eq!(other.query_first(READ).await.unwrap(), Some(0), "another's table");
        }
        older.reset().await.unwrap();
        assert_eq!(warm(&node, &mut older, READ).await, Some(0));
        // The layer is taken out, and comes back in the second round.
        node.write_layers("");
        assert_eq!(reload(&node).await.0, StatusCode::OK);
    }
}

/// A server writes its binlog first and commits in its engine then. A semi-synchronous one waits in between for a
/// replica: readers do not see yet what the node has heard of already.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_heard_of_before_it_is_visible_is_not_lost() {
    let node = master(CACHE).await;
    let mut conn = client(&node).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));
    let semi_sync = ["wait_point = AFTER_SYNC", "wait_no_slave = ON", "timeout = 1000", "enabled = ON"];
    for set in semi_sync {
        server.query_drop(format!("SET GLOBAL rpl_semi_sync_master_{set}")).await.unwrap();
    }
    reads_follow_a_late_commit(&node, &mut conn, server, [0, 5], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_heard_of_before_it_is_visible_is_not_lost_on_mysql() {
    let Some(mysql) = mysql_server(&[]).await else { return };
    let node = mysql_node(&mysql, Role::Master, CACHE).await;
    let mut server = mysql.connect().await;
    for sql in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.item (id INT PRIMARY KEY, n INT)",
        "INSERT INTO shop.item VALUES (1, 0)",
    ] {
        server.query_drop(sql).await.unwrap();
    }
    let mut conn = node.connect("towline", "towline").await.unwrap();
    assert_eq!(warm(&node, &mut conn, READ).await, Some(0));
    server.query_drop("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'").await.unwrap();
    for set in ["wait_for_replica_count = 1", "wait_no_replica = ON", "timeout = 1000", "enabled = ON"] {
        server.query_drop(format!("SET GLOBAL rpl_semi_sync_source_{set}")).await.unwrap();
    }
    let mut server = reads_follow_a_late_commit(&node, &mut conn, server, [0, 5], false).await;
    // Nor if a reload makes the memory anew, which has heard of nothing. (The server has given up waiting.)
    for set in ["OFF", "ON"] {
        server.query_drop(format!("SET GLOBAL rpl_semi_sync_source_enabled = {set}")).await.unwrap();
    }
    reads_follow_a_late_commit(&node, &mut conn, server, [5, 6], true).await;
}

/// Changes a row on the server, which commits it late, while the node's client reads it.
async fn reads_follow_a_late_commit(
    node: &TestNode,
    conn: &mut Conn,
    mut server: Conn,
    [from, to]: [i64; 2],
    reloads: bool,
) -> Conn {
    let before = node.status().await["position"].clone();
    let write = tokio::spawn(async move {
        server.query_drop(format!("UPDATE shop.item SET n = {to} WHERE id = 1")).await.unwrap();
        server
    });
    if reloads {
        eventually("the change that is not visible", async || match &node.status().await["position"] {
            position if *position != before => Ok(()),
            position => Err(position.clone()),
        })
        .await;
        node.write_layers(&format!("{CACHE}ttl_ms = 600000\n"));
        assert_eq!(reload(node).await.0, StatusCode::OK);
    }
    let mut hidden = 0;
    while !write.is_finished() {
        hidden += usize::from(conn.query_first(READ).await.unwrap() == Some(from));
    }
    let mut server = write.await.unwrap();
    assert!(hidden > 10, "the server did not wait before it committed: {hidden} reads");
    assert_eq!(server.query_first(READ).await.unwrap(), Some(to));
    assert_eq!(conn.query_first(READ).await.unwrap(), Some(to));
    assert_eq!(warm(node, conn, READ).await, Some(to));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_differ_is_not_answered_from_memory() {
    let node = master(CACHE).await;
    let mut conn = client(&node).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    server.query_drop("CREATE VIEW shop.v AS SELECT n FROM shop.item").await.unwrap();
    server.query_drop("CREATE TABLE shop.daily (at TIME)").await.unwrap();
    warm(&node, &mut conn, READ).await;
    let before = figure(&node, HITS).await;
    for sql in [
        "SELECT NOW(), n FROM shop.item",
        "SELECT SQL_NO_CACHE n FROM shop.item",
        "SELECT @a, n FROM shop.item",
        "SELECT n FROM shop.v",
        "SELECT DATE(at) FROM shop.daily",
        "SELECT 1",
        "SELECT COUNT(*) FROM mysql.user",
        "SELECT n FROM shop.item WHERE id = 1 FOR UPDATE",
    ] {
        for _ in 0..3 {
            conn.query_drop(sql).await.unwrap();
        }
    }
    conn.query_drop("BEGIN").await.unwrap();
    conn.query_drop(READ).await.unwrap();
    conn.query_drop("COMMIT").await.unwrap();
    assert_eq!(figure(&node, HITS).await, before);

    // FOUND_ROWS() is about what the client was answered.
    let both = "SELECT n FROM shop.item WHERE id < 3";
    let mut counts = client(&node).await;
    warm(&node, &mut counts, both).await;
    counts.query_drop("SELECT n FROM shop.item WHERE id = 2 AND 1 = 1").await.unwrap();
    counts.query_drop(both).await.unwrap();
    assert_eq!(counts.query_first("SELECT FOUND_ROWS()").await.unwrap(), Some(2));
    let before = figure(&node, HITS).await;

    // The same text with other variables, another parameter, or in the other form is another result.
    let name = "SELECT name FROM shop.item WHERE id = ?";
    let mut conn = client(&node).await;
    eventually("an answer from memory among right ones", async || {
        for (id, wanted) in [(1, "lamp"), (2, "chair")] {
            assert_eq!(conn.exec_first(name, (id,)).await.unwrap(), Some(wanted.to_owned()));
        }
        let text: Option<String> = conn.query_first("SELECT name FROM shop.item WHERE id = 1").await.unwrap();
        assert_eq!(text.as_deref(), Some("lamp"));
        assert_eq!(http(&node, name, json!([2])).await.1["rows"], json!([["chair"]]));
        let hits = figure(&node, HITS).await - before;
        if hits >= 8 { Ok(()) } else { Err(hits) }
    })
    .await;
    let date = "SELECT FROM_UNIXTIME(n) FROM shop.item WHERE id = 1";
    let quoted = "SELECT \"name\" FROM shop.item WHERE id = 1";
    for sql in [date, quoted] {
        let plain: Option<String> = conn.query_first(sql).await.unwrap();
        assert_eq!(conn.query_first::<String, _>(sql).await.unwrap(), plain);
    }
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES'").await.unwrap();
    assert_eq!(conn.query_first(quoted).await.unwrap(), Some("lamp".to_owned()));

    // A temporary table hides the other one from this session alone.
    conn.query_drop("CREATE TEMPORARY TABLE shop.item (id INT, n INT)").await.unwrap();
    assert_eq!(conn.query_first::<i64, _>(READ).await.unwrap(), None);

    // Rights that are gone are gone, also for what is in memory. (Those on all schemas the server itself leaves to a
    // session until its end.)
    for sql in ["CREATE USER few@'%' IDENTIFIED BY 'few'", "GRANT SELECT ON shop.* TO few@'%'"] {
        server.query_drop(sql).await.unwrap();
    }
    let mut few = node.connect("few", "few").await.unwrap();
    warm(&node, &mut few, READ).await;
    server.query_drop("REVOKE SELECT ON shop.* FROM few@'%'").await.unwrap();
    eventually("the refusal", async || match code(few.query_drop(READ).await) {
        Some(1142 | 1044) => Ok(()),
        other => Err(other),
    })
    .await;
}

/// What a text does not show is only seen where the text may do anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_is_seen_but_for_a_triggers() {
    let node = master(CACHE).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    let hides = "CREATE TEMPORARY TABLE shop.item (id INT, n INT)";
    for sql in [
        format!("CREATE PROCEDURE shop.hides() {hides}"),
        format!("CREATE TRIGGER shop.hides_too AFTER INSERT ON shop.secret FOR EACH ROW {hides}"),
    ] {
        server.query_drop(sql).await.unwrap();
    }
    for (sql, seen) in [("CALL shop.hides()", None), ("INSERT INTO shop.secret VALUES (9)", Some(0))] {
        let mut conn = client(&node).await;
        warm(&node, &mut conn, READ).await;
        conn.query_drop(sql).await.unwrap();
        let hidden: Option<i64> = conn.query_first("SELECT SQL_NO_CACHE n FROM shop.item WHERE id = 1").await.unwrap();
        assert_eq!(hidden, None, "{sql} hides the table");
        let mut other = client(&node).await;
        warm(&node, &mut other, READ).await;
        assert_eq!(conn.query_first(READ).await.unwrap(), seen, "{sql}");
    }
}

/// What writers have been told: the position of each commit, and the value that it wrote.
type Written = Arc<Mutex<Vec<(Position, i64)>>>;

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_older_than_the_position_that_it_claims() {
    let cluster = Arc::new(TestCluster::start_with_layers(1, CACHE).await);
    let mut administrator = cluster.master().await;
    for sql in ["CREATE DATABASE shop", "CREATE TABLE shop.item (id INT PRIMARY KEY, n BIGINT)"] {
        administrator.query_drop(sql).await.unwrap();
    }
    administrator.query_drop("INSERT INTO shop.item VALUES (1, 0), (2, 0), (3, 0)").await.unwrap();
    cluster.wait_equal().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for id in 1..=3 {
        let (written, floor) = (Written::default(), Arc::new(AtomicI64::new(0)));
        tasks.push(tokio::spawn(writer(cluster.clone(), id, stop.clone(), written.clone(), floor.clone())));
        tasks.push(tokio::spawn(reader_of_master(cluster.clone(), id, stop.clone(), floor)));
        tasks.push(tokio::spawn(reader_of_slave(cluster.clone(), id, stop.clone(), written)));
    }
    eventually("enough answers from memory on both nodes", async || {
        let hits = [figure(&cluster.master, HITS).await, figure(&cluster.slaves[0], HITS).await];
        if hits.iter().all(|hits| *hits > 300) || tasks.iter().any(|task| task.is_finished()) {
            Ok(())
        } else {
            Err(hits)
        }
    })
    .await;
    stop.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
}

fn sql_of(id: i64) -> String {
    format!("SELECT n FROM shop.item WHERE id = {id}")
}

/// Writes ever higher values, in turns over HTTP, by a client of the node, and behind its back.
async fn writer(cluster: Arc<TestCluster>, id: i64, stop: Arc<AtomicBool>, written: Written, floor: Arc<AtomicI64>) {
    let mut conn = cluster.master().await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    let mut n = 0;
    while !stop.load(SeqCst) {
        n += 1;
        let sql = format!("UPDATE shop.item SET n = {n} WHERE id = {id}");
        match n % 3 {
            0 => {
                let (_, body) = cluster_http(&cluster.master, &sql).await;
                let position: Position = body["position"].as_str().expect("a commit's position").parse().unwrap();
                written.lock().unwrap().push((position, n));
                floor.store(n, SeqCst);
            }
            1 => {
                conn.query_drop(sql).await.unwrap();
                floor.store(n, SeqCst);
            }
            // Behind the node's back nobody is told of a position.
            _ => server.query_drop(sql).await.unwrap(),
        }
        // Readers need a chance to be answered from memory.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// What a client was told is committed through the node is seen by every later read of it.
async fn reader_of_master(cluster: Arc<TestCluster>, id: i64, stop: Arc<AtomicBool>, floor: Arc<AtomicI64>) {
    let mut conn = cluster.master().await;
    while !stop.load(SeqCst) {
        let least = floor.load(SeqCst);
        let n: i64 = conn.query_first(sql_of(id)).await.unwrap().unwrap();
        assert!(n >= least, "row {id}: {n}, but {least} was acknowledged before");
    }
}

/// A slave's answer has at least what was committed up to the position that it claims.
async fn reader_of_slave(cluster: Arc<TestCluster>, id: i64, stop: Arc<AtomicBool>, written: Written) {
    while !stop.load(SeqCst) {
        let (_, body) = cluster_http(&cluster.slaves[0], &sql_of(id)).await;
        let claimed: Position = body["position"].as_str().expect("a read's position").parse().unwrap();
        let n = body["rows"][0][0].as_i64().unwrap();
        let of_claim = written.lock().unwrap().iter().rev().find(|(position, _)| *position <= claimed).copied();
        if let Some((position, least)) = of_claim {
            assert!(n >= least, "row {id}: {n} at {claimed}, but {least} was committed at {position}");
        }
    }
}

async fn cluster_http(node: &TestNode, sql: &str) -> (reqwest::StatusCode, Value) {
    let url = node.url(if node.is_slave() { "/slave" } else { "/master" });
    let (user, password) = crate::support::CLIENT;
    let command = json!({"action": "query", "sql": sql});
    crate::support::http::answer(reqwest::Client::new().post(url).basic_auth(user, Some(password)).json(&command)).await
}
