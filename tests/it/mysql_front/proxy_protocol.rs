//! The PROXY protocol: the client's address on its way through the front.

use std::{net::SocketAddr, sync::Arc};

use mysql_async::{Conn, prelude::Queryable};
use towline::{
    check::{self, Outcome, Target},
    classify::SqlClassifier,
    frontend::mysql::{MySqlFront, Networks},
    upstream::Endpoint,
    wire::proxy_header::{self, Ends},
};
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer,
    front::TestFront,
    server::free_port,
    wire_client::{MODERN, WireClient},
};

const CLIENT: &str = "192.0.2.7:51000";

fn trusting(front: &mut MySqlFront) {
    front.proxies = Networks::try_from(vec!["127.0.0.0/8".to_owned()]).expect("a network");
}

/// A header that names this client, and the client behind it.
async fn through_proxy(front: &TestFront, header: &[u8]) -> WireClient {
    let mut client = WireClient::open(&front.target()).await;
    client.send_raw(header).await;
    client
}

fn header(client: &str) -> Vec<u8> {
    let source: SocketAddr = client.parse().expect("an address");
    let mut bytes = Vec::new();
    let destination = SocketAddr::new(source.ip(), 4306);
    proxy_header::encode(&mut bytes, Some(Ends { source, destination }));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sees_the_address_that_the_first_proxy_saw() {
    let port = free_port();
    let args = [
        "--skip-networking=0",
        "--bind-address=127.0.0.1",
        &format!("--port={port}"),
        "--proxy-protocol-networks=127.0.0.1,localhost",
    ];
    let server = TestServer::start_with(Role::Master, &args).await;
    prepare(&server).await;
    // An account that is bound to the client's own host, and another for everybody else.
    server
        .run(&[
            "SET sql_log_bin=0",
            "CREATE USER bound@'192.0.2.7' IDENTIFIED BY 'secret'",
            "CREATE USER bound@'2001:db8::7' IDENTIFIED BY 'secret'",
        ])
        .await;
    for endpoint in [Endpoint::tcp("127.0.0.1", port), Endpoint::unix(server.managed().socket())] {
        let classifier = Arc::new(SqlClassifier::new());
        let endpoint = endpoint.with_proxy_protocol(true);
        let front = TestFront::before(Role::Master, endpoint, server.opts(), classifier, trusting).await;
        let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 4306\r\n".to_vec();
        for (header, host) in
            [(header(CLIENT), "192.0.2.7"), (line, "192.0.2.7"), (header("[2001:db8::7]:51000"), "2001:db8::7")]
        {
            let client = through_proxy(&front, &header).await;
            let (mut client, answer) = client.log_in(MODERN, ("bound", "secret"), "").await;
            assert_eq!(answer.payload[0], 0, "{host}: {answer:?}");
            let reply = client.query("SELECT USER()").await;
            let expected = format!("bound@{host}");
            assert!(reply.iter().any(|packet| packet.payload.ends_with(expected.as_bytes())), "{reply:?}");
        }
        // A proxy's own connection, as for its health checks: the server sees the front's client as it is.
        let mut own = Vec::new();
        proxy_header::encode(&mut own, None);
        let (mut client, _) = through_proxy(&front, &own).await.log_in(MODERN, APP, "").await;
        let reply = client.query("SELECT USER()").await;
        assert!(reply.iter().any(|packet| packet.payload.ends_with(b"app@127.0.0.1")), "{reply:?}");
    }
    // One on this machine's socket has no address, and the server sees the front's own.
    let endpoint = Endpoint::tcp("127.0.0.1", port).with_proxy_protocol(true);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    let socket = front.socket();
    let mut client =
        Conn::new(front.opts(APP.0, APP.1).socket(Some(socket.to_string_lossy()))).await.expect("a session");
    let user: Option<String> = client.query_first("SELECT USER()").await.expect("an answer");
    assert_eq!(user.as_deref(), Some("app@127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_taken_from_trusted_proxies_and_from_nobody_else() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    // From a stranger it is a packet out of order.
    let front = TestFront::start(Role::Master, &server).await;
    let mut stranger = through_proxy(&front, &header(CLIENT)).await;
    stranger.read().await.expect("a greeting");
    assert_eq!(stranger.read().await.expect("a reason").error_code(), Some(1835));
    // From a trusted proxy nothing else is taken, and nothing is said before it.
    let endpoint = Endpoint::unix(server.managed().socket());
    let front =
        TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), trusting).await;
    let mut broken = through_proxy(&front, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(broken.read().await.is_err());
    let whole = header(CLIENT);
    let mut slow = WireClient::open(&front.target()).await;
    for byte in &whole {
        slow.send_raw(&[*byte]).await;
    }
    let (_, answer) = slow.log_in(MODERN, APP, "").await;
    assert_eq!(answer.payload[0], 0, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_accounts_that_the_nodes_address_shuts_out_and_what_the_proxy_protocol_lacks() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server
        .run(&[
            "SET sql_log_bin=0",
            "CREATE USER job@'192.0.2.7' IDENTIFIED BY 'secret'",
            "CREATE USER app@'192.0.2.%' IDENTIFIED BY 'secret'",
            "CREATE ROLE readers",
        ])
        .await;
    let opts = server.opts();
    let found = async |proxy_protocol, name: &str| {
        let target = Target { proxy_protocol, ..Target::from(&opts) };
        let (_, report) = check::run(Role::Master, target).await.expect("a report");
        let line = report.lines.into_iter().find(|line| line.name.contains(name)).expect("the line");
        line.outcome
    };
    let Outcome::Warning { found: text, mend } = found(false, "from the node's address").await else {
        panic!("no warning");
    };
    assert!(
        text.ends_with("'app'@'192.0.2.%' (clients would be 'app'@'%'), 'job'@'192.0.2.7'"),
        "{text}: all of them, and no others"
    );
    assert!(mend.contains("'name'@'localhost'"), "{mend}");
    let Outcome::Failed { mend, .. } = found(true, "PROXY protocol").await else { panic!("no failure") };
    assert_eq!(mend, "set `proxy_protocol_networks = localhost`");
    server.run(&["SET GLOBAL proxy_protocol_networks = '10.0.0.0/8, localhost'"]).await;
    assert_eq!(found(true, "PROXY protocol").await, Outcome::Ok);
}
