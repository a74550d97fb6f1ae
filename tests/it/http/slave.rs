//! `/slave`: the master's pushes, and who may send them.

use reqwest::{Method, StatusCode};
use serde_json::json;
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
