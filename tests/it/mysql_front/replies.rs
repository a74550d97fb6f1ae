//! What a client reads through the front is what it would read from the server, byte for byte.

use towline_middleware::Role;

use super::{APP, prepare, unpredictable};
use crate::support::{
    TestServer,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

/// Texts whose replies do not depend on which connection asks.
const QUERIES: [&str; 22] = [
    "SELECT 1",
    "SELECT id, name, price FROM item ORDER BY id",
    "SELECT 1 WHERE FALSE",
    "SELECT REPEAT('x', 300), NULL, '' FROM item",
    "SELECT 1; SELECT 'two', 2; SELECT name FROM item WHERE FALSE",
    "SELECT 1; SELECT no_such_column; SELECT 3",
    "no such statement",
    "SELECT * FROM no_such_table",
    "SELECT id, 1/0, CAST('x' AS INT) FROM item; SHOW WARNINGS",
    "BEGIN; UPDATE item SET price = 1 WHERE id = 2; SELECT price FROM item; ROLLBACK",
    "UPDATE item SET name = name",
    "SET NAMES utf8mb4",
    "SET @a = 5",
    "SELECT @a",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "USE mysql",
    "USE shop",
    "SELECT DATABASE()",
    "SHOW COLUMNS FROM item",
    "CREATE TEMPORARY TABLE tmp (a INT); INSERT INTO tmp VALUES (1), (2); SELECT * FROM tmp; DROP TEMPORARY TABLE tmp",
    "(SELECT 1)",
];

async fn pair(server: &TestServer, front: &TestFront, capabilities: u32) -> [WireClient; 2] {
    let direct = Target::Server(server.managed().socket().to_owned());
    [
        WireClient::connect(&front.target(), capabilities, APP, "shop").await,
        WireClient::connect(&direct, capabilities, APP, "shop").await,
    ]
}

async fn both(pair: &mut [WireClient; 2], command: &[u8]) {
    each(pair, [command, command]).await;
}

/// Sends each its command; the replies must be equal. Returns the statement ids of both, where there are any.
async fn each(pair: &mut [WireClient; 2], commands: [&[u8]; 2]) -> [[u8; 4]; 2] {
    let mut through = pair[0].command(commands[0]).await;
    let mut direct = pair[1].command(commands[1]).await;
    let prepares = commands[0][0] == 0x16 && direct[0].payload[0] == 0;
    let ids = [&mut through, &mut direct].map(|reply| {
        unpredictable(reply);
        // The server counts statements on through connections that share a thread: equal ids would be chance.
        if prepares { std::mem::take(reply[0].payload[1..5].as_mut_array().expect("an id")) } else { [0; 4] }
    });
    assert_eq!(through, direct, "{:?}", String::from_utf8_lossy(commands[0]));
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn text_replies_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut pair = pair(&server, &front, capabilities).await;
        for sql in QUERIES {
            both(&mut pair, &[b"\x03", sql.as_bytes()].concat()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut pair = pair(&server, &front, capabilities).await;
        let sql = b"\x16SELECT id, name FROM item WHERE id >= ? ORDER BY id";
        let ids = each(&mut pair, [sql, sql]).await;
        let mut steps: Vec<(&[u8], &[u8])> = Vec::new();
        let long: &[u8] = &[0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 0, 0];
        let cursor: &[u8] = &[1, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 0, 0];
        steps.extend([(&b"\x17"[..], long), (b"\x17", cursor)]);
        // With a cursor the rows are fetched one by one, and one fetch more says that there are none left.
        steps.extend([(&b"\x1c"[..], &[1, 0, 0, 0][..]); 3]);
        steps.push((b"\x1a", b""));
        for (byte, rest) in steps {
            run_statement(&mut pair, ids, byte, rest).await;
        }
        // Long data has no reply: the execute that follows shows what became of it.
        for (client, id) in pair.iter_mut().zip(ids) {
            client.send(0, &[b"\x18", &id[..], &[0, 0], b"2"].concat()).await;
        }
        run_statement(&mut pair, ids, b"\x17", &[0, 1, 0, 0, 0, 0, 1, 0xfd, 0]).await;
        for (client, id) in pair.iter_mut().zip(ids) {
            client.send(0, &[b"\x19", &id[..]].concat()).await;
            let reply = client.command(&[b"\x17", &id[..], long].concat()).await;
            assert!(reply[0].error_code().is_some(), "a closed statement ran: {reply:?}");
        }
        for sql in ["INSERT INTO item (name) VALUES (?), (?)", "DO 1", "no such statement", "SELECT 1, 2"] {
            both(&mut pair, &[b"\x16", sql.as_bytes()].concat()).await;
        }
    }
}

async fn run_statement(pair: &mut [WireClient; 2], ids: [[u8; 4]; 2], byte: &[u8], rest: &[u8]) {
    let [first, second] = ids.map(|id| [byte, &id[..], rest].concat());
    each(pair, [&first, &second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_commands_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut pair = pair(&server, &front, capabilities).await;
        for command in [
            &b"\x0e"[..],
            b"\x02mysql",
            b"\x02no_such_schema",
            b"\x02shop",
            b"\x04item\0",
            b"\x04no_such_table\0",
            b"\x07\x01",
            b"\x0d",
            b"\x1b\x01\x00",
            b"\x03SELECT 1; SELECT 2",
            b"\x1b\x00\x00",
            b"\x03SELECT 1",
        ] {
            both(&mut pair, command).await;
        }
        let statistics = pair[0].command(b"\x09").await;
        assert!(statistics[0].payload.starts_with(b"Uptime"), "{statistics:?}");
        let connections = pair[0].command(b"\x0a").await;
        let own = pair[0].connection_id.to_string();
        assert!(connections.iter().any(|packet| packet.payload[1..].starts_with(own.as_bytes())), "{connections:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_packets_pass_in_both_directions() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["SET GLOBAL max_allowed_packet = 67108864"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut client = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        // At, just below and well above what one frame holds; the row has its length's nine or four bytes in front.
        for length in [16_777_215 - 4, 16_777_215 - 9, 16_777_215, 20_000_000] {
            let reply = client.query(&format!("SELECT REPEAT('x', {length})")).await;
            let longest = reply.iter().map(|packet| packet.payload.len()).max().expect("packets");
            assert!(longest >= length && longest <= length + 9, "{length} came as {longest}");
            let sql = format!("SELECT LENGTH('{}')", "y".repeat(length));
            let reply = client.query(&sql).await;
            let shown = format!("{length}");
            assert!(reply.iter().any(|packet| packet.payload[1..] == *shown.as_bytes()), "{length}");
        }
    }
}
