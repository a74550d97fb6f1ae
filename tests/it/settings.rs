//! A master's settings that change under capture: what can still be had goes on, and what is lost stops it loudly.

use mysql_async::prelude::Queryable;
use towline::replication::{
    hub::{Hub, HubState},
    slave_status::SlaveState,
};
use towline_middleware::{Acknowledgement, Role};

use crate::{
    history::{strict, write},
    hub::{SHOP, Slave, assert_equal, slave_in},
    support::{Database, TestServer, eventually, mysql_server},
    xa::forget_all_but_last,
};

#[tokio::test]
async fn a_setting_that_changes_under_capture_loses_nothing_silently() {
    let (master, slave) = tokio::join!(TestServer::start(Role::Master), Slave::start());
    settings_change(master, slave).await;
}

#[tokio::test]
async fn on_mysql_too_a_setting_that_changes_under_capture_loses_nothing_silently() {
    let Some(master) = mysql_server(&[]).await else { return };
    let Some(slave) = mysql_server(&[]).await else { return };
    settings_change(master, Slave::of(slave).await).await;
}

async fn stopped(hub: &Hub, says: &str) {
    eventually(says, async || match hub.status().state {
        HubState::Stopped { error } if error.contains(says) => Ok(()),
        state => Err(state),
    })
    .await;
}

async fn settings_change<S: Database>(master: S, slave: Slave<S>) {
    master.run(&SHOP).await;
    let options = strict(master.opts(), &slave);
    let hub = Hub::start(options.clone()).unwrap();
    for image in ["MINIMAL", "NOBLOB", "FULL"] {
        master.run(&[&format!("SET GLOBAL binlog_row_image = '{image}'")]).await;
        // A session keeps what it began with.
        let changes = [
            "INSERT INTO shop.t (n) VALUES (1), (2), (3), (4)",
            "UPDATE shop.t SET n = n + 1 WHERE i % 2",
            "DELETE FROM shop.t WHERE n = 2",
            "INSERT INTO shop.keyless VALUES (1, 'a'), (1, NULL), (2, 'c')",
            "UPDATE shop.keyless SET s = 'b' WHERE i = 2",
            "DELETE FROM shop.keyless WHERE s IS NULL",
        ];
        master.run(&changes).await;
        assert_equal(&master, &hub, &[&slave]).await;
    }

    // Nothing is written while it is wrong, and the file that says so is purged: it goes on.
    master.run(&["SET GLOBAL binlog_checksum = NONE"]).await;
    stopped(&hub, "binlog_checksum=CRC32").await;
    hub.stop().await;
    let mut client = master.connect().await;
    client.query_drop("SET GLOBAL binlog_checksum = CRC32").await.unwrap();
    forget_all_but_last(&mut client).await;
    let hub = Hub::start(options).unwrap();
    // The slave has all: that it does says nothing of whether the hub has begun.
    slave_in(&hub, &slave.url, "the slave follows", |state| *state == SlaveState::Streaming).await;
    assert_equal(&master, &hub, &[&slave]).await;
    assert_eq!(write::<S>(&mut client, &hub).await, Acknowledgement::Given);
    let before = slave.applier.progress().mark;

    let mut other = master.connect().await;
    other.query_drop("SET SESSION binlog_format = 'STATEMENT'").await.unwrap();
    let missing = write::<S>(&mut other, &hub).await;
    assert!(matches!(missing, Acknowledgement::Missing { is_error: true, .. }), "{missing:?}");
    stopped(&hub, "binlog_format=ROW").await;
    // What comes behind it is not acknowledged either.
    let missing = write::<S>(&mut client, &hub).await;
    assert!(matches!(missing, Acknowledgement::Missing { is_error: true, .. }), "{missing:?}");
    assert_eq!(slave.applier.progress().mark, before);
    hub.stop().await;
}
