//! Health, status, metrics, the list of slaves, and the drain.

use reqwest::{Method, StatusCode};
use serde_json::json;
use towline::config::Secret;
use towline_middleware::Role;

use crate::support::{
    eventually,
    http::{TestHttp, answer},
};

fn secret() -> Secret {
    Secret::try_from("a secret of the tests".to_owned()).unwrap()
}

#[tokio::test]
async fn a_master_tells_how_it_fares() {
    let (_server, http) = TestHttp::master().await;
    let get = |path: &'static str| answer(http.bare(Method::GET, path));
    assert_eq!(get("/healthz").await, (StatusCode::OK, json!("ok\n")));
    http.ready().await;
    let inserted =
        http.run(json!({"action": "insert", "dbname": "shop", "table": "item", "data": {"name": "x"}})).await;
    let status = eventually("the insert in the status", async || match get("/status").await.1 {
        status if status["position"] == inserted["position"] => Ok(status),
        status => Err(status),
    })
    .await;
    assert_eq!(
        (&status["role"], &status["mysql"]["port"], &status["mysql"]["up"]),
        (&json!("master"), &json!(4306), &json!(true))
    );
    assert!(status["commands"]["done"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["slaves"], json!([]));
    assert_eq!(status["replication"]["state"], json!("running"), "{status}");
    let text = get("/metrics").await.1;
    let text = text.as_str().unwrap();
    for line in ["towline_mysql_up 1", "towline_capture_running 1", "# TYPE towline_command_seconds histogram"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_slave_tells_how_it_fares() {
    let (_server, http) = TestHttp::start(Role::Slave, |_| {}).await;
    let get = |path: &'static str| answer(http.bare(Method::GET, path));
    http.ready().await;
    let (_, status) = get("/status").await;
    assert_eq!(
        (&status["role"], &status["applier"]["state"]["state"]),
        (&json!("slave"), &json!("running")),
        "{status}"
    );
    let (status, body) = answer(http.bare(Method::POST, "/admin/resume")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(get("/admin/slaves").await.0, StatusCode::NOT_FOUND, "a slave has no slaves");
    let text = get("/metrics").await.1;
    assert!(text.as_str().unwrap().lines().any(|line| line == "towline_apply_running 1"), "{text}");
}

#[tokio::test]
async fn slaves_are_registered_and_removed_by_who_knows_the_secret() {
    let (_server, http) = TestHttp::start(Role::Master, |options| options.secret = Some(secret())).await;
    let slave = json!({"id": "s1", "url": "http://127.0.0.1:1"});
    for (method, path) in
        [(Method::GET, "/admin/slaves"), (Method::POST, "/admin/slaves"), (Method::DELETE, "/admin/slaves?id=s1")]
    {
        for token in ["", "wrong", "a secret of the test"] {
            let request = http.bare(method.clone(), path).json(&slave);
            let request = if token.is_empty() { request } else { request.bearer_auth(token) };
            assert_eq!(answer(request).await.0, StatusCode::UNAUTHORIZED, "{method} {path} {token:?}");
        }
    }
    let known = |method, path: &str| http.bare(method, path).bearer_auth("a secret of the tests");
    let (status, body) = answer(known(Method::POST, "/admin/slaves").json(&slave)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (_, body) = answer(known(Method::GET, "/admin/slaves")).await;
    assert_eq!((&body["slaves"][0]["id"], body["slaves"].as_array().map(Vec::len)), (&json!("s1"), Some(1)), "{body}");
    let text = answer(http.bare(Method::GET, "/metrics")).await.1;
    assert!(text.as_str().unwrap().lines().any(|line| line == r#"towline_slave_warnings{slave="s1"} 0"#), "{text}");
    for (body, status) in [
        (json!({"id": "s2"}), 400),
        (json!({"id": "s2", "url": "ftp://x"}), 400),
        (json!({"id": "", "url": "http://127.0.0.1:1"}), 400),
        (json!({"id": "s2", "url": "http://127.0.0.1:1", "x": 1}), 400),
    ] {
        let (found, answer) = answer(known(Method::POST, "/admin/slaves").json(&body)).await;
        assert_eq!(found.as_u16(), status, "{body}: {answer}");
    }
    assert_eq!(answer(known(Method::DELETE, "/admin/slaves")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(answer(known(Method::DELETE, "/admin/slaves?id=s1")).await.0, StatusCode::OK);
    assert_eq!(answer(known(Method::DELETE, "/admin/slaves?id=s1")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(answer(known(Method::GET, "/admin/slaves")).await.1["slaves"], json!([]));
}

#[tokio::test]
async fn a_running_request_is_finished_when_the_node_stops() {
    let (_server, http) = TestHttp::master().await;
    let running = http.request(Method::POST, "").json(&json!([
        {"action": "query", "sql": "SELECT SLEEP(1)"},
        {"action": "insert", "dbname": "shop", "table": "item", "data": {"name": "last"}},
    ]));
    let running = tokio::spawn(answer(running));
    eventually("the running request", async || {
        match http.rows("SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(1)'").await {
            rows if rows == json!([[1]]) => Ok(()),
            rows => Err(rows),
        }
    })
    .await;
    // As a node stops: no new commands, no new connections.
    http.admission.close();
    http.stop.cancel();
    let (status, body) = running.await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    let late = http.bare(Method::GET, "/healthz");
    http.serving.await.unwrap();
    assert!(late.send().await.is_err(), "a stopped front still answers");
}
