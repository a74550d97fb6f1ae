//! Clients that do not keep to the protocol, and servers that go away.

use std::{sync::Arc, time::Duration};

use towline::classify::SqlClassifier;
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, WireClient},
};

async fn still_serves(front: &TestFront) {
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let reply = client.query("SELECT 'alive'").await;
    assert!(reply.iter().any(|packet| packet.payload.ends_with(b"alive")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_commands_are_refused_by_name_and_the_session_goes_on() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let supported =
        [1, 2, 3, 4, 7, 9, 0x0a, 0x0c, 0x0d, 0x0e, 0x11, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1f, 0xfa];
    for byte in (0..=u8::MAX).filter(|byte| !supported.contains(byte)) {
        let reply = client.command(&[byte, 1, 2, 3, 4]).await;
        assert_eq!(reply[0].error_code(), Some(1047), "command byte {byte:#x}");
    }
    let empty = client.command(&[]).await;
    assert_eq!(empty[0].error_code(), Some(1047), "an empty packet");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_costs_its_sender_the_session_and_nobody_else_anything() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let classifier = Arc::new(SqlClassifier::new());
    let front = TestFront::start_with(Role::Master, &server, classifier, |front| {
        front.limits.packet_bytes_max = 1 << 20;
        front.limits.handshake_timeout = Duration::from_millis(500);
    })
    .await;
    // In place of a login: nonsense, a packet that never ends, a wrong number, half a packet and silence.
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xff\xff\xff\x01", b"\x05\x00\x00\x07abcde", b"\x20\x00\x00\x01a", b""]
    {
        let mut client = WireClient::open(&front.target()).await;
        client.read().await.expect("a greeting");
        client.send_raw(bytes).await;
        while client.read().await.is_ok() {}
    }
    // Before the login a packet is no longer than a login's; nobody knows yet who sends it.
    for (length, code) in [(0x1_f000, 1043), (0x2_0001, 1835)] {
        let mut client = WireClient::open(&front.target()).await;
        client.read().await.expect("a greeting");
        client.send(1, &vec![b'x'; length]).await;
        assert_eq!(client.read().await.expect("a reason").error_code(), Some(code), "{length} bytes");
    }
    // After a login: a wrong number, and a packet that is too long.
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send(5, b"\x03SELECT 1").await;
    assert_eq!(client.read().await.expect("a reason").error_code(), Some(1835));
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send_raw(b"\xff\xff\xff\x00\x03SELECT").await;
    assert_eq!(client.read().await.expect("a reason").error_code(), Some(1153));
    // A client that leaves in mid-packet, or while rows stream to it.
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send_raw(b"\x50\x00\x00\x00\x03SEL").await;
    drop(client);
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send(0, b"\x03SELECT REPEAT('x', 1000) FROM information_schema.columns").await;
    client.read().await.expect("the first packet");
    drop(client);
    eventually("their sessions end", async || match front.sessions.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    still_serves(&front).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_an_error_and_not_a_hang() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut idle = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let mut busy = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    busy.send(0, b"\x03SELECT SLEEP(100)").await;
    server.managed().stop().await;
    // The server's own farewell (1927, 1053), if it says one, or the node's word for a connection that broke.
    while let Ok(packet) = idle.read().await {
        assert!(matches!(packet.error_code(), Some(1927 | 1053)), "{packet:?}");
    }
    let mut told = None;
    while let Ok(packet) = busy.read().await {
        told = told.or(packet.error_code());
    }
    assert!(matches!(told, None | Some(2013 | 1927 | 1053 | 1317)), "{told:?}");
    let refusal = WireClient::open(&front.target()).await.read().await.expect("a refusal");
    assert_eq!(refusal.error_code(), Some(2003));
}
