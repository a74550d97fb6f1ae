//! The matrix of types and statements: after each row of `tests/matrix/*.sql` every slave holds what the master holds.
//!
//! The rows run on the master's server itself, behind the node's back; all of them share one cluster, each in a schema
//! of its own. Compared are the `SHOW CREATE` of everything in the schema and the content of every table, as checksum
//! and row by row.

pub(crate) mod contents;
pub(crate) mod script;

use std::{collections::BTreeMap, fmt::Write};

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use towline_middleware::Role;

use self::{
    contents::{answer, contents},
    script::{Family, Row, rows},
};
use crate::support::{Mysql9, TestCluster, TestNode, eventually, mysql_node, mysql_server};

/// A node and how the administrator logs in to its server.
struct Place<'a> {
    node: &'a TestNode,
    server: Opts,
}

#[tokio::test]
async fn every_row_arrives_on_mariadb() {
    let cluster = TestCluster::start(2).await;
    let place = |node| Place { node, server: TestNode::server_opts(node) };
    let slaves: Vec<_> = cluster.slaves.iter().map(place).collect();
    let mut master = place(&cluster.master);
    // Another account than the one that applies, or whose an object is would not show.
    let mut administrator = Conn::new(master.server.clone()).await.unwrap();
    for sql in ["CREATE USER teller@'%' IDENTIFIED BY 'x'", "GRANT ALL ON *.* TO teller@'%' WITH GRANT OPTION"] {
        administrator.query_drop(sql).await.unwrap();
    }
    master.server = OptsBuilder::from_opts(master.server).user(Some("teller")).pass(Some("x")).into();
    run(Family::MariaDb, &master, &slaves).await;
}

#[tokio::test]
async fn every_row_arrives_on_mysql() {
    let Some(servers) = mysql_servers().await else { return };
    let [first, second] = [1, 2].map(|n| mysql_node(&servers[n], Role::Slave, ""));
    let (first, second) = tokio::join!(first, second);
    let slaves = format!("slaves = [{:?}, {:?}]", first.url(""), second.url(""));
    let master = mysql_node(&servers[0], Role::Master, &slaves).await;
    let place = |node, server: &Mysql9| Place { node, server: server.opts() };
    let slaves = [place(&first, &servers[1]), place(&second, &servers[2])];
    run(Family::MySql, &place(&master, &servers[0]), &slaves).await;
}

/// Three servers for nodes.
async fn mysql_servers() -> Option<Vec<Mysql9>> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(mysql_server(&["--max-allowed-packet=1G"]).await?);
    }
    Some(servers)
}

async fn run(family: Family, master: &Place<'_>, slaves: &[Place<'_>]) {
    let files = tempfile::tempdir().unwrap();
    let rows = rows(family, files.path());
    let (mut wrong, mut ends) = (String::new(), Vec::new());
    for row in &rows {
        play(row, &master.server, &mut wrong).await;
        ends.push(last_gtid(family, &mut Conn::new(master.server.clone()).await.unwrap()).await);
    }
    assert!(wrong.is_empty(), "{wrong}");
    for slave in slaves {
        wait_for(slave, master.node, &rows, &ends).await;
    }
    for row in &rows {
        let expected = all_of(row, &master.server).await;
        for slave in slaves {
            let found = all_of(row, &slave.server).await;
            for what in expected.keys().chain(found.keys().filter(|what| !expected.contains_key(*what))) {
                let (expected, found) = (expected.get(what), found.get(what));
                if expected != found {
                    writeln!(wrong, "{}: {what}\n  master: {expected:?}\n  slave: {found:?}", row.name).unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let (code, told) = master.node.verify().await;
    assert_eq!(code, Some(0), "{told}");
}

/// Runs a row's statements on the master's server; notes those that it takes otherwise than the row says.
async fn play(row: &Row, master: &Opts, wrong: &mut String) {
    let mut sessions = [Conn::new(master.clone()).await.unwrap(), Conn::new(master.clone()).await.unwrap()];
    sessions[0].query_drop(format!("CREATE DATABASE `{}`", row.schema)).await.unwrap();
    for session in &mut sessions {
        session.query_drop(format!("USE `{}`", row.schema)).await.unwrap();
    }
    for step in &row.steps {
        match sessions[step.session].query_drop(&step.sql).await {
            Ok(()) if step.fails => writeln!(wrong, "{}: {} was to fail", row.name, step.sql).unwrap(),
            Err(error) if !step.fails => writeln!(wrong, "{}: {}: {error}", row.name, step.sql).unwrap(),
            _ => {}
        }
    }
    for session in sessions {
        // A row may have closed it.
        let _ = session.disconnect().await;
    }
}

/// Waits until a slave stands at the master's last transaction; fails with the row at which it stopped.
async fn wait_for(slave: &Place<'_>, master: &TestNode, rows: &[Row], ends: &[String]) {
    let last = ends.last().expect("there are rows");
    let mut server = Conn::new(slave.server.clone()).await.unwrap();
    eventually("a slave that stands where the master stands", async || {
        let at: Option<String> = server.query_first("SELECT gtid FROM towline.position").await.unwrap();
        let at = at.unwrap_or_default();
        if at == *last {
            return Ok(());
        }
        let number = |gtid: &str| gtid.rsplit(['-', ':']).next().and_then(|seq| seq.parse::<u64>().ok()).unwrap_or(0);
        let row = ends.iter().position(|end| number(end) > number(&at)).map_or("", |n| &rows[n].name);
        let (own, masters) = (slave.node.log(), master.log());
        let stopped = own.contains("has stopped") || masters.contains("has stopped");
        assert!(!stopped, "the row '{row}' has stopped a slave at {at}: {own}; {masters}");
        Err(format!("it stands at {at} of {last}, in the row '{row}'; {own}; {masters}"))
    })
    .await;
}

pub(crate) async fn last_gtid(family: Family, conn: &mut Conn) -> String {
    let sql = match family {
        Family::MariaDb => "SELECT @@global.gtid_binlog_pos",
        Family::MySql => "SELECT REGEXP_REPLACE(@@global.gtid_executed, ':.*[-:]', ':')",
    };
    conn.query_first(sql).await.unwrap().unwrap_or_default()
}

/// Everything that a server holds of a row.
async fn all_of(row: &Row, server: &Opts) -> BTreeMap<String, String> {
    let mut conn = Conn::new(server.clone()).await.unwrap();
    let mut all = contents(&mut conn, &row.schema).await;
    for question in &row.questions {
        all.insert(question.clone(), answer(&mut conn, question).await);
    }
    conn.disconnect().await.unwrap();
    all
}
