//! Ends of a connection that vanish without a word: no FIN, no RST, and no answer any more.
//!
//! In a network namespace of the test's own a rule of the routing drops what goes to or comes from a port.

use std::{process::Command, sync::Arc, time::Duration};

use mysql_async::prelude::Queryable;
use towline::{classify::SqlClassifier, keepalive::Keepalive, upstream::Endpoint};
use towline_middleware::Role;

use super::{
    APP, prepare,
    probes::{ADDRESS, in_namespace},
};
use crate::support::{
    TestServer, eventually,
    front::TestFront,
    server::free_port,
    wire_client::{MODERN, WireClient},
};

/// From now on nothing gets through to or from this port.
fn cut(port: u16) {
    let script = "ip rule list pref 100 | grep -q . || { ip rule add pref 100 lookup local && ip rule del pref 0; } && \
                  ip rule add pref 1 blackhole ipproto tcp dport $0 && ip rule add pref 1 blackhole ipproto tcp sport $0";
    let status = Command::new("sh").args(["-ec", script, &port.to_string()]).status().expect("a shell");
    assert!(status.success(), "no rule for port {port}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_vanishes_without_a_word_is_given_up() {
    if !in_namespace("vanished::an_end_that_vanishes_without_a_word_is_given_up") {
        return;
    }
    let port = free_port();
    let args = ["--skip-networking=0", &format!("--bind-address={ADDRESS}"), &format!("--port={port}")];
    let server = TestServer::start_with(Role::Master, &args).await;
    prepare(&server).await;
    let asking = Keepalive::new(Duration::from_secs(1));
    let endpoint = Endpoint::tcp(ADDRESS, port).with_keepalive(asking);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |front| {
        front.limits.keepalive = asking;
        front.limits.write_timeout = Duration::from_secs(1);
    })
    .await;
    let mut observer = server.connect().await;
    let mut connections = async |count: u64, what: &str| {
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{}'", APP.0);
        eventually(what, async || match observer.query_first::<u64, _>(&*sql).await.expect("an answer") {
            Some(found) if found == count => Ok(()),
            found => Err(found),
        })
        .await;
    };
    // An idle client.
    let idle = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    connections(1, "the client is logged in").await;
    cut(idle.port().expect("a port"));
    connections(0, "the vanished client's session ends, and its connection to the server").await;
    assert_eq!(front.sessions.get(), 0);
    // The server, in the middle of a query.
    let mut waits = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    waits.send(0, b"\x03SELECT SLEEP(1000)").await;
    connections(1, "the client is logged in").await;
    cut(port);
    let told = waits.read().await.expect("a reason");
    assert_eq!((told.sequence, told.error_code()), (1, Some(1053)), "{told:?}");
    eventually("its session ends", async || match front.sessions.get() {
        0 => Ok(()),
        sessions => Err(sessions),
    })
    .await;
}
