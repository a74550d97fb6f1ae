//! Every error status of the interface.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use towline_middleware::Role;

use crate::support::{
    eventually,
    http::{TestHttp, answer},
};

fn query(sql: &str) -> Value {
    json!({"action": "query", "sql": sql})
}

#[tokio::test]
async fn errors_of_the_command() {
    let (_server, http) = TestHttp::master().await;
    let table = |action: &str, rest: Value| {
        let mut command = json!({"action": action, "dbname": "shop", "table": "item"});
        command.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        command
    };
    for (command, status, code) in [
        (json!({"action": "selct"}), 400, 1210),
        (json!({"action": "select", "dbname": "shop", "table": "item", "wher": {}}), 400, 1210),
        (table("delete", json!({})), 400, 1210),
        (table("update", json!({"data": {"name": "x"}, "query": {}})), 400, 1210),
        (table("select", json!({"query": {"id": {"gtt": 1}}})), 400, 1210),
        (json!({"action": "select", "dbname": "nowhere", "table": "item"}), 404, 1146),
        (json!({"action": "select", "dbname": "shop", "table": "nothing"}), 404, 1146),
        (json!({"action": "search", "dbname": "shop", "table": "nothing", "term": "x"}), 404, 1146),
        (json!({"action": "query", "dbname": "nowhere", "sql": "SELECT 1"}), 404, 1049),
        (json!({"action": "drop_table", "dbname": "shop", "table": "nothing"}), 404, 1051),
        (json!({"action": "drop_database", "dbname": "nowhere"}), 404, 1008),
        (table("insert", json!({"data": {"id": 1}})), 409, 1062),
        (json!({"action": "create_database", "dbname": "shop"}), 409, 1007),
        (query("SELEC 1"), 422, 1064),
        (query("SELECT 1; SELECT 2"), 422, 1064),
        (table("select", json!({"attrs": ["nothing"]})), 422, 1054),
        (table("insert", json!({"data": {"price": "abc"}})), 422, 1366),
        (query("SELECT * FROM item"), 422, 1046),
    ] {
        let (found, body) = http.post(command.clone()).await;
        assert_eq!((found.as_u16(), &body["error"]["code"]), (status, &json!(code)), "{command}: {body}");
        assert_eq!(body["error"]["sqlstate"].as_str().map(str::len), Some(5), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    assert_eq!(http.rows("SELECT COUNT(*) FROM shop.item").await, json!([[2]]));
}

#[tokio::test]
async fn errors_of_the_request() {
    let (_server, http) = TestHttp::start(Role::Master, |options| options.body_bytes_max = 1000).await;
    let (status, body) = answer(http.bare(Method::POST, "/master").json(&query("SELECT 1"))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!(1045)), "{body}");
    let response = http.bare(Method::GET, "/master?dbname=a&table=b").send().await.unwrap();
    assert!(response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
    for (user, password) in [("app", "wrong"), ("nobody", "secret"), ("app", "")] {
        let request = http.bare(Method::POST, "/master").basic_auth(user, Some(password)).json(&query("SELECT 1"));
        let (status, body) = answer(request).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!(1045)), "{user}: {body}");
    }
    let (status, _) =
        answer(http.bare(Method::POST, "/master").header("Authorization", "Basic ???").json(&json!({}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    for (method, path, status) in [
        (Method::GET, "/", 404),
        (Method::POST, "/slave", 404),
        (Method::GET, "/nothing", 404),
        (Method::PATCH, "/master", 405),
        (Method::POST, "/status", 405),
        (Method::GET, "/master?action=delete&dbname=shop&table=item", 400),
        (Method::GET, "/master?dbname=shop&table=item&query={", 400),
    ] {
        let request = http.bare(method.clone(), path).basic_auth("app", Some("secret"));
        let (found, body) = answer(request).await;
        assert_eq!(found.as_u16(), status, "{method} {path}: {body}");
        assert!(body["error"]["code"].is_u64(), "{method} {path}: {body}");
    }
    for (content_type, body, status) in [
        ("application/json", "{\"action\": \"query\", ", 400),
        ("application/json", "", 400),
        ("application/json; charset=utf-8", "{\"action\": \"query\", \"sql\": \"SELECT 1\"}", 200),
        ("text/plain", "{}", 415),
        ("application/x-www-form-urlencoded", "action=query", 415),
    ] {
        let request = http.request(Method::POST, "").header(header::CONTENT_TYPE, content_type).body(body);
        let (found, answer) = answer(request).await;
        assert_eq!(found.as_u16(), status, "{content_type} {body}: {answer}");
    }
    let (status, body) = http.post(query(&format!("SELECT '{}'", "x".repeat(1000)))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(1153)), "{body}");
}

#[tokio::test]
async fn a_result_that_is_too_long_is_refused_and_can_be_streamed() {
    let (_server, http) = TestHttp::start(Role::Master, |options| options.response_bytes_max = 100_000).await;
    let long = json!({"action": "query", "dbname": "shop", "sql": "SELECT REPEAT('x', 1000) FROM seq_1_to_1000"});
    let (status, body) = http.post(long.clone()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("application/x-ndjson"), "{body}");
    let request = http.request(Method::POST, "").header(header::ACCEPT, "application/x-ndjson").json(&long);
    let text = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(text.lines().count(), 1002);
}

#[tokio::test]
async fn what_an_account_may_not_do_is_forbidden() {
    let (server, http) = TestHttp::master().await;
    server.run(&["CREATE USER reader@'%' IDENTIFIED BY 'r'", "GRANT SELECT ON shop.* TO reader@'%'"]).await;
    let post =
        |command: Value| answer(http.bare(Method::POST, "/master").basic_auth("reader", Some("r")).json(&command));
    let (status, _) = post(json!({"action": "select", "dbname": "shop", "table": "item"})).await;
    assert_eq!(status, StatusCode::OK);
    for (command, code) in [
        (json!({"action": "delete", "dbname": "shop", "table": "item", "all": true}), 1142),
        (json!({"action": "create_database", "dbname": "mine"}), 1044),
        (query("SET GLOBAL max_connections = 5"), 1227),
    ] {
        let (status, body) = post(command.clone()).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!(code)), "{command}: {body}");
    }
}

#[tokio::test]
async fn transactions_that_meet_are_a_conflict() {
    let (server, http) = TestHttp::master().await;
    server.run(&["SET GLOBAL innodb_lock_wait_timeout = 1"]).await;
    let mut other = server.connect().await;
    other.query_drop("BEGIN").await.unwrap();
    other.query_drop("UPDATE shop.item SET price = 1 WHERE id = 1").await.unwrap();
    let update =
        json!({"action": "update", "dbname": "shop", "table": "item", "data": {"price": 2}, "query": {"id": 1}});
    let (status, body) = http.post(update).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!(1205)), "{body}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended() {
    let (server, http) =
        TestHttp::start(Role::Master, |options| options.request_timeout = Duration::from_millis(300)).await;
    let (status, body) = http.post(query("SELECT SLEEP(100)")).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!(3024)), "{body}");
    let mut administrator = server.connect().await;
    eventually("the end of the command at the server", async || {
        let sleeping: Vec<String> = administrator
            .query("SELECT info FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'")
            .await
            .unwrap();
        if sleeping.is_empty() { Ok(()) } else { Err(sleeping) }
    })
    .await;
}

#[tokio::test]
async fn without_mysql_the_front_says_so_and_goes_on_when_it_is_back() {
    let (server, http) = TestHttp::master().await;
    http.run(query("SELECT 1")).await;
    server.run(&["SET GLOBAL max_connections = 10"]).await;
    server.run(&["KILL USER app"]).await;
    // The session that was kept is dead; another is opened.
    http.run(query("SELECT 1")).await;

    let folder = server.folder().to_owned();
    let socket = server.managed().socket().to_owned();
    let moved = folder.join("moved.sock");
    std::fs::rename(&socket, &moved).unwrap();
    server_sessions_end(&server, &moved).await;
    let response = http.request(Method::POST, "").json(&query("SELECT 1")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let (status, _) = answer(http.bare(Method::GET, "/healthz")).await;
    assert_eq!(status, StatusCode::OK);
    std::fs::rename(&moved, &socket).unwrap();
    http.run(query("SELECT 1")).await;
}

/// Ends the sessions of the front's account over a socket that was moved away.
async fn server_sessions_end(server: &crate::support::TestServer, socket: &std::path::Path) {
    let opts = mysql_async::OptsBuilder::from_opts(server.opts()).socket(socket.to_str());
    let mut administrator = mysql_async::Conn::new(opts).await.unwrap();
    administrator.query_drop("KILL USER app").await.unwrap();
    eventually("the end of the sessions", async || {
        let left: Vec<u64> =
            administrator.query("SELECT id FROM information_schema.processlist WHERE user = 'app'").await.unwrap();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}
