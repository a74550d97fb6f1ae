//! LOAD DATA LOCAL: the server asks, the client sends a file.

use std::sync::Arc;

use towline::{classify::SqlClassifier, wire::capability};
use towline_middleware::Role;

use super::{APP, prepare, unpredictable};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, OLD, Packet, Target, WireClient},
};

const LOAD: &str = "LOAD DATA LOCAL INFILE 'boats.csv' INTO TABLE item FIELDS TERMINATED BY ',' (name, price)";

/// Sends a command; when the server asks for a file, these packets and the empty one that ends it. Returns the whole
/// reply.
async fn load(client: &mut WireClient, sql: &str, file: &[&[u8]]) -> Vec<Packet> {
    client.send(0, &[b"\x03", sql.as_bytes()].concat()).await;
    let mut reply = Vec::new();
    while !reply.last().is_some_and(|packet: &Packet| packet.payload.starts_with(b"\xfb")) {
        reply.push(client.read().await.expect("a question"));
    }
    let asked = reply.last().map_or(0, |packet| packet.sequence);
    for (number, piece) in file.iter().chain([&&b""[..]]).enumerate() {
        client.send(asked.wrapping_add(1).wrapping_add(number as u8), piece).await;
    }
    reply.extend(client.read_rest().await);
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_to_the_server_and_its_answer_comes_back() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    let long = b"barge,1.5\n".repeat(60_000);
    let many: Vec<&[u8]> = vec![b"tug,2\n"; 600];
    let files: [&[&[u8]]; 5] =
        [&[b"canoe,3.25\nraft,", b"4\n"], &[], &[&long], &many, &[b"no price\nx,not a number\n", b"half a li"]];
    for capabilities in [MODERN, OLD] {
        let capabilities = capabilities | capability::LOCAL_FILES;
        let mut seen = Vec::new();
        for target in [front.target(), direct.clone()] {
            let mut client = WireClient::connect(&target, capabilities, APP, "shop").await;
            let mut replies = Vec::new();
            client.run("TRUNCATE TABLE item").await;
            for file in files {
                replies.extend(load(&mut client, LOAD, file).await);
                replies.extend(client.query("SHOW WARNINGS LIMIT 3").await);
            }
            // Among other statements, and refused before anything is asked for.
            replies.extend(load(&mut client, &format!("SELECT 1; {LOAD}; SELECT 2"), files[0]).await);
            replies.extend(client.query(&LOAD.replace("item", "no_such_table")).await);
            replies.extend(client.query(&LOAD.replace("(name", "(no_such_column")).await);
            replies.extend(client.query("SELECT COUNT(*), MIN(name), SUM(price) FROM item").await);
            unpredictable(&mut replies);
            seen.push(replies);
        }
        assert_eq!(seen[0].len(), seen[1].len());
        for (through, direct) in seen[0].iter().zip(&seen[1]) {
            assert_eq!(through, direct);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_asked_for_where_it_is_switched_off_or_on_a_slave() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let off = |front: &mut towline::frontend::mysql::MySqlFront| front.local_infile = false;
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), off).await;
    let mut client = WireClient::connect(&front.target(), MODERN | capability::LOCAL_FILES, APP, "shop").await;
    let through = client.query(LOAD).await;
    // What the server says to a client that could not do it by itself.
    let direct = Target::Server(server.managed().socket().to_owned());
    let mut client = WireClient::connect(&direct, MODERN, APP, "shop").await;
    assert_eq!(through, client.query(LOAD).await);
    assert!(through[0].error_code().is_some(), "{through:?}");

    let slave = TestFront::start(Role::Slave, &server).await;
    let mut client = WireClient::connect(&slave.target(), MODERN | capability::LOCAL_FILES, APP, "shop").await;
    assert_eq!(client.query(LOAD).await[0].error_code(), Some(1290));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_within_its_file_leaves_nothing_behind() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN | capability::LOCAL_FILES, APP, "shop").await;
    client.send(0, &[b"\x03", LOAD.as_bytes()].concat()).await;
    client.read().await.expect("a question");
    client.send(2, b"ghost,1\n").await;
    drop(client);
    eventually("its session ends", async || match front.sessions.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.run("LOCK TABLES item WRITE").await;
    let reply = client.query("SELECT COUNT(*) FROM item WHERE name = 'ghost'").await;
    assert!(reply.iter().any(|packet| packet.payload == b"\x010"), "{reply:?}");
}
