//! Clients that are slow, silent or send too much, and what they cost.

use std::{sync::Arc, time::Duration};

use mysql_async::prelude::Queryable;
use towline::classify::SqlClassifier;
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, Target, WireClient},
};

async fn no_sessions(server: &TestServer, front: &TestFront) {
    eventually("the sessions end", async || match front.sessions.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    let mut observer = server.connect().await;
    eventually("the server's connections end", async || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
        match observer.query_first::<u64, _>(sql).await.expect("an answer") {
            Some(0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_the_server_and_is_ended() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let short = |front: &mut towline::frontend::mysql::MySqlFront| {
        front.limits.write_timeout = Duration::from_secs(1);
    };
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), short).await;
    let mut observer = server.connect().await;
    let mut sent = async || {
        let sql = "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'BYTES_SENT'";
        observer.query_first::<u64, _>(sql).await.expect("an answer").expect("a count")
    };
    let before = sent().await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send(0, b"\x03SELECT REPEAT('x', 1000000) FROM seq_1_to_2000").await;
    // Others are served meanwhile.
    let mut other = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    other.run("SELECT 1").await;
    drop(other);
    no_sessions(&server, &front).await;
    // Of 2 GB only what two pairs of sockets and the node's buffers hold has left the server.
    let sent = sent().await - before;
    assert!(sent < 64 << 20, "{sent} bytes were sent to a client that reads none");
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_told_and_ended() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let short = |front: &mut towline::frontend::mysql::MySqlFront| {
        front.limits.idle_timeout = Duration::from_millis(300);
    };
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), short).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    // A command that takes longer than the limit is no silence.
    client.run("SELECT SLEEP(0.4)").await;
    assert_eq!(client.read().await.expect("a reason").error_code(), Some(4031));
    no_sessions(&server, &front).await;
    // The server's own limit ends a session as it does without Towline.
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.run("SET wait_timeout = 1").await;
    while let Ok(packet) = client.read().await {
        assert!(packet.error_code().is_some(), "{packet:?}");
    }
    no_sessions(&server, &front).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_begin_ends_in_time_or_with_its_client() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    // What the server runs behind the login of an account that may not skip it. It shows no such connection among others.
    let init = "SET GLOBAL init_connect = 'DO GET_LOCK(\"begins\", 1000), SLEEP(1000)'";
    server.run(&["CREATE USER plain@'%' IDENTIFIED BY 'secret'", init]).await;
    let plain = ("plain", APP.1);
    let mut observer = server.connect().await;
    let mut begins = async |wanted: bool| {
        eventually(&format!("a session that begins: {wanted}"), async || {
            let holder: Option<Option<u32>> =
                observer.query_first("SELECT IS_USED_LOCK('begins')").await.expect("an answer");
            if holder.flatten().is_some() == wanted { Ok(()) } else { Err(holder) }
        })
        .await;
    };
    let short = |front: &mut towline::frontend::mysql::MySqlFront| {
        front.limits.handshake_timeout = Duration::from_secs(1);
    };
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), short).await;
    let (_client, told) = WireClient::login(&front.target(), MODERN, plain, "").await;
    assert_eq!(told.error_code(), Some(1053), "{told:?}");
    begins(false).await;
    let long = |front: &mut towline::frontend::mysql::MySqlFront| {
        front.limits.handshake_timeout = Duration::from_secs(1000);
    };
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), long).await;
    let target = front.target();
    let leaves = tokio::spawn(async move { WireClient::login(&target, MODERN, plain, "").await });
    begins(true).await;
    leaves.abort();
    begins(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_turn_is_ended_and_so_is_one_whose_server_has_left() {
    const LOAD: &[u8] = b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE item (name)";
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let short = |front: &mut towline::frontend::mysql::MySqlFront| {
        front.limits.idle_timeout = Duration::from_millis(300);
    };
    let local = MODERN | towline::wire::capability::LOCAL_FILES;
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), short).await;
    for (command, asks) in [(LOAD, 0xfb), (&b"\x11app\0\0shop\0\x2d\0mysql_native_password\0"[..], 0xfe)] {
        let mut client = WireClient::connect(&front.target(), local, APP, "shop").await;
        client.send(0, command).await;
        assert_eq!(client.read().await.expect("a question").payload[0], asks);
        let told = client.read().await.expect("a reason");
        assert_eq!((told.sequence, told.error_code()), (2, Some(4031)), "{told:?}");
        no_sessions(&server, &front).await;
    }
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), local, APP, "shop").await;
    let id = client.connection_id;
    client.send(0, LOAD).await;
    client.read().await.expect("a question");
    client.send(2, b"half a file").await;
    server.run(&[&format!("KILL {id}")]).await;
    let told = client.read().await.expect("a reason");
    assert_eq!((told.sequence, told.error_code()), (3, Some(1053)), "{told:?}");
    no_sessions(&server, &front).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_byte_by_byte_harms_nobody() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut slow = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    for byte in b"\x09\x00\x00\x00\x03SELECT 5" {
        slow.send_raw(&[*byte]).await;
        let mut other = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
        other.run("SELECT 1").await;
    }
    let reply = slow.read_reply().await;
    assert!(reply.iter().any(|packet| packet.payload == b"\x015"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_beyond_the_servers_limit_gets_the_servers_error() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["SET GLOBAL max_allowed_packet = 1048576"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    for length in [1_100_000, 20_000_000] {
        let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
        client.send(0, format!("\x03SELECT LENGTH('{}')", "x".repeat(length)).as_bytes()).await;
        let told = client.read().await.expect("a reason");
        assert_eq!((told.sequence, told.error_code()), (1, Some(1153)), "{told:?}");
        // In the server's words: Towline's own limit is higher.
        assert!(told.payload.ends_with(b"'max_allowed_packet' bytes"), "{told:?}");
    }
    // A result that is too long is the server's affair too.
    let mut seen = Vec::new();
    for target in [front.target(), Target::Server(server.managed().socket().to_owned())] {
        let mut client = WireClient::connect(&target, MODERN, APP, "shop").await;
        seen.push(client.query("SELECT REPEAT('x', 2000000); SHOW WARNINGS").await);
    }
    assert_eq!(seen[0], seen[1]);
}
