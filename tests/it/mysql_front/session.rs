//! What a session keeps: its fence, its limits, its drain.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use towline::{classify::SqlClassifier, upstream::Endpoint};
use towline_middleware::{
    Classifier, Command, Intent, Next, Plan, Role, SqlMode, UserLayer, from_fn, layers::user::UserLayers,
};

use super::{APP, prepare};
use crate::support::{
    Mysql9, TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, OLD, Packet, WireClient},
};

const WRITE: &str = "INSERT INTO item (name) VALUES ('x')";

/// A login of the same account on the same connection, with an empty schema; the server asks for the proof by itself.
async fn change_user(client: &mut WireClient) {
    client.send(0, b"\x11app\0\0shop\0\x2d\0mysql_native_password\0").await;
    prove_password(client).await;
}

async fn prove_password(client: &mut WireClient) {
    let switch = client.read().await.expect("a question");
    assert_eq!(switch.payload[0], 0xfe, "{switch:?}");
    let salt = &switch.payload[1 + b"mysql_native_password\0".len()..][..20];
    let proof = mysql_common::scramble::scramble_native(salt, APP.1.as_bytes()).expect("a password");
    client.send(switch.sequence + 1, &proof).await;
    let answer = client.read().await.expect("an answer");
    assert_eq!(answer.payload[0], 0, "{answer:?}");
}

/// A login that the server refuses, on the same connection. Returns the refusal; whether the connection goes on is the
/// server's choice.
async fn fail_to_change_user(client: &mut WireClient) -> Packet {
    client.send(0, b"\x11app\0\0shop\0\x2d\0mysql_native_password\0").await;
    loop {
        let packet = client.read().await.expect("an answer");
        match packet.payload[0] {
            0xff => return packet,
            // No password, by whichever method.
            0xfe => client.send(packet.sequence + 1, b"").await,
            _ => panic!("no refusal: {packet:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_user_that_is_refused_leaves_the_fence_up() {
    let server = TestServer::start(Role::Slave).await;
    prepare(&server).await;
    let slave = TestFront::start_with(Role::Slave, &server, Arc::new(EverythingReads), |_| {}).await;
    let guarded = TestFront::start(Role::Slave, &server).await;
    let master = TestFront::start(Role::Master, &server).await;
    // MariaDB takes a second for each refusal.
    let fence = async |capabilities: u32| {
        let mut client = WireClient::connect(&slave.target(), capabilities, APP, "shop").await;
        assert_eq!(fail_to_change_user(&mut client).await.error_code(), Some(1045));
        assert_eq!(client.query(WRITE).await[0].error_code(), Some(1792), "the fence is down");
    };
    // The server has taken back what the session had set, and reads this text as a read and a write again.
    let mode = async || {
        let mut client = WireClient::connect(&guarded.target(), MODERN, APP, "shop").await;
        client.run("SET sql_mode = 'NO_BACKSLASH_ESCAPES'").await;
        fail_to_change_user(&mut client).await;
        let reply = client.query("SELECT '\\', ' ; INSERT INTO item (name) VALUES (1) -- '").await;
        assert_eq!(reply[0].error_code(), Some(1290), "the mode is stale: {reply:?}");
    };
    let commits = async || {
        let mut client = WireClient::connect(&master.target(), MODERN, APP, "shop").await;
        client.run("SET session_track_system_variables = '*'").await;
        fail_to_change_user(&mut client).await;
        client.run(WRITE).await;
        assert_eq!(master.seen.take().len(), 1, "the commit is not reported");
    };
    tokio::join!(fence(MODERN), fence(OLD), mode(), commits());
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_9_says_why_it_refuses_a_change_of_user_before_it_leaves() {
    let Some(server) = Mysql9::shared().await else { return };
    server
        .run(&[
            "CREATE USER changes@'%'",
            "CREATE USER app@'%' IDENTIFIED BY 'not empty'",
            "CREATE DATABASE IF NOT EXISTS shop",
        ])
        .await;
    let endpoint = Endpoint::unix(&server.socket);
    let front = TestFront::before(Role::Slave, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    let mut client = WireClient::connect(&front.target(), MODERN, ("changes", ""), "").await;
    assert_eq!(fail_to_change_user(&mut client).await.error_code(), Some(1045));
    assert!(client.read().await.is_err(), "the session goes on without its fence");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_goes_up_again_behind_an_error_too() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    for sql in [
        "SET session_track_system_variables = '', session_track_schema = 0; SELECT nope",
        "SET session_track_system_variables = ''; SELECT 1 UNION SELECT (SELECT 1 UNION SELECT 2)",
    ] {
        let reply = client.query(sql).await;
        assert!(reply.iter().any(|packet| packet.error_code().is_some()), "{sql}: {reply:?}");
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after {sql}");
    }
}

/// Whether a statement's explanation says that it is of this class.
fn is_explained_as(reply: &[Packet], class: &str) -> bool {
    reply.iter().any(|packet| {
        packet.payload.windows(class.len() + 1).any(|cell| cell == [&[class.len() as u8], class.as_bytes()].concat())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_that_a_statement_has_for_itself_ends_with_it() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let read = "EXPLAIN TOWLINE SELECT 'a\\'; DELETE FROM item; -- '";
    for statement in [
        "BEGIN NOT ATOMIC SET sql_mode = 'NO_BACKSLASH_ESCAPES'; END",
        "BEGIN NOT ATOMIC SET sql_mode = 'NO_BACKSLASH_ESCAPES'; SIGNAL SQLSTATE '45000'; END",
        "SET STATEMENT sql_mode = 'NO_BACKSLASH_ESCAPES' FOR SELECT 1",
    ] {
        let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
        client.query(statement).await;
        for _ in 0..2 {
            assert!(is_explained_as(&client.query(read).await, "read"), "{statement}");
        }
        // Reports that are switched off where nobody sees it: the flag is doubted.
        client.run("EXECUTE IMMEDIATE CONCAT('SET session_tr', 'ack_system_variables = \"\"')").await;
        client.run("SET sql_mode = ''").await;
        client.run("SET sql_mode = 'NO_BACKSLASH_ESCAPES'").await;
        assert!(is_explained_as(&client.query(read).await, "write"), "{statement}: reports are off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_have_the_names_that_the_server_has() {
    let long = "n".repeat(128);
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server
        .run(&[
            "SET NAMES utf8mb4",
            "CREATE USER 'andré'@'%' IDENTIFIED BY 'secret'",
            "CREATE USER 'a@b'@'%' IDENTIFIED BY 'secret'",
            &format!("CREATE USER {long}@'%' IDENTIFIED BY 'secret'"),
            "GRANT ALL ON *.* TO 'andré'@'%'",
            "CREATE DATABASE `café`",
        ])
        .await;
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let seen_by_layer = seen.clone();
    let layer = from_fn(move |command: Command, next: Next| {
        if command.kind().runs_sql() {
            let session = command.session();
            seen_by_layer.lock().unwrap().push((session.user().to_string(), session.schema().to_string()));
        }
        async move { next.run(command).await }
    });
    let layers = UserLayers::new([("names".to_owned(), Arc::new(layer) as Arc<dyn UserLayer>)]);
    let front = TestFront::start_with(Role::Master, &server, Arc::new(SqlClassifier::new()), |front| {
        front.stack.user = layers;
    })
    .await;
    let name = async |client: &mut WireClient| {
        client.run("SELECT 1").await;
        seen.lock().unwrap().pop().expect("the layer is asked")
    };
    for (sent, user) in [("app", "app"), ("'app'", "app"), ("a@b", "a@b"), (&format!("{long}more"), &long)] {
        let mut client = WireClient::connect(&front.target(), MODERN, (sent, APP.1), "").await;
        assert_eq!(name(&mut client).await, (user.to_owned(), String::new()), "{sent}");
    }
    let mut client = WireClient::connect(&front.target(), MODERN, ("andré", APP.1), "shop").await;
    assert_eq!(name(&mut client).await, ("andré".to_owned(), "shop".to_owned()));
    // The schema in the session's character set, by the command of its own.
    client.run("SET NAMES latin1").await;
    client.command(b"\x02caf\xe9").await;
    assert_eq!(name(&mut client).await, ("andré".to_owned(), "café".to_owned()));
    // And with another account: 8 is the id of a collation of latin1.
    client.send(0, b"\x11app\0\0caf\xe9\0\x08\0mysql_native_password\0").await;
    prove_password(&mut client).await;
    assert_eq!(name(&mut client).await, ("app".to_owned(), "café".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_reported_whatever_the_client_resets() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    for capabilities in [MODERN, OLD] {
        let mut client = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after the login");
        client.command(b"\x1f").await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after COM_RESET_CONNECTION");
        change_user(&mut client).await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after COM_CHANGE_USER");
        client.run("SET SESSION session_track_system_variables = ''").await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after the client's own list");
        client.run("SET SESSION session_track_system_variables = '*'").await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 1, "after the client's list of all");
        client.run("BEGIN").await;
        client.run(WRITE).await;
        assert_eq!(front.seen.take().len(), 0, "inside a transaction");
        client.run("COMMIT").await;
        assert_eq!(front.seen.take().len(), 1, "at the commit");
        client.run("INSERT INTO item (name) VALUES ('r') RETURNING id").await;
        assert_eq!(front.seen.take().len(), 1, "at the end of rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_gtids_gets_them_and_no_other_does() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let shows_gtid = |reply: &[u8]| reply.windows(9).any(|window| window == b"last_gtid");
    assert!(!shows_gtid(&client.query(WRITE).await[0].payload));
    client.run("SET SESSION session_track_system_variables = 'last_gtid'").await;
    assert!(shows_gtid(&client.query(WRITE).await[0].payload));
    client.command(b"\x1f").await;
    client.run("SET SESSION session_track_system_variables = '*'").await;
    assert!(shows_gtid(&client.query(WRITE).await[0].payload), "one of all");
    assert_eq!(front.seen.take().len(), 3, "the node sees them either way");
}

/// Takes every text for a read: the guard is fooled, and only the server's fence is left.
#[derive(Debug)]
struct EverythingReads;

impl Classifier for EverythingReads {
    fn classify(&self, _: &[u8], _: SqlMode) -> Arc<Plan> {
        Arc::new(Plan::bare(Intent::Read, "fooled"))
    }

    fn learn_write(&self, _: u64) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_slave_the_server_itself_refuses_what_the_guard_lets_through() {
    let server = TestServer::start(Role::Slave).await;
    prepare(&server).await;
    let front = TestFront::start_with(Role::Slave, &server, Arc::new(EverythingReads), |_| {}).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    assert_eq!(client.query(WRITE).await[0].error_code(), Some(1792), "after the login");
    client.command(b"\x1f").await;
    assert_eq!(client.query(WRITE).await[0].error_code(), Some(1792), "after COM_RESET_CONNECTION");
    change_user(&mut client).await;
    assert_eq!(client.query(WRITE).await[0].error_code(), Some(1792), "after COM_CHANGE_USER");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_too_many_is_told_so_and_a_free_place_is_taken_again() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let classifier = Arc::new(SqlClassifier::new());
    let front =
        TestFront::start_with(Role::Master, &server, classifier, |front| front.limits.connections_max = 1).await;
    let first = WireClient::connect(&front.target(), MODERN, APP, "").await;
    let refusal = WireClient::open(&front.target()).await.read().await.expect("a refusal");
    assert_eq!(refusal.error_code(), Some(1040));
    drop(first);
    eventually("a place is free again", async || match front.sessions.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    WireClient::connect(&front.target(), MODERN, APP, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_commands_finish_and_turns_idle_clients_away() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut idle = WireClient::connect(&front.target(), MODERN, APP, "").await;
    let mut busy = WireClient::connect(&front.target(), MODERN, APP, "").await;
    busy.send(0, b"\x03SELECT SLEEP(0.5), 'finished'").await;
    let mut observer = server.connect().await;
    eventually("the server works on it", async || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
        match mysql_async::prelude::Queryable::query_first::<u64, _>(&mut observer, sql).await.expect("an answer") {
            Some(1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    front.stop.cancel();
    assert_eq!(idle.read().await.expect("a farewell").error_code(), Some(1053));
    let mut finished = false;
    while let Ok(packet) = busy.read().await {
        finished |= packet.payload.ends_with(b"finished");
    }
    assert!(finished, "the running command was cut");
    tokio::time::timeout(Duration::from_secs(10), front.serving).await.expect("the front ends").expect("no panic");
}
