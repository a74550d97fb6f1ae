//! What a master commits reaches every slave once and in order, whatever the slaves and the network do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::FutureExt;
use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::{net::TcpListener, task::JoinHandle};
use towline::{
    config::{Ack, AckOnTimeout},
    replication::{
        apply::{Applier, ApplyOptions},
        hub::{Hub, HubOptions, HubState},
        protocol::{Batch, Family},
        server_facts::ServerFacts,
        slave_status::{SlaveState, SlaveStatus},
    },
};
use towline_middleware::{Acknowledgement, Position, Replication, Role, testing::ByFirstWord};

use crate::{
    matrix::last_gtid,
    support::{Database, TestServer, eventually},
};

const SECRET: &str = "of the cluster";

/// What a slave's network does to pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every second answer is lost, after the push was applied.
    LosesAnswers,
    /// No answer ever comes, and nothing is applied.
    Silent,
}

/// A slave: its MySQL, its applier and the HTTP in front of it.
pub(crate) struct Slave<S = TestServer> {
    pub(crate) server: S,
    pub(crate) applier: Applier,
    pub(crate) url: String,
    fault: Arc<AtomicU8>,
    http: JoinHandle<()>,
}

impl Slave {
    pub(crate) async fn start() -> Self {
        Self::of(TestServer::start(Role::Slave).await).await
    }
}

impl<S: Database> Slave<S> {
    pub(crate) async fn of(server: S) -> Self {
        let applier = Applier::start(ApplyOptions::new(server.opts()));
        let fault = Arc::<AtomicU8>::default();
        let state = (applier.clone(), Arc::clone(&fault), Arc::<AtomicU64>::default());
        let asked = (applier.clone(), server.opts());
        let router = Router::new()
            .route("/slave", post(move |headers, body| take_push(state.clone(), headers, body)))
            .route("/slave/server", get(move || tell_server(asked.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let http = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { server, applier, url, fault, http }
    }
}

impl<S> Slave<S> {
    fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Relaxed);
    }
}

impl<S> Drop for Slave<S> {
    fn drop(&mut self) {
        self.http.abort();
    }
}

async fn take_push(
    (applier, fault, pushes): (Applier, Arc<AtomicU8>, Arc<AtomicU64>),
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let expected = format!("Bearer {SECRET}");
    if headers.get(AUTHORIZATION).is_none_or(|given| given != expected.as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let fault = fault.load(Ordering::Relaxed);
    if fault == Fault::Silent as u8 {
        std::future::pending::<()>().await;
    }
    let batch: Batch = serde_json::from_slice(&body).unwrap();
    let answer = applier.push(batch).await;
    if fault == Fault::LosesAnswers as u8 && pushes.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    match answer {
        Ok(applied) => Json(applied).into_response(),
        Err(refusal) => (StatusCode::from_u16(refusal.refusal.status()).unwrap(), Json(refusal)).into_response(),
    }
}

async fn tell_server((applier, opts): (Applier, Opts)) -> Json<ServerFacts> {
    let mut conn = Conn::new(opts).await.unwrap();
    let packet: Option<u64> = conn.query_first("SELECT @@global.max_allowed_packet").await.unwrap();
    let progress = applier.progress();
    Json(ServerFacts { cluster: progress.cluster, mark: Some(progress.mark), max_allowed_packet: packet.unwrap() })
}

fn options(master: &TestServer, slaves: &[&Slave]) -> HubOptions {
    options_of(master.opts(), &slaves.iter().map(|slave| slave.url.as_str()).collect::<Vec<_>>())
}

pub(crate) fn options_of(mysql: Opts, slaves: &[&str]) -> HubOptions {
    HubOptions {
        mysql,
        secret: Some(SECRET.into()),
        slaves: slaves.iter().map(|url| (*url).to_owned()).collect(),
        ack: Ack::None,
        ack_timeout: Duration::from_secs(30),
        ack_on_timeout: AckOnTimeout::Warning,
        ring_bytes_max: 1 << 20,
        batch_bytes_max: 256 << 10,
        batch_transactions_max: 1000,
        transaction_bytes_max: 64 << 20,
        push_timeout: Duration::from_secs(10),
        outlook_interval: Duration::from_millis(100),
        verify_interval: None,
        verify_stops_slave: false,
        classifier: Arc::new(ByFirstWord),
        changes: towline_middleware::ChangeFeed::default(),
    }
}

async fn run(session: &mut Conn, statements: &[&str]) {
    for sql in statements {
        session.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

pub(crate) const SHOP: [&str; 3] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.t (i INT AUTO_INCREMENT PRIMARY KEY, n INT)",
    "CREATE TABLE shop.keyless (i INT, s VARCHAR(20))",
];

/// Waits until every one of these slaves holds what the master holds.
pub(crate) async fn assert_equal<S: Database>(master: &S, hub: &Hub, slaves: &[&Slave<S>]) {
    let mut session = master.connect().await;
    for slave in slaves {
        eventually("the slave has everything", async || {
            // Asked again each time: the hub itself writes to its schema.
            let newest = last_gtid(S::FAMILY, &mut session).await;
            match slave.applier.progress() {
                progress if progress.mark.gtid == newest => Ok(()),
                progress => Err(format!("{progress:?}, wanted {newest:?}; {:?}; {:?}", hub.status(), hub.slaves())),
            }
        })
        .await;
        assert_eq!(contents(&slave.server).await, contents(master).await);
    }
}

async fn contents(server: &impl Database) -> Vec<(String, Option<u64>)> {
    let mut conn = server.connect().await;
    let tables: Vec<String> = conn
        .query("SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema = 'shop' ORDER BY 1")
        .await
        .unwrap();
    conn.query(format!("CHECKSUM TABLE {}", tables.join(", "))).await.unwrap()
}

pub(crate) async fn slave_in(hub: &Hub, url: &str, what: &str, is: impl Fn(&SlaveState) -> bool) -> SlaveStatus {
    eventually(what, async || {
        let slaves = hub.slaves();
        match slaves.iter().find(|slave| slave.url == url) {
            Some(slave) if is(&slave.state) => Ok(slave.clone()),
            _ => Err(format!("{slaves:?} {:?}", hub.status())),
        }
    })
    .await
}

/// Writes in several sessions at once: rows with and without key, a rollback, a schema change.
async fn load(master: &TestServer, sessions: usize, rounds: usize) {
    let work = (0..sessions).map(|session| {
        let opts = master.opts();
        tokio::spawn(async move {
            let mut conn = Conn::new(opts).await.unwrap();
            for round in 0..rounds {
                run(
                    &mut conn,
                    &[
                        "INSERT INTO shop.t (n) VALUES (0), (1), (2)",
                        "BEGIN",
                        "UPDATE shop.t SET n = n + 1 WHERE i % 7 = 0 ORDER BY i LIMIT 3",
                        "INSERT INTO shop.keyless VALUES (1, 'same'), (1, 'same'), (NULL, NULL)",
                        "COMMIT",
                        "BEGIN",
                        "INSERT INTO shop.t (n) VALUES (99)",
                        "ROLLBACK",
                        "DELETE FROM shop.keyless WHERE i = 1 LIMIT 1",
                    ],
                )
                .await;
                if round % 10 == 5 {
                    let table = format!("shop.s{session}_{round}");
                    run(
                        &mut conn,
                        &[&format!("CREATE TABLE {table} (i INT)"), &format!("INSERT INTO {table} VALUES (1)")],
                    )
                    .await;
                }
            }
        })
    });
    for session in work.collect::<Vec<_>>() {
        session.await.unwrap();
    }
}

#[tokio::test]
async fn every_slave_gets_every_transaction_once() {
    let (master, a, b) = tokio::join!(TestServer::start(Role::Master), Slave::start(), Slave::start());
    master.run(&SHOP).await;
    b.set(Fault::LosesAnswers);
    let hub = Hub::start(options(&master, &[&a, &b])).unwrap();
    load(&master, 4, 20).await;
    b.set(Fault::None);
    assert_equal(&master, &hub, &[&a, &b]).await;

    // What was committed before the hub began came from the binlog, the rest from memory.
    for slave in [&a, &b] {
        let status =
            slave_in(&hub, &slave.url, "the slave is caught up", |state| *state == SlaveState::Streaming).await;
        assert_eq!((status.behind, status.lag_seconds), (Some(0), Some(0)));
        assert_eq!(slave.applier.progress().lag_seconds, 0);
    }
    let status = hub.status();
    assert_eq!(status.state, HubState::Running);
    assert!(status.ring_bytes > 0 && status.ring_transactions > 0, "{status:?}");

    // A hub that starts anew goes on where the slaves stand, with what was committed meanwhile.
    hub.stop().await;
    load(&master, 1, 3).await;
    let hub = Hub::start(options(&master, &[&a, &b])).unwrap();
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&a, &b]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_silent_slave_holds_nobody_up_and_catches_up_from_the_binlog() {
    let (master, a, b) = tokio::join!(TestServer::start(Role::Master), Slave::start(), Slave::start());
    master.run(&SHOP).await;
    let mut options = options(&master, &[&a, &b]);
    options.ring_bytes_max = 16 << 10;
    options.push_timeout = Duration::from_millis(500);
    let hub = Hub::start(options).unwrap();
    assert_equal(&master, &hub, &[&a, &b]).await;
    b.set(Fault::Silent);
    load(&master, 2, 30).await;
    assert_equal(&master, &hub, &[&a]).await;
    let status = hub.status();
    assert!(status.ring_bytes <= 16 << 10, "{status:?}");
    let away =
        slave_in(&hub, &b.url, "the silent slave is seen", |state| matches!(state, SlaveState::Away { .. })).await;
    assert!(away.behind.is_some_and(|behind| behind > 0) && away.last_error.is_some(), "{away:?}");

    b.set(Fault::None);
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&a, &b]).await;
    slave_in(&hub, &b.url, "the slave is back", |state| *state == SlaveState::Streaming).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_ok_waits_for_as_many_slaves_as_wanted() {
    let (master, a, b) = tokio::join!(TestServer::start(Role::Master), Slave::start(), Slave::start());
    master.run(&SHOP).await;
    let mut session = master.connect().await;
    for (ack, missing_when_b_is_silent) in [(Ack::One, false), (Ack::Majority, false), (Ack::All, true)] {
        let mut options = options(&master, &[&a, &b]);
        options.ack = ack;
        options.ack_on_timeout = AckOnTimeout::Error;
        let mut hub = Hub::start(options.clone()).unwrap();
        assert!(hub.waits());
        assert_equal(&master, &hub, &[&a, &b]).await;
        run(&mut session, &["INSERT INTO shop.t (n) VALUES (1)"]).await;
        let gtid: Option<String> = session.query_first("SELECT @@last_gtid").await.unwrap();
        let position = hub.position_of(&gtid.unwrap()).unwrap();
        assert_eq!(hub.acknowledged(position, Position::default()).await, Acknowledgement::Given, "{ack:?}");
        let applied = [&a, &b].iter().filter(|slave| slave.applier.progress().mark.position >= position).count();
        assert!(applied >= if ack == Ack::All { 2 } else { 1 });

        if missing_when_b_is_silent {
            hub.stop().await;
            b.set(Fault::Silent);
            options.ack_timeout = Duration::from_millis(300);
            hub = Hub::start(options).unwrap();
            slave_in(&hub, &a.url, "a follows", |state| *state == SlaveState::Streaming).await;
            run(&mut session, &["INSERT INTO shop.t (n) VALUES (2)"]).await;
            let gtid: Option<String> = session.query_first("SELECT @@last_gtid").await.unwrap();
            let position = hub.position_of(&gtid.unwrap()).unwrap();
            let Acknowledgement::Missing { reason, is_error } = hub.acknowledged(position, Position::default()).await
            else {
                panic!("a slave that is silent has applied nothing")
            };
            assert!(is_error && reason.contains("of 2 wanted"), "{reason}");
            hub.remove(&b.url).await.unwrap();
            eventually("the other slave alone is enough", async || {
                match hub.acknowledged(position, Position::default()).await {
                    Acknowledgement::Given => Ok(()),
                    missing => Err(missing),
                }
            })
            .await;
        }
        hub.stop().await;
    }
    let hub = Hub::start(options(&master, &[])).unwrap();
    assert!(!hub.waits());
    assert_eq!(hub.position_of("0-1-1"), None, "nothing is known before the master was reached");
    eventually("the master is reached", async || hub.position_of("0-1-7").ok_or("not yet")).await;
    assert_eq!(hub.position_of("9-1-7"), None, "another domain");
    hub.stop().await;
}

#[tokio::test]
async fn a_slave_under_two_urls_counts_once() {
    let (master, slave) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    master.run(&SHOP).await;
    let mut options =
        HubOptions { ack: Ack::All, ack_timeout: Duration::from_millis(300), ..options(&master, &[&slave]) };
    let again = slave.url.replace("127.0.0.1", "localhost");
    options.slaves.push(again.clone());
    let hub = Hub::start(options).unwrap();
    assert_equal(&master, &hub, &[&slave]).await;
    for url in [&slave.url, &again] {
        slave_in(&hub, url, "it follows", |state| *state == SlaveState::Streaming).await;
    }
    let mut session = master.connect().await;
    run(&mut session, &["INSERT INTO shop.t (n) VALUES (1)"]).await;
    let gtid: Option<String> = session.query_first("SELECT @@last_gtid").await.unwrap();
    let position = hub.position_of(&gtid.unwrap()).unwrap();
    eventually("it has it, under both URLs", async || match hub.acknowledged(position, Position::default()).await {
        Acknowledgement::Given => panic!("one slave is not two"),
        Acknowledgement::Missing { reason, .. } => {
            let is_told = reason.contains("only 1 of 2 wanted") && reason.contains("are one server");
            if is_told { Ok(()) } else { Err(reason) }
        }
    })
    .await;
    let warned = |wanted: bool| {
        let known = hub.slaves().into_iter().find(|known| known.url == slave.url).expect("it stays registered");
        let is_warned = known.warnings.iter().any(|warning| warning.contains(&again));
        if is_warned == wanted { Ok(()) } else { Err(known.warnings) }
    };
    eventually("its status tells of it", async || warned(true)).await;
    hub.remove(&again).await.unwrap();
    assert_eq!(hub.acknowledged(position, Position::default()).await, Acknowledgement::Given);
    eventually("it is mended", async || warned(false)).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_commit_waits_for_its_slaves_although_the_master_is_not_known_yet() {
    let (master, a) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    master.run(&SHOP).await;
    let options = HubOptions { ack: Ack::All, ack_on_timeout: AckOnTimeout::Error, ..options(&master, &[&a]) };
    let hub = Hub::start(options.clone()).unwrap();
    assert_equal(&master, &hub, &[&a]).await;
    hub.stop().await;

    // The next one can't read who the master is.
    let (mut locker, mut session) = (master.connect().await, master.connect().await);
    run(&mut locker, &["LOCK TABLES towline.cluster WRITE"]).await;
    run(&mut session, &["INSERT INTO shop.t (n) VALUES (1)"]).await;
    let gtid: Option<String> = session.query_first("SELECT @@last_gtid").await.unwrap();
    let gtid = gtid.unwrap();
    let hub = Hub::start(HubOptions { ack_timeout: Duration::from_millis(100), ..options.clone() }).unwrap();
    assert_eq!(hub.position_of(&gtid), None);
    let Acknowledgement::Missing { reason, is_error } = hub.acknowledged_gtid(&gtid, Position::default()).await else {
        panic!("nothing is known of the slave")
    };
    assert!(is_error && reason.contains("knew no position"), "{reason}");
    hub.stop().await;

    let hub = Hub::start(options).unwrap();
    let mut waiting = hub.acknowledged_gtid(&gtid, Position::default());
    assert_eq!((&mut waiting).now_or_never(), None);
    run(&mut locker, &["UNLOCK TABLES"]).await;
    assert_eq!(waiting.await, Acknowledgement::Given);
    assert!(a.applier.progress().mark.position >= hub.position_of(&gtid).unwrap());
    hub.stop().await;
}

#[tokio::test]
async fn the_masters_server_may_be_killed() {
    let (master, a) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    master.run(&SHOP).await;
    let hub = Hub::start(options(&master, &[&a])).unwrap();
    for _ in 0..2 {
        load(&master, 2, 5).await;
        master.kill().await;
        eventually("the loss is seen", async || match hub.status().state {
            HubState::Away { .. } => Ok(()),
            state => Err(state),
        })
        .await;
        eventually("the server is back", async || match Conn::new(master.opts()).await {
            Ok(conn) => conn.disconnect().await,
            Err(error) => Err(error),
        })
        .await;
    }
    load(&master, 1, 2).await;
    assert_equal(&master, &hub, &[&a]).await;
    // A slave that lags reads the binlog itself, be it that capture does not run yet.
    eventually("capture goes on", async || match hub.status().state {
        HubState::Running => Ok(()),
        state => Err(state),
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn slaves_come_go_and_say_what_they_need() {
    let (master, a, b, c) =
        tokio::join!(TestServer::start(Role::Master), Slave::start(), Slave::start(), Slave::start());
    master.run(&SHOP).await;
    let hub = Hub::start(options(&master, &[&a])).unwrap();
    for (id, url) in [("", a.url.as_str()), ("a", "ftp://host"), ("a", "nowhere")] {
        assert!(hub.register(id, url, None).await.is_err(), "{id:?} {url:?}");
    }
    assert_equal(&master, &hub, &[&a]).await;
    // The same slave under the name that it gives itself.
    let error = hub.register("first", &a.url, Some(Family::MySql)).await.unwrap_err().to_string();
    assert!(error.contains("server is MySQL, this master's is MariaDB"), "{error}");
    hub.register("first", &a.url, None).await.unwrap();
    assert_eq!(hub.slaves().iter().map(|slave| slave.id.clone()).collect::<Vec<_>>(), ["first"]);
    hub.register("second", &b.url, None).await.unwrap();
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&a, &b]).await;

    // Registrations outlive the node; what was removed stays away.
    assert!(hub.remove("first").await.unwrap() && !hub.remove("first").await.unwrap());
    hub.stop().await;
    let hub = Hub::start(options(&master, &[])).unwrap();
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&b]).await;
    assert_eq!(hub.slaves().iter().map(|slave| slave.id.clone()).collect::<Vec<_>>(), ["second"]);

    // The binlog's beginning is gone, so an empty slave can't begin there.
    master.run(&["FLUSH BINARY LOGS"]).await;
    let mut session = master.connect().await;
    let (file, _, _, _): (String, u64, String, String) =
        session.query_first("SHOW MASTER STATUS").await.unwrap().unwrap();
    eventually("the old files are let go", async || {
        session.query_drop(format!("PURGE BINARY LOGS TO '{file}'")).await.map_err(|error| error.to_string())?;
        let logs: Vec<(String, u64)> = session.query("SHOW BINARY LOGS").await.map_err(|error| error.to_string())?;
        if logs.len() == 1 { Ok(()) } else { Err(format!("{logs:?}")) }
    })
    .await;
    hub.register("third", &c.url, None).await.unwrap();
    slave_in(&hub, &c.url, "an empty slave needs a snapshot", |state| {
        matches!(state, SlaveState::NeedsSnapshot { .. })
    })
    .await;

    // A server with data of its own is not written over, and one that is not there is no trouble for others.
    let d = Slave::start().await;
    d.server.run(&["CREATE DATABASE own", "CREATE TABLE own.t (i INT)"]).await;
    hub.register("fourth", &d.url, None).await.unwrap();
    slave_in(
        &hub,
        &d.url,
        "foreign data is seen",
        |state| matches!(state, SlaveState::Refusing { refusal, .. } if refusal == "forked"),
    )
    .await;
    hub.register("fifth", "http://127.0.0.1:1", None).await.unwrap();
    slave_in(&hub, "http://127.0.0.1:1", "nobody is there", |state| matches!(state, SlaveState::Away { .. })).await;
    load(&master, 1, 2).await;
    assert_equal(&master, &hub, &[&b]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_paused_slave_gets_nothing_until_it_is_resumed() {
    let (master, a, b) = tokio::join!(TestServer::start(Role::Master), Slave::start(), Slave::start());
    master.run(&SHOP).await;
    let hub = Hub::start(options(&master, &[&a, &b])).unwrap();
    assert_equal(&master, &hub, &[&a, &b]).await;
    assert!(hub.pause(&b.url, "a test").await.unwrap() && !hub.pause("nobody", "a test").await.unwrap());
    slave_in(&hub, &b.url, "the slave is paused", |state| matches!(state, SlaveState::Paused { .. })).await;
    let before = b.applier.progress().mark;
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&a]).await;
    assert_eq!(b.applier.progress().mark, before);

    // Neither a restart nor another name makes it go on.
    hub.stop().await;
    let is_paused = |state: &SlaveState| matches!(state, SlaveState::Paused { reason } if reason == "a test");
    let hub = Hub::start(options(&master, &[&a, &b])).unwrap();
    slave_in(&hub, &b.url, "the slave is still paused", is_paused).await;
    hub.register("renamed", &b.url, None).await.unwrap();
    load(&master, 1, 3).await;
    assert_equal(&master, &hub, &[&a]).await;
    slave_in(&hub, &b.url, "the slave is still paused", is_paused).await;
    assert_eq!(b.applier.progress().mark, before);

    assert!(hub.resume("renamed").await.unwrap() && !hub.resume("nobody").await.unwrap());
    assert_equal(&master, &hub, &[&a, &b]).await;
    hub.stop().await;

    // A node that knew no such thing has made the table.
    master.run(&["ALTER TABLE towline.slaves DROP COLUMN paused"]).await;
    let hub = Hub::start(options(&master, &[&a, &b])).unwrap();
    assert_equal(&master, &hub, &[&a, &b]).await;
    assert!(hub.pause("renamed", "a test").await.unwrap());
    slave_in(&hub, &b.url, "the slave is paused", is_paused).await;
    hub.stop().await;
}
