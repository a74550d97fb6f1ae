//! No OK goes to a client before its write is where `ack` wants it, whatever the client or a stored program does to the
//! reports by which the node learns of commits.

use mysql_async::{Conn, Error, OptsBuilder, prelude::Queryable};
use towline_middleware::Role;

use crate::support::{CLIENT, TestNode, mysql_node, mysql_server};

/// No slave is ever there.
const NO_SLAVE: &str = "slaves = ['http://127.0.0.1:9']\nack = 'all'\nack_timeout_ms = 100\nack_on_timeout = 'error'";

const SETUP: [&str; 9] = [
    "CREATE DATABASE d",
    "CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, n INT)",
    "GRANT ALL ON d.* TO app@'%'",
    "CREATE PROCEDURE d.p7() SET SESSION session_track_system_variables = ''",
    "CREATE PROCEDURE d.p8() BEGIN SET session_track_system_variables = ''; INSERT INTO d.t (n) VALUES (8); END",
    "CREATE FUNCTION d.f9() RETURNS INT BEGIN SET session_track_system_variables = ''; RETURN 9; END",
    "CREATE TABLE d.u (id INT PRIMARY KEY, n INT)",
    "INSERT INTO d.u VALUES (1, 1)",
    "CREATE PROCEDURE d.off() SET SESSION sql_log_bin = 0",
];

/// What a session does one after the other; the last of it commits.
const WAYS: &[&[&str]] = &[
    &["INSERT INTO d.t (n) VALUES (1)"],
    &["SET STATEMENT session_track_system_variables = '' FOR INSERT INTO d.t (n) VALUES (1)"],
    &["SET STATEMENT session_track_system_variables = '' FOR CREATE TABLE d.a (id INT)"],
    &["CALL d.p7()", "BEGIN", "INSERT INTO d.t (n) VALUES (1)", "COMMIT"],
    &["CALL d.p7()", "CREATE TABLE d.b (id INT)"],
    &["CALL d.p7(); BEGIN; INSERT INTO d.t (n) VALUES (1); COMMIT"],
    &["CALL d.p7(); INSERT INTO d.t (n) VALUES (1); SELECT 1"],
    &["CALL d.p7()", "BEGIN", "INSERT INTO d.t (n) VALUES (1)", "BEGIN"],
    &["CALL d.p7()", "SET autocommit = 0", "INSERT INTO d.t (n) VALUES (1)", "SET autocommit = 1"],
    &["CALL d.p8()"],
    &["INSERT INTO d.t (n) VALUES (d.f9())"],
];

/// What commits nothing waits for nobody.
const FREE: &[&[&str]] = &[
    &["CALL d.p7()"],
    &["CALL d.p7()", "BEGIN", "INSERT INTO d.t (n) VALUES (1)", "ROLLBACK"],
    &["UPDATE d.t SET n = 2 WHERE id = -1"],
    &["CALL d.p7()", "BEGIN", "SELECT * FROM d.t", "COMMIT"],
    &["DO d.f9()"],
    &["SET sql_select_limit = 0", "UPDATE d.t SET n = 2 WHERE id = -1"],
];

/// The server tells of rows that it has changed, or found, and its log has none.
const UNCHANGED: &[&[&str]] = &[
    &["REPLACE INTO d.u VALUES (1, 1)"],
    &["UPDATE d.u SET n = 1"],
    &["INSERT INTO d.u VALUES (1, 1) ON DUPLICATE KEY UPDATE n = 1"],
    &["SELECT 1 INTO @a"],
    &["CREATE TEMPORARY TABLE d.v SELECT 1 AS id", "INSERT INTO d.v VALUES (2)"],
];

/// Where the log is off: an administrator's procedure does that.
const UNLOGGED: &[&[&str]] =
    &[&["CALL d.off()", "UPDATE d.u SET n = n + 1"], &["CALL d.off(); UPDATE d.u SET n = n + 1; DO 1"]];

async fn run(conn: &mut Conn, way: &[&str]) -> Result<(), Error> {
    let (last, before) = way.split_last().unwrap();
    for sql in before {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql} of {way:?}: {error}"));
    }
    conn.query_drop(*last).await
}

#[tokio::test]
async fn no_commit_is_silent_however_its_report_is_switched_off() {
    let config = format!("[cluster]\nsecret = 'a secret'\n{NO_SLAVE}");
    let node = TestNode::start("master", Role::Master, &config).await;
    node.make_client().await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for sql in SETUP {
        server.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert_waits(&node, WAYS).await;
    for way in FREE {
        let mut conn = node.connect(CLIENT.0, CLIENT.1).await.unwrap();
        run(&mut conn, way).await.unwrap_or_else(|error| panic!("{way:?}: {error}"));
    }
    for (ways, warnings) in [(UNCHANGED, 0), (UNLOGGED, 1)] {
        for (way, found_rows) in ways.iter().flat_map(|way| [(way, false), (way, true)]) {
            let opts = OptsBuilder::from_opts(node.opts(CLIENT.0, CLIENT.1)).client_found_rows(found_rows);
            let mut conn = Conn::new(opts).await.unwrap();
            run(&mut conn, way).await.unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(conn.get_warnings(), warnings, "{way:?}, rows found: {found_rows}: {}", conn.info());
        }
    }
}

/// How a session does it on MySQL, which tells of a commit by the report alone: what reports nothing waits for the server's
/// last.
const WAYS_MYSQL: &[&[&str]] = &[
    &["INSERT INTO d.t (n) VALUES (1)"],
    &["SET session_track_gtids = 'OFF'", "INSERT INTO d.t (n) VALUES (1)"],
    &["CALL d.p7()", "BEGIN", "INSERT INTO d.t (n) VALUES (1)", "COMMIT"],
    &["CALL d.p7()", "CREATE TABLE d.b (id INT)"],
    &["CALL d.p7(); INSERT INTO d.t (n) VALUES (1); SELECT 1"],
    &["CALL d.p7()", "BEGIN", "INSERT INTO d.t (n) VALUES (1)", "BEGIN"],
    &["CALL d.p8()"],
    &["INSERT INTO d.t (n) VALUES (d.f9())"],
];

#[tokio::test]
async fn no_commit_is_silent_on_mysql() {
    let Some(server) = mysql_server(&[]).await else { return };
    // Sets of others stand before and behind this server's own.
    for other in ["00000000", "ffffffff"] {
        server.run(&[&format!("SET GLOBAL gtid_purged = '+{other}-aaaa-aaaa-aaaa-aaaaaaaaaaaa:1-3:7'")]).await;
    }
    let node = mysql_node(&server, Role::Master, NO_SLAVE).await;
    let mut conn = server.connect().await;
    let client = format!("CREATE USER {}@'%' IDENTIFIED BY '{}'", CLIENT.0, CLIENT.1);
    for sql in std::iter::once(client.as_str()).chain(SETUP) {
        let sql = sql.replace("session_track_system_variables = ''", "session_track_gtids = 'OFF'");
        conn.query_drop(sql.as_str()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert_waits(&node, WAYS_MYSQL).await;
    let mut conn = node.connect(CLIENT.0, CLIENT.1).await.unwrap();
    run(&mut conn, &["SELECT * FROM d.t"]).await.unwrap();
    run(&mut conn, &["CALL d.p7()"]).await.unwrap();
    run(&mut conn, &["BEGIN", "INSERT INTO d.t (n) VALUES (1)", "ROLLBACK"]).await.unwrap();
}

async fn assert_waits(node: &TestNode, ways: &[&[&str]]) {
    for way in ways {
        let mut conn = node.connect(CLIENT.0, CLIENT.1).await.unwrap();
        let answer = run(&mut conn, way).await;
        let told = matches!(&answer, Err(Error::Server(error)) if error.code == 3024);
        assert!(told, "{way:?}: {answer:?}; {}", node.log());
    }
}
