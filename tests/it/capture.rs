//! The binlog of a real server, read into transactions.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::time::timeout;
use towline::{
    capture::{Capture, CaptureError, CaptureOptions, Captured, Rereading, Streamed},
    managed::{ManagedOptions, ManagedServer},
    replication::protocol::{Action, Change, Mark, RowsChange, SchemaChange, Transaction},
};
use towline_middleware::{Epoch, Role};

use crate::support::{Mysql9, TestServer, copy_template};

/// How long one transaction may take to come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

fn options(opts: Opts, from: Mark) -> CaptureOptions {
    CaptureOptions { opts, epoch: Epoch(3), from, transaction_bytes_max: 64 << 20 }
}

/// A master, and a capture that stands behind all that was written to it so far.
struct Tail {
    server: TestServer,
    conn: Conn,
    capture: Capture,
    at: Mark,
}

impl Tail {
    async fn start(setup: &[&str]) -> Self {
        Self::start_with(&[], setup).await
    }

    async fn start_with(arguments: &[&str], setup: &[&str]) -> Self {
        let server = TestServer::start_with(Role::Master, arguments).await;
        let mut conn = server.connect().await;
        conn.query_drop("CREATE DATABASE shop").await.unwrap();
        conn.query_drop("USE shop").await.unwrap();
        for sql in setup {
            conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let capture = Capture::open(&options(server.opts(), Mark::default())).await.unwrap();
        let mut tail = Self { server, conn, capture, at: Mark::default() };
        tail.rest().await.unwrap();
        tail
    }

    /// Runs statements in one session, and gives the transactions that they made.
    async fn run(&mut self, statements: &[&str]) -> Vec<Captured> {
        self.execute(statements).await;
        self.rest().await.unwrap()
    }

    /// The same where capture is to stop.
    async fn stopped_by(&mut self, statements: &[&str]) -> CaptureError {
        self.execute(statements).await;
        self.rest().await.expect_err("capture was to stop")
    }

    async fn execute(&mut self, statements: &[&str]) {
        for sql in statements {
            self.conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// All transactions up to the server's last one.
    async fn rest(&mut self) -> Result<Vec<Captured>, CaptureError> {
        let last: Option<String> = self.conn.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
        let last = last.unwrap();
        let mut all = Vec::new();
        while self.at.gtid != last {
            let captured = timeout(DEADLINE, self.capture.next()).await.expect("a transaction within the deadline")?;
            let position = &captured.transaction.position;
            assert!(*position > self.at.position, "{position} after {}", self.at.position);
            self.at = captured.transaction.mark();
            all.push(captured);
        }
        Ok(all)
    }

    /// The newest binlog file, whole.
    async fn binlog(&mut self) -> Vec<u8> {
        let (path,): (String,) = self.conn.query_first("SELECT @@log_bin_basename").await.unwrap().unwrap();
        let row: mysql_async::Row = self.conn.query_first("SHOW MASTER STATUS").await.unwrap().unwrap();
        let file: String = row.get(0).unwrap();
        fs::read(Path::new(&path).with_file_name(file)).unwrap()
    }
}

fn rows(captured: &Captured) -> Vec<&RowsChange> {
    let mut all = Vec::new();
    for change in &captured.transaction.changes {
        let Change::Rows(rows) = change else { panic!("{change:?} is no change of rows") };
        all.push(rows);
    }
    all
}

fn schema(captured: &Captured) -> &SchemaChange {
    match captured.transaction.changes.as_slice() {
        [Change::Schema(change)] => change,
        other => panic!("{other:?} is no single schema change"),
    }
}

/// Cuts events that stand end to end.
fn events(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes(bytes[9..13].try_into().unwrap()) as usize;
        let (event, rest) = bytes.split_at(length);
        let (content, crc) = event.split_at(length - 4);
        assert_eq!(crc32fast::hash(content).to_le_bytes(), crc, "an event's CRC32");
        events.push(event);
        bytes = rest;
    }
    events
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

const EVERY_TYPE: &str = "CREATE TABLE kinds (
    a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d INT, e BIGINT UNSIGNED, f FLOAT, g DOUBLE, h DECIMAL(65,30), i BIT(13),
    j DATE, k TIME(6), l DATETIME(3), m TIMESTAMP(6) NULL, n YEAR, o CHAR(9), p VARCHAR(300), q BINARY(7), r VARBINARY(700),
    s TINYTEXT, t TEXT, u MEDIUMTEXT, v LONGTEXT, w TINYBLOB, x BLOB, y MEDIUMBLOB, z LONGBLOB,
    aa ENUM('x', 'y'), ab SET('p', 'q', 'r'), ac JSON, ad GEOMETRY, ae POINT, af INET6, ag UUID, ah INET4,
    ai INT GENERATED ALWAYS AS (d + 1) VIRTUAL, aj INT GENERATED ALWAYS AS (d + 2) STORED, ak INT INVISIBLE)";
const ONE_OF_EVERY_TYPE: &str = "INSERT INTO kinds (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y, z,
    aa, ab, ac, ad, ae, af, ag, ah, ak) VALUES (-1, 65535, -8388608, 7, 18446744073709551615, 1.5, -2.25e300,
    -12345678901234567890123456789012345.000000000000000000000000000001, b'1010101010101', '2026-02-28', '-838:59:59.999999',
    '1000-01-01 00:00:00.123', '2038-01-19 03:14:07.999999', 2155, 'ö', REPEAT('ü', 300), X'00ff', REPEAT(X'00', 700), 's',
    't', REPEAT('u', 70000), 'v', 'w', X'0001', REPEAT('y', 70000), '', 'y', 'p,r', '{\"k\": [1, null]}',
    ST_GeomFromText('LINESTRING(0 0, 1 1)'), POINT(1, 2), '::1', UUID(), '10.0.0.1', 5)";

#[tokio::test]
async fn rows_of_every_type_are_the_binlogs_own_bytes() {
    let mut tail = Tail::start(&[EVERY_TYPE]).await;
    let statements = [
        ONE_OF_EVERY_TYPE,
        "INSERT INTO kinds (a) VALUES (NULL)",
        "UPDATE kinds SET t = 'changed', ac = '[]', m = NULL",
        "DELETE FROM kinds",
    ];
    let captured = tail.run(&statements).await;
    let binlog = tail.binlog().await;
    let mut actions = Vec::new();
    for captured in &captured {
        let [rows] = rows(captured)[..] else { panic!("one statement each: {captured:?}") };
        let maps = events(&rows.maps.0);
        assert_eq!(maps.len(), 1);
        for event in maps.into_iter().chain(events(&rows.events.0)) {
            assert!(contains(&binlog, event), "an event is not in the binlog as it is");
        }
        let format = captured.format.as_ref().expect("the format of the rows");
        assert_eq!(format.id, captured.transaction.format);
        assert_eq!(events(&format.event.0).len(), 1);
        assert!(rows.starts && rows.ends);
        assert_eq!((rows.tables[0].database.as_str(), rows.tables[0].table.as_str()), ("shop", "kinds"));
        actions.extend(rows.tables.iter().map(|table| table.action));
    }
    assert_eq!(actions, [Action::Insert, Action::Insert, Action::Update, Action::Delete]);
}

#[tokio::test]
async fn a_format_stays_the_same_over_files_and_connections() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)"]).await;
    let first = tail.run(&["INSERT INTO t VALUES (1)"]).await.remove(0).format.unwrap();
    let second = tail.run(&["FLUSH BINARY LOGS", "INSERT INTO t VALUES (2)"]).await;
    assert_eq!(second.last().unwrap().format.as_ref(), Some(&first));
    tail.capture = Capture::open(&options(tail.server.opts(), tail.at.clone())).await.unwrap();
    let third = tail.run(&["INSERT INTO t VALUES (3)"]).await.remove(0);
    assert_eq!(third.format, Some(first));
}

#[tokio::test]
async fn a_transaction_comes_whole_with_what_was_rolled_back_left_out() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)", "CREATE TABLE m (a INT) ENGINE=MyISAM"]).await;
    let statements = [
        "BEGIN",
        "INSERT INTO t VALUES (1)",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (2)",
        "INSERT INTO m VALUES (2)",
        "ROLLBACK TO s",
        "INSERT INTO t VALUES (3), (4)",
        "COMMIT",
        "BEGIN",
        "INSERT INTO t VALUES (5)",
        "ROLLBACK",
        "UPDATE t SET a = a + 10",
    ];
    let captured = tail.run(&statements).await;
    let [not_transactional, transaction, update] = &captured[..] else { panic!("{captured:?}") };
    assert_eq!(rows(not_transactional)[0].tables[0].table, "m");
    let changed: Vec<_> = rows(transaction).iter().map(|rows| rows.tables[0].action).collect();
    assert_eq!(changed, [Action::Insert, Action::Insert], "the rows after the savepoint are gone");
    assert_eq!(rows(update)[0].tables[0].action, Action::Update);
    let last: Option<String> = tail.conn.query_first("SELECT @@last_gtid").await.unwrap();
    assert_eq!(Some(&update.transaction.gtid), last.as_ref());
    assert_eq!(update.transaction.position.epoch, Epoch(3));
}

#[tokio::test]
async fn several_tables_in_one_statement_share_their_maps() {
    let mut tail = Tail::start(&[
        "CREATE TABLE a (i INT)",
        "CREATE TABLE b (i INT)",
        "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW INSERT INTO b VALUES (NEW.i), (-NEW.i)",
        "INSERT INTO a VALUES (1)",
    ])
    .await;
    let captured = tail.run(&["INSERT INTO a VALUES (2), (3)", "UPDATE a, b SET a.i = 7, b.i = 8"]).await;
    for captured in &captured {
        let [rows] = rows(captured)[..] else { panic!("{captured:?}") };
        assert_eq!(events(&rows.maps.0).len(), 2);
        let mut tables: Vec<_> = rows.tables.iter().map(|of| of.table.as_str()).collect();
        tables.sort_unstable();
        tables.dedup();
        assert_eq!(tables, ["a", "b"]);
    }
}

#[tokio::test]
async fn a_long_statement_is_cut_into_pieces_between_events() {
    let mut tail = Tail::start(&["CREATE TABLE t (a TEXT)"]).await;
    let captured = tail.run(&["INSERT INTO t SELECT REPEAT('x', 1000) FROM seq_1_to_5000"]).await;
    let pieces = rows(&captured[0]);
    assert!(pieces.len() >= 4, "{} pieces of five megabytes", pieces.len());
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!((piece.starts, piece.ends), (n == 0, n + 1 == pieces.len()));
        assert_eq!(piece.maps, pieces[0].maps);
        assert!(piece.events.0.len() <= 1 << 20);
        events(&piece.events.0);
    }
}

#[tokio::test]
async fn a_schema_change_carries_its_context() {
    let mut tail = Tail::start(&[]).await;
    let captured = tail
        .run(&[
            "SET foreign_key_checks = 0, unique_checks = 0, check_constraint_checks = 0, sql_mode = 'ANSI_QUOTES', \
             sql_if_exists = 1, explicit_defaults_for_timestamp = 0, sql_auto_is_null = 1, time_zone = '+03:00', \
             lc_time_names = 'de_DE', timestamp = 1700000000.25, auto_increment_increment = 3, \
             collation_connection = latin1_german2_ci, collation_database = utf8mb4_bin",
            "CREATE TABLE \"t\" (a INT, b TIMESTAMP DEFAULT '2020-01-01 00:00:00', c DATETIME(6) DEFAULT NOW(6))",
        ])
        .await;
    let change = schema(&captured[0]);
    assert!(change.sql.0.starts_with(b"CREATE TABLE \"t\""));
    assert_eq!(captured[0].transaction.format, 0);
    let context = &change.context;
    assert_eq!(context.schema, "shop");
    assert_eq!(context.timestamp_us / 1_000_000, 1_700_000_000);
    assert_eq!(context.sql_mode, Some(4));
    assert_eq!(context.foreign_key_checks, Some(false));
    assert_eq!(context.unique_checks, Some(false));
    assert_eq!(context.check_constraint_checks, Some(false));
    assert_eq!(context.sql_if_exists, Some(true));
    assert_eq!(context.explicit_defaults_for_timestamp, Some(false));
    assert_eq!(context.sql_auto_is_null, Some(true));
    let connection: Option<u16> = tail
        .conn
        .query_first("SELECT id FROM information_schema.collations WHERE collation_name = 'latin1_german2_ci'")
        .await
        .unwrap();
    assert_eq!(context.charset.map(|ids| ids[1]), connection);
    assert_eq!(context.collation_database, Some(46), "utf8mb4_bin");
}

#[tokio::test]
async fn what_changes_no_data_elsewhere_only_moves_the_position() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)", "CREATE DATABASE IF NOT EXISTS towline"]).await;
    let captured = tail
        .run(&[
            "ANALYZE TABLE t",
            "OPTIMIZE TABLE t",
            "FLUSH TABLES",
            "CREATE TABLE towline.x (a INT)",
            "INSERT INTO towline.x VALUES (1)",
            "DROP TABLE towline.x",
            "CREATE TEMPORARY TABLE s (a INT)",
            "INSERT INTO s VALUES (1)",
            "DROP TEMPORARY TABLE s",
            "TRUNCATE mysql.slow_log",
            "CREATE TABLE mysql.next LIKE mysql.slow_log",
            "RENAME TABLE mysql.slow_log TO mysql.old, mysql.next TO mysql.slow_log",
            "DROP TABLE mysql.old",
        ])
        .await;
    assert!(captured.len() >= 10, "{captured:?}");
    for captured in captured {
        assert_eq!(captured.transaction.changes, [], "{captured:?}");
    }
}

#[tokio::test]
async fn rows_of_towline_stay_while_others_of_the_statement_travel() {
    let mut tail = Tail::start(&[
        "CREATE DATABASE IF NOT EXISTS towline",
        "CREATE TABLE towline.x (a INT)",
        "CREATE TABLE t (a INT)",
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW INSERT INTO towline.x VALUES (NEW.a)",
    ])
    .await;
    let captured = tail.run(&["INSERT INTO t VALUES (1)"]).await;
    let [rows] = rows(&captured[0])[..] else { panic!("{captured:?}") };
    assert_eq!(events(&rows.maps.0).len(), 1);
    let all = events(&rows.events.0);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0][19 + 6] & 1, 1, "the last event that travels ends the statement");
    assert!(rows.ends && rows.tables.iter().all(|of| of.table == "t"));
}

#[tokio::test]
async fn statements_logged_as_text_stop_capture() {
    let cases: [&[&str]; 5] = [
        &["SET binlog_format = STATEMENT", "INSERT INTO t VALUES (1)"],
        &["SET binlog_format = STATEMENT, @v = 1", "INSERT INTO t VALUES (@v)"],
        &["SET binlog_format = STATEMENT", "INSERT INTO t VALUES (RAND())"],
        &["SET binlog_format = MIXED", "CREATE TEMPORARY TABLE s (a INT)"],
        &["SET binlog_format = STATEMENT", "INSERT INTO k VALUES (NULL)"],
    ];
    for statements in cases {
        let mut tail =
            Tail::start(&["CREATE TABLE t (a DOUBLE)", "CREATE TABLE k (a INT PRIMARY KEY AUTO_INCREMENT)"]).await;
        let error = tail.stopped_by(statements).await;
        assert!(!error.is_transient());
        let text = error.to_string();
        assert!(text.contains("binlog_format=ROW") && text.contains("GTID 0-"), "{statements:?}: {text}");
    }
}

#[tokio::test]
async fn what_cannot_travel_stops_capture_and_says_what_it_was() {
    let cases: [(&[&str], &str); 7] = [
        (
            &[
                "CREATE TABLE v (a INT, s BIGINT UNSIGNED AS ROW START, e BIGINT UNSIGNED AS ROW END, \
                 PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING",
                "INSERT INTO v (a) VALUES (1)",
            ],
            "versioned by TIMESTAMP",
        ),
        (&["DELETE FROM mysql.help_topic LIMIT 1", "INSERT INTO mysql.time_zone VALUES (77, 'N')"], "mysql.time_zone"),
        (&["TRUNCATE TABLE mysql.time_zone"], "mysql (TRUNCATE"),
        (
            &["CREATE DATABASE IF NOT EXISTS towline", "CREATE TABLE towline.x (a INT)", "DROP TABLE t, towline.x"],
            "together",
        ),
        (&["SET gtid_domain_id = 7", "INSERT INTO t VALUES (1)"], "second server or domain"),
        (
            &[
                "CREATE USER someone",
                "SET GLOBAL gtid_strict_mode = 0",
                "SET gtid_seq_no = 1",
                "INSERT INTO t VALUES (1)",
            ],
            "does not follow",
        ),
        (
            &[
                "GRANT SELECT ON *.* TO someone IDENTIFIED BY 'secret'",
                "SET binlog_format = STATEMENT",
                "INSERT INTO t SELECT 'secret' AS password",
            ],
            "not shown",
        ),
    ];
    for (statements, expected) in cases {
        let mut tail = Tail::start(&["CREATE TABLE t (a TEXT)"]).await;
        let error = tail.stopped_by(statements).await;
        let text = error.to_string();
        assert!(text.contains(expected), "{statements:?}: {text}");
        assert!(!error.is_transient() && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn capture_goes_on_after_any_transaction() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)"]).await;
    let statements: Vec<String> = (0..20).map(|n| format!("INSERT INTO t VALUES ({n})")).collect();
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let all: Vec<Transaction> = tail.run(&statements).await.into_iter().map(|captured| captured.transaction).collect();
    tail.execute(&["FLUSH BINARY LOGS"]).await;
    for (n, from) in all.iter().enumerate() {
        let from = from.mark();
        let mut again = Capture::open(&options(tail.server.opts(), from)).await.unwrap();
        for expected in &all[n + 1..] {
            let captured = timeout(DEADLINE, again.next()).await.unwrap().unwrap();
            assert_eq!(captured.transaction, *expected);
        }
    }
}

#[tokio::test]
async fn waiting_can_be_given_up_at_any_time() {
    let mut tail = Tail::start(&["CREATE TABLE t (a TEXT)"]).await;
    tail.execute(&["INSERT INTO t SELECT REPEAT('x', 1000) FROM seq_1_to_5000"]).await;
    let mut given_up = 0;
    let captured = loop {
        match timeout(Duration::from_micros(50), tail.capture.next()).await {
            Ok(captured) => break captured.unwrap(),
            Err(_) => given_up += 1,
        }
    };
    assert!(given_up > 0, "nothing was given up, so nothing was tested");
    let bytes: usize = rows(&captured).iter().map(|rows| rows.events.0.len()).sum();
    assert!(bytes > 5_000_000, "{bytes}");
}

#[tokio::test]
async fn a_binlog_that_no_longer_reaches_back_asks_for_a_snapshot() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)"]).await;
    let old = tail.at.clone();
    let (file,): (String,) = {
        tail.run(&["INSERT INTO t VALUES (1)", "FLUSH BINARY LOGS", "INSERT INTO t VALUES (2)"]).await;
        let row: mysql_async::Row = tail.conn.query_first("SHOW MASTER STATUS").await.unwrap().unwrap();
        (row.get(0).unwrap(),)
    };
    let opts = tail.server.opts();
    // The server keeps files that a reader may still need.
    drop(tail.capture);
    crate::support::eventually("the files are purged", async || {
        tail.conn.query_drop(format!("PURGE BINARY LOGS TO '{file}'")).await.unwrap();
        let left: Vec<mysql_async::Row> = tail.conn.query("SHOW BINARY LOGS").await.unwrap();
        if left.len() == 1 { Ok(()) } else { Err(left.len()) }
    })
    .await;
    for from in [Mark::default(), old] {
        let mut capture = Capture::open(&options(opts.clone(), from)).await.unwrap();
        let error = capture.next().await.expect_err("the binlog is gone");
        assert!(matches!(error, CaptureError::BinlogGone { .. }), "{error}");
        assert!(!error.is_transient() && error.to_string().contains("snapshot"), "{error}");
    }
}

/// Starts the server of a folder.
async fn start(folder: &Path) -> ManagedServer {
    ManagedServer::start(ManagedOptions::new(folder, Role::Master)).await.unwrap()
}

async fn run(server: &ManagedServer, statements: &[&str]) {
    let mut conn = Conn::new(server.opts()).await.unwrap();
    for sql in statements {
        conn.query_drop(*sql).await.unwrap();
    }
}

/// All transactions of a server; those above the limit are read a second time.
async fn all_of(server: &ManagedServer, transaction_bytes_max: usize) -> Result<Vec<Transaction>, CaptureError> {
    let mut conn = Conn::new(server.opts()).await.unwrap();
    let last: Option<String> = conn.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
    let mut options = CaptureOptions { transaction_bytes_max, ..options(server.opts(), Mark::default()) };
    let mut capture = Capture::open(&options).await?;
    let mut all = Vec::new();
    while Some(&options.from.gtid) != last.as_ref() {
        let Captured { mut transaction, streamed, .. } = timeout(DEADLINE, capture.next()).await.unwrap()?;
        if let Some(streamed) = streamed {
            let mut changes = Rereading::open(&options, &transaction.gtid, &streamed).await?;
            while let Some(change) = timeout(DEADLINE, changes.next()).await.unwrap()? {
                transaction.changes.push(change);
            }
        }
        options.from = transaction.mark();
        all.push(transaction);
    }
    Ok(all)
}

const THREE: [&str; 3] = ["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT)", "INSERT INTO shop.t VALUES (1)"];
/// What a transaction begins with: the first 30 bytes of a GTID event of 42.
const TORN: [u8; 30] = {
    let mut torn = [0; 30];
    torn[4] = 162;
    torn[5] = 1;
    torn[9] = 42;
    torn
};

fn append(file: &Path, bytes: &[u8]) {
    File::options().append(true).open(file).unwrap().write_all(bytes).unwrap();
}

/// Whoever starts before the torn place is not read past it by the server itself.
#[tokio::test]
async fn a_part_of_an_event_that_a_dying_server_has_left_is_passed_over_unless_more_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    copy_template(folder.path()).await;
    let file = folder.path().join("mariadb/binlog.000001");
    let server = start(folder.path()).await;
    run(&server, &THREE).await;
    assert_eq!(all_of(&server, usize::MAX).await.unwrap().len(), 3);
    server.stop().await;
    let bytes = fs::read(&file).unwrap();
    append(&file, &TORN);
    let server = start(folder.path()).await;
    run(&server, &["INSERT INTO shop.t VALUES (2)"]).await;
    let all = all_of(&server, usize::MAX).await.unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(all_of(&server, 1).await.unwrap(), all, "read a second time, too");
    server.stop().await;

    // A committed transaction is cut, and not only what comes behind it.
    fs::write(&file, &bytes[..bytes.len() - 40]).unwrap();
    let error = all_of(&start(folder.path()).await, usize::MAX).await.expect_err("a transaction is missing");
    assert!(matches!(error, CaptureError::BinlogGone { .. }), "{error}");
    assert!(error.to_string().contains("begins after number 3"), "{error}");
}

/// Appends what the last transaction of a file begins with, as one of the next number; if it is to be torn, with a half of
/// its row event only.
fn append_begun(file: &Path, torn: bool) {
    const HEADER: usize = 19;
    const CRC: usize = 4;
    let bytes = fs::read(file).unwrap();
    let all = events(&bytes[4..]);
    let from = all.iter().rposition(|event| event[4] == 162).expect("a GTID");
    let rows = from + all[from..].iter().position(|event| event[4] == 23).expect("rows");
    let mut gtid = all[from].to_vec();
    let number = u64::from_le_bytes(gtid[HEADER..HEADER + 8].try_into().unwrap()) + 1;
    gtid[HEADER..HEADER + 8].copy_from_slice(&number.to_le_bytes());
    let content = gtid.len() - CRC;
    let crc = crc32fast::hash(&gtid[..content]);
    gtid[content..].copy_from_slice(&crc.to_le_bytes());
    let begun = [gtid, all[from + 1..=rows].concat()].concat();
    append(file, &begun[..begun.len() - if torn { all[rows].len() / 2 } else { 0 }]);
}

/// Whoever starts before it passes it, and whoever starts behind it does not.
#[tokio::test]
async fn what_a_dying_server_has_left_of_a_transaction_is_not_taken_for_the_one_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    copy_template(folder.path()).await;
    let mut server = start(folder.path()).await;
    run(&server, &THREE).await;
    for (torn, file) in [(false, "mariadb/binlog.000001"), (true, "mariadb/binlog.000002")] {
        server.stop().await;
        append_begun(&folder.path().join(file), torn);
        server = start(folder.path()).await;
        run(&server, &["INSERT INTO shop.t VALUES (2), (3)"]).await;
        let all = all_of(&server, usize::MAX).await.unwrap();
        assert!(all.iter().all(|transaction| transaction.changes.len() == 1), "{all:?}");
        assert_eq!(all_of(&server, 1).await.unwrap(), all, "{file}");
    }
}

/// MySQL itself cuts off what it has left when it died: what is torn after all stops capture.
#[tokio::test]
async fn a_part_of_an_event_in_mysqls_binlog_is_an_error() {
    let Some(server) = Mysql9::start_with(&[]).await else { return };
    server.run(&["CREATE DATABASE shop", "FLUSH BINARY LOGS", "CREATE TABLE shop.t (i INT)"]).await;
    let mut conn = server.connect().await;
    let files: Vec<(String, u64, String)> = conn.query("SHOW BINARY LOGS").await.unwrap();
    append(&server.data_dir().join(&files[files.len() - 2].0), &TORN);
    let mut capture = Capture::open(&options(server.opts(), Mark::default())).await.unwrap();
    let error = loop {
        if let Err(error) = timeout(DEADLINE, capture.next()).await.expect("an answer") {
            break error;
        }
    };
    assert!(error.to_string().contains("truncated") && !error.is_transient(), "{error}");
}

/// Numbers that have no order among one another: of another server, and with a tag.
#[tokio::test]
async fn what_has_no_order_with_the_rest_stops_capture_of_mysql() {
    let Some(server) = Mysql9::start_with(&[]).await else { return };
    server.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT)"]).await;
    let mut conn = server.connect().await;
    let foreign = "SET gtid_next = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:5'";
    for (gtid, says) in [("SET gtid_next = 'AUTOMATIC:tag'", "a GTID with a tag"), (foreign, "a second server")] {
        let insert = "INSERT INTO shop.t VALUES (1)";
        for sql in ["RESET BINARY LOGS AND GTIDS", insert, gtid, insert, "SET gtid_next = 'AUTOMATIC'"] {
            conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let mut capture = Capture::open(&options(server.opts(), Mark::default())).await.unwrap();
        let first = timeout(DEADLINE, capture.next()).await.expect("an answer").expect("a transaction");
        assert_eq!(first.transaction.position.seq.0, 1);
        let error = timeout(DEADLINE, capture.next()).await.expect("an answer").expect_err("capture was to stop");
        assert!(error.to_string().contains(says) && !error.is_transient(), "{gtid}: {error}");
    }
}

#[tokio::test]
async fn another_history_is_a_fork() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)"]).await;
    tail.run(&["INSERT INTO t VALUES (1)"]).await;
    let known = tail.at.clone();
    let forked = |gtid: String| Mark { gtid, ..known.clone() };
    for gtid in [format!("0-77-{}", known.position.seq), format!("{}000", known.gtid), "7-1-1".into(), "no GTID".into()]
    {
        let error = error_from(&tail.server.opts(), forked(gtid.clone())).await;
        assert!(matches!(error, CaptureError::Forked { .. }), "{gtid}: {error}");
        assert!(!error.is_transient());
    }
}

/// As after a dump was restored: what others have numbered is in the data and not in the binlog.
#[tokio::test]
async fn mysql_may_have_had_the_transactions_of_others_but_not_another_history() {
    let Some(server) = Mysql9::start_with(&[]).await else { return };
    server.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT)", "INSERT INTO shop.t VALUES (1)"]).await;
    let mut capture = Capture::open(&options(server.opts(), Mark::default())).await.unwrap();
    let first = timeout(DEADLINE, capture.next()).await.expect("an answer").expect("a transaction").transaction;
    let known = first.mark();
    server.run(&["SET GLOBAL gtid_purged = '+aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:1-5:7'"]).await;

    let mut capture = Capture::open(&options(server.opts(), known.clone())).await.unwrap();
    let next = timeout(DEADLINE, capture.next()).await.expect("an answer").expect("the second transaction");
    assert_eq!(next.transaction.position.seq.0, 2);
    let (_, number) = known.gtid.split_once(':').unwrap();
    let other = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb";
    for gtid in [format!("{}000", known.gtid), format!("{other}:{number}"), "no GTID".to_owned()] {
        let error = error_from(&server.opts(), Mark { gtid: gtid.clone(), ..known.clone() }).await;
        assert!(matches!(error, CaptureError::Forked { .. }) && !error.is_transient(), "{gtid}: {error}");
    }
    let error = error_from(&server.opts(), Mark::default()).await;
    assert!(matches!(error, CaptureError::BinlogGone { .. }), "the beginning lacks what was restored: {error}");
}

/// Why nothing can be read behind a place.
async fn error_from(server: &Opts, from: Mark) -> CaptureError {
    match Capture::open(&options(server.clone(), from)).await {
        Ok(mut capture) => timeout(DEADLINE, capture.next()).await.expect("an answer").expect_err("to be refused"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_binlog_that_does_not_begin_with_the_first_transaction_asks_for_a_snapshot() {
    let server = TestServer::start(Role::Master).await;
    let mut conn = server.connect().await;
    for sql in ["RESET MASTER", "SET gtid_seq_no = 500", "CREATE DATABASE shop"] {
        conn.query_drop(sql).await.unwrap();
    }
    let mut capture = Capture::open(&options(server.opts(), Mark::default())).await.unwrap();
    let error = capture.next().await.expect_err("the first transaction is not number 1");
    assert!(matches!(error, CaptureError::BinlogGone { .. }), "{error}");
}

#[tokio::test]
async fn a_transaction_above_the_limit_is_not_held_and_reads_the_same_a_second_time() {
    let setup = ["CREATE TABLE t (a LONGTEXT, b INT)", "CREATE TABLE plain (a INT) ENGINE=MyISAM"];
    let mut tail = Tail::start(&setup).await;
    let cases: [&[&str]; 4] = [
        &["INSERT INTO t SELECT REPEAT('x', 1000), seq FROM seq_1_to_5000", "UPDATE t SET b = b + 1"],
        &["INSERT INTO t VALUES (REPEAT('x', 3000000), 1)"],
        // The server writes a rollback down only where something in the transaction could not be rolled back.
        &[
            "INSERT INTO t SELECT REPEAT('y', 1000), seq FROM seq_1_to_3000",
            "SAVEPOINT here",
            "CREATE TEMPORARY TABLE gone (a INT)",
            "INSERT INTO t SELECT REPEAT('z', 1000), seq FROM seq_1_to_3000",
            "INSERT INTO plain VALUES (1)",
            "ROLLBACK TO here",
            "INSERT INTO t VALUES ('again', 0)",
            "INSERT INTO plain VALUES (2)",
            "ROLLBACK TO here",
            "INSERT INTO t VALUES ('last', 0)",
        ],
        &["CREATE TABLE made AS SELECT * FROM t"],
    ];
    let mut other: Option<Streamed> = None;
    for statements in cases {
        let before = tail.at.clone();
        let statements = [&["BEGIN"], statements, &["COMMIT"]].concat();
        let whole = tail.run(&statements).await;
        let small = CaptureOptions { transaction_bytes_max: 1 << 20, ..options(tail.server.opts(), before.clone()) };
        let mut capture = Capture::open(&small).await.unwrap();
        let mut from = before;
        let mut streamed = 0;
        for expected in &whole {
            let captured = timeout(DEADLINE, capture.next()).await.unwrap().unwrap();
            let mut transaction = captured.transaction;
            if let Some(left_out) = &captured.streamed {
                assert_eq!(transaction.changes, []);
                let options = CaptureOptions { from, ..small.clone() };
                let mut changes = Rereading::open(&options, &transaction.gtid, left_out).await.unwrap();
                while let Some(change) = timeout(DEADLINE, changes.next()).await.unwrap().unwrap() {
                    transaction.changes.push(change);
                }
                // As if it had been another the first time.
                if let Some(other) = other.replace(left_out.clone()) {
                    let mut changes = Rereading::open(&options, &transaction.gtid, &other).await.unwrap();
                    let error = loop {
                        match timeout(DEADLINE, changes.next()).await.unwrap() {
                            Ok(change) => assert!(change.is_some(), "it ended as if it were whole"),
                            Err(error) => break error,
                        }
                    };
                    assert!(matches!(error, CaptureError::ReadOtherwise { .. }), "{error}");
                }
                streamed += 1;
            }
            assert_eq!(captured.format, expected.format);
            assert!(transaction == expected.transaction, "{statements:?}");
            from = transaction.mark();
        }
        assert_eq!(streamed, 1, "{statements:?}");
    }
}

#[tokio::test]
async fn compressed_events_are_unpacked() {
    let mut plain = Tail::start(&["CREATE TABLE t (a TEXT, b INT)"]).await;
    let mut packed = Tail::start_with(
        &["--log-bin-compress=ON", "--log-bin-compress-min-len=10"],
        &["CREATE TABLE t (a TEXT, b INT)"],
    )
    .await;
    let statements = [
        "SET timestamp = 1700000000",
        "INSERT INTO t SELECT REPEAT('x', 1000), seq FROM seq_1_to_100",
        "UPDATE t SET a = REPEAT('y', 500) WHERE b < 50",
        "DELETE FROM t",
        "CREATE TABLE u (a INT COMMENT 'a longer text, a longer text, a longer text')",
    ];
    let expected = plain.run(&statements).await;
    let captured = packed.run(&statements).await;
    let file = packed.binlog().await;
    assert!(file.len() < plain.binlog().await.len() / 4, "the server has compressed");
    for (plain, unpacked) in expected.iter().zip(&captured) {
        for (plain, unpacked) in plain.transaction.changes.iter().zip(&unpacked.transaction.changes) {
            let (Change::Rows(plain), Change::Rows(unpacked)) = (plain, unpacked) else {
                assert_eq!(plain, unpacked);
                continue;
            };
            let body = |event: &[u8]| (event[4], event[25..event.len() - 4].to_vec());
            let [plain, unpacked] =
                [plain, unpacked].map(|rows| events(&rows.events.0).into_iter().map(body).collect::<Vec<_>>());
            assert_eq!(plain.len(), unpacked.len());
            assert!(plain == unpacked, "the rows differ");
        }
    }
    assert_eq!(captured.len(), expected.len());
}

#[tokio::test]
async fn an_alter_in_two_phases_runs_once() {
    let mut tail = Tail::start(&["CREATE TABLE t (a INT)"]).await;
    let captured = tail.run(&["SET binlog_alter_two_phase = 1", "ALTER TABLE t ADD b INT"]).await;
    let changes: Vec<usize> = captured.iter().map(|captured| captured.transaction.changes.len()).collect();
    assert_eq!(changes, [0, 1], "announced, then done");
    tail.conn.query_drop("ALTER TABLE t ADD UNIQUE (a), ADD CHECK (a > 100), ALGORITHM=COPY").await.unwrap();
    tail.execute(&["INSERT INTO t (a) VALUES (101), (102)"]).await;
    let refused = tail.conn.query_drop("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 101)").await;
    assert!(refused.is_err());
    let captured = tail.rest().await.unwrap();
    let alters =
        captured.iter().filter(|captured| matches!(captured.transaction.changes[..], [Change::Schema(_)])).count();
    assert_eq!(alters, 1, "what was rolled back did not run: {captured:?}");
}

#[tokio::test]
async fn a_server_that_dies_is_a_passing_error() {
    let mut tail = Tail::start(&[]).await;
    tail.conn.disconnect().await.unwrap();
    tail.server.managed().stop().await;
    let error = timeout(DEADLINE, tail.capture.next()).await.unwrap().expect_err("the server is gone");
    assert!(error.is_transient(), "{error}");
    let error = Capture::open(&options(tail.server.opts(), tail.at)).await.expect_err("nobody there");
    assert!(matches!(error, CaptureError::Connect(_)) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_set_up_is_named_with_the_mend() {
    let server = TestServer::start_with(Role::Master, &["--binlog-checksum=NONE"]).await;
    let error = Capture::open(&options(server.opts(), Mark::default())).await.expect_err("no checksums");
    assert!(error.to_string().contains("binlog_checksum=CRC32") && !error.is_transient(), "{error}");
}
