//! A master whose server has lost or renewed its history: nothing is acknowledged, and no slave is led into another one.

use std::time::Duration;

use mysql_async::{Conn, Opts, prelude::Queryable};
use towline::{
    config::{Ack, AckOnTimeout},
    replication::{
        hub::{Hub, HubOptions, HubState},
        progress::ApplyState,
        slave_status::SlaveState,
    },
};
use towline_middleware::{Acknowledgement, Replication, Role};

use crate::{
    hub::{SHOP, Slave, assert_equal, options_of, slave_in},
    matrix::last_gtid,
    support::{Database, Mysql9, TestServer, eventually, mysql_server},
    xa::forget_all_but_last,
};

/// A master with some history that its slave has, and clients whose OKs wait for it.
struct Pair<S> {
    master: S,
    slave: Slave<S>,
    options: HubOptions,
    hub: Hub,
}

async fn pair() -> Pair<TestServer> {
    let (master, slave) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    Pair::of(master, slave).await
}

/// None where MySQL can't be had.
async fn mysql_pair() -> Option<Pair<Mysql9>> {
    let master = mysql_server(&[]).await?;
    let slave = Slave::of(mysql_server(&[]).await?).await;
    Some(Pair::of(master, slave).await)
}

impl<S: Database> Pair<S> {
    async fn of(master: S, slave: Slave<S>) -> Self {
        master.run(&SHOP).await;
        let options = strict(master.opts(), &slave);
        let hub = Hub::start(options.clone()).unwrap();
        let mut client = master.connect().await;
        for _ in 0..5 {
            client.query_drop("INSERT INTO shop.t (n) VALUES (1)").await.unwrap();
        }
        assert_equal(&master, &hub, &[&slave]).await;
        slave_in(&hub, &slave.url, "the slave follows", |state| *state == SlaveState::Streaming).await;
        Self { master, slave, options, hub }
    }
}

/// A client's OK waits for this slave, and is an error without it.
pub(crate) fn strict<S>(master: Opts, slave: &Slave<S>) -> HubOptions {
    HubOptions {
        ack: Ack::All,
        ack_timeout: Duration::from_millis(300),
        ack_on_timeout: AckOnTimeout::Error,
        ..options_of(master, &[&slave.url])
    }
}

/// Writes as a client of the node does, and tells what that is told.
pub(crate) async fn write<S: Database>(client: &mut Conn, hub: &Hub) -> Acknowledgement {
    let known = hub.known();
    client.query_drop("INSERT INTO shop.t (n) VALUES (2)").await.unwrap();
    // Nobody else commits.
    let gtid = last_gtid(S::FAMILY, client).await;
    hub.acknowledged(hub.position_of(&gtid).unwrap(), known).await
}

fn is_refused(acknowledgement: &Acknowledgement) -> bool {
    matches!(acknowledgement, Acknowledgement::Missing { is_error: true, .. })
}

async fn lost(hub: &Hub, says: &str) {
    eventually("the loss is seen", async || match hub.status().state {
        HubState::Stopped { error } if error.contains(says) => Ok(()),
        state => Err(state),
    })
    .await;
}

async fn forked<S>(hub: &Hub, slave: &Slave<S>) {
    let is_forked = |state: &SlaveState| matches!(state, SlaveState::Refusing { refusal, .. } if refusal == "forked");
    slave_in(hub, &slave.url, "the slave's history is another", is_forked).await;
}

#[tokio::test]
async fn what_a_renewed_history_numbers_anew_is_never_acknowledged() {
    numbers_anew(pair().await).await;
}

#[tokio::test]
async fn on_mysql_too_what_a_renewed_history_numbers_anew_is_never_acknowledged() {
    let Some(pair) = mysql_pair().await else { return };
    numbers_anew(pair).await;
}

async fn numbers_anew<S: Database>(pair: Pair<S>) {
    let Pair { master, slave, options, hub } = pair;
    let mut client = master.connect().await;
    assert_eq!(write::<S>(&mut client, &hub).await, Acknowledgement::Given);
    assert_equal(&master, &hub, &[&slave]).await;
    let before = slave.applier.progress().mark;

    client.query_drop(S::RESET_LOG).await.unwrap();
    // Each number that the slave has had, and some behind them.
    for _ in 0..before.position.seq.0 + 5 {
        let acknowledgement = write::<S>(&mut client, &hub).await;
        assert!(is_refused(&acknowledgement), "{acknowledgement:?} {:?}", hub.status());
    }
    lost(&hub, "start the node again").await;
    assert!(is_refused(&write::<S>(&mut client, &hub).await));
    assert!(hub.snapshot(None).await.is_err(), "of a history that nobody vouches for");
    assert_eq!(slave.applier.progress().mark, before);
    hub.stop().await;

    // A new process knows only what the slave says.
    let hub = Hub::start(options).unwrap();
    forked(&hub, &slave).await;
    assert!(is_refused(&write::<S>(&mut client, &hub).await));
    forked(&hub, &slave).await;
    let progress = slave.applier.progress();
    assert_eq!((progress.mark, progress.state), (before, ApplyState::Running));
    hub.stop().await;
}

#[tokio::test]
async fn a_history_that_ends_at_the_slaves_own_gtid_is_told_from_its_own() {
    ends_at_the_slaves_gtid(pair().await).await;
}

#[tokio::test]
async fn on_mysql_too_a_history_that_ends_at_the_slaves_own_gtid_is_told_from_its_own() {
    let Some(pair) = mysql_pair().await else { return };
    ends_at_the_slaves_gtid(pair).await;
}

async fn ends_at_the_slaves_gtid<S: Database>(pair: Pair<S>) {
    let Pair { master, slave, options, hub } = pair;
    let before = slave.applier.progress().mark;
    hub.stop().await;
    let mut client = master.connect().await;
    client.query_drop(S::RESET_LOG).await.unwrap();
    for _ in 0..before.position.seq.0 {
        client.query_drop("INSERT INTO shop.t (n) VALUES (3)").await.unwrap();
    }
    assert_eq!(last_gtid(S::FAMILY, &mut client).await, before.gtid);

    let hub = Hub::start(options.clone()).unwrap();
    forked(&hub, &slave).await;
    assert!(is_refused(&write::<S>(&mut client, &hub).await));
    forked(&hub, &slave).await;
    hub.stop().await;

    // A slave that is ahead is not taken back when its number is reached.
    client.query_drop(S::RESET_LOG).await.unwrap();
    let hub = Hub::start(options).unwrap();
    slave_in(&hub, &slave.url, "the slave is ahead", |state| matches!(state, SlaveState::Ahead { .. })).await;
    for _ in 0..before.position.seq.0 + 2 {
        assert!(is_refused(&write::<S>(&mut client, &hub).await));
    }
    forked(&hub, &slave).await;
    assert_eq!(slave.applier.progress().mark, before);
    hub.stop().await;
}

#[tokio::test]
async fn an_empty_server_in_the_masters_place_gives_no_slave_its_emptiness() {
    is_empty(pair().await).await;
}

#[tokio::test]
async fn on_mysql_too_an_empty_server_in_the_masters_place_gives_no_slave_its_emptiness() {
    let Some(pair) = mysql_pair().await else { return };
    is_empty(pair).await;
}

async fn is_empty<S: Database>(pair: Pair<S>) {
    let Pair { master, slave, hub, .. } = pair;
    let before = slave.applier.progress().mark;
    let mut client = master.connect().await;
    for sql in ["DROP DATABASE towline", S::RESET_LOG] {
        client.query_drop(sql).await.unwrap();
    }
    assert!(hub.snapshot(None).await.is_err());
    lost(&hub, "towline.cluster").await;
    let progress = slave.applier.progress();
    assert_eq!((progress.mark.position.seq >= before.position.seq, progress.state), (true, ApplyState::Running));
    hub.stop().await;
}

#[tokio::test]
async fn what_cant_be_captured_is_passed_by_once_and_the_slave_is_told() {
    let Pair { master, slave, hub, .. } = pair().await;
    let mut client = master.connect().await;
    let mut log_as_text = async |n: u32| {
        for sql in ["SET binlog_format = STATEMENT", &format!("INSERT INTO shop.t (n) VALUES ({n})")] {
            client.query_drop(sql).await.unwrap();
        }
        lost(&hub, "logged as text").await;
    };
    log_as_text(8).await;
    let needs =
        |state: &SlaveState| matches!(state, SlaveState::NeedsSnapshot { error } if error.contains("logged as text"));
    slave_in(&hub, &slave.url, "the slave is told", needs).await;
    assert_eq!(hub.status().state, HubState::Running);
    assert!(matches!(slave.applier.progress().state, ApplyState::OutOfReach { .. }));
    let mut other = master.connect().await;
    // The slave has none of what comes behind.
    let passed = hub.known();
    assert!(is_refused(&write::<TestServer>(&mut other, &hub).await));
    let known = eventually("it is captured", async || match hub.known() {
        known if known > passed => Ok(known),
        known => Err(known),
    })
    .await;
    log_as_text(9).await;
    let waits = |state: &SlaveState| matches!(state, SlaveState::MasterAway { .. });
    slave_in(&hub, &slave.url, "it is told no more", waits).await;
    assert_eq!(hub.known(), known);
    hub.stop().await;
}

#[tokio::test]
async fn a_slave_behind_a_purged_binlog_is_told_that_it_needs_a_snapshot() {
    is_purged(pair().await).await;
}

#[tokio::test]
async fn on_mysql_too_a_slave_behind_a_purged_binlog_is_told_that_it_needs_a_snapshot() {
    let Some(pair) = mysql_pair().await else { return };
    is_purged(pair).await;
}

async fn is_purged<S: Database>(pair: Pair<S>) {
    let Pair { master, slave, options, hub } = pair;
    let before = slave.applier.progress().mark;
    hub.stop().await;
    let mut client = master.connect().await;
    for sql in ["INSERT INTO shop.t (n) VALUES (3)", "FLUSH BINARY LOGS", "INSERT INTO shop.t (n) VALUES (4)"] {
        client.query_drop(sql).await.unwrap();
    }
    forget_all_but_last(&mut client).await;

    let hub = Hub::start(options).unwrap();
    let is_needy =
        |state: &SlaveState| matches!(state, SlaveState::NeedsSnapshot { error } if error.contains("snapshot"));
    slave_in(&hub, &slave.url, "the slave needs a snapshot", is_needy).await;
    eventually("the slave knows it", async || match slave.applier.progress().state {
        ApplyState::OutOfReach { error } if error.contains("cluster.resnapshot") => Ok(()),
        state => Err(state),
    })
    .await;
    assert!(is_refused(&write::<S>(&mut client, &hub).await));
    assert_eq!(slave.applier.progress().mark, before);
    hub.stop().await;
}
