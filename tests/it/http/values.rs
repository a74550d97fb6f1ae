//! Values and names: what goes in comes out, and nothing gets out of its quotes.

use serde_json::{Value, json};
use towline_middleware::Role;

use crate::support::{TestServer, http::TestHttp};

/// Texts that break quoting where quoting is done badly.
const TEXTS: [&str; 14] = [
    "",
    "plain",
    "O'Reilly",
    "\"double\"",
    "back\\slash",
    "\\",
    "\\'; DROP TABLE shop.item; -- ",
    "'; DROP TABLE shop.item; -- ",
    "a\0b\u{1a}\n\r\t",
    "%_!\\%",
    "é ß 漢字 😀",
    "\u{c2bf}\u{5c}",
    "縗\\'縗'",
    "/*! x */ -- # `",
];

#[tokio::test]
async fn texts_survive_every_sql_mode_and_charset() {
    let settings: [&[&str]; 4] = [
        &[],
        &["SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"],
        &["SET GLOBAL sql_mode = ''", "SET GLOBAL init_connect = 'SET NAMES gbk'"],
        &["SET GLOBAL init_connect = 'SET NAMES sjis', GLOBAL sql_mode = 'PIPES_AS_CONCAT,IGNORE_SPACE'"],
    ];
    let server = TestServer::start_with(
        Role::Master,
        &["--character-set-server=gbk", "--collation-server=gbk_chinese_ci", "--skip-character-set-client-handshake"],
    )
    .await;
    server
        .run(&[
            "CREATE DATABASE shop",
            // Without SUPER, so that init_connect is run for it.
            "CREATE USER app@'%' IDENTIFIED BY 'secret'",
            "GRANT ALL ON shop.* TO app@'%'",
            "CREATE TABLE shop.item (id INT PRIMARY KEY)",
        ])
        .await;
    for setting in settings {
        server.run(setting).await;
        let http = TestHttp::before(Role::Master, &server, |_| {}).await;
        let table = |action: &str, rest: Value| {
            let mut command = json!({"action": action, "dbname": "shop", "table": "t`é"});
            command.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            command
        };
        let column = "c`\\é'";
        let attrs = json!([
            "id INT AUTO_INCREMENT PRIMARY KEY",
            {"name": column, "type": "TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"},
        ]);
        http.run(table("create_table", json!({"attrs": attrs, "if_not_exists": true}))).await;
        for text in TEXTS {
            http.run(table("delete", json!({"all": true}))).await;
            http.run(table("insert", json!({"data": {column: text}}))).await;
            let rows = http.run(table("select", json!({"attrs": [column], "query": {column: text}}))).await;
            assert_eq!(rows["rows"], json!([[text]]), "{setting:?} {text:?}");
            let rows =
                http.run(table("select", json!({"attrs": [column], "query": {column: {"in": ["x", text]}}}))).await;
            assert_eq!(rows["rows"], json!([[text]]), "{setting:?} {text:?}");
            if !text.is_empty() {
                let rows = http.run(table("search", json!({"attrs": [column], "term": text}))).await;
                assert_eq!(rows["rows"], json!([[text]]), "{setting:?} {text:?}");
            }
            let sql = "SELECT HEX(?), ?";
            let rows = http.run(json!({"action": "query", "sql": sql, "params": [text, text]})).await;
            let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!(rows["rows"], json!([[hex, text]]), "{setting:?} {text:?}");
        }
        http.run(table("update", json!({"data": {column: "50%!"}, "all": true}))).await;
        for (pattern, found) in [("50\\%!", 1), ("5_\\%_", 1), ("50!%", 0), ("%!", 1), ("50\\_!", 0)] {
            let rows = http.run(table("select", json!({"query": {column: {"like": pattern}}}))).await;
            assert_eq!(rows["rows"].as_array().map(Vec::len), Some(found), "{setting:?} {pattern}");
        }
        http.run(json!({"action": "select", "dbname": "shop", "table": "item"})).await;
        http.stop.cancel();
        let TestHttp { serving, .. } = http;
        serving.await.unwrap();
    }
}

/// Each column's definition, the value that goes in, and what comes out.
fn columns() -> Vec<(&'static str, Value, Value)> {
    let same = |definition, value: Value| (definition, value.clone(), value);
    vec![
        same("TINYINT", json!(-128)),
        same("BIGINT", json!(9_007_199_254_740_992i64)),
        ("BIGINT", json!(9_007_199_254_740_993i64), json!("9007199254740993")),
        ("BIGINT UNSIGNED", json!(u64::MAX), json!("18446744073709551615")),
        ("INT(5) ZEROFILL", json!(42), json!(42)),
        ("BOOLEAN", json!(true), json!(1)),
        ("DECIMAL(30,10)", json!("12345678901234567890.0123456789"), json!("12345678901234567890.0123456789")),
        ("DECIMAL(10,2)", json!(0.1), json!("0.10")),
        same("DOUBLE", json!(0.1)),
        same("FLOAT", json!(1.5)),
        ("BIT(10)", json!(513), json!(513)),
        ("YEAR", json!(2026), json!(2026)),
        same("DATE", json!("2026-01-02")),
        same("DATETIME(6)", json!("2026-01-02 03:04:05.000006")),
        same("TIMESTAMP(3) NULL", json!("2026-01-02 03:04:05.120")),
        same("TIME(2)", json!("-838:59:59.00")),
        same("TEXT", json!("é")),
        same("ENUM('a','b')", json!("b")),
        same("SET('a','b')", json!("a,b")),
        ("JSON", json!({"a": [1, "x'\\"]}), json!("{\"a\":[1,\"x'\\\\\"]}")),
        same("VARBINARY(10)", json!({"base64": "AP8nXA=="})),
        same("BLOB", json!({"base64": ""})),
        same("UUID", json!("123e4567-e89b-12d3-a456-426655440000")),
        same("INET6", json!("::1")),
        same("VARCHAR(5)", Value::Null),
    ]
}

#[tokio::test]
async fn every_type_comes_out_as_it_went_in() {
    let (_server, http) = TestHttp::master().await;
    let columns = columns();
    let attrs: Vec<String> =
        columns.iter().enumerate().map(|(n, (definition, ..))| format!("c{n} {definition}")).collect();
    http.run(json!({"action": "create_table", "dbname": "shop", "table": "types", "attrs": attrs})).await;
    let data: Value = columns.iter().enumerate().map(|(n, (_, value, _))| (format!("c{n}"), value.clone())).collect();
    http.run(json!({"action": "insert", "dbname": "shop", "table": "types", "data": data})).await;
    // Once more by parameters.
    let marks = vec!["?"; columns.len()].join(", ");
    let params: Vec<&Value> = columns.iter().map(|(_, value, _)| value).collect();
    let sql = format!("INSERT INTO types VALUES ({marks})");
    http.run(json!({"action": "query", "dbname": "shop", "sql": sql, "params": params})).await;
    let expected: Vec<&Value> = columns.iter().map(|(.., value)| value).collect();
    let text = http.run(json!({"action": "select", "dbname": "shop", "table": "types"})).await;
    let binary =
        http.run(json!({"action": "query", "sql": "SELECT * FROM shop.types WHERE 1 = ?", "params": [1]})).await;
    for (n, (definition, ..)) in columns.iter().enumerate() {
        for row in 0..2 {
            assert_eq!(&text["rows"][row][n], expected[n], "{definition} as text, row {row}");
            assert_eq!(&binary["rows"][row][n], expected[n], "{definition} as binary, row {row}");
        }
    }
    assert_eq!(text["columns"], binary["columns"]);
}

#[tokio::test]
async fn names_do_not_inject() {
    let (_server, http) = TestHttp::master().await;
    for name in ["item`; DROP TABLE shop.item; -- x", "item WHERE 1=1 --", "item` (id) VALUES (9); --x"] {
        for command in [
            json!({"action": "select", "dbname": "shop", "table": name}),
            json!({"action": "select", "dbname": name, "table": "item"}),
            json!({"action": "select", "dbname": "shop", "table": "item", "attrs": [name]}),
            json!({"action": "select", "dbname": "shop", "table": "item", "query": {name: 1}}),
            json!({"action": "select", "dbname": "shop", "table": "item", "order": [name]}),
            json!({"action": "insert", "dbname": "shop", "table": "item", "data": {name: 1}}),
            json!({"action": "update", "dbname": "shop", "table": "item", "data": {name: 1}, "all": true}),
            json!({"action": "delete", "dbname": "shop", "table": "item", "query": {"id": {name: 1}}}),
            json!({"action": "search", "dbname": "shop", "table": "item", "term": "x", "columns": [name]}),
            json!({"action": "drop_table", "dbname": "shop", "table": name}),
            json!({"action": "create_table", "dbname": "shop", "table": "x", "attrs": [name]}),
        ] {
            let (status, body) = http.post(command.clone()).await;
            assert!(status.is_client_error(), "{command}: {status} {body}");
        }
    }
    assert_eq!(http.rows("SELECT id, name FROM shop.item").await, json!([[1, "lamp"], [2, "chair"]]));
    assert_eq!(http.rows("SHOW TABLES FROM shop").await, json!([["item"]]));
}
