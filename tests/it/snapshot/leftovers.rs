//! What a master's definitions name and is not there: accounts of its own, rights and views on what has gone.

use mysql_async::{Conn, prelude::Queryable};
use towline::{fail_point::FailPoint, replication::progress::ApplyState};
use towline_middleware::Role;

use super::{fetching, run, told};
use crate::{
    matrix::contents::answer,
    support::{TestCluster, TestNode, TestServer, eventually, http::TestHttp, mysql_node, mysql_server},
};

/// What a master keeps of what has gone, and what is gone then.
const MADE: [&str; 37] = [
    "CREATE DATABASE shop",
    "CREATE DATABASE passing",
    "CREATE TABLE shop.t (a INT, b INT, c INT, g GEOMETRY, KEY k (c))",
    "INSERT INTO shop.t (a) VALUES (7)",
    "CREATE TABLE shop.gone (a INT, n INT, `c``d` VARCHAR(9))",
    "CREATE TABLE shop.shapes (g GEOMETRY)",
    "CREATE TABLE shop.former (a INT) WITH SYSTEM VERSIONING",
    "CREATE TABLE shop.parts (a INT) PARTITION BY HASH (a) (PARTITION p)",
    "CREATE TABLE passing.p (x INT)",
    "CREATE SEQUENCE shop.numbers",
    "CREATE TABLE shop.keyed (n INT, KEY (n))",
    "CREATE TABLE shop.z_child (n INT, FOREIGN KEY (n) REFERENCES shop.keyed (n))",
    "CREATE FUNCTION shop.f() RETURNS INT DETERMINISTIC RETURN 1",
    "CREATE FUNCTION shop.sum_of(n INT, m INT) RETURNS INT DETERMINISTIC RETURN n + m",
    "CREATE VIEW shop.whole AS SELECT a FROM shop.t",
    "CREATE VIEW shop.broken AS SELECT x.*, 'it''s `p`.`q`' AS told FROM shop.gone x WHERE x.a > 0 ORDER BY n",
    "CREATE VIEW shop.a_user AS SELECT a, n FROM shop.broken",
    "CREATE VIEW shop.by_column AS SELECT t.b, gone.n FROM shop.t LEFT JOIN shop.gone ON t.b = gone.a",
    "CREATE VIEW shop.by_checked AS SELECT b FROM shop.t WITH CHECK OPTION",
    "CREATE VIEW shop.by_schema AS SELECT x FROM passing.p",
    "CREATE VIEW shop.by_function AS SELECT shop.sum_of(a, (SELECT MAX(c) FROM shop.t)) AS s FROM shop.t",
    "CREATE VIEW shop.by_index AS SELECT a FROM shop.t FORCE INDEX (k)",
    "CREATE VIEW shop.by_versions AS SELECT * FROM shop.former FOR SYSTEM_TIME ALL",
    "CREATE VIEW shop.by_sequence AS SELECT NEXTVAL(shop.numbers) AS n",
    "CREATE VIEW shop.by_shape AS SELECT ST_X(g) AS x FROM shop.shapes",
    "CREATE VIEW shop.by_definer AS SELECT a FROM shop.t",
    "CREATE TABLE shop.log (a INT, b INT)",
    "CREATE TRIGGER shop.sets BEFORE INSERT ON shop.log FOR EACH ROW SET NEW.b = 1",
    "CREATE VIEW shop.parted AS SELECT a FROM shop.parts PARTITION (p)",
    "CREATE USER teller@'%', old@'%', ghost@'%'",
    "CREATE EVENT shop.once ON SCHEDULE AT NOW() + INTERVAL 1 SECOND DO DO 1",
    "GRANT EXECUTE ON FUNCTION shop.f TO teller@'%'",
    "GRANT SELECT ON shop.whole TO teller@'%'",
    "GRANT SELECT (a, b), INSERT (b) ON shop.t TO old@'%'",
    "GRANT SELECT ON shop.gone TO old@'%' WITH GRANT OPTION",
    "GRANT SELECT, UPDATE (x) ON passing.p TO old@'%'",
    "GRANT SELECT ON shop.a_user TO old@'%'",
];
const GONE: [&str; 12] = [
    "ALTER DEFINER = ghost@'%' VIEW shop.by_definer AS SELECT a FROM shop.t",
    "DROP USER ghost@'%'",
    "ALTER TABLE shop.t CHANGE b renamed INT, DROP KEY k",
    "ALTER TABLE shop.log DROP COLUMN b",
    "DROP TABLE shop.gone, shop.former, shop.shapes, shop.parts",
    "DROP DATABASE passing",
    "DROP FUNCTION shop.sum_of",
    "DROP SEQUENCE shop.numbers",
    "SET foreign_key_checks = 0",
    "ALTER TABLE shop.keyed DROP KEY n",
    "CREATE TABLE shop.own (i INT)",
    "SET foreign_key_checks = 1",
];
/// What there is, and how it is made.
const OBJECTS: &str = "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES \
     WHERE TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'towline') \
     AND TABLE_NAME <> 'parted'";
const VIEWS: &str = "SELECT TABLE_NAME, VIEW_DEFINITION, CHECK_OPTION, DEFINER, SECURITY_TYPE, CHARACTER_SET_CLIENT, \
     COLLATION_CONNECTION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME <> 'parted'";
const SAME: [&str; 11] = [
    OBJECTS,
    VIEWS,
    "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA",
    "SELECT ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA <> 'sys'",
    "SELECT EVENT_NAME, STATUS, EXECUTE_AT, CREATED FROM information_schema.EVENTS",
    "SHOW GRANTS FOR teller@'%'",
    "SHOW GRANTS FOR old@'%'",
    "SHOW CREATE TABLE shop.t",
    "SHOW CREATE TABLE shop.keyed",
    "SHOW CREATE TABLE shop.z_child",
    "SHOW CREATE VIEW shop.by_column",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_names_things_that_have_gone_comes_with_a_snapshot_and_keeps_no_slave_behind_it() {
    let secret = "[cluster]\nsecret = 'a secret of the tests'\n";
    let master = TestNode::start("master", Role::Master, secret).await;
    let url = master.url("");
    let mut cluster = TestCluster::of(master, Vec::new()).await;
    let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &MADE).await;
    run(&mut administrator, &GONE).await;
    let mut slave = TestNode::start("slave", Role::Slave, secret).await;
    slave.kill().await;
    slave.set("cluster", "master", url);
    // Once in a definition by stand-ins, and once in a later one.
    for passage in [1, 9] {
        slave.set_fail_point(Some((FailPoint::StoodIn, passage)));
        slave.restart().await;
        slave.ended().await;
    }
    slave.set_fail_point(None);
    slave.restart().await;
    told(&slave, "ready\n").await;
    let mut server = Conn::new(slave.server_opts()).await.unwrap();
    for question in SAME {
        assert_eq!(answer(&mut server, question).await, answer(&mut administrator, question).await, "{question}");
    }
    assert_eq!(answer(&mut server, "SELECT a FROM shop.t").await, "7");
    assert_eq!(
        server.query_drop("SELECT * FROM shop.broken").await.map_err(|error| error.to_string().contains("1356")),
        Err(true)
    );
    let left_out = ["TRIGGER `shop`.`sets`", "the view `shop`.`parted`"];
    for what in left_out {
        assert!(slave.log().contains(what), "{}", slave.log());
    }
    assert!(!slave.log().contains("`shop`.`broken`"), "{}", slave.log());
    assert_eq!(slave.stop().await, Some(0));
    slave.restart().await;
    told(&slave, "ready\n").await;
    let status = reqwest::get(slave.url("/status")).await.unwrap().text().await.unwrap();
    for what in left_out {
        assert!(status.contains(what), "{status}");
    }
    // Its server was started anew with it.
    let mut server = Conn::new(slave.server_opts()).await.unwrap();
    cluster.slaves.push(slave);

    // What comes again is seen on the slave too, and goes there.
    let again = [
        "CREATE TABLE shop.gone (a INT, n INT, `c``d` VARCHAR(9))",
        "INSERT INTO shop.gone VALUES (1, 2, 'x')",
        "ALTER TABLE shop.t CHANGE renamed b INT",
        "RENAME TABLE shop.by_schema TO shop.by_another",
        "DROP VIEW shop.by_another, shop.by_function",
        "ALTER VIEW shop.by_shape AS SELECT 1 AS x",
        "REVOKE UPDATE (x) ON passing.p FROM old@'%'",
        "DROP TRIGGER shop.sets",
        "DROP VIEW shop.parted",
        "CREATE TABLE shop.last (a INT)",
        "INSERT INTO shop.last VALUES (1)",
    ];
    run(&mut administrator, &again).await;
    eventually("a slave that follows", async || match server.query_first("SELECT a FROM shop.last").await {
        Ok(Some(1)) => Ok(()),
        found => Err((format!("{found:?}"), cluster.slaves[0].log())),
    })
    .await;
    for question in
        [OBJECTS, VIEWS, "SELECT * FROM shop.a_user", "SELECT * FROM shop.by_column", "SHOW GRANTS FOR old@'%'"]
    {
        assert_eq!(answer(&mut server, question).await, answer(&mut administrator, question).await, "{question}");
    }
    assert_eq!(answer(&mut server, "SELECT * FROM shop.a_user").await, "1 | 2");

    // What comes behind it may name what was left out, and schemas that are there no more.
    let mut other = Conn::new(cluster.master.server_opts()).await.unwrap();
    run(&mut administrator, &["CREATE DATABASE passing", "USE passing"]).await;
    run(&mut other, &["DROP DATABASE passing", "DROP VIEW shop.broken"]).await;
    let behind = [
        "DROP TABLE IF EXISTS t",
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

#[tokio::test]
async fn what_names_things_that_have_gone_comes_with_a_snapshot_on_mysql() {
    let Some(first) = mysql_server(&[]).await else { return };
    let Some(second) = mysql_server(&[]).await else { return };
    let master = mysql_node(&first, Role::Master, "").await;
    let made = [
        "CREATE DATABASE shop",
        "CREATE DATABASE passing",
        "CREATE TABLE shop.t (a INT PRIMARY KEY, b INT, c INT, KEY k (c))",
        "CREATE TABLE shop.child (a INT, FOREIGN KEY (a) REFERENCES shop.t (a))",
        "CREATE TABLE shop.gone (a INT, n INT, `c``d` VARCHAR(9), g GEOMETRY)",
        "CREATE TABLE passing.p (x INT)",
        "CREATE FUNCTION shop.sum_of(n INT, m INT) RETURNS INT DETERMINISTIC RETURN n + m",
        "CREATE VIEW shop.broken AS SELECT x.a, x.n, x.`c``d`, 'it''s `p`.`q`' AS told FROM shop.gone x WHERE x.a > 0 ORDER BY n",
        "CREATE VIEW shop.a_user AS SELECT a, n FROM shop.broken",
        "CREATE VIEW shop.by_column AS SELECT b FROM shop.t WITH CHECK OPTION",
        "CREATE VIEW shop.by_schema AS SELECT x FROM passing.p",
        "CREATE VIEW shop.by_function AS SELECT shop.sum_of(a, (SELECT MAX(c) FROM shop.t)) AS s FROM shop.t",
        "CREATE VIEW shop.by_index AS SELECT a FROM shop.t FORCE INDEX (k)",
        "CREATE VIEW shop.by_shape AS SELECT ST_AsText(g) AS x FROM shop.gone",
        "CREATE USER old@'%'",
        "GRANT SELECT (a, b), INSERT (b) ON shop.t TO old@'%'",
        "GRANT SELECT ON shop.gone TO old@'%'",
        "GRANT SELECT ON passing.p TO old@'%'",
        "INSERT INTO shop.t VALUES (1, 2, 3)",
        "ALTER TABLE shop.t DROP COLUMN b, DROP KEY k",
        "DROP TABLE shop.gone",
        "DROP DATABASE passing",
        "DROP FUNCTION shop.sum_of",
    ];
    first.run(&made).await;
    first.run(&["FLUSH BINARY LOGS", "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY"]).await;
    let slave = mysql_node(&second, Role::Slave, &format!("master = {:?}", master.url(""))).await;
    told(&slave, "ready\n").await;
    assert!(!slave.log().contains("left out"), "{}", slave.log());
    let again = [
        "CREATE TABLE shop.gone (a INT, n INT, `c``d` VARCHAR(9), g GEOMETRY)",
        "INSERT INTO shop.gone VALUES (1, 2, 'x', NULL)",
        "DROP VIEW shop.by_function",
        "CREATE TABLE shop.last (a INT)",
    ];
    let (mut server, mut own) = (first.connect().await, second.connect().await);
    for question in
        [OBJECTS, VIEWS, "SHOW GRANTS FOR old@'%'", "SHOW CREATE TABLE shop.t", "SHOW CREATE TABLE shop.child"]
    {
        assert_eq!(
            answer(&mut own, question).await,
            answer(&mut server, question).await,
            "{question}; {}",
            slave.log()
        );
    }
    first.run(&again).await;
    eventually("a slave that follows", async || match own.query_drop("SELECT a FROM shop.last").await {
        Ok(()) => Ok(()),
        Err(error) => Err((error.to_string(), slave.log())),
    })
    .await;
    assert_eq!(answer(&mut own, "SELECT * FROM shop.a_user").await, "1 | 2");
    assert_eq!(answer(&mut own, OBJECTS).await, answer(&mut server, OBJECTS).await);
}
