//! The forms of packets that client and server agree on: MariaDB's own capabilities, compression, what is masked.

use mysql_async::{Compression, Conn, OptsBuilder, Params, prelude::Queryable};
use towline::wire::{
    capability::{self, mariadb},
    greeting::Greeting,
};
use towline_middleware::{Role, from_fn, layers::user::UserLayers};

use super::{APP, prepare, unpredictable};
use crate::support::{
    TestServer,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

/// As the upper half of a login's capabilities.
fn own(capabilities: u32) -> u64 {
    u64::from(capabilities) << 32
}

/// Prepares a statement and returns its id.
async fn prepare_statement(client: &mut WireClient, sql: &str) -> [u8; 4] {
    let reply = client.command(&[b"\x16", sql.as_bytes()].concat()).await;
    assert_eq!(reply[0].payload[0], 0, "{sql}: {reply:?}");
    reply[0].payload[1..5].try_into().expect("four bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_execution_and_cached_metadata_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    for capabilities in [MODERN, OLD] {
        let capabilities = u64::from(capabilities) | own(mariadb::PASSED);
        let mut seen = Vec::new();
        for target in [front.target(), direct.clone()] {
            let mut client = WireClient::connect(&target, capabilities, APP, "shop").await;
            let mut replies = Vec::new();
            client.run("TRUNCATE TABLE item").await;
            let id = prepare_statement(&mut client, "INSERT INTO item (name, price) VALUES (?, ?)").await;
            // Types are sent along, then each row: a byte that says value, NULL or default, and the value.
            let bulk = [
                &b"\xfa"[..],
                &id,
                &[128, 0, 0xfd, 0, 0xfd, 0],
                b"\x00\x03oar\x00\x012",
                b"\x00\x06paddle\x01",
                b"\x00\x04sail\x00\x0299",
            ]
            .concat();
            replies.extend(client.command(&bulk).await);
            // The id of the statement that was prepared last.
            let last = [&b"\xfa\xff\xff\xff\xff"[..], &bulk[5..]].concat();
            replies.extend(client.command(&last).await);
            replies.extend(client.query("SELECT COUNT(*), SUM(price), MIN(name) FROM item").await);
            let id = prepare_statement(&mut client, "SELECT id, name FROM item WHERE id > ? LIMIT 3").await;
            for _ in 0..3 {
                let reply =
                    client.command(&[b"\x17", &id[..], &[0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 0, 0]].concat()).await;
                replies.extend(reply);
            }
            let left_out = replies.iter().filter(|packet| packet.payload == [2, 0]).count();
            assert_eq!(left_out, 3, "the definitions that came with the prepare are not repeated: {replies:?}");
            // A point has an extended definition.
            replies.extend(client.query("SELECT POINT(1, 2)").await);
            unpredictable(&mut replies);
            seen.push(replies);
        }
        assert_eq!(seen[0], seen[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_refuses_bulk_execution_and_layers_are_spared_forms_that_they_do_not_know() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Slave, &server).await;
    let mut client = WireClient::connect(&front.target(), u64::from(MODERN) | own(mariadb::PASSED), APP, "shop").await;
    // Nothing has been prepared that could be the statement prepared last.
    for (id, code) in [(1, 1290), (u32::MAX, 1243)] {
        let reply = client.command(&[&b"\xfa"[..], &id.to_le_bytes(), &[0, 0, 0, 1, b'x']].concat()).await;
        assert_eq!(reply[0].error_code(), Some(code), "{reply:?}");
    }
    let greeted = async |front: &TestFront| {
        let greeting = WireClient::open(&front.target()).await.read().await.expect("a greeting");
        Greeting::decode(&greeting.payload).expect("a greeting").mariadb_capabilities
    };
    assert_eq!(greeted(&front).await, mariadb::PASSED);
    let classifier = std::sync::Arc::new(towline::classify::SqlClassifier::new());
    let front = TestFront::start_with(Role::Master, &server, classifier, |front| {
        let pass = from_fn(async |command, next: towline_middleware::Next| next.run(command).await);
        front.stack.user = UserLayers::new([("pass".to_owned(), std::sync::Arc::new(pass) as _)]);
    })
    .await;
    assert_eq!(greeted(&front).await, mariadb::STMT_BULK_OPERATIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_session_gets_what_a_plain_one_gets() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["SET GLOBAL max_allowed_packet = 67108864", "CREATE TABLE shop.big (t LONGTEXT)"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut plain = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        let compress = capabilities | capability::COMPRESS;
        let mut compressed = WireClient::connect(&front.target(), compress, APP, "shop").await;
        for sql in [
            "SELECT 1",
            "SELECT id, name, price FROM item",
            "SELECT REPEAT('x', 100000); SELECT 2; no such statement",
            "SELECT REPEAT(MD5(seq), 100) FROM seq_1_to_200",
            "SELECT SHA2('incompressible', 512)",
        ] {
            assert_eq!(compressed.query(sql).await, plain.query(sql).await, "{sql}");
        }
        // What has no reply, and the next command behind it.
        let id = prepare_statement(&mut compressed, "SELECT ?").await;
        compressed.send(0, &[b"\x19", &id[..]].concat()).await;
        compressed.run("DO 1").await;
    }
    // A driver's own compression, with long packets in both directions.
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(front.addr.port()).prefer_socket(false);
    let opts = opts.user(Some(APP.0)).pass(Some(APP.1)).db_name(Some("shop")).compression(Compression::best());
    let mut driver = Conn::new(opts.max_allowed_packet(Some(64 << 20))).await.expect("a session");
    for length in [1usize, 49, 50, 1000, 16_777_215, 17_000_000] {
        let text: String = ('a'..='z').cycle().take(length).collect();
        driver
            .exec_drop("REPLACE INTO big VALUES (?)", Params::Positional(vec![text.clone().into()]))
            .await
            .expect("ok");
        let back: Option<String> = driver.query_first("SELECT t FROM big").await.expect("a reply");
        assert!(back.as_deref() == Some(&*text), "{length}");
        driver.query_drop("TRUNCATE TABLE big").await.expect("an empty table");
    }
    driver.disconnect().await.expect("a farewell");
    // What is no compressed packet ends the session of whoever sent it.
    let mut client = WireClient::connect(&front.target(), MODERN | capability::COMPRESS, APP, "shop").await;
    client.send_raw(b"\x05\x00\x00\x00\xff\xff\xffzlib?").await;
    while let Ok(packet) = client.read().await {
        assert!(packet.error_code().is_some(), "{packet:?}");
    }
}

/// Results whose form drivers find hard: a row that looks like the end, OUT parameters, several results.
#[tokio::test(flavor = "multi_thread")]
async fn unusual_results_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server
        .run(&[
            "SET GLOBAL max_allowed_packet = 67108864",
            "CREATE PROCEDURE shop.two(IN a INT, OUT b INT, INOUT c VARCHAR(20)) \
             BEGIN SELECT a; SELECT name FROM shop.item; SET b = a + 1, c = CONCAT(c, '!'); END",
        ])
        .await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    for capabilities in [MODERN, OLD] {
        let mut seen = Vec::new();
        for target in [front.target(), direct.clone()] {
            let mut client = WireClient::connect(&target, capabilities, APP, "shop").await;
            let mut replies = client.query("CALL two(1, @b, @c); SELECT @b").await;
            let id = prepare_statement(&mut client, "CALL two(?, ?, ?)").await;
            let values =
                [&b"\x17"[..], &id, &[0, 1, 0, 0, 0, 0, 1, 3, 0, 3, 0, 0xfd, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2], b"hi"];
            replies.extend(client.command(&values.concat()).await);
            // The first value's length takes nine bytes, of which the first is that of an EOF.
            let long = client.query("SELECT REPEAT('x', 16777216), 'y' UNION ALL SELECT 'short', 'z'").await;
            assert!(long.iter().any(|packet| packet.payload.len() > 16 << 20 && packet.payload[0] == 0xfe));
            replies.extend(long.into_iter().map(|mut packet| {
                packet.payload.truncate(1000);
                packet
            }));
            replies.extend(client.query("SELECT '', NULL UNION SELECT NULL, ''").await);
            for packet in &mut replies {
                // That parameters follow is told by the EOF after them, as with the other flags.
                if let [0xfe, _, _, _, high] = &mut packet.payload[..] {
                    *high &= !0x10;
                }
            }
            unpredictable(&mut replies);
            seen.push(replies);
        }
        assert_eq!(seen[0].len(), seen[1].len());
        for (through, direct) in seen[0].iter().zip(&seen[1]) {
            assert_eq!(through, direct);
        }
    }
}
