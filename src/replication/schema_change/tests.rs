//! Each statement, run with a crash in each window.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use towline_middleware::{Position, Role};

use super::*;
use crate::{
    managed::{ManagedOptions, ManagedServer},
    replication::{apply_session::SessionOptions, protocol::Binary},
};

fn no_rows() -> RowsBehind<'static> {
    RowsBehind { format: None, rows: Rows::Built(&[]) }
}

/// A slave whose schema changes are run step by step.
struct Slave {
    server: ManagedServer,
    _folder: tempfile::TempDir,
    session: ApplySession,
    seq: u64,
}

/// Where the crash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// Between the announcement and the statement.
    BeforeRun,
    /// Between the statement and the position.
    AfterRun,
}

impl Slave {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ManagedServer::start(ManagedOptions::new(folder.path(), Role::Slave)).await.unwrap();
        let session = ApplySession::open(&options(&server)).await.unwrap();
        Self { server, _folder: folder, session, seq: 0 }
    }

    fn next(&mut self, sql: &str) -> Transaction {
        self.seq += 1;
        let context = Context { timestamp_us: 1_790_000_000_000_000, ..Context::default() };
        Transaction {
            position: Position::new(1, self.seq),
            gtid: format!("0-1-{}", self.seq),
            checksum: None,
            committed_at: 1_790_000_000,
            format: 0,
            changes: vec![Change::Schema(SchemaChange {
                sql: Binary(sql.as_bytes().to_vec()),
                context,
                error: 0,
                own_account: false,
            })],
        }
    }

    /// Announces, runs and settles what is not done yet; returns what the announcement found.
    async fn apply(&mut self, transaction: &Transaction) -> Result<Announcement, ApplyError> {
        let announcement = announce(&mut self.session, transaction).await?;
        let change = schema_change_of(transaction).unwrap().unwrap();
        run(&mut self.session, &transaction.gtid, change, &mut no_rows(), announcement).await?;
        settle(&mut self.session, transaction, &mut no_rows()).await?;
        Ok(announcement)
    }

    /// The node comes back: another session opens, and its server is known to run.
    async fn reopen(&mut self) {
        let reopened = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                match ApplySession::open(&options(&self.server)).await {
                    Ok(session) if self.server.pid().is_some() => return session,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        self.session = reopened.await.expect("a server that comes back");
    }

    /// Does the steps before the crash, crashes, and begins anew.
    async fn crash(&mut self, transaction: &Transaction, crash: Crash, kills_server: bool) {
        assert_eq!(announce(&mut self.session, transaction).await.unwrap(), Announcement::New);
        if crash == Crash::AfterRun {
            let change = schema_change_of(transaction).unwrap().unwrap();
            run(&mut self.session, &transaction.gtid, change, &mut no_rows(), Announcement::New).await.unwrap();
        }
        if kills_server {
            let pid = self.server.pid().expect("it runs");
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        } else {
            self.session.conn.query_drop("DO RELEASE_LOCK('towline.applier')").await.unwrap();
        }
        self.reopen().await;
    }

    /// What the statements make, so that one run can be told from none and from two.
    async fn outcome(&mut self) -> Vec<String> {
        let mut outcome = Vec::new();
        for query in [
            "SELECT CONCAT_WS(' ', table_name, column_name, column_type, column_key) FROM information_schema.columns \
             WHERE table_schema = 'shop' ORDER BY table_name, ordinal_position",
            "SELECT CONCAT('schema ', schema_name) FROM information_schema.schemata ORDER BY 1",
            "SELECT CONCAT(user, '@', host, ' ', priv) FROM mysql.global_priv WHERE user LIKE 'clerk%' ORDER BY 1",
            "SELECT CONCAT(event_name, ' ', status) FROM information_schema.events ORDER BY 1",
            "SELECT CONCAT(trigger_name, event_object_table) FROM information_schema.triggers ORDER BY 1",
            "SELECT CONCAT('rows of a ', COUNT(*)) FROM shop.a",
            "SELECT CONCAT('rows of b ', COUNT(*)) FROM shop.b",
        ] {
            outcome.extend(self.session.conn.query::<String, _>(query).await.unwrap());
        }
        outcome
    }
}

fn options(server: &ManagedServer) -> SessionOptions {
    SessionOptions { mysql: server.opts(), lock_wait: Duration::from_secs(1), connect_timeout: Duration::from_secs(5) }
}

/// One statement a kind, several of which would do harm if run twice or not at all.
const STATEMENTS: [&str; 30] = [
    "CREATE DATABASE other",
    "CREATE TABLE shop.n (i INT PRIMARY KEY)",
    "CREATE TABLE shop.copy SELECT * FROM shop.a WHERE FALSE",
    "ALTER TABLE shop.a ADD COLUMN c INT",
    "ALTER TABLE shop.a ADD COLUMN c2 INT, DROP COLUMN c",
    "CREATE UNIQUE INDEX x ON shop.a (i)",
    "DROP INDEX x ON shop.a",
    // Once it swaps the two tables; twice, or not at all, they stay.
    "RENAME TABLE shop.a TO shop.t, shop.b TO shop.a, shop.t TO shop.b",
    "TRUNCATE TABLE shop.a",
    "CREATE VIEW shop.v AS SELECT i FROM shop.n",
    "CREATE TRIGGER shop.g BEFORE INSERT ON shop.n FOR EACH ROW SET NEW.i = 1",
    "CREATE FUNCTION shop.f() RETURNS INT DETERMINISTIC RETURN 1",
    "DROP FUNCTION shop.f",
    "CREATE SEQUENCE shop.s",
    "ALTER SEQUENCE shop.s RESTART 500",
    "DROP TABLE shop.n, shop.copy",
    "DROP VIEW shop.v",
    "CREATE USER clerk IDENTIFIED BY 'x'",
    "GRANT SELECT ON *.* TO clerk",
    "RENAME USER clerk TO clerk2",
    "DROP USER clerk2",
    "DROP DATABASE other",
    "CREATE USER clerk3, clerk5",
    "ALTER USER clerk3 IDENTIFIED BY 'y'",
    "GRANT SELECT ON shop.* TO clerk3",
    "REVOKE SELECT ON shop.* FROM clerk3",
    "CREATE EVENT shop.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    "ALTER EVENT shop.e RENAME TO shop.e2",
    "CREATE DEFINER=`user`@`%` TRIGGER shop.g2 BEFORE INSERT ON shop.a FOR EACH ROW SET NEW.i = 1",
    "RENAME USER clerk3 TO clerk4, clerk5 TO clerk3, clerk4 TO clerk5",
];

const SETUP: [&str; 4] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.a (i INT)",
    "CREATE TABLE shop.b (i INT)",
    "CREATE TABLE shop.filled SELECT 1 AS one",
];

/// Those of them that a server does in several steps, or that would show if done twice. Not sequences: MariaDB 10.11
/// loses the row of one that it has created when it is killed before the next commit.
const STATEMENTS_FOR_KILLS: [&str; 6] =
    [STATEMENTS[0], STATEMENTS[1], STATEMENTS[3], STATEMENTS[7], STATEMENTS[17], STATEMENTS[21]];

/// The outcome after each statement.
async fn play(statements: &[&str], crash: Option<(Crash, bool)>) -> Vec<Vec<String>> {
    let slave = &mut Slave::start().await;
    for sql in SETUP {
        let transaction = slave.next(sql);
        slave.apply(&transaction).await.unwrap();
    }
    slave.session.conn.query_drop("INSERT INTO shop.a VALUES (1)").await.unwrap();
    let mut outcomes = Vec::new();
    for sql in statements {
        let transaction = slave.next(sql);
        let mut expected = Announcement::New;
        if let Some((crash, kills_server)) = crash {
            slave.crash(&transaction, crash, kills_server).await;
            expected = if crash == Crash::BeforeRun { Announcement::NotRun } else { Announcement::Ran };
        }
        let found = slave.apply(&transaction).await.unwrap_or_else(|error| panic!("{sql} after {crash:?}: {error}"));
        assert_eq!(found, expected, "{sql} after {crash:?}");
        assert_eq!(slave.session.record.mark.position, transaction.position);
        outcomes.push(slave.outcome().await);
    }
    outcomes
}

async fn assert_each_runs_once(statements: &[&str], kills_server: bool) {
    let (expected, before, after) = tokio::join!(
        play(statements, None),
        play(statements, Some((Crash::BeforeRun, kills_server))),
        play(statements, Some((Crash::AfterRun, kills_server))),
    );
    for (n, sql) in statements.iter().enumerate() {
        assert_eq!(expected[n], before[n], "{sql} after a crash before it");
        assert_eq!(expected[n], after[n], "{sql} after a crash behind it");
    }
}

#[tokio::test]
async fn a_crash_in_either_window_leaves_each_statement_run_once() {
    assert_each_runs_once(&STATEMENTS, false).await;
}

#[tokio::test]
async fn the_servers_own_crash_in_either_window_leaves_each_statement_run_once() {
    assert_each_runs_once(&STATEMENTS_FOR_KILLS, true).await;
}

/// As a server without room on its disk does it when it is killed (`torture::full_disk` has the real one).
#[tokio::test]
async fn what_a_server_has_in_its_log_and_lost_from_its_own_tables_is_run_again() {
    let mut slave = Slave::start().await;
    for (sql, loss, asked) in [
        ("CREATE USER clerk", "DROP USER clerk", "SELECT COUNT(*) FROM mysql.global_priv WHERE user = 'clerk'"),
        (
            "GRANT SELECT ON *.* TO clerk",
            "REVOKE SELECT ON *.* FROM clerk",
            "SELECT COUNT(*) FROM mysql.user WHERE user = 'clerk' AND select_priv = 'Y'",
        ),
        (
            "CREATE PROCEDURE mysql.p() SELECT 1",
            "DROP PROCEDURE mysql.p",
            "SELECT COUNT(*) FROM mysql.proc WHERE name = 'p'",
        ),
    ] {
        let transaction = slave.next(sql);
        let change = schema_change_of(&transaction).unwrap().unwrap();
        announce(&mut slave.session, &transaction).await.unwrap();
        run(&mut slave.session, &transaction.gtid, change, &mut no_rows(), Announcement::New).await.unwrap();
        slave.session.conn.query_drop("SET sql_log_bin = 0").await.unwrap();
        slave.session.conn.query_drop(loss).await.unwrap();
        slave.session.conn.query_drop("DO RELEASE_LOCK('towline.applier')").await.unwrap();
        slave.reopen().await;
        assert_eq!(slave.apply(&transaction).await.unwrap(), Announcement::Ran, "{sql}");
        let there: Option<u32> = slave.session.conn.query_first(asked).await.unwrap();
        assert_eq!(there, Some(1), "{sql}");
    }
}

#[tokio::test]
async fn a_refused_statement_is_no_crash() {
    let mut slave = Slave::start().await;
    slave.session.conn.query_drop("CREATE DATABASE shop").await.unwrap();
    let transaction = slave.next("CREATE DATABASE shop");
    for _ in 0..2 {
        let error = slave.apply(&transaction).await.unwrap_err();
        assert_eq!(error.code(), Some(1007), "what someone else made must not pass for done");
    }
    slave.session.conn.query_drop("DROP DATABASE shop").await.unwrap();
    assert_eq!(slave.apply(&transaction).await.unwrap(), Announcement::New);

    // Another transaction than the announced one means that someone has meddled.
    let announced = slave.next("CREATE DATABASE one");
    announce(&mut slave.session, &announced).await.unwrap();
    let other = slave.next("CREATE DATABASE two");
    let error = slave.apply(&other).await.unwrap_err();
    assert!(matches!(error, ApplyError::Unapplicable(Unapplicable::OtherAnnounced { .. })), "{error}");
}

#[tokio::test]
async fn the_context_is_in_force_for_the_statement_and_gone_behind_it() {
    let mut slave = Slave::start().await;
    let before: Vec<(String, String)> = slave.session.conn.query("SHOW SESSION VARIABLES").await.unwrap();
    let database = slave.next("CREATE DATABASE shop");
    slave.apply(&database).await.unwrap();
    let mut transaction =
        slave.next("CREATE TABLE \"t\" (s VARCHAR(9) DEFAULT '\u{e4}', at DATETIME DEFAULT '2026-02-30')");
    let Change::Schema(change) = &mut transaction.changes[0] else { unreachable!("made so by `next`") };
    change.sql.0 =
        change.sql.0.iter().copied().filter(|byte| *byte != 0xc3).map(|b| if b == 0xa4 { 0xe4 } else { b }).collect();
    change.context = Context {
        schema: "shop".into(),
        // ANSI_QUOTES and ALLOW_INVALID_DATES; latin1 from the client.
        sql_mode: Some(4 | 1 << 25),
        charset: Some([8, 8, 8]),
        time_zone: Some("+03:00".into()),
        foreign_key_checks: Some(false),
        unique_checks: Some(false),
        sql_auto_is_null: Some(true),
        check_constraint_checks: Some(false),
        collation_database: Some(8),
        lc_time_names: Some(4),
        auto_increment: Some([2, 1]),
        explicit_defaults_for_timestamp: Some(false),
        sql_if_exists: Some(false),
        ..change.context.clone()
    };
    slave.apply(&transaction).await.unwrap();
    let (_, definition): (String, String) =
        slave.session.conn.query_first("SHOW CREATE TABLE shop.t").await.unwrap().unwrap();
    assert!(definition.contains("'ä'") && definition.contains("2026-02-30"), "{definition}");
    let created: Option<u64> = slave
        .session
        .conn
        .query_first("SELECT UNIX_TIMESTAMP(create_time) FROM information_schema.tables WHERE table_name = 't'")
        .await
        .unwrap();
    assert!(created.is_some());
    let after: Vec<(String, String)> = slave.session.conn.query("SHOW SESSION VARIABLES").await.unwrap();
    let moving = [
        "timestamp",
        "gtid_binlog_pos",
        "gtid_binlog_state",
        "gtid_current_pos",
        "last_gtid",
        "rand_seed1",
        "rand_seed2",
        "insert_id",
        "identity",
        "last_insert_id",
        "error_count",
        "warning_count",
        "collation_database",
        "character_set_database",
        "pseudo_thread_id",
        "in_transaction",
    ];
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| !moving.contains(&before.0.as_str())) {
        assert_eq!(before, after);
    }
}
