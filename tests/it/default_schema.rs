//! What a client does so that the node takes another schema for its session's default one.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::Role;

use crate::support::{TestCluster, TestNode, mysql_node, mysql_server};

const ANYBODY: (&str, &str) = ("boss", "secret");

const SCHEMA: [&str; 7] = [
    "CREATE USER boss@'%' IDENTIFIED BY 'secret'",
    "GRANT ALL ON *.* TO boss@'%'",
    "CREATE DATABASE d",
    "CREATE TABLE d.hidden (id INT PRIMARY KEY)",
    "INSERT INTO d.hidden VALUES (7)",
    "CREATE PROCEDURE d.off() SET SESSION session_track_schema = 0",
    "CREATE FUNCTION d.off_too() RETURNS INT DETERMINISTIC BEGIN SET SESSION session_track_schema = 0; RETURN 1; END",
];

/// Nobody may read `d.hidden`.
const LAYER: &str = "[[layer]]\nname = 'rules'\nrule = [{ table = 'd.hidden', action = 'deny' }]\n";

/// Texts, one after the other in one session, behind which its default schema is SCHEMA; the server need not have
/// reported that.
const WAYS: &[&[&str]] = &[
    &["USE SCHEMA"],
    &["/* a */ use `SCHEMA`;"],
    &["SET session_track_schema = 0", "USE SCHEMA"],
    &["SET session_track_schema = 0; USE SCHEMA"],
    &["SET session_track_schema = 0; USE SCHEMA; SELECT nothing"],
    &["SET @@session.session_track_schema = 0, @a = 1; USE SCHEMA; SELECT 1"],
    &["USE SCHEMA; SELECT 1"],
    &["USE d; SET session_track_schema = 0; USE SCHEMA"],
    &["PREPARE o FROM 'SET session_track_schema = 0'", "EXECUTE o", "USE SCHEMA"],
    &["PREPARE o FROM 'SET session_track_schema = 0'; EXECUTE o; USE SCHEMA"],
    &["SET @o = CONCAT('SET session_tr', 'ack_schema = 0')", "PREPARE o FROM @o", "EXECUTE o", "USE SCHEMA"],
    &["CALL d.off()", "USE SCHEMA"],
    &["DO d.off_too()", "USE SCHEMA"],
    &["SELECT d.off_too(); USE SCHEMA"],
    &["/*!50000 SET session_track_schema = 0 */; /*!50000 USE SCHEMA */"],
];

/// The same, with what only MariaDB runs.
const OF_MARIADB: &[&[&str]] = &[
    &["EXECUTE IMMEDIATE 'SET session_track_schema = 0'", "USE SCHEMA"],
    &["EXECUTE IMMEDIATE CONCAT('SET session_tr', 'ack_schema = 0')", "USE SCHEMA"],
    &["BEGIN NOT ATOMIC SET SESSION session_track_schema = 0; END", "USE SCHEMA"],
    &["CALL d.off()", "EXECUTE IMMEDIATE 'USE SCHEMA'"],
    &["CALL d.off()", "PREPARE u FROM 'USE SCHEMA'", "EXECUTE u"],
    &["PREPARE o FROM 'SET session_track_schema = 0'", "PREPARE u FROM 'USE SCHEMA'", "EXECUTE o", "EXECUTE u"],
    &["SET session_track_schema = 0; EXECUTE IMMEDIATE 'USE SCHEMA'"],
    &["SET session_track_schema = 0; PREPARE u FROM 'USE SCHEMA'; EXECUTE u"],
    &["SET STATEMENT session_track_schema = 0 FOR EXECUTE IMMEDIATE 'USE SCHEMA'"],
];

/// Goes one way in a new session, as text or prepared, with `last` behind the last text if it is to be in the same one.
async fn go(mut conn: Conn, way: &[&str], schema: &str, last: &str, prepared: bool) -> Conn {
    for (place, text) in way.iter().enumerate() {
        let end = if place + 1 == way.len() { last } else { "" };
        let sql = format!("{}{end}", text.replace("SCHEMA", schema));
        // What is refused, or not known in this form, changes nothing.
        let _ = if prepared { conn.exec_drop(sql, ()).await } else { conn.query_drop(sql).await };
    }
    conn
}

/// The attacks on one node; `server` logs in past it.
async fn attack(node: &TestNode, server: impl AsyncFn() -> Conn, ways: &[&[&str]]) {
    let client = async || node.connect(ANYBODY.0, ANYBODY.1).await.unwrap();
    let own = "SELECT COUNT(*) FROM towline.kept";
    for way in ways {
        let mut direct = go(server().await, way, "d", "", false).await;
        let reached: Option<String> = direct.query_first("SELECT DATABASE()").await.unwrap();
        assert_eq!(reached.as_deref(), Some("d"), "{way:?} leads nowhere");
        for prepared in [false, true] {
            let mut conn = go(client().await, way, "d", "", prepared).await;
            let hidden: Result<Option<u64>, _> = conn.query_first("SELECT id FROM hidden").await;
            assert!(!matches!(hidden, Ok(Some(_))), "{way:?} showed what a rule hides");
            let mut conn = go(client().await, way, "towline", "", prepared).await;
            let _ = conn.query_drop("DELETE FROM kept").await;
            assert_eq!(direct.query_first(own).await.unwrap(), Some(1), "{way:?}");
            go(client().await, way, "towline", "; DELETE FROM kept", prepared).await;
            assert_eq!(direct.query_first(own).await.unwrap(), Some(1), "{way:?}, in one text");
        }
        let mut conn = client().await;
        for text in [&way.join("; ").replace("SCHEMA", "d"), "SELECT id FROM hidden"] {
            let hidden: Result<Vec<mysql_async::Row>, _> = conn.query(text).await;
            assert!(hidden.map_or(true, |rows| rows.is_empty() || text != "SELECT id FROM hidden"), "{way:?}, joined");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_hides_its_default_schema_from_the_node() {
    let cluster = TestCluster::start_with_layers(1, LAYER).await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    for sql in SCHEMA {
        server.query_drop(sql).await.unwrap();
    }
    cluster.wait_equal().await;
    for node in [&cluster.slaves[0], &cluster.master] {
        let server = async || Conn::new(node.server_opts()).await.unwrap();
        let mut own = server().await;
        own.query_drop("SET sql_log_bin = 0").await.unwrap();
        own.query_drop("CREATE TABLE towline.kept AS SELECT 1 AS id").await.unwrap();
        attack(node, server, &[WAYS, OF_MARIADB].concat()).await;
    }
    cluster.wait_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_hides_its_default_schema_from_the_node_on_mysql() {
    let Some(mysql) = mysql_server(&[]).await else { return };
    let node = mysql_node(&mysql, Role::Master, LAYER).await;
    mysql.run(&SCHEMA).await;
    mysql.run(&["SET sql_log_bin = 0", "CREATE TABLE towline.kept AS SELECT 1 AS id"]).await;
    attack(&node, async || mysql.connect().await, WAYS).await;
}

/// The character set decides how a text is cut: a slave has to know it.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_hides_its_character_set_from_a_slave() {
    let cluster = TestCluster::start(1).await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    for sql in SCHEMA {
        server.query_drop(sql).await.unwrap();
    }
    cluster.wait_equal().await;
    // To gbk the backslash is part of a character, and the string ends before the second statement.
    let disguised: &[u8] = b"SELECT '\xbf\\'; SET tx_read_only = 1 - @@tx_read_only -- '";
    let mut direct = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    direct.query_drop("SET NAMES gbk").await.unwrap();
    direct.query_drop(disguised).await.unwrap();
    assert_eq!(direct.query_first("SELECT @@session.tx_read_only").await.unwrap(), Some(1));
    for off in [
        &["SET session_track_system_variables = ''; SELECT nothing"][..],
        &["PREPARE o FROM 'SET session_track_system_variables = '''''", "EXECUTE o"],
        &["EXECUTE IMMEDIATE 'SET session_track_system_variables = '''''"],
    ] {
        let slave = &cluster.slaves[0];
        let mut conn = slave.connect(ANYBODY.0, ANYBODY.1).await.unwrap();
        for text in off.iter().chain(&["SET NAMES gbk"]) {
            let _ = conn.query_drop(*text).await;
        }
        let _ = conn.query_drop(disguised).await;
        let fence: Option<u8> = conn.query_first("SELECT @@session.tx_read_only").await.unwrap();
        assert_eq!(fence, Some(1), "{off:?}");
    }
    cluster.wait_equal().await;
}
