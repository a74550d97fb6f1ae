//! The matrix of types and statements: after each row of `tests/matrix/*.sql` every slave holds what the master holds.
//!
//! The rows run on the master's server itself, behind the node's back; all of them share one cluster, each in a schema
//! of its own. Compared are the `SHOW CREATE` of everything in the schema and the content of every table, as checksum
//! and row by row.

mod contents;
mod script;

use std::{collections::BTreeMap, fmt::Write};

use mysql_async::{Conn, Opts, prelude::Queryable};

use self::{
    contents::{answer, contents},
    script::{Family, Row, rows},
};
use crate::support::{TestCluster, TestNode, eventually};

#[tokio::test]
async fn every_row_arrives_on_mariadb() {
    let cluster = TestCluster::start(2).await;
    run(Family::MariaDb, &cluster).await;
}

async fn run(family: Family, cluster: &TestCluster) {
    let files = tempfile::tempdir().unwrap();
    let rows = rows(family, files.path());
    let master = cluster.master.server_opts();
    let (mut wrong, mut ends) = (String::new(), Vec::new());
    for row in &rows {
        play(row, &master, &mut wrong).await;
        ends.push(last_gtid(family, &mut Conn::new(master.clone()).await.unwrap()).await);
    }
    for slave in &cluster.slaves {
        wait_for(slave, &cluster.master, &rows, &ends).await;
    }
    for row in &rows {
        let expected = all_of(row, master.clone()).await;
        for slave in &cluster.slaves {
            let found = all_of(row, slave.server_opts()).await;
            for what in expected.keys().chain(found.keys().filter(|what| !expected.contains_key(*what))) {
                let (expected, found) = (expected.get(what), found.get(what));
                if expected != found {
                    writeln!(wrong, "{}: {what}\n  master: {expected:?}\n  slave: {found:?}", row.name).unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
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
async fn wait_for(slave: &TestNode, master: &TestNode, rows: &[Row], ends: &[String]) {
    let last = ends.last().expect("there are rows");
    let mut server = Conn::new(slave.server_opts()).await.unwrap();
    eventually("a slave that stands where the master stands", async || {
        let at: Option<String> = server.query_first("SELECT gtid FROM towline.position").await.unwrap();
        let at = at.unwrap_or_default();
        if at == *last {
            return Ok(());
        }
        let number = |gtid: &str| gtid.rsplit(['-', ':']).next().and_then(|seq| seq.parse::<u64>().ok()).unwrap_or(0);
        let row = ends.iter().position(|end| number(end) > number(&at)).map_or("", |n| &rows[n].name);
        let stopped = slave.log().contains("has stopped");
        assert!(!stopped, "the row '{row}' has stopped a slave at {at}: {}", slave.log());
        Err(format!("it stands at {at} of {last}, in the row '{row}'; {}; {}", slave.log(), master.log()))
    })
    .await;
}

async fn last_gtid(family: Family, conn: &mut Conn) -> String {
    let sql = match family {
        Family::MariaDb => "SELECT @@global.gtid_binlog_pos",
        Family::MySql => "SELECT REGEXP_REPLACE(@@global.gtid_executed, ':.*[-:]', ':')",
    };
    conn.query_first(sql).await.unwrap().unwrap_or_default()
}

/// Everything that a server holds of a row.
async fn all_of(row: &Row, server: Opts) -> BTreeMap<String, String> {
    let mut conn = Conn::new(server).await.unwrap();
    let mut all = contents(&mut conn, &row.schema).await;
    for question in &row.questions {
        all.insert(question.clone(), answer(&mut conn, question).await);
    }
    conn.disconnect().await.unwrap();
    all
}
