//! What is captured on one server is applied on another: the two are then equal.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};
use tokio::time::timeout;
use towline::{
    capture::{Capture, CaptureOptions},
    replication::{
        apply::{Applier, ApplyOptions},
        protocol::{Batch, Mark, VERSION},
    },
};
use towline_middleware::{Epoch, Role};

use crate::support::TestServer;

/// A master and a slave with nothing but this test between them.
struct Pair {
    master: TestServer,
    slave: TestServer,
    session: Conn,
    capture: Capture,
    applier: Applier,
    at: Mark,
}

impl Pair {
    async fn start() -> Self {
        let (master, slave) = tokio::join!(TestServer::start(Role::Master), TestServer::start(Role::Slave));
        let options = CaptureOptions {
            opts: master.opts(),
            epoch: Epoch(1),
            from: Mark::default(),
            transaction_bytes_max: 64 << 20,
        };
        let capture = Capture::open(&options).await.unwrap();
        let applier = Applier::start(ApplyOptions::new(slave.opts()));
        let session = master.connect().await;
        Self { master, slave, session, capture, applier, at: Mark::default() }
    }

    /// Runs statements in one session of the master; errors are the master's business.
    async fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            if let Err(error) = self.session.query_drop(*sql).await {
                assert!(matches!(error, mysql_async::Error::Server(_)), "{sql}: {error}");
            }
        }
    }

    /// Brings the slave to the master's last transaction, one push for each.
    async fn follow(&mut self) {
        let last: Option<String> = self.session.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
        let last = last.unwrap();
        while self.at.gtid != last {
            let captured = timeout(Duration::from_secs(30), self.capture.next()).await.unwrap().unwrap();
            let next = captured.transaction.mark();
            let shown = format!("{:?}", captured.transaction);
            let batch = Batch {
                version: VERSION,
                cluster: "test".into(),
                epoch: Epoch(1),
                family: None,
                after: std::mem::replace(&mut self.at, next.clone()),
                head: next.position,
                out_of_reach: None,
                formats: captured.format.iter().map(|format| format.as_ref().clone()).collect(),
                transactions: vec![captured.transaction],
            };
            // Through JSON, as it travels.
            let batch = serde_json::from_slice(&serde_json::to_vec(&batch).unwrap()).unwrap();
            let applied = self.applier.push(batch).await.unwrap_or_else(|refusal| panic!("{refusal:?} of {shown}"));
            assert_eq!(applied.applied, next);
        }
    }

    /// Every table of `shop` with its definition and checksum must be the same on both servers.
    async fn assert_equal(&mut self) {
        let (expected, found) = (contents(&self.master).await, contents(&self.slave).await);
        assert_eq!(expected, found);
        assert!(!expected.is_empty());
    }
}

async fn contents(server: &TestServer) -> Vec<(String, String, Option<u64>)> {
    let mut conn = server.connect().await;
    let tables: Vec<(String, String)> = conn
        .query("SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'shop' ORDER BY 1")
        .await
        .unwrap();
    let mut contents = Vec::new();
    for (table, kind) in tables {
        let row: mysql_async::Row =
            conn.query_first(format!("SHOW CREATE TABLE shop.`{table}`")).await.unwrap().unwrap();
        let definition: String = row.get(1).unwrap();
        let mut checksum = None;
        if kind != "VIEW" {
            let row: (String, Option<u64>) =
                conn.query_first(format!("CHECKSUM TABLE shop.`{table}`")).await.unwrap().unwrap();
            checksum = row.1;
        }
        contents.push((table, definition, checksum));
    }
    contents
}

#[tokio::test]
async fn rows_of_every_type_arrive_equal() {
    let mut pair = Pair::start().await;
    let values = "(-1, 65535, -8388608, 7, 18446744073709551615, 1.5, -2.25e300, 12345678901234567890.000000000000000001, \
        b'1010101010101', '2026-02-28', '-838:59:59.999999', '1000-01-01 00:00:00.123', '2038-01-19 03:14:07.999999', 2155, \
        'ö', REPEAT('ü', 300), X'00ff', REPEAT(X'00', 700), 't', REPEAT('u', 70000), X'0001', REPEAT('y', 70000), \
        'y', 'p,r', '{\"k\": [1, null]}', ST_GeomFromText('LINESTRING(0 0, 1 1)'), '::1', UUID())";
    let columns = "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, t, u, x, y, aa, ab, ac, ad, af, ag";
    let insert = format!("INSERT INTO kinds ({columns}) VALUES {values}");
    pair.run(&[
        "CREATE DATABASE shop",
        "USE shop",
        "CREATE TABLE kinds (a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d INT, e BIGINT UNSIGNED, f FLOAT, g DOUBLE, \
         h DECIMAL(65,30), i BIT(13), j DATE, k TIME(6), l DATETIME(3), m TIMESTAMP(6) NULL, n YEAR, o CHAR(9), \
         p VARCHAR(300), q BINARY(7), r VARBINARY(700), t TEXT, u MEDIUMTEXT, x BLOB, y LONGBLOB, aa ENUM('x', 'y'), \
         ab SET('p', 'q', 'r'), ac JSON, ad GEOMETRY, af INET6, ag UUID, \
         ai INT GENERATED ALWAYS AS (d + 1) VIRTUAL, aj INT GENERATED ALWAYS AS (d + 2) STORED, ak INT INVISIBLE)",
        &insert,
        &insert,
        "INSERT INTO kinds (d) VALUES (NULL), (1), (2)",
        "UPDATE kinds SET t = 'changed', ac = '[]', m = NULL WHERE d = 7 LIMIT 1",
        "DELETE FROM kinds WHERE d = 1",
    ])
    .await;
    pair.follow().await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn schema_changes_of_every_kind_arrive_equal() {
    let mut pair = Pair::start().await;
    pair.run(&[
        "CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_german2_ci",
        "USE shop",
        "CREATE TABLE a (i INT PRIMARY KEY, s VARCHAR(20)) COMMENT 'ä'",
        "CREATE TABLE b (i INT, FOREIGN KEY (i) REFERENCES a (i) ON DELETE CASCADE)",
        "INSERT INTO a VALUES (1, 'x'), (2, 'y')",
        "INSERT INTO b VALUES (1), (2)",
        "DELETE FROM a WHERE i = 1",
        "SET NAMES latin1",
        "CREATE TABLE l (s VARCHAR(10) DEFAULT '\u{e4}')",
        "SET NAMES utf8mb4",
        "CREATE TABLE c SELECT i, s FROM a",
        "CREATE TABLE d SELECT * FROM a WHERE FALSE",
        "CREATE OR REPLACE TABLE c SELECT 7 AS seven",
        "CREATE TABLE gone (i INT)",
        "DROP TABLE gone, never_there",
        "CREATE SEQUENCE numbers START WITH 100",
        "SELECT NEXTVAL(numbers)",
        "ALTER SEQUENCE numbers RESTART 500",
        "CREATE VIEW v AS SELECT i FROM a",
        "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW INSERT INTO b VALUES (NEW.i)",
        "INSERT INTO a VALUES (3, 'z')",
        "CREATE FUNCTION f(x INT) RETURNS INT DETERMINISTIC RETURN x + 1",
        "CREATE PROCEDURE p() INSERT INTO a VALUES (4, 'p')",
        "CALL p()",
        "SET binlog_alter_two_phase = 1",
        "ALTER TABLE a ADD COLUMN n INT DEFAULT 5",
        "ALTER TABLE a ADD UNIQUE (n)",
        "SET binlog_alter_two_phase = 0",
        "CREATE INDEX x ON a (s)",
        "RENAME TABLE c TO e, d TO c",
        "TRUNCATE TABLE b",
        "SET sql_mode = 'ANSI_QUOTES', foreign_key_checks = 0",
        "CREATE TABLE \"q\" (i INT REFERENCES later (i), \"order\" INT)",
        "SET sql_mode = DEFAULT, foreign_key_checks = 1",
        "SET STATEMENT max_statement_time = 10 FOR CREATE TABLE timed (i INT)",
        "BEGIN NOT ATOMIC CREATE TABLE inner_one (i INT); INSERT INTO inner_one VALUES (1); END",
        "ANALYZE TABLE a",
        "CREATE USER someone IDENTIFIED BY 'secret'",
        "GRANT SELECT ON shop.* TO someone",
        "CREATE ROLE clerk",
        "GRANT clerk TO someone",
        "GRANT UPDATE ON shop.* TO CURRENT_USER()",
    ])
    .await;
    pair.follow().await;
    pair.assert_equal().await;
    for query in ["SHOW GRANTS FOR someone", "SHOW CREATE FUNCTION shop.f", "SHOW CREATE PROCEDURE shop.p"] {
        let mut shown = Vec::new();
        for server in [&pair.master, &pair.slave] {
            let rows: Vec<mysql_async::Row> = server.connect().await.query(query).await.unwrap();
            shown.push(rows.into_iter().map(mysql_async::Row::unwrap).collect::<Vec<_>>());
        }
        assert_eq!(shown[0], shown[1], "{query}");
    }
}

#[tokio::test]
async fn a_statement_of_many_pieces_arrives_whole() {
    let mut pair = Pair::start().await;
    pair.run(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (i INT PRIMARY KEY, s TEXT)",
        "CREATE TABLE shop.u (i INT PRIMARY KEY, s TEXT)",
        "CREATE TRIGGER shop.g AFTER INSERT ON shop.t FOR EACH ROW INSERT INTO shop.u VALUES (-NEW.i, NEW.s)",
        "INSERT INTO shop.t SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000",
        "UPDATE shop.t SET s = REPEAT('y', 900)",
    ])
    .await;
    pair.follow().await;
    pair.assert_equal().await;
}
