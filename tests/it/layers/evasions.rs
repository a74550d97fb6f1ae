//! Ways round `mask` and `rules`, and what they must not take for one.

use std::process::Command;

use mysql_async::{Conn, prelude::Queryable};
use serde_json::json;

use super::{APP, client, code, http, master, reload};
use crate::support::wire_client::{MODERN, Target, WireClient};

const MASK: &str = "
[[layer]]
name = 'mask'
column = [
    { column = 'shop.item.name', users = ['app'], with = '***' },
    { column = 'shop.typed.n', users = ['app'], with = '***' },
    { column = 'shop.keyed.e', users = ['app'] },
]
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_masked_is_refused_before_it_runs() {
    let node = master(MASK).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for statement in [
        "CREATE PROCEDURE shop.p() SELECT name FROM shop.item",
        "CREATE TABLE shop.typed (n INT, d DECIMAL(5,2), t DATETIME)",
        "INSERT INTO shop.typed VALUES (7, 1.5, NOW())",
        "CREATE TABLE shop.keyed (id INT PRIMARY KEY, g INT, e VARCHAR(40), UNIQUE (g, e))",
        "INSERT INTO shop.keyed VALUES (1, 1, 'bob@x'), (2, 2, 'bob@x')",
    ] {
        server.query_drop(statement).await.unwrap();
    }
    server.disconnect().await.unwrap();
    let mut conn = client(&node).await;
    let long: String = (0..3000).map(|number| format!("id AS an_alias_of_many_letters_{number}, ")).collect();
    for sql in [
        "EXECUTE IMMEDIATE 'SELECT name FROM shop.item'",
        "EXECUTE IMMEDIATE CONCAT('SELECT name FROM shop.it', 'em')",
        "PREPARE p FROM 'SELECT name FROM shop.item'",
        "EXECUTE p",
        "CALL shop.p()",
        "HANDLER shop.item OPEN AS h",
        "BEGIN NOT ATOMIC SELECT name FROM shop.item; END",
        "BEGIN shop.p(); END",
        "IF 1 THEN shop.p(); END IF",
        "SELECT name, id FROM shop.item ORDER BY TRUE",
        "SELECT name, id FROM shop.item ORDER BY PREVIOUS VALUE FOR shop.s, 2",
        "SET STATEMENT max_statement_time = 9 FOR SELECT name FROM shop.item",
        "SELECT name /*! AS x */ FROM shop.item",
        "SELECT id, name AS e FROM shop.item HAVING e LIKE 'l%'",
        "SELECT @ran := 1, CAST(name AS SIGNED) FROM shop.item",
        "SELECT name INTO @ran FROM shop.item LIMIT 1",
        "SHOW WARNINGS",
        "SHOW ERRORS",
        "GET DIAGNOSTICS CONDITION 1 @ran = MESSAGE_TEXT",
        "RENAME TABLE shop.item TO shop.other",
        &format!("SELECT {long}UPPER(name) FROM shop.item"),
    ] {
        let shown = &sql[..sql.len().min(100)];
        assert_eq!(code(conn.query_drop(sql).await), Some(1143), "{shown}");
        assert_eq!(http(&node, sql, json!([])).await.1["error"]["code"], 1143, "{shown}");
    }
    assert_eq!(conn.query_first::<Option<u8>, _>("SELECT @ran").await.unwrap(), Some(None), "one of them has run");
    let row: Option<mysql_async::Row> = conn.query_first(format!("SELECT {long}name FROM shop.item")).await.unwrap();
    assert_eq!(row.and_then(|row| row.get::<String, _>("name")).as_deref(), Some("***"));

    // A unique key quotes no values.
    let update = "UPDATE shop.keyed SET g = 2 WHERE id = 1";
    for told in [conn.query_drop(update).await, conn.exec_drop(update, ()).await] {
        let told = told.unwrap_err().to_string();
        assert!(told.contains("1062") && !told.contains("bob"), "{told}");
    }
    let (_, told) = http(&node, update, json!([])).await;
    assert!(told["error"]["code"] == 1062 && !told.to_string().contains("bob"), "{told}");

    // Under other modes the server cuts a text otherwise.
    let mut other = client(&node).await;
    let sql = r#"SET sql_mode = 'ANSI_QUOTES'; SELECT "name" FROM shop."item""#;
    assert_eq!(code(other.query_drop(sql).await), Some(1143));
    other.query_drop("SET sql_mode = 'MSSQL'").await.unwrap();
    assert_eq!(code(other.query_drop("SELECT 1 AS ['], name FROM shop.item -- ']").await), Some(1143));

    // Names that can't be read.
    let mut session = WireClient::connect(&Target::Front(node.mysql_front()), MODERN, APP, "shop").await;
    session.query("SET character_set_results = utf16").await;
    let told = session.query("SELECT * FROM item").await;
    assert_eq!(told.last().and_then(|packet| packet.error_code()), Some(1143), "{told:?}");
    assert_eq!(conn.query_first("SELECT n * 2, COUNT(*) FROM shop.item").await.unwrap(), Some((0, 2)));

    // What the column can't hold becomes NULL, in both forms.
    let text: Option<(Option<i32>, f32)> = conn.query_first("SELECT n, d FROM shop.typed").await.unwrap();
    let prepared: Option<(Option<i32>, f32)> = conn.exec_first("SELECT n, d FROM shop.typed", ()).await.unwrap();
    assert_eq!((text, prepared), (Some((None, 1.5)), Some((None, 1.5))));
}

const RULES: &str = "
[[layer]]
name = 'rules'
rule = [
    { table = 'shop.secret', action = 'deny' },
    { table = 'shop.session', action = 'deny' },
    { table = 'shop.names', action = 'deny' },
]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_table_is_not_reached_under_another_name() {
    let node = master(RULES).await;
    let mut conn = client(&node).await;
    conn.query_drop("USE shop").await.unwrap();
    for sql in [
        "WITH secret AS (SELECT * FROM secret) SELECT secret.* FROM secret, item",
        "SELECT id FROM item UNION SELECT id FROM secret",
        "EXECUTE IMMEDIATE CONCAT('SELECT * FROM sec', 'ret')",
        "PREPARE p FROM 'SELECT * FROM `secret`'",
        "HANDLER secret OPEN",
        "SHOW COLUMNS FROM secret",
        "SELECT id FROM item; CHECK TABLE item, secret",
        "SELECT 1 /*! FROM secret */",
        "SELECT * FROM .secret",
        "SELECT 1 FROM item; RENAME TABLE item TO other, secret TO open",
        "CREATE TABLE n (a INT REFERENCES secret(id))",
        "CREATE TABLE n LIKE secret",
        r#"SET sql_mode = 'ANSI_QUOTES'; SELECT * FROM "secret""#,
    ] {
        assert_eq!(code(conn.query_drop(sql).await), Some(1227), "{sql}");
    }
    for sql in [
        "SET NAMES utf8mb4",
        "SET SESSION wait_timeout = 1000",
        "SELECT @@session.sql_mode, 'secret' AS secret",
        "SHOW SESSION VARIABLES LIKE 'secret'",
        "SELECT n AS secret FROM item WHERE name = 'secret' ORDER BY secret",
        "EXECUTE IMMEDIATE 'SELECT 1'",
    ] {
        assert_eq!(code(conn.query_drop(sql).await), None, "{sql}");
    }
    conn.query_drop("USE mysql").await.unwrap();
    assert_eq!(code(conn.query_drop("USE shop; SELECT * FROM secret").await), Some(1227));
    assert_eq!(http(&node, "SELECT COUNT(*) FROM shop.item", json!([])).await.1["rows"], json!([[2]]));
    let mut raw = WireClient::connect(&Target::Front(node.mysql_front()), MODERN, APP, "shop").await;
    assert_eq!(raw.command(b"\x04Secret\0").await[0].error_code(), Some(1227), "COM_FIELD_LIST");
    assert_eq!(raw.command(b"\x04item\0").await[0].error_code(), None, "COM_FIELD_LIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_holds_for_what_was_prepared_before_it_and_knows_digests_of_other_processes() {
    let node = master(RULES).await;
    let mut conn = client(&node).await;
    let statement = conn.prep("SELECT 43").await.unwrap();
    assert_eq!(conn.exec_first(&statement, ()).await.unwrap(), Some(43));

    let output =
        Command::new(env!("CARGO_BIN_EXE_towline")).args(["explain", "SELECT n FROM shop.item WHERE id = 1"]).output();
    let told = String::from_utf8(output.unwrap().stdout).unwrap();
    let digest = told.lines().find_map(|line| line.strip_prefix("digest")).unwrap_or_else(|| panic!("{told}")).trim();
    node.write_layers(&format!(
        "[[layer]]\nname = 'rules'\nrule = [{{ regex = '43', action = 'rewrite', with = '/* 43 */ 44' }}, {{ digest = '{digest}', action = 'deny' }}]"
    ));
    let (_, answer) = reload(&node).await;
    assert!(answer["error"].is_null(), "{answer}");

    assert_eq!(code(conn.exec_drop(&statement, ()).await), Some(1615), "the old text ran");
    conn.close(statement).await.unwrap();
    let statement = conn.prep("SELECT 43").await.unwrap();
    for _ in 0..2 {
        assert_eq!(conn.exec_first(&statement, ()).await.unwrap(), Some(44));
    }
    assert_eq!(code(conn.query_drop("SELECT n FROM shop.item WHERE name = 'lamp'").await), None);
    assert_eq!(code(conn.query_drop("select n from shop.item where id=2 /* other */").await), Some(1227));
}
