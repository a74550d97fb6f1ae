//! Every action, by every method that it has.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::support::http::{TestHttp, answer};

#[tokio::test]
async fn every_action_does_what_it_says() {
    let (_server, http) = TestHttp::master().await;
    http.run(json!({"action": "create_database", "dbname": "new"})).await;
    http.run(json!({"action": "create_database", "dbname": "new", "if_not_exists": true})).await;
    http.run(json!({"action": "create_table", "dbname": "new", "table": "t", "attrs": [
        "id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY",
        {"name": "name", "type": "varchar(50)", "null": false, "default": "it's"},
        "at DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3)",
        "note TEXT",
        "FULLTEXT (note)",
    ]}))
    .await;
    let inserted = http
        .run(json!({"action": "insert", "dbname": "new", "table": "t", "data": [
            {"name": "a", "note": "a small red lamp"}, {"note": "blue chair 50%"}, {"name": "c", "note": null}]}))
        .await;
    assert_eq!((&inserted["affected_rows"], &inserted["last_insert_id"]), (&json!(3), &json!(1)), "{inserted}");
    assert!(inserted["position"].as_str().is_some_and(|text| text.contains(':')), "{inserted}");
    assert_eq!((&inserted["columns"], &inserted["rows"], &inserted["warnings"]), (&json!([]), &json!([]), &json!([])));

    let updated = http
        .run(json!({"action": "update", "dbname": "new", "table": "t", "data": {"name": "b"}, "query": {"id": 2}}))
        .await;
    assert_eq!(updated["affected_rows"], json!(1));

    let select = json!({"action": "select", "dbname": "new", "table": "t", "attrs": ["id", "name"],
        "query": {"or": [{"id": {"in": [1, 2]}}, {"note": null}]}, "order": ["-id"], "limit": 2, "offset": 1});
    let selected = http.run(select).await;
    assert_eq!(
        selected["columns"],
        json!([{"name": "id", "type": "INT UNSIGNED"}, {"name": "name", "type": "VARCHAR"}])
    );
    assert_eq!(selected["rows"], json!([[2, "b"], [1, "a"]]));

    // By the index, and by LIKE where none covers the columns.
    let found = http
        .run(json!({"action": "search", "dbname": "new", "table": "t", "term": "lamp", "attrs": ["id"],
        "columns": ["note"]}))
        .await;
    assert_eq!(found["rows"], json!([[1]]));
    let found =
        http.run(json!({"action": "search", "dbname": "new", "table": "t", "term": "50%", "attrs": ["id"]})).await;
    assert_eq!(found["rows"], json!([[2]]));
    let found =
        http.run(json!({"action": "search", "dbname": "new", "table": "t", "term": "5%", "attrs": ["id"]})).await;
    assert_eq!(found["rows"], json!([]), "the term's % is a plain character");

    let deleted =
        http.run(json!({"action": "delete", "dbname": "new", "table": "t", "query": {"name": {"like": "b%"}}})).await;
    assert_eq!(deleted["affected_rows"], json!(1));
    let deleted = http.run(json!({"action": "delete", "dbname": "new", "table": "t", "all": true})).await;
    assert_eq!(deleted["affected_rows"], json!(2));
    http.run(json!({"action": "drop_table", "dbname": "new", "table": "t"})).await;
    http.run(json!({"action": "drop_table", "dbname": "new", "table": "t", "if_exists": true})).await;
    http.run(json!({"action": "drop_database", "dbname": "new"})).await;
    assert_eq!(http.rows("SHOW DATABASES LIKE 'new'").await, json!([]));
}

#[tokio::test]
async fn methods_have_default_actions() {
    let (_server, http) = TestHttp::master().await;
    let get = |parameters: &str| answer(http.request(Method::GET, parameters));
    let (status, body) = get("?dbname=shop&table=item&attrs=name&query={\"id\":{\"gte\":1}}&order=-id&limit=1").await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!([["chair"]])), "{body}");
    let (status, body) = get("?dbname=shop&table=item&term=lam&attrs=id").await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!([[1]])), "{body}");
    let (status, body) = answer(
        http.request(Method::PUT, "")
            .json(&json!({"dbname": "shop", "table": "item", "data": {"name": "sofa"}, "query": {"id": 2}})),
    )
    .await;
    assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
    let (status, body) =
        answer(http.request(Method::DELETE, "").json(&json!({"dbname": "shop", "table": "item", "query": {"id": 2}})))
            .await;
    assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
    assert_eq!(http.rows("SELECT name FROM shop.item").await, json!([["lamp"]]));
}

#[tokio::test]
async fn a_list_is_one_transaction() {
    let (_server, http) = TestHttp::master().await;
    let insert = |name: &str| json!({"action": "insert", "dbname": "shop", "table": "item", "data": {"name": name}});
    let count =
        json!({"action": "query", "dbname": "shop", "sql": "SELECT COUNT(*) FROM item WHERE id > ?", "params": [0]});
    let body = http.run(json!([insert("a"), count, insert("b")])).await;
    assert_eq!(body["results"][1]["rows"], json!([[3]]), "a list does not see its own writes: {body}");
    assert!(body["position"].is_string(), "{body}");
    assert_eq!(body["results"].as_array().map(Vec::len), Some(3));

    let duplicate = json!({"action": "insert", "dbname": "shop", "table": "item", "data": {"id": 1}});
    let (status, body) = http.post(json!([insert("c"), insert("d"), duplicate])).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert_eq!((&body["error"]["code"], &body["error"]["index"]), (&json!(1062), &json!(2)), "{body}");
    assert_eq!(http.rows("SELECT COUNT(*) FROM shop.item").await, json!([[4]]), "a failed list left something");

    let schema = json!({"action": "create_table", "dbname": "shop", "table": "x", "attrs": ["a int"]});
    let (status, body) = http.post(json!([insert("c"), schema])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert_eq!(body["error"]["index"], json!(1));
    http.run(json!([schema])).await;
    assert_eq!(http.rows("SELECT COUNT(*) FROM shop.item").await, json!([[4]]));
}

#[tokio::test]
async fn a_query_runs_as_text_or_prepared() {
    let (_server, http) = TestHttp::master().await;
    let query = |sql: &str, params: Value| json!({"action": "query", "dbname": "shop", "sql": sql, "params": params});
    let body = http.run(query("SELECT name, price FROM item WHERE id = ? OR name = ?", json!([1, "chair"]))).await;
    assert_eq!(body["rows"], json!([["lamp", "9.90"], ["chair", null]]));
    let body = http.run(query("INSERT INTO item (name, price) VALUES (?, ?)", json!(["x", 1.25]))).await;
    assert_eq!((&body["affected_rows"], &body["last_insert_id"]), (&json!(1), &json!(3)));
    let (status, body) = http.post(query("SELECT ?, ?", json!([1]))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    // Also one that ends in an error, many times over: nothing is left behind in the session.
    for _ in 0..20 {
        let (status, _) = http.post(query("INSERT INTO item (id) VALUES (?)", json!([1]))).await;
        assert_eq!(status, StatusCode::CONFLICT);
    }
    let status = http.rows("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'").await;
    assert_eq!(status[0][1], json!("0"), "prepared statements are left open");
}

#[tokio::test]
async fn results_of_a_procedure_come_one_after_the_other() {
    let (server, http) = TestHttp::master().await;
    server.run(&["CREATE PROCEDURE shop.p() BEGIN SELECT 1 AS a; SELECT 'x' AS b, 2 AS c; END"]).await;
    let body = http.run(json!({"action": "query", "sql": "CALL shop.p()"})).await;
    assert_eq!(body["rows"], json!([[1]]));
    assert_eq!(body["more_results"][0]["rows"], json!([["x", 2]]), "{body}");
}

#[tokio::test]
async fn warnings_are_told() {
    let (_server, http) = TestHttp::master().await;
    let body = http.run(json!({"action": "query", "sql": "SELECT CAST('x' AS INT)"})).await;
    assert_eq!(body["rows"], json!([[0]]));
    assert_eq!(body["warnings"][0]["code"], json!(1292), "{body}");
    let body = http.run(json!({"action": "query", "sql": "SELECT CAST(? AS INT)", "params": ["x"]})).await;
    assert_eq!(body["warnings"][0]["code"], json!(1292), "{body}");
}

#[tokio::test]
async fn rows_stream_as_lines() {
    let (_server, http) = TestHttp::master().await;
    let stream = |command: Value| {
        let request = http.request(Method::POST, "").header(header::ACCEPT, "application/x-ndjson").json(&command);
        async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
            let text = response.text().await.unwrap();
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        }
    };
    let lines = stream(json!({"action": "select", "dbname": "shop", "table": "item", "attrs": ["id"]})).await;
    assert_eq!(lines[..3], [json!({"columns": [{"name": "id", "type": "INT"}]}), json!([1]), json!([2])]);
    assert_eq!(lines[3]["affected_rows"], json!(0), "{lines:?}");
    assert_eq!(lines.len(), 4);

    let lines = stream(
        json!({"action": "query", "dbname": "shop", "sql": "SELECT seq, REPEAT('x', 100) FROM seq_1_to_100000"}),
    )
    .await;
    assert_eq!(lines.len(), 100_002);
    assert_eq!(lines[100_000][0], json!(100_000));
    let lines =
        stream(json!({"action": "query", "sql": "INSERT INTO shop.item (name) VALUES (?)", "params": ["x"]})).await;
    assert_eq!((lines.len(), &lines[0]["last_insert_id"]), (1, &json!(3)));
    // An error after the first rows is the last line.
    let sql = "SELECT seq, IF(seq = 3000, (SELECT 1 UNION SELECT 2), 0) FROM seq_1_to_5000";
    let lines = stream(json!({"action": "query", "dbname": "shop", "sql": sql})).await;
    assert_eq!(lines.last().unwrap()["error"]["code"], json!(1242), "{:?}", lines.last());

    let request = http.request(Method::POST, "").header(header::ACCEPT, "application/x-ndjson");
    let (status, body) = answer(request.json(&json!({"action": "query", "sql": "SELEC"}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(1064)));
}
