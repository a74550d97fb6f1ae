//! Sessions by account: whose rights a command has, and what one request leaves to the next.

use mysql_async::prelude::Queryable;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use towline::upstream::Credentials;
use towline_middleware::Role;

use crate::support::{
    TestServer, eventually,
    http::{TestHttp, answer},
};

fn query(sql: &str) -> Value {
    json!({"action": "query", "sql": sql})
}

async fn user(http: &TestHttp, user: &str, password: &str) -> (StatusCode, Value) {
    let request = http.bare(Method::POST, "/master").basic_auth(user, Some(password));
    let (status, body) = answer(request.json(&query("SELECT CURRENT_USER()"))).await;
    (status, if status == StatusCode::OK { body["rows"][0][0].clone() } else { body })
}

#[tokio::test]
async fn every_login_method_of_mariadb() {
    let (server, http) = TestHttp::start(Role::Master, |options| options.anonymous_as = None).await;
    server
        .run(&[
            "CREATE USER native@'%' IDENTIFIED BY 'a:b'",
            "CREATE USER empty@'%'",
            "CREATE USER unicode@'%' IDENTIFIED BY 'pässwörd'",
        ])
        .await;
    let mut accounts = vec![("native", "a:b"), ("empty", ""), ("unicode", "pässwörd")];
    // Not every package of the server has the plugin.
    let mut administrator = server.connect().await;
    if administrator.query_drop("INSTALL SONAME 'auth_ed25519'").await.is_ok() {
        server.run(&["CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('geheim')"]).await;
        accounts.push(("ed", "geheim"));
    }
    for (name, password) in accounts {
        // Salts are random: what fails now and then must show.
        for _ in 0..10 {
            let (status, body) = user(&http, name, password).await;
            assert_eq!((status, body), (StatusCode::OK, json!(format!("{name}@%"))), "{name}");
            server.run(&[&format!("KILL USER {name}")]).await;
        }
        let (status, body) = user(&http, name, "wrong").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {body}");
    }
}

#[tokio::test]
async fn a_kept_session_asks_for_the_password_again() {
    let (_server, http) = TestHttp::master().await;
    assert_eq!(user(&http, "app", "secret").await.0, StatusCode::OK);
    for wrong in ["secre", "secret ", "", "SECRET"] {
        assert_eq!(user(&http, "app", wrong).await.0, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
}

#[tokio::test]
async fn requests_without_credentials_have_the_account_that_is_named() {
    let (_server, http) = TestHttp::start(Role::Master, |options| {
        options.anonymous_as = Some(Credentials { user: "app".into(), password: "secret".into() });
    })
    .await;
    let anonymous = |host: &'static str| {
        let request = http.bare(Method::POST, "/master").json(&query("SELECT CURRENT_USER()"));
        answer(if host.is_empty() { request } else { request.header("Host", host) })
    };
    let (status, body) = anonymous("").await;
    assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!([["app@%"]])));
    let (status, body) = anonymous("evil.example:5000").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a foreign page could ask: {body}");
    assert_eq!(user(&http, "app", "wrong").await.0, StatusCode::UNAUTHORIZED, "wrong credentials fell back");
}

#[tokio::test]
async fn nothing_is_left_to_the_next_request() {
    let (server, http) = TestHttp::master().await;
    let id = http.rows("SELECT CONNECTION_ID()").await;
    let left = [
        ("SET @x = 5", "SELECT @x", json!([[null]])),
        ("SET sql_mode = 'ANSI_QUOTES'", "SELECT @@sql_mode LIKE '%ANSI_QUOTES%'", json!([[0]])),
        ("SET NAMES latin1", "SELECT @@character_set_client, @@character_set_results", json!([["utf8mb4", "utf8mb4"]])),
        ("SELECT GET_LOCK('l', 1)", "SELECT IS_FREE_LOCK('l')", json!([[1]])),
        ("SET autocommit = 0", "SELECT @@autocommit", json!([[1]])),
        ("BEGIN", "SELECT @@in_transaction", json!([[0]])),
    ];
    for (sql, look, expected) in left {
        http.run(query(sql)).await;
        // The reset goes on after the answer: the next request may have a session of its own meanwhile.
        eventually(sql, async || match http.rows(look).await {
            rows if rows == expected => Ok(()),
            rows => Err(rows),
        })
        .await;
    }
    http.run(json!({"action": "query", "dbname": "shop", "sql": "CREATE TEMPORARY TABLE tmp (a INT)"})).await;
    let (status, _) = http.post(json!({"action": "query", "dbname": "shop", "sql": "SELECT * FROM tmp"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a temporary table was left");
    let (status, body) = http.post(query("SELECT * FROM item")).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(1046)), "a schema was left");
    let now = http.rows("SELECT CONNECTION_ID()").await;
    let connected = connections(&server, "app").await;
    assert!(connected <= 4, "{id} {now}: {connected} sessions for one request at a time");
}

#[tokio::test]
async fn an_unfinished_transaction_is_rolled_back() {
    let (server, http) = TestHttp::master().await;
    http.run(query("SET autocommit = 0")).await;
    http.run(query("BEGIN")).await;
    let (status, _) = http
        .post(json!([
            {"action": "query", "sql": "UPDATE shop.item SET name = 'x'"},
            {"action": "query", "sql": "SELECT broken"},
        ]))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    // Without waiting: the rollback is done before the answer.
    let mut administrator = server.connect().await;
    administrator.query_drop("SET innodb_lock_wait_timeout = 0").await.unwrap();
    let locked: Vec<String> = administrator.query("SELECT name FROM shop.item ORDER BY id FOR UPDATE").await.unwrap();
    assert_eq!(locked, ["lamp", "chair"]);
}

#[tokio::test]
async fn sessions_of_one_account_have_a_limit() {
    let (server, http) = TestHttp::start(Role::Master, |options| options.accounts.sessions_max = 3).await;
    let sleep = query("SELECT SLEEP(0.2)");
    let all = futures_util::future::join_all((0..12).map(|_| http.post(sleep.clone()))).await;
    assert!(all.iter().all(|(status, _)| *status == StatusCode::OK), "{all:?}");
    assert!(connections(&server, "app").await <= 3);
}

#[tokio::test]
async fn idle_sessions_are_closed() {
    let (server, http) = TestHttp::start(Role::Master, |options| {
        options.accounts.idle_max = std::time::Duration::from_millis(100);
    })
    .await;
    http.run(query("SELECT 1")).await;
    eventually("the end of an idle session", async || match connections(&server, "app").await {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
}

async fn connections(server: &TestServer, user: &str) -> u64 {
    let mut administrator = server.connect().await;
    let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = ?";
    administrator.exec_first(sql, (user,)).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_one_request_has_prepared_another_completes() {
    let (server, http) = TestHttp::master().await;
    for (end, rows) in [("COMMIT", 3), ("ROLLBACK", 3)] {
        let prepare = "BEGIN NOT ATOMIC \
             XA START 'a'; INSERT INTO shop.item (name) VALUES ('x'); XA END 'a'; XA PREPARE 'a'; \
             END";
        http.run(query(prepare)).await;
        // The session that it was prepared in serves nobody else, and what it has prepared is free when it is gone.
        eventually("a prepared transaction that is free", async || {
            assert_eq!(http.run(query("SELECT COUNT(*) FROM shop.item WHERE id < 3")).await["rows"], json!([[2]]));
            let (status, body) = http.post(query(&format!("XA {end} 'a'"))).await;
            if status == StatusCode::OK { Ok(()) } else { Err(body) }
        })
        .await;
        assert_eq!(http.run(query("SELECT COUNT(*) FROM shop.item")).await["rows"], json!([[rows]]));
    }
    // What is begun and not prepared ends with its request.
    http.run(query("BEGIN NOT ATOMIC XA START 'b'; INSERT INTO shop.item (name) VALUES ('y'); END")).await;
    assert_eq!(http.run(query("XA RECOVER")).await["rows"], json!([]));
    let mut administrator = server.connect().await;
    administrator.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await.unwrap();
    eventually("a rollback", async || {
        let count: Option<u32> = administrator.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap();
        if count == Some(3) { Ok(()) } else { Err(count) }
    })
    .await;
}
