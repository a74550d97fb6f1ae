//! Sessions that end before their command does: by KILL, with their client, with the server.

use mysql_async::prelude::Queryable;
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, OLD, Packet, Target, WireClient},
};

/// The id in the greeting of a session through the front, and the session.
async fn connect_with_id(target: &Target, capabilities: u32) -> (WireClient, u32) {
    let mut client = WireClient::connect(target, capabilities, APP, "shop").await;
    let id = client.connection_id;
    let reply = client.query("SELECT CONNECTION_ID()").await;
    let row = format!("{}{id}", char::from(id.to_string().len() as u8));
    assert!(reply.iter().any(|packet| packet.payload == row.as_bytes()), "the greeting said {id}: {reply:?}");
    (client, id)
}

/// Waits until so many connections of the test's account run a statement that begins so. One that sleeps does so only
/// after its columns are sent: what ends it before that gives another reply.
async fn running(server: &TestServer, statement: &str, count: u64) {
    let mut observer = server.connect().await;
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{}' AND info LIKE \"{statement}%\" \
         AND (info NOT LIKE 'SELECT SLEEP%' OR state = 'User sleep')",
        APP.0
    );
    eventually(&format!("{count} connections run {statement}"), async || {
        let found = observer.query_first::<u64, _>(&*sql).await.expect("an answer").expect("a count");
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Waits until the server has so many connections of the test's account.
async fn connections(server: &TestServer, count: u64) {
    let mut observer = server.connect().await;
    let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{}'", APP.0);
    eventually(&format!("{count} connections"), async || {
        let found = observer.query_first::<u64, _>(&*sql).await.expect("an answer").expect("a count");
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

/// All that is left to read, until the connection ends.
async fn read_to_end(client: &mut WireClient) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Ok(packet) = client.read().await {
        packets.push(packet);
    }
    packets
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_that_a_client_sees_ends_its_query_and_its_session_as_without_towline() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    for capabilities in [MODERN, OLD] {
        let mut seen = Vec::new();
        for target in [front.target(), direct.clone()] {
            let (mut victim, id) = connect_with_id(&target, capabilities).await;
            let (mut other, _) = connect_with_id(&target, capabilities).await;
            let mut replies = Vec::new();
            for command in [format!("KILL QUERY {id}"), format!("KILL SOFT QUERY {id}")] {
                victim.send(0, b"\x03SELECT SLEEP(100)").await;
                running(&server, "SELECT SLEEP", 1).await;
                replies.extend(other.query(&command).await);
                let interrupted = victim.read_reply().await;
                assert_eq!(interrupted.last().and_then(Packet::error_code), Some(1317), "{interrupted:?}");
                replies.extend(interrupted);
            }
            replies.extend(victim.query("SELECT 'goes on'").await);
            victim.send(0, b"\x03SELECT SLEEP(100)").await;
            running(&server, "SELECT SLEEP", 1).await;
            replies.extend(other.command(&[&b"\x0c"[..], &id.to_le_bytes()].concat()).await);
            replies.extend(read_to_end(&mut victim).await);
            // A connection that is idle when it is killed learns of it without asking.
            let (mut idle, id) = connect_with_id(&target, capabilities).await;
            replies.extend(other.query(&format!("KILL {id}")).await);
            replies.extend(read_to_end(&mut idle).await);
            replies.extend(other.query("KILL 4000000000").await);
            seen.push(replies);
        }
        // The server closes a busy connection without a word, which drivers tell by an error of their own; Towline says it.
        seen[0].retain(|packet| packet.error_code() != Some(1053));
        assert_eq!(seen[0], seen[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_behind_ends_with_it() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["CREATE TABLE shop.big ENGINE=InnoDB SELECT seq, REPEAT('x', 1000) FROM shop.seq_1_to_100000"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut holder = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    holder.run("SELECT GET_LOCK('boat', 10)").await;
    holder.run("BEGIN").await;
    holder.run("UPDATE item SET price = 1 WHERE id = 1").await;
    for statement in [
        "SELECT SLEEP(100)",
        "SELECT GET_LOCK('boat', 100)",
        "UPDATE item SET price = 2 WHERE id = 1",
        "SELECT a.seq, b.seq FROM big a, big b",
        "DO BENCHMARK(10000000000, MD5('x'))",
    ] {
        let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
        client.send(0, &[b"\x03", statement.as_bytes()].concat()).await;
        running(&server, statement, 1).await;
        drop(client);
        connections(&server, 1).await;
    }
    // A client may have sent its next command already, and a prepared statement may be what runs.
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send(0, b"\x03SELECT SLEEP(100)").await;
    client.send(0, b"\x03SELECT 1").await;
    running(&server, "SELECT SLEEP", 1).await;
    drop(client);
    connections(&server, 1).await;
    // One that leaves between two commands takes its locks and its transaction with it.
    drop(holder);
    connections(&server, 0).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let reply = client.query("SELECT IS_FREE_LOCK('boat'), price FROM item WHERE id = 1").await;
    assert!(reply.iter().any(|packet| packet.payload == b"\x011\x049.90"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_behind_ends_also_at_a_server_that_is_full() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["SET GLOBAL max_connections = 10"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    client.send(0, b"\x03SELECT SLEEP(1000)").await;
    running(&server, "SELECT SLEEP", 1).await;
    let mut observer = server.connect().await;
    let mut crowd = Vec::new();
    // An administrator, as the node is one, has a place more than others.
    while let Ok(conn) = mysql_async::Conn::new(server.opts()).await {
        crowd.push(conn);
    }
    let mut refused = async || {
        let (_, count): (String, u64) = observer
            .query_first("SHOW GLOBAL STATUS LIKE 'Connection_errors_max_connections'")
            .await
            .expect("an answer")
            .expect("a count");
        count
    };
    let before = refused().await;
    drop(client);
    eventually("a KILL that finds no place", async || match refused().await {
        count if count > before => Ok(()),
        count => Err(count),
    })
    .await;
    for conn in crowd {
        conn.disconnect().await.expect("a farewell");
    }
    // The server makes room once it has read the farewells.
    eventually("room", async || {
        let all = "SELECT COUNT(*) FROM information_schema.processlist";
        match observer.query_first::<u64, _>(all).await.expect("an answer").expect("a count") {
            ..8 => Ok(()),
            taken => Err(taken),
        }
    })
    .await;
    connections(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_reply_is_an_error_where_one_can_stand_and_an_end_everywhere() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut before = None;
    for capabilities in [MODERN, OLD] {
        let new = async || server.managed().pid().filter(|pid| Some(*pid) != before).ok_or("not yet");
        let pid = eventually("the server runs", new).await;
        before = Some(pid);
        eventually("it takes clients", async || {
            let greeting = WireClient::open(&front.target()).await.read().await.map_err(|error| error.to_string())?;
            if greeting.error_code().is_none() { Ok(()) } else { Err(format!("{greeting:?}")) }
        })
        .await;
        let mut idle = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        let mut waiting = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        waiting.send(0, b"\x03SELECT SLEEP(100)").await;
        // The server sends the first result before it begins with the second.
        let mut between = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        between.send(0, b"\x03SELECT 1; SELECT SLEEP(100)").await;
        let first = between.read().await.expect("the first result");
        assert_eq!((first.sequence, &first.payload[..]), (1, &[1][..]));
        // The row is longer than the server's buffer, of which a full one goes out.
        let mut within = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        within.send(0, b"\x03SELECT REPEAT('x', 40000) UNION ALL SELECT SLEEP(100)").await;
        running(&server, "SELECT", 3).await;
        kill_by_force(pid);

        assert_eq!(read_to_end(&mut idle).await, []);
        let told = read_to_end(&mut waiting).await;
        assert_eq!((told.len(), told[0].sequence, told[0].error_code()), (1, 1, Some(1053)), "{told:?}");
        assert_eq!(&told[0].payload[3..9], b"#08S01");
        let told = read_to_end(&mut between).await;
        let numbers: Vec<u8> = told.iter().map(|packet| packet.sequence).collect();
        assert!(numbers.iter().zip(2..).all(|(found, expected)| *found == expected), "{told:?}");
        assert_eq!(told.last().and_then(Packet::error_code), Some(1053), "{told:?}");
        let told = read_to_end(&mut within).await;
        assert!(told.iter().filter_map(Packet::error_code).all(|code| code == 1053), "{told:?}");
    }
}

fn kill_by_force(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a server's id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the server is the test's own");
}
