//! All layers in one stack.

use mysql_async::prelude::Queryable;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{APP, client, code, figure, http, master, reload, until_it_runs};
use crate::support::{eventually, http::answer};

const ALL: &str = "
[[layer]]
name = 'audit'
file = 'audit.log'
[[layer]]
name = 'slow_log'
threshold_ms = 100
top = 100
[[layer]]
name = 'rules'
rule = [
    { table = 'shop.secret', action = 'deny', message = 'not for you' },
    { regex = '(?i)^select 41', action = 'rewrite', with = 'SELECT 42' },
    { regex = 'one at a time', action = 'limit', running_max = 1 },
]
[[layer]]
name = 'limit'
limit = [
    { by = 'user', running_max = 50, waiting_max = 10 },
    { by = 'all', per_second_max = 100000 },
    { by = 'schema', only = 'narrow', running_max = 1, waiting_max = 1, wait_ms = 60000 },
]
[[layer]]
name = 'cache'
[[layer]]
name = 'timeout'
read_ms = 500
";

#[tokio::test(flavor = "multi_thread")]
async fn each_does_its_part_through_both_fronts() {
    let node = master(ALL).await;
    let mut conn = client(&node).await;

    // rules: as text, prepared, and over HTTP.
    assert_eq!(code(conn.query_drop("SELECT * FROM shop.secret").await), Some(1227));
    assert_eq!(code(conn.exec_drop("SELECT * FROM shop.secret WHERE id = ?", (1,)).await), Some(1227));
    let (_, refusal) = http(&node, "SELECT * FROM shop.secret WHERE id = ?", json!([1])).await;
    assert_eq!(refusal["error"]["message"], "not for you");
    assert_eq!(conn.query_first("SELECT 41").await.unwrap(), Some(42));
    assert_eq!(conn.exec_first("SELECT 41", ()).await.unwrap(), Some(42));
    assert_eq!(http(&node, "SELECT 41", json!([])).await.1["rows"], json!([[42]]));

    // timeout: the command is ended at the server, and the session goes on.
    for sql in [
        "SELECT SLEEP(20)",
        "SELECT SLEEP(20) FROM shop.item",
        "SELECT n, SLEEP(n) FROM (SELECT 0 n UNION ALL SELECT 20) t",
    ] {
        assert_eq!(code(conn.query_drop(sql).await), Some(3024), "{sql}");
        assert_eq!(conn.query_first("SELECT 1").await.unwrap(), Some(1), "after {sql}");
        let (status, refusal) = http(&node, sql, json!([])).await;
        assert_ne!(status, StatusCode::OK);
        assert_eq!(refusal["error"]["code"], 3024, "{sql}: {refusal}");
    }
    assert_eq!(code(conn.exec_drop("SELECT SLEEP(?)", (20,)).await), Some(3024));
    assert_eq!(figure(&node, "towline_layer_timeout_ended_total").await, 7);

    // limit, by a rule and by a schema: while one runs, another is refused or waits.
    let mut server = mysql_async::Conn::new(node.server_opts()).await.unwrap();
    for sql in ["CREATE DATABASE narrow", "BEGIN", "SELECT * FROM shop.item FOR UPDATE"] {
        server.query_drop(sql).await.unwrap();
    }
    let mut narrow = Vec::new();
    for _ in 0..3 {
        let mut own = client(&node).await;
        own.query_drop("USE narrow").await.unwrap();
        narrow.push(own);
    }
    let [mut refused, mut waits, mut runs] = narrow.try_into().expect("three");
    let sql = "UPDATE shop.item SET n = 0 WHERE id = 1 /* one at a time */";
    let running = tokio::spawn(async move { runs.query_drop(sql).await });
    until_it_runs(&mut server, "UPDATE shop.item%").await;
    let waiting = tokio::spawn(async move { waits.query_first::<u8, _>("SELECT 3").await });
    eventually("another waits", async || {
        let waited = figure(&node, "towline_layer_limit_waited_total{limit=\"2\"}").await;
        if waited == 1 { Ok(()) } else { Err(waited) }
    })
    .await;
    let by_rule = "SELECT 2 /* one at a time */";
    for (conn, sql, schema) in [(&mut conn, by_rule, "shop"), (&mut refused, "SELECT 4", "narrow")] {
        assert_eq!(code(conn.query_drop(sql).await), Some(1226), "{sql}");
        assert_eq!(code(conn.exec_drop(sql, ()).await), Some(1226), "{sql}");
        let command = json!({"action": "query", "dbname": schema, "sql": sql});
        let request = reqwest::Client::new().post(node.url("/master")).basic_auth(APP.0, Some(APP.1)).json(&command);
        let (_, refusal) = answer(request).await;
        assert_eq!(refusal["error"]["code"], 1226, "{sql}: {refusal}");
    }
    server.query_drop("ROLLBACK").await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Some(3));
    conn.query_drop(by_rule).await.unwrap();

    // slow_log: what took time, by digest, whichever way it came.
    let by_name = "SELECT id FROM shop.item WHERE name = ?";
    conn.query_drop(by_name.replace('?', "'lamp'")).await.unwrap();
    conn.exec_drop(by_name, ("lamp",)).await.unwrap();
    http(&node, by_name, json!(["lamp"])).await;
    let status = node.status().await;
    let top = &status["layer_status"]["slow_log"]["top"];
    let sleep = top.as_array().unwrap().iter().find(|own| own["sql"].as_str().is_some_and(|sql| sql.contains("SLEEP")));
    assert!(sleep.is_some_and(|own| own["p99_us"].as_u64().unwrap() >= 100_000), "{status:#}");
    let three = top
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["sql"].as_str().is_some_and(|sql| sql.starts_with("SELECT id FROM shop.item WHERE name=")));
    assert!(three.is_some_and(|own| own["count"] == 3 && own["rows"] == 3), "{status:#}");
    assert!(node.log().contains("slow command"), "{}", node.log());

    // audit: who did what, without literals.
    let (_, written) = http(&node, "INSERT INTO shop.item VALUES (?, ?, 0)", json!([3, "a secret word"])).await;
    conn.query_drop("INSERT INTO shop.item VALUES (4, 'another secret word', 0)").await.unwrap();
    conn.exec_drop("INSERT INTO shop.item VALUES (?, ?, 0)", (5, "a third secret word")).await.unwrap();
    let lines = eventually("the lines of all", async || {
        let text = std::fs::read_to_string(node.file("audit.log")).unwrap_or_default();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let inserts =
            lines.into_iter().filter(|line| line["sql"].as_str().is_some_and(|sql| sql.starts_with("INSERT")));
        let inserts: Vec<Value> = inserts.collect();
        if inserts.len() == 3 { Ok(inserts) } else { Err(text) }
    })
    .await;
    assert_eq!(lines[0]["position"], written["position"]);
    let ways = lines.iter().map(|line| (&line["front"], &line["command"]));
    assert!(ways.eq([
        (&json!("http"), &json!("COM_STMT_EXECUTE")),
        (&json!("mysql"), &json!("COM_QUERY")),
        (&json!("mysql"), &json!("COM_STMT_EXECUTE")),
    ]));
    assert!(lines.iter().all(|line| line["user"] == "app" && line["ok"] == true && line["affected_rows"] == 1));
    let text = std::fs::read_to_string(node.file("audit.log")).unwrap();
    assert!(!text.contains("secret word"), "{text}");
    assert!(text.contains("\"error\":1227"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_audit_is_bounded_and_never_tells_a_password() {
    let layer = |literals: bool| format!("[[layer]]\nname = 'audit'\nfile = 'audit.log'\nliterals = {literals}");
    let node = master(&layer(true)).await;
    let mut conn = client(&node).await;
    conn.exec_drop("INSERT INTO shop.item VALUES (?, LEFT(?, 4), ?)", (7, "x".repeat(1 << 20), 42)).await.unwrap();
    for sql in [
        "CREATE USER other@'%' IDENTIFIED BY 'opensesame'",
        "SET PASSWORD FOR other@'%' = PASSWORD('opensesame')",
        "EXECUTE IMMEDIATE \"ALTER USER other@'%' identified by 'opensesame'\"",
        "SELECT 'plainly seen'",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    // What is longer than a line may be does not lose its text, nor does it end within a literal.
    node.write_layers(&layer(false));
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    let long = "opensesame".repeat(3000);
    conn.query_drop(format!("SELECT LENGTH('{long}') FROM shop.item")).await.unwrap();
    let text = eventually("the last line", async || {
        let text = std::fs::read_to_string(node.file("audit.log")).unwrap_or_default();
        if text.contains("SELECT LENGTH(") { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(text.contains("plainly seen") && !text.contains("opensesame"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with =
        |word: &str| lines.iter().filter(|line| line["sql"].as_str().is_some_and(|sql| sql.contains(word))).count();
    assert_eq!((with("IDENTIFIED BY"), with("SET PASSWORD"), with("EXECUTE IMMEDIATE")), (1, 1, 1), "{text}");
    assert!(text.lines().all(|line| line.len() < 20_000), "{text}");
    let insert = lines.iter().find(|line| line["sql"].as_str().is_some_and(|sql| sql.starts_with("INSERT"))).unwrap();
    let parameters = insert["parameters"].as_array().unwrap();
    assert_eq!((&parameters[0], &parameters[2]), (&json!("7"), &json!("…")), "{insert}");
    assert_eq!(figure(&node, "towline_layer_audit_lost_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_in_which_a_commit_waits_for_slaves_is_not_mysqls() {
    let layer = "[[layer]]\nname = 'timeout'\nwrite_ms = 2000\n";
    let cluster = "[cluster]\nsecret = 'a secret'\nslaves = ['http://127.0.0.1:9']\nack = 'all'\nack_timeout_ms = 2500";
    let node = master(&format!("{layer}{cluster}")).await;
    let mut conn = client(&node).await;
    for sql in ["UPDATE shop.item SET n = 1 WHERE id = 1", "SELECT 1"] {
        conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert_eq!(figure(&node, "towline_layer_timeout_ended_total").await, 0);
    assert_eq!(code(conn.query_drop("UPDATE shop.item SET n = SLEEP(20)").await), Some(3024));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_column_is_seen_by_nobody_in_any_way() {
    let node =
        master("[[layer]]\nname = 'mask'\ncolumn = [{ column = 'shop.item.name', users = ['app'], with = '***' }]")
            .await;
    let mut conn = client(&node).await;
    let masked = Some((1, "***".to_owned()));
    assert_eq!(conn.query_first("SELECT id, name FROM shop.item WHERE id = 1").await.unwrap(), masked);
    assert_eq!(conn.exec_first("SELECT id, name AS x FROM shop.item i WHERE id = ?", (1,)).await.unwrap(), masked);
    let all: Vec<(i64, String, i64)> = conn.query("SELECT * FROM shop.item").await.unwrap();
    assert_eq!(all, [(1, "***".to_owned(), 0), (2, "***".to_owned(), 0)]);
    assert_eq!(http(&node, "SELECT name FROM shop.item", json!([])).await.1["rows"], json!([["***"], ["***"]]));
    assert_eq!(conn.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap(), Some(2));
    let first = conn.query_first("SELECT id, name FROM shop.item ORDER BY id LIMIT 1").await.unwrap();
    assert_eq!(first, masked);
    for sql in [
        "SELECT UPPER(name) FROM shop.item",
        "SELECT id FROM shop.item WHERE name LIKE 'x%'",
        "SELECT id FROM shop.item ORDER BY name",
        "SELECT * FROM shop.item ORDER BY name",
        "SELECT id, name FROM shop.item ORDER BY 2 LIMIT 1",
        "SELECT id, name AS x FROM shop.item ORDER BY x",
        "SELECT DISTINCT name FROM shop.item",
        "SELECT name, COUNT(*) FROM shop.item GROUP BY 1",
        "SELECT * FROM (SELECT * FROM shop.item LIMIT 1) item",
        "SELECT name FROM shop.item UNION SELECT 'x'",
        "SELECT 1, 2, 3 UNION SELECT * FROM shop.item",
        "SELECT a FROM (SELECT name AS a FROM shop.item LIMIT 1) t",
        "SELECT s.id FROM shop.secret s NATURAL JOIN shop.item",
        "CREATE TABLE shop.copy AS SELECT * FROM shop.item",
        "UPDATE shop.item SET n = LENGTH(name)",
        "INSERT INTO shop.secret SELECT ASCII(`name`) FROM shop.item",
    ] {
        assert_eq!(code(conn.query_drop(sql).await), Some(1143), "{sql}");
        assert_eq!(http(&node, sql, json!([])).await.1["error"]["code"], 1143, "{sql}");
        if sql.starts_with("SELECT") {
            assert_eq!(code(conn.exec_drop(sql, ()).await), Some(1143), "{sql}");
        }
    }
    conn.query_drop("UPDATE shop.item SET n = 1 WHERE id = 1").await.unwrap();
}

#[test]
fn the_stack_is_printed_as_it_will_run_and_what_can_not_run_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let layers = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_towline"));
        let output = command.args(["layers", "--role", "master", "--config"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said, _) = layers("[[master.layer]]\nname = 'timeout'\nread_ms = 5\n[[slave.layer]]\nname = 'cache'");
    let names: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!((code, names), (Some(0), vec!["trace", "admission", "classify", "timeout", "guard", "fan_out"]));
    assert!(said.contains("{\"read_ms\":5}"), "{said}");
    assert_eq!(layers("[[master.layer]]\nname = 'audit'\nfile = 'audit.log'").0, Some(0));
    assert!(!folder.path().join("audit.log").exists(), "a file was made, and nothing written");
    for (text, wanted) in [
        ("name = 'ruels'", "did you mean `rules`?"),
        ("name = 'timeout'\nraed_ms = 5", "did you mean `read_ms`?"),
        ("name = 'guard'", "part of every stack"),
        ("name = 'cache'\n[[master.layer]]\nname = 'rules'\nrule = []", "`rules` must stand before `cache`"),
    ] {
        let (code, _, said) = layers(&format!("[[master.layer]]\n{text}"));
        assert!(code == Some(2) && said.contains(wanted), "{text}: {said}");
    }
}
