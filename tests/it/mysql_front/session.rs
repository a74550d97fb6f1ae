//! What a session keeps: its fence, its limits, its drain.

use std::{sync::Arc, time::Duration};

use towline::classify::SqlClassifier;
use towline_middleware::{Classifier, Intent, Plan, Role, SqlMode};

use super::{APP, prepare};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    wire_client::{MODERN, OLD, WireClient},
};

const WRITE: &str = "INSERT INTO item (name) VALUES ('x')";

/// A login of the same account on the same connection, with an empty schema; the server asks for the proof by itself.
async fn change_user(client: &mut WireClient) {
    client.send(0, b"\x11app\0\0shop\0\x2d\0mysql_native_password\0").await;
    let switch = client.read().await.expect("a question");
    assert_eq!(switch.payload[0], 0xfe, "{switch:?}");
    let salt = &switch.payload[1 + b"mysql_native_password\0".len()..][..20];
    let proof = mysql_common::scramble::scramble_native(salt, APP.1.as_bytes()).expect("a password");
    client.send(switch.sequence + 1, &proof).await;
    let answer = client.read().await.expect("an answer");
    assert_eq!(answer.payload[0], 0, "{answer:?}");
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
