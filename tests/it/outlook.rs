//! What is about to go wrong with a slave is told before it does.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, http::StatusCode, routing::get};
use mysql_async::{Conn, Opts, Row, prelude::Queryable};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use towline::replication::{
    hub::{Hub, HubOptions},
    server_facts::ServerFacts,
    slave_status::SlaveStatus,
};
use towline_middleware::Role;

use crate::{
    hub::{SHOP, Slave, options_of},
    matrix::{last_gtid, script::Family},
    support::{TestServer, eventually, mysql_server},
};

/// Waits until the master tells such a thing of its slave.
async fn told(hub: &Hub, what: &str, is: impl Fn(&SlaveStatus) -> bool) -> SlaveStatus {
    eventually(what, async || match hub.slaves() {
        slaves if slaves.iter().any(&is) => Ok(slaves.into_iter().find(&is).unwrap()),
        slaves => Err(format!("{slaves:?}")),
    })
    .await
}

async fn warned(hub: &Hub, says: &str) -> SlaveStatus {
    told(hub, says, |slave| slave.warnings.len() == 1 && slave.warnings[0].contains(says)).await
}

#[tokio::test]
async fn a_slave_whose_packets_are_too_short_is_told_of_when_it_registers_and_when_that_changes() {
    let (master, slave) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    slave.server.run(&["SET GLOBAL max_allowed_packet = 16777216"]).await;
    // So that only its registration can be what makes the master look.
    let hub = Hub::start(HubOptions { outlook_interval: Duration::from_secs(3600), ..options_of(master.opts(), &[]) });
    let hub = hub.unwrap();
    hub.register("short", &slave.url, None).await.unwrap();
    let status = warned(&hub, "is 16777216, the master's 268435456").await;
    assert_eq!(status.max_allowed_packet, Some(16 << 20));
    assert!(status.warnings[0].contains("SET GLOBAL max_allowed_packet = 1073741824"), "{status:?}");
    hub.stop().await;

    let hub = Hub::start(options_of(master.opts(), &[])).unwrap();
    warned(&hub, "is 16777216, the master's 268435456").await;
    slave.server.run(&["SET GLOBAL max_allowed_packet = 1073741824"]).await;
    told(&hub, "it is mended", |slave| slave.max_allowed_packet == Some(1 << 30) && slave.warnings.is_empty()).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_slave_is_told_of_before_it_falls_off_the_end_of_the_binlog() {
    falls_off(Family::MariaDb, TestServer::start(Role::Master).await.opts()).await;
}

#[tokio::test]
async fn a_slave_is_told_of_before_it_falls_off_the_end_of_a_binlog_of_mysql() {
    let Some(server) = mysql_server(&["--binlog-expire-logs-seconds=0"]).await else { return };
    falls_off(Family::MySql, server.opts()).await;
}

/// A slave that tells where it stands and takes no push.
async fn silent_slave(facts: Arc<Mutex<ServerFacts>>) -> String {
    let router = Router::new()
        .route("/slave", axum::routing::post(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/slave/server", get(move || async move { Json(facts.lock().clone()) }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

async fn falls_off(family: Family, master: Opts) {
    let mut session = Conn::new(master.clone()).await.unwrap();
    let run = async |session: &mut Conn, statements: &[&str]| {
        for sql in statements {
            session.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    };
    run(&mut session, &SHOP).await;
    run(&mut session, &["FLUSH BINARY LOGS"]).await;
    let facts = ServerFacts { cluster: String::new(), mark: None, max_allowed_packet: 1 << 30 };
    let facts = Arc::new(Mutex::new(facts));
    let url = silent_slave(Arc::clone(&facts)).await;
    // Memory holds the last transaction and no more.
    let hub = Hub::start(HubOptions { ring_bytes_max: 1, ..options_of(master, &[]) }).unwrap();
    hub.register("slow", &url, None).await.unwrap();

    // The slave stands in the second file.
    run(&mut session, &["INSERT INTO shop.t (n) VALUES (1)"]).await;
    let gtid = last_gtid(family, &mut session).await;
    let stands = eventually("the transaction is captured", async || match hub.captured().borrow().clone() {
        mark if mark.gtid == gtid => Ok(mark),
        mark => Err(format!("{mark:?}, not {gtid}")),
    })
    .await;
    *facts.lock() = ServerFacts { cluster: hub.status().cluster, mark: Some(stands), max_allowed_packet: 1 << 30 };
    run(&mut session, &["INSERT INTO shop.t (n) VALUES (2)", "FLUSH BINARY LOGS"]).await;
    run(&mut session, &["INSERT INTO shop.t (n) VALUES (3)", "INSERT INTO shop.t (n) VALUES (4)"]).await;

    run(&mut session, &["SET GLOBAL binlog_expire_logs_seconds = 1000000"]).await;
    let far = told(&hub, "it needs the past", |slave| slave.binlog_left_seconds.is_some()).await;
    assert!(far.binlog_left_seconds.is_some_and(|left| (900_000..=1_000_000).contains(&left)), "{far:?}");
    assert!(far.warnings.is_empty(), "{far:?}");

    run(&mut session, &["SET GLOBAL binlog_expire_logs_seconds = 0"]).await;
    let never = told(&hub, "nothing is purged", |slave| slave.binlog_left_seconds.is_none()).await;
    assert!(never.warnings.is_empty(), "{never:?}");
    let files: Vec<Row> = session.query("SHOW BINARY LOGS").await.unwrap();
    let second: String = files[files.len() - 2].get(0).unwrap();
    run(&mut session, &[&format!("PURGE BINARY LOGS TO '{second}'")]).await;
    warned(&hub, "is the oldest that the master's server has").await;

    run(&mut session, &["SET GLOBAL binlog_expire_logs_seconds = 1"]).await;
    let due = warned(&hub, "when it begins its next file").await;
    assert!(due.warnings[0].contains(&second) && due.binlog_left_seconds == Some(0), "{due:?}");

    // The server does so; it counts whole seconds.
    eventually("the file is purged", async || {
        run(&mut session, &["FLUSH BINARY LOGS"]).await;
        let files: Vec<Row> = session.query("SHOW BINARY LOGS").await.unwrap();
        match files.first().and_then(|file| file.get::<String, _>(0)) {
            Some(first) if first > second => Ok(()),
            first => Err(first),
        }
    })
    .await;
    let gone = warned(&hub, "has purged the binlog that it needs next").await;
    assert_eq!(gone.binlog_left_seconds, None);
    hub.stop().await;
}
