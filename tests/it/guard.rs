//! No client of a slave writes, however the write is dressed and by whichever way it comes.

use std::{collections::BTreeMap, path::Path};

use mysql_async::{Conn, prelude::Queryable};
use serde_json::json;

use crate::support::{TestCluster, TestNode, checksums};

/// An account that the server itself would refuse nothing.
const ANYBODY: (&str, &str) = ("boss", "secret");

/// What the disguises aim at.
const SCHEMA: [&str; 13] = [
    "CREATE USER boss@'%' IDENTIFIED BY 'secret'",
    "GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION",
    "CREATE DATABASE d",
    "USE d",
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "CREATE SEQUENCE s",
    "CREATE TABLE n (n INT DEFAULT NEXTVAL(s))",
    "INSERT INTO n VALUES (1)",
    "CREATE FUNCTION f() RETURNS INT NO SQL BEGIN INSERT INTO d.t VALUES (100, 1); RETURN 1; END",
    "CREATE PROCEDURE p() BEGIN INSERT INTO d.t VALUES (101, 1); END",
    "CREATE VIEW innocent AS SELECT f() AS x",
    "CREATE TABLE done (n INT)",
];

/// One line of `disguises.txt`.
struct Disguise {
    label: String,
    sql_mode: Option<String>,
    sql: String,
}

fn disguises() -> Vec<Disguise> {
    let lines = include_str!("disguises.txt").lines().filter(|line| !line.starts_with('#'));
    let disguises: Vec<Disguise> = lines
        .map(|line| {
            let [label, mode, sql] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three fields: {line}") };
            let sql_mode = (mode != "-").then(|| mode.to_owned());
            Disguise { label: label.to_owned(), sql_mode, sql: sql.replace('⏎', "\n") }
        })
        .collect();
    assert!(disguises.len() >= 60, "{} disguises", disguises.len());
    disguises
}

/// A cluster of one slave, with what the disguises aim at.
async fn cluster() -> TestCluster {
    let cluster = TestCluster::start(1).await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    for sql in SCHEMA {
        server.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    cluster.wait_equal().await;
    cluster
}

async fn anybody(node: &TestNode) -> Conn {
    node.connect(ANYBODY.0, ANYBODY.1).await.expect("the slave takes connections")
}

/// What a client of the MySQL protocol must be told.
fn check_refusal(label: &str, way: &str, outcome: Result<(), mysql_async::Error>) {
    match outcome {
        Err(mysql_async::Error::Server(error)) => {
            assert_eq!(error.code, 1290, "{label}, {way}: {error}");
            assert!(error.message.contains("Towline"), "{label}, {way}: {error}");
        }
        Err(error) => panic!("{label}, {way}: the session ended: {error}"),
        Ok(()) => panic!("{label}, {way}: it was not refused"),
    }
}

struct Untouched<'a> {
    cluster: &'a TestCluster,
    tables: BTreeMap<String, Option<u64>>,
}

impl<'a> Untouched<'a> {
    async fn now(cluster: &'a TestCluster) -> Self {
        Self { cluster, tables: checksums(&cluster.slaves[0]).await.unwrap() }
    }

    /// The tables are as they were, no file was written, and the slave still follows its master.
    async fn check(self) {
        assert_eq!(checksums(&self.cluster.slaves[0]).await.unwrap(), self.tables);
        for number in 1..=9 {
            let file = format!("/tmp/towline-disguise-{number}");
            assert!(!Path::new(&file).exists(), "{file} was written");
        }
        let mut server = Conn::new(self.cluster.master.server_opts()).await.unwrap();
        server.query_drop("INSERT INTO d.done VALUES (1)").await.unwrap();
        self.cluster.wait_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disguise_is_refused_as_text_and_prepared() {
    let cluster = cluster().await;
    let untouched = Untouched::now(&cluster).await;
    for Disguise { label, sql_mode, sql } in disguises() {
        let mut client = anybody(&cluster.slaves[0]).await;
        if let Some(mode) = sql_mode {
            client.query_drop(format!("SET SESSION sql_mode = '{mode}'")).await.unwrap();
        }
        check_refusal(&label, "as text", client.query_drop(&sql).await);
        let prepared = match client.prep(&sql).await {
            Ok(statement) => client.exec_drop(&statement, ()).await,
            Err(error) => Err(error),
        };
        check_refusal(&label, "prepared", prepared);
        let read: Option<u8> = client.query_first("SELECT 1").await.expect("the session goes on");
        assert_eq!(read, Some(1), "{label}");
        client.disconnect().await.unwrap();
    }
    untouched.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disguise_is_refused_over_http() {
    let cluster = cluster().await;
    let untouched = Untouched::now(&cluster).await;
    let client = reqwest::Client::new();
    // A request has no session whose sql_mode it could set.
    for Disguise { label, sql, .. } in disguises().into_iter().filter(|disguise| disguise.sql_mode.is_none()) {
        for params in [json!([]), json!([1])] {
            let body = json!({"action": "query", "sql": sql, "params": params}).to_string();
            let request = client.post(cluster.slaves[0].url("/slave")).basic_auth(ANYBODY.0, Some(ANYBODY.1));
            let answer = request.header("Content-Type", "application/json").body(body).send().await.unwrap();
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            // 400 where the front itself sees what a single command must not be.
            assert!(matches!(status, 400 | 403), "{label}: {status} {text}");
            assert!(text.contains("\"message\""), "{label}: {text}");
        }
    }
    untouched.check().await;
}

/// What no text shows is for the server's own fence: a view that calls a function that writes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_text_does_not_show_the_server_refuses() {
    let cluster = cluster().await;
    let untouched = Untouched::now(&cluster).await;
    let mut client = anybody(&cluster.slaves[0]).await;
    match client.query_drop("SELECT * FROM d.innocent").await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1792, "{error}"),
        outcome => panic!("{outcome:?}"),
    }
    client.disconnect().await.unwrap();
    untouched.check().await;
}
