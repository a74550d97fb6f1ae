//! What a master's definitions name and is not there: accounts of its own, rights and views on what has gone.

use mysql_async::{Conn, prelude::Queryable};
use towline::replication::progress::ApplyState;
use towline_middleware::Role;

use super::{fetching, run, told};
use crate::{
    matrix::contents::answer,
    support::{TestCluster, TestNode, TestServer, eventually, http::TestHttp},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_names_things_that_have_gone_keeps_no_slave_from_its_snapshot_or_behind_it() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let config = format!("{secret}master = {:?}", master.url(""));
    let mut cluster = TestCluster::of(master, Vec::new()).await;
    let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
    let made = [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (a INT, b INT)",
        "CREATE TABLE shop.gone (a INT)",
        "CREATE VIEW shop.whole AS SELECT a FROM shop.t",
        "CREATE VIEW shop.broken AS SELECT a FROM shop.gone",
        "CREATE FUNCTION shop.f() RETURNS INT DETERMINISTIC RETURN 1",
        "CREATE USER teller@'%', old@'%'",
        "GRANT EXECUTE ON FUNCTION shop.f TO teller@'%'",
        "GRANT SELECT ON shop.whole TO teller@'%'",
        "GRANT SELECT (a, b) ON shop.t TO old@'%'",
        "GRANT SELECT ON shop.gone TO old@'%'",
        "ALTER TABLE shop.t CHANGE b c INT",
        "DROP TABLE shop.gone",
    ];
    run(&mut administrator, &made).await;
    cluster.slaves.push(TestNode::start("slave", Role::Slave, &config).await);
    told(&cluster.slaves[0], "ready\n").await;
    let mut server = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    let grants = "SHOW GRANTS FOR teller@'%'";
    assert_eq!(answer(&mut server, grants).await, answer(&mut administrator, grants).await);
    let views: Vec<String> =
        server.query("SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'shop'").await.unwrap();
    assert_eq!(views, ["whole"]);
    let status = reqwest::get(cluster.slaves[0].url("/status")).await.unwrap().text().await.unwrap();
    for left_out in ["the view `shop`.`broken`", "the account `old`@`%`"] {
        assert!(status.contains(left_out), "{status}");
        assert!(cluster.slaves[0].log().contains(left_out), "{}", cluster.slaves[0].log());
    }

    // What comes behind it may name what was left out, and schemas that are there no more.
    let mut other = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &["CREATE DATABASE passing", "USE passing"]).await;
    run(&mut other, &["DROP DATABASE passing", "DROP VIEW shop.broken"]).await;
    let behind = [
        "CREATE TABLE shop.behind (a INT)",
        "SET sql_log_bin = 0",
        "CREATE USER 'root'@'10.9.8.7'",
        "SET sql_log_bin = 1",
        "ALTER USER 'root'@'10.9.8.7' IDENTIFIED BY 'changed'",
        "INSERT INTO shop.behind VALUES (1)",
    ];
    run(&mut administrator, &behind).await;
    eventually("a slave that goes on", async || match server.query_first("SELECT a FROM shop.behind").await {
        Ok(Some(1)) => Ok(()),
        found => Err((format!("{found:?}"), cluster.slaves[0].log())),
    })
    .await;
    assert!(
        cluster.slaves[0].log().contains("an account that each server has of its own"),
        "{}",
        cluster.slaves[0].log()
    );
    cluster.wait_equal().await;
}

#[tokio::test]
async fn a_definition_that_fails_is_named_and_may_be_mended_on_the_master() {
    let slave = TestServer::start_with(Role::Slave, &["--event-scheduler=DISABLED"]);
    let ((master, http), server) = tokio::join!(TestHttp::master(), slave);
    master.run(&["CREATE EVENT shop.daily ON SCHEDULE EVERY 1 DAY DO DO 1"]).await;
    let (applier, _) = fetching(&server, &http, false);
    eventually("what is wrong", async || match applier.progress().state {
        ApplyState::Unavailable { error } if error.contains("EVENT `shop`.`daily`") => Ok(()),
        state => Err(state),
    })
    .await;
    master.run(&["DROP EVENT shop.daily"]).await;
    eventually("a slave", async || match applier.progress().state {
        ApplyState::Running => Ok(()),
        state => Err(state),
    })
    .await;
    applier.stop().await;
}
