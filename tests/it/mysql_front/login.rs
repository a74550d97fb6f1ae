//! The login reaches the server as the client sent it, and the server's answer the client.

use std::sync::Arc;

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use towline::{classify::SqlClassifier, upstream::Endpoint, wire::capability};
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    Mysql9, TestServer,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_answer_reaches_the_client() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    for (account, db) in [(APP, "shop"), (("app", "wrong"), ""), (("nobody", "x"), ""), (APP, "no_such_schema")] {
        for capabilities in [MODERN, OLD] {
            let (_, through) = WireClient::login(&front.target(), capabilities, account, db).await;
            let (_, direct) = WireClient::login(&direct, capabilities, account, db).await;
            assert_eq!(through, direct, "{account:?} {db:?} {capabilities:x}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_refused_with_its_name() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::open(&front.target()).await;
    client.read().await.expect("a greeting");
    let tls = (MODERN | capability::SSL).to_le_bytes();
    client.send(1, &[&tls[..], &[0, 0, 0, 1, 45], &[0; 23]].concat()).await;
    let refusal = client.read().await.expect("a refusal");
    assert_eq!(refusal.error_code(), Some(1043));
    assert!(String::from_utf8_lossy(&refusal.payload).contains("TLS"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_mysql_9_logs_in_by_the_servers_public_key_and_then_by_its_cache() {
    let Some(server) = Mysql9::shared().await else { return };
    server.run(&["CREATE USER relayed@'%' IDENTIFIED BY 'secret'"]).await;
    let endpoint = Endpoint::tcp("127.0.0.1", server.port);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(front.addr.port());
    let opts = opts.prefer_socket(false).user(Some("relayed")).pass(Some("secret"));
    for login in ["full", "cached"] {
        let mut client = Conn::new(opts.clone()).await.unwrap_or_else(|error| panic!("{login}: {error}"));
        let user: Option<String> = client.query_first("SELECT USER()").await.expect("a session");
        assert_eq!(user.as_deref(), Some("relayed@localhost"), "{login}");
    }
}
