//! `/slave`: the master's pushes, and who may send them.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use towline::{config::Secret, replication::protocol::Mark};
use towline_middleware::Role;

use crate::support::{
    Changes, TestServer, batch,
    http::{TestHttp, answer},
};

#[tokio::test]
async fn pushes_are_applied_and_answered() {
    let mut changes = Changes::start().await;
    let server = TestServer::start(Role::Slave).await;
    let secret = "a secret of the tests";
    let http = TestHttp::before(Role::Slave, &server, |options| {
        options.secret = Some(Secret::try_from(secret.to_owned()).unwrap());
    })
    .await;
    http.ready().await;
    let push =
        changes.make(&["CREATE DATABASE shop", "CREATE TABLE shop.t (a INT)", "INSERT INTO shop.t VALUES (1)"]).await;
    let post = || http.bare(Method::POST, "/slave").json(&push);
    for request in [post(), post().bearer_auth("wrong"), post().basic_auth("root", Some(""))] {
        let (status, body) = answer(request).await;
        assert!(matches!(status.as_u16(), 400 | 401), "a stranger's push: {status} {body}");
    }
    // The others don't say that they are a node's.
    let (_, metrics) = answer(http.bare(Method::GET, "/metrics")).await;
    assert!(metrics.as_str().unwrap().contains("\ntowline_wrong_secrets_total 1\n"), "{metrics}");
    let (status, body) = answer(post().bearer_auth(secret)).await;
    assert_eq!((status, &body["applied"]["gtid"]), (StatusCode::OK, &json!(changes.at.gtid)), "{body}");
    let (status, body) = answer(post().bearer_auth(secret)).await;
    assert_eq!((status, &body["at"]["gtid"]), (StatusCode::CONFLICT, &json!(changes.at.gtid)), "{body}");
    let (_, status) = answer(http.bare(Method::GET, "/status")).await;
    assert_eq!(status["position"], json!(changes.at.position.to_string()));
    let request = http.bare(Method::POST, "/slave").bearer_auth(secret);
    let (status, body) = answer(request.json(&json!({"action": "select"}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
}

#[tokio::test]
async fn without_a_secret_a_push_is_known_by_its_transactions() {
    let server = TestServer::start(Role::Slave).await;
    let account = ["CREATE USER app@'%' IDENTIFIED BY 'secret'", "GRANT ALL ON *.* TO app@'%'"];
    server.run(&account).await;
    let http = TestHttp::before(Role::Slave, &server, |options| options.body_bytes_max = 100).await;
    http.ready().await;
    let (status, body) = answer(http.bare(Method::POST, "/slave").json(&batch(Mark::default(), []))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = http.post(json!({"action": "query", "sql": "DELETE FROM shop.item"})).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!(1290)), "{body}");
    let (status, body) = http.post(json!({"action": "query", "sql": "x".repeat(200)})).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}

/// A slave that has `shop.item` from its master, and the account of the tests.
async fn filled() -> (TestServer, TestHttp, String) {
    let mut changes = Changes::start().await;
    let server = TestServer::start(Role::Slave).await;
    let http = TestHttp::before(Role::Slave, &server, |_| {}).await;
    http.ready().await;
    let push = changes
        .make(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50), note TEXT, FULLTEXT (note))",
            "INSERT INTO shop.item (name, note) VALUES ('lamp', 'a red lamp'), ('café', 'blue chair')",
            "CREATE USER app@'%' IDENTIFIED BY 'secret'",
            "GRANT ALL ON *.* TO app@'%'",
        ])
        .await;
    let (status, body) = answer(http.bare(Method::POST, "/slave").json(&push)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    (server, http, changes.at.position.to_string())
}

/// A command on `shop.item`.
fn item(action: &str, rest: Value) -> Value {
    let mut command = json!({"action": action, "dbname": "shop", "table": "item"});
    command.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    command
}

#[tokio::test]
async fn clients_read_and_learn_how_far_the_slave_is() {
    let (_server, http, position) = filled().await;
    for (command, rows) in [
        (item("select", json!({"attrs": ["id"], "query": {"name": "café"}})), json!([[2]])),
        (
            item(
                "select",
                json!({"attrs": ["id"], "query": {"name": {"like": "%é"}, "or": [{"id": 2}, {"note": null}]}}),
            ),
            json!([[2]]),
        ),
        (item("select", json!({"query": {"name": "O'R\\"}, "order": ["-id"], "limit": 3, "offset": 0})), json!([])),
        (item("select", json!({"attrs": ["id"], "query": {"name": {"base64": "bGFtcA=="}}})), json!([[1]])),
        (item("search", json!({"attrs": ["id"], "term": "chair", "columns": ["note"]})), json!([[2]])),
        (item("search", json!({"attrs": ["id"], "term": "fé"})), json!([[2]])),
        (json!({"action": "query", "dbname": "shop", "sql": "SELECT COUNT(*) FROM item"}), json!([[2]])),
        (
            json!({"action": "query", "sql": "SELECT id FROM shop.item WHERE name = ?", "params": ["lamp"]}),
            json!([[1]]),
        ),
    ] {
        let body = http.run(command.clone()).await;
        assert_eq!((&body["rows"], &body["position"]), (&rows, &json!(position)), "{command}");
        let request = http.request(Method::POST, "").header(header::ACCEPT, "application/x-ndjson").json(&command);
        let text = request.send().await.unwrap().text().await.unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["position"], json!(position), "{command}: {text}");
    }
    let search = item("search", json!({"term": "lamp"}));
    let body = http.run(json!([item("select", json!({"attrs": ["id"]})), search])).await;
    assert_eq!((&body["results"][0]["rows"], &body["position"]), (&json!([[1], [2]]), &json!(position)), "{body}");
    let (status, body) = answer(http.request(Method::GET, "?dbname=shop&table=item&attrs=id&term=lamp")).await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!([[1]])), "{body}");
    let body = http.run(json!({"action": "query", "sql": "SELECT CAST('x' AS INT)"})).await;
    assert_eq!(body["warnings"][0]["code"], json!(1292), "{body}");
}

#[tokio::test]
async fn no_action_of_a_client_writes_on_a_slave() {
    let (server, http, _) = filled().await;
    server
        .run(&["CREATE FUNCTION shop.writes() RETURNS INT DETERMINISTIC BEGIN INSERT INTO shop.item () VALUES (); RETURN 1; END"])
        .await;
    let query = |sql: &str| json!({"action": "query", "dbname": "shop", "sql": sql});
    let insert = item("insert", json!({"data": {"name": "x"}}));
    for command in [
        json!({"action": "create_database", "dbname": "x"}),
        json!({"action": "drop_database", "dbname": "shop"}),
        json!({"action": "create_table", "dbname": "shop", "table": "x", "attrs": ["a int"]}),
        item("drop_table", json!({})),
        insert.clone(),
        item("update", json!({"data": {"name": "x"}, "query": {"id": 1}})),
        item("delete", json!({"all": true})),
        query("DELETE FROM item"),
        query("/*! DELETE FROM item */"),
        query("/*M! DELETE FROM item */"),
        query("SELECT writes()"),
        query("SELECT * FROM item FOR UPDATE"),
        query("SET SESSION TRANSACTION READ WRITE"),
        query("START TRANSACTION READ WRITE"),
        json!({"action": "query", "dbname": "shop", "sql": "DELETE FROM item WHERE id = ?", "params": [1]}),
        json!({"action": "query", "dbname": "shop", "sql": "SELECT writes() + ?", "params": [1]}),
        json!([insert.clone()]),
        json!([item("select", json!({})), insert]),
    ] {
        let (status, body) = http.post(command.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{command}: {body}");
        assert!(matches!(body["error"]["code"].as_u64(), Some(1290 | 1792)), "{command}: {body}");
    }
    // The fence stands after the resets of all these, too.
    assert_eq!(http.rows("SELECT @@tx_read_only").await, json!([[1]]));
    assert_eq!(http.rows("SELECT COUNT(*) FROM shop.item").await, json!([[2]]));
}
