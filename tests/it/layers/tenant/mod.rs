//! Two tenants in one set of tables, one of whom tries to reach the other.

mod attacks;

use mysql_async::{Conn, Opts, prelude::Queryable};
use reqwest::StatusCode;
use serde_json::{Value, json};
use towline::wire::capability::mariadb;
use towline_middleware::Role;

use self::attacks::{ATTACKS, OF_MYSQL};
use super::{code, reload};
use crate::support::{
    TestNode,
    http::answer,
    mysql_node, mysql_server,
    wire_client::{MODERN, Target, WireClient},
};

const LAYER: &str = "
[[layer]]
name = 'tenant'
tables = ['t.item', 't.line', 't.note']
shared = ['t.country']
except = ['admin']
tenant = [{ user = 'a', value = 'alpha' }, { user = 'b', value = 'beta' }, { user = 'c', schema = 'c' }]
";

/// In each of the other tenant's rows.
const FOREIGN: &str = "of beta";

async fn node() -> TestNode {
    let node = TestNode::start("master", Role::Master, LAYER).await;
    make_tables(node.server_opts()).await;
    node
}

async fn make_tables(server: Opts) {
    let mut server = Conn::new(server).await.unwrap();
    for statement in [
        "CREATE DATABASE t",
        "CREATE DATABASE c",
        "CREATE TABLE c.own (id INT PRIMARY KEY)",
        "INSERT INTO c.own VALUES (5)",
        "CREATE TABLE t.country (id INT PRIMARY KEY, name VARCHAR(40))",
        "CREATE TABLE t.item (id INT PRIMARY KEY, tenant_id VARCHAR(20) NOT NULL, name VARCHAR(40), n INT, KEY (name))",
        "CREATE TABLE t.line (id INT PRIMARY KEY AUTO_INCREMENT, tenant_id VARCHAR(20) NOT NULL, item INT, text VARCHAR(40))",
        "CREATE TABLE t.note (tenant_id VARCHAR(20), id INT, text VARCHAR(40), PRIMARY KEY (tenant_id, id))",
        "INSERT INTO t.country VALUES (1, 'one'), (2, 'two'), (3, 'three')",
        "INSERT INTO t.item VALUES (1, 'alpha', 'lamp', 1), (2, 'beta', 'chair of beta', 2), (3, 'alpha', 'desk', 3)",
        "INSERT INTO t.line (tenant_id, item, text) VALUES ('alpha', 1, 'first'), ('beta', 2, 'line of beta'), \
         ('beta', 1, 'on another''s item, of beta')",
        "INSERT INTO t.note VALUES ('alpha', 1, 'mine'), ('beta', 1, 'note of beta'), ('beta', 2, 'note of beta')",
        "CREATE VIEW t.v AS SELECT * FROM t.item",
        "CREATE FUNCTION t.leak() RETURNS TEXT READS SQL DATA RETURN (SELECT GROUP_CONCAT(name) FROM t.item)",
        "CREATE PROCEDURE t.p() SELECT * FROM t.item",
        "CREATE USER admin@'%' IDENTIFIED BY 'secret'",
        "GRANT ALL ON *.* TO admin@'%'",
    ] {
        server.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    for user in ["a", "b", "c", "nobody"] {
        server.query_drop(format!("CREATE USER {user}@'%' IDENTIFIED BY 'secret'")).await.unwrap();
        server.query_drop(format!("GRANT ALL ON *.* TO {user}@'%'")).await.unwrap();
    }
}

async fn client(node: &TestNode, user: &str) -> Conn {
    let mut conn = node.connect(user, "secret").await.unwrap_or_else(|error| panic!("{error}; {}", node.log()));
    conn.query_drop(if user == "c" { "USE c" } else { "USE t" }).await.unwrap();
    conn
}

async fn http(node: &TestNode, user: &str, sql: &str, params: Value) -> (StatusCode, Value) {
    let command = json!({"action": "query", "dbname": "t", "sql": sql, "params": params});
    let request = reqwest::Client::new().post(node.url("/master")).basic_auth(user, Some("secret"));
    answer(request.json(&command)).await
}

/// The rows of a result as text, or the error.
async fn text(conn: &mut Conn, sql: &str, prepared: bool) -> String {
    let rows: Result<Vec<mysql_async::Row>, _> =
        if prepared { conn.exec(sql, ()).await } else { conn.query(sql).await };
    match rows {
        Ok(rows) => {
            let row = |row: mysql_async::Row| {
                let values = row.unwrap().into_iter().map(|value| match value {
                    mysql_async::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                    value => value.as_sql(true),
                });
                values.collect::<Vec<_>>().join(",")
            };
            rows.into_iter().map(row).collect::<Vec<_>>().join("|")
        }
        Err(error) => format!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_works_in_its_own_rows() {
    works_in_its_own_rows(&node().await).await;
}

/// The same, and no statement of MySQL's own reaches another tenant's rows.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_kept_apart_on_mysql() {
    let Some(mysql) = mysql_server(&[]).await else { return };
    make_tables(mysql.opts()).await;
    let node = mysql_node(&mysql, Role::Master, LAYER).await;
    works_in_its_own_rows(&node).await;
    nothing_reaches_others(&node, mysql.opts(), &[ATTACKS, OF_MYSQL].concat()).await;
}

async fn works_in_its_own_rows(node: &TestNode) {
    let mut a = client(node, "a").await;
    for (sql, wanted) in [
        ("SELECT id FROM item ORDER BY id", "1|3"),
        ("SELECT COUNT(*) FROM t.item WHERE t.item.id > 0 OR 1 = 1", "2"),
        ("SELECT i.id, l.text FROM item i LEFT JOIN line l ON l.item = i.id ORDER BY 1", "1,first|3,NULL"),
        ("SELECT i.id, l.text FROM line l RIGHT JOIN item i ON l.item = i.id ORDER BY 1", "1,first|3,NULL"),
        ("SELECT c.id, i.name FROM country c LEFT JOIN item i ON i.id = c.id ORDER BY 1", "1,lamp|2,NULL|3,desk"),
        ("SELECT c.id FROM country c LEFT JOIN item i ON i.id = c.id WHERE i.id IS NULL", "2"),
        ("SELECT c.id FROM country c WHERE NOT EXISTS (SELECT 1 FROM item i WHERE i.id = c.id)", "2"),
        ("SELECT UPPER(name) FROM item WHERE LENGTH(name) + 1 = 5 ORDER BY 1", "DESK|LAMP"),
        ("SELECT id FROM item WHERE id = (SELECT MAX(id) FROM item)", "3"),
        ("SELECT name FROM item UNION SELECT text FROM line ORDER BY 1", "desk|first|lamp"),
        ("WITH x AS (SELECT id FROM item) SELECT SUM(id) FROM x", "4"),
        ("SELECT * FROM (SELECT id, n FROM item) d ORDER BY id", "1,1|3,3"),
        ("SELECT a.id FROM (item a JOIN item b ON a.id = b.id) ORDER BY 1", "1|3"),
        ("SELECT id FROM item USE INDEX (name) WHERE name = 'lamp' FOR UPDATE", "1"),
        ("SELECT EXTRACT(YEAR FROM '2026-01-02'), COUNT(*) FROM item", "2026,2"),
        ("SELECT item.* FROM item NATURAL JOIN country WHERE 1 = 0", ""),
        ("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'item'", "1"),
        ("SELECT id FROM item WHERE id = 3 LOCK IN SHARE MODE", "3"),
    ] {
        for prepared in [false, true] {
            assert_eq!(text(&mut a, sql, prepared).await, wanted, "{sql}");
        }
        let (status, body) = http(node, "a", sql, json!([])).await;
        assert_eq!(status, StatusCode::OK, "{sql}: {body}");
        let rows = body["rows"].as_array().unwrap().len();
        assert_eq!(rows, wanted.split('|').filter(|row| !row.is_empty()).count(), "{sql}: {body}");
    }
    // Parameters keep their places.
    assert_eq!(a.exec_first("SELECT id FROM item WHERE id > ? AND name = ?", (0, "desk")).await.unwrap(), Some(3));
    a.exec_drop("INSERT INTO item (id, name, n) VALUES (?, ?, ?), (?, 'x', 0)", (10, "ten", 1, 11)).await.unwrap();
    a.exec_drop("INSERT INTO item (id, tenant_id) VALUES (?, ?)", (12, "alpha")).await.unwrap();
    assert_eq!(code(a.exec_drop("INSERT INTO item (id, tenant_id) VALUES (?, ?)", (13, "beta")).await), Some(1227));
    assert_eq!(http(node, "a", "INSERT INTO item SET id = ?", json!([14])).await.0, StatusCode::OK);
    a.query_drop("INSERT INTO line (item, text) SELECT id, name FROM item WHERE id >= 10").await.unwrap();
    a.query_drop("INSERT INTO note (id, text) VALUES (1, 'new') ON DUPLICATE KEY UPDATE text = 'new'").await.unwrap();
    a.query_drop("REPLACE INTO note (id, text) VALUES (2, 'second')").await.unwrap();
    a.query_drop("UPDATE item SET n = n + 1, tenant_id = 'alpha' WHERE id IN (1, 2)").await.unwrap();
    a.query_drop("UPDATE item SET n = n + 1 WHERE n + 0 >= 2 AND id < 4").await.unwrap();
    a.exec_drop("UPDATE item SET tenant_id = ? WHERE id = 12", ("alpha",)).await.unwrap();
    a.query_drop("DELETE line FROM line JOIN item ON item.id = line.item WHERE item.id = 11").await.unwrap();
    a.query_drop("DELETE FROM item WHERE id = 11").await.unwrap();
    assert_eq!(text(&mut a, "SELECT id, n FROM item ORDER BY id", false).await, "1,3|3,4|10,1|12,NULL|14,NULL");
    assert_eq!(text(&mut a, "SELECT id, text FROM note ORDER BY id", false).await, "1,new|2,second");

    // By schema, the administrator, and an account that nobody named.
    let mut c = client(node, "c").await;
    assert_eq!(c.query_first("SELECT id FROM own").await.unwrap(), Some(5));
    assert_eq!(code(c.query_drop("SELECT * FROM t.item").await), Some(1227));
    assert_eq!(code(c.query_drop("USE t").await), Some(1227));
    let mut admin = client(node, "admin").await;
    assert_eq!(admin.query_first("SELECT COUNT(*) FROM item WHERE tenant_id = 'beta'").await.unwrap(), Some(1));
    // The driver asks for variables when it connects.
    assert_eq!(code(node.connect("nobody", "secret").await), Some(1227));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reaches_another_tenants_rows() {
    let node = node().await;
    nothing_reaches_others(&node, node.server_opts(), ATTACKS).await;
    // The bytes of a name in another character set are not those of the replacement character.
    let own = Target::Front(node.mysql_front());
    let mut raw = WireClient::connect(&own, MODERN, ("a", "secret"), "t").await;
    raw.run("SET NAMES latin1").await;
    let reply = raw.command(b"\x03SELECT \xe9.* FROM item \xe9, item \xef\xbf\xbd").await;
    assert_eq!(reply[0].error_code(), Some(1227), "{reply:?}");
    raw.run("SET sql_mode = 'MSSQL'").await;
    let reply = raw.command(b"\x03SELECT 1 AS ['], name FROM item -- '] FROM country").await;
    assert_eq!(reply[0].error_code(), Some(1227), "{reply:?}");
    assert_eq!(raw.command(b"\x0a").await[0].error_code(), Some(1227), "COM_PROCESS_INFO");
}

async fn nothing_reaches_others(node: &TestNode, server: Opts, attacks: &[&str]) {
    let mut server = Conn::new(server).await.unwrap();
    let foreign = "SELECT CONCAT_WS(',', (SELECT GROUP_CONCAT(id, tenant_id, name, n ORDER BY id) FROM t.item WHERE \
                   tenant_id = 'beta'), (SELECT GROUP_CONCAT(id, item, text ORDER BY id) FROM t.line WHERE tenant_id = 'beta'), \
                   (SELECT GROUP_CONCAT(id, text ORDER BY id) FROM t.note WHERE tenant_id = 'beta'))";
    let before: Option<String> = server.query_first(foreign).await.unwrap();
    let mut a = client(node, "a").await;
    for sql in attacks {
        for prepared in [false, true] {
            let told = text(&mut a, sql, prepared).await;
            assert!(!told.contains(FOREIGN), "{sql}: {told}");
            // What a condition has carried out of rows that it has looked at.
            let kept = text(&mut a, "SELECT @s, @t", false).await;
            assert!(!kept.contains(FOREIGN), "{sql} kept {kept}");
        }
        let (_, body) = http(node, "a", sql, json!([])).await;
        assert!(!body.to_string().contains(FOREIGN), "{sql}: {body}");
        let after: Option<String> = server.query_first(foreign).await.unwrap();
        assert_eq!(after, before, "{sql}");
    }
    // The time that a condition takes tells nothing either: it is not asked of other rows.
    let slow = "SELECT id FROM item WHERE name LIKE '%beta' AND SLEEP(20) = 0";
    assert_eq!(text(&mut a, slow, false).await, "");
    let slow = "UPDATE item SET n = 1 WHERE IF(name LIKE '%beta', SLEEP(20), 0) = 1";
    assert_eq!(text(&mut a, slow, false).await, "");
    // A locking read locks, as it would without the layer.
    a.query_drop("BEGIN").await.unwrap();
    a.query_drop("SELECT * FROM item WHERE id = 1 FOR UPDATE").await.unwrap();
    server.query_drop("SET innodb_lock_wait_timeout = 1").await.unwrap();
    assert_eq!(code(server.query_drop("SELECT * FROM t.item WHERE id = 1 FOR UPDATE").await), Some(1205));
}

/// Attacks that need more than one command.
#[tokio::test(flavor = "multi_thread")]
async fn no_state_of_a_session_opens_another_tenants_rows() {
    let node = node().await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    // The node's own question for keys is not cut off.
    let mut a = client(&node, "a").await;
    a.query_drop("SET sql_select_limit = 0").await.unwrap();
    let replace = "REPLACE INTO item (id, name) VALUES (2, 'stolen')";
    assert_eq!(code(a.query_drop(replace).await), Some(1227));
    a.query_drop("REPLACE INTO note (id, text) VALUES (1, 'new')").await.unwrap();
    server.query_drop("ALTER TABLE t.note DROP PRIMARY KEY, ADD UNIQUE (tenant_id(2), id)").await.unwrap();
    assert_eq!(code(a.query_drop("REPLACE INTO note (id, text) VALUES (1, 'newer')").await), Some(1227));

    // Nobody learns how many rows of others a condition has looked at.
    let mut a = client(&node, "a").await;
    assert_eq!(text(&mut a, "SELECT id FROM item WHERE name = 0 ORDER BY id", false).await, "1|3");
    assert_eq!(a.get_warnings(), 0);
    let count = text(&mut a, "SHOW VARIABLES LIKE 'warning_count'", false).await;
    assert_eq!(count, "warning_count,0");

    // Parentheses are looked through on one stack.
    let deep = format!("SELECT {}1{}", "(".repeat(4000), ")".repeat(4000));
    assert_eq!(code(a.query_drop(deep).await), Some(1227));
    assert_eq!(code(a.query_drop("START SLAVE").await), Some(1227));

    // The node goes on to know the default schema.
    a.query_drop("SET session_track_schema = OFF").await.unwrap();
    a.query_drop("USE c").await.unwrap();
    assert_eq!(code(a.query_drop("SELECT * FROM item").await), Some(1227));

    // What was sent for an execute that the node refuses is not used by the next.
    let own = Target::Front(node.mysql_front());
    let capabilities = u64::from(MODERN) | u64::from(mariadb::STMT_BULK_OPERATIONS) << 32;
    let mut raw = WireClient::connect(&own, capabilities, ("a", "secret"), "t").await;
    // Parameters of other forms are not miscounted.
    raw.run("SET sql_mode = ORACLE").await;
    let named = raw.command(b"\x16INSERT INTO item (name, id, tenant_id) VALUES (:a, 50, ?)").await;
    assert_eq!(named[0].error_code(), Some(1227), "{named:?}");
    raw.run("SET sql_mode = DEFAULT").await;
    let prepared = raw.command(b"\x16INSERT INTO item (id, tenant_id) VALUES (?, ?)").await;
    let id = &prepared[0].payload[1..5];
    raw.send(0, &[&b"\x18"[..], id, &[1, 0], b"beta"].concat()).await;
    let bulk = [&b"\xfa"[..], id, &[128, 0, 3, 0, 0xfd, 0, 0, 50, 0, 0, 0, 0, 4], b"beta"].concat();
    assert_eq!(raw.command(&bulk).await[0].error_code(), Some(1227));
    let single = [&b"\x17"[..], id, &[0, 1, 0, 0, 0, 0, 1, 3, 0, 0xfd, 0, 51, 0, 0, 0, 5], b"alpha"].concat();
    let reply = raw.command(&single).await;
    assert_eq!(reply[0].error_code(), None, "{reply:?}");
    let owners: Vec<String> = server.query("SELECT tenant_id FROM t.item WHERE id >= 50").await.unwrap();
    assert_eq!(owners, ["alpha"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_prepared_again_when_the_tenants_have_changed() {
    let node = node().await;
    let mut a = client(&node, "a").await;
    let count = a.prep("SELECT COUNT(*) FROM item WHERE name <> ?").await.unwrap();
    assert_eq!(a.exec_first(&count, ("",)).await.unwrap(), Some(2));
    node.write_layers(&LAYER.replace("alpha", "al pha"));
    assert_eq!(reload(&node).await.0, StatusCode::BAD_REQUEST, "a value with a space was taken");
    node.write_layers(&LAYER.replace("alpha", "other"));
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    assert_eq!(code(a.exec_drop(&count, ("",)).await), Some(1615));
    let count = a.prep("SELECT COUNT(id) FROM item WHERE name <> ?").await.unwrap();
    assert_eq!(a.exec_first(&count, ("",)).await.unwrap(), Some(0));
}
