//! The login reaches the server as the client sent it, and the server's answer the client.

use towline::wire::capability;
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer,
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
    // A client that sets what was not offered is not given it: LOCAL INFILE stays off.
    let mut client = WireClient::connect(&front.target(), MODERN | capability::LOCAL_FILES, APP, "shop").await;
    let reply = client.query("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE item").await;
    assert!(reply[0].error_code().is_some(), "{reply:?}");
}
