//! Schema changes on a slave. They commit by themselves, so they can't share a transaction with the position:
//!
//! 1. [`announce`] writes down which position is about to run, and what the server's own binlog says of schema changes;
//! 2. [`run`] runs the statement under the master's context;
//! 3. [`settle`] moves the position and takes the announcement away, in one transaction.
//!
//! After a crash between 1 and 3 the server's own binlog tells whether the statement ran, exactly and whatever kind of
//! statement it was, since the applier marks schema changes there:
//!
//! - MariaDB: they are logged under a server id of their own ([`marker_id`]), and `gtid_binlog_state` keeps the last
//!   GTID of each server id. It has changed since the announcement if and only if the statement ran.
//! - MySQL: they are logged under the master's own GTID, which then is in `gtid_executed`.
//!
//! MySQL's `CREATE … SELECT` is one transaction of table and rows under that GTID; on MariaDB the rows are written in
//! step 3.
//!
//! A statement that did not run is run again. Some a server does not do in one piece with its log entry, so a crash of
//! the server may leave them done or half done without it. For these, and only after a crash, an answer that says
//! "already so" counts as done:
//!
//! | statement | in one piece | answers that mean "already so" |
//! |---|---|---|
//! | `CREATE`/`DROP DATABASE` | no, per table | 1007, 1008 |
//! | `DROP TABLE`, `VIEW`, `SEQUENCE` | no, per name | 1051, 1092, 4091, 4092 |
//! | `CREATE`/`DROP`/`RENAME USER`, `ROLE` | no, per account | 1396 |
//! | `CREATE`/`DROP` of a routine or event | no | 1304, 1305, 1537, 1539 |
//! | `TRUNCATE`, `GRANT`, `REVOKE`, `SET PASSWORD` | – | none needed: twice is the same as once |
//! | all others: `CREATE TABLE`, `VIEW`, `INDEX`, `TRIGGER`, `ALTER …`, `RENAME TABLE` | yes | none: the log decides |
//!
//! One that ended with an error on the master when it had done a part (`DROP USER a, nobody`) may end with the same here.
//!
//! A statement that the server refused takes its announcement back, so that a later try is no crash either.
//!
//! Source: <https://mariadb.com/kb/en/atomic-ddl/>, <https://mariadb.com/kb/en/gtid/#gtid_binlog_state>.

use mysql_async::prelude::Queryable;

use super::{
    apply_session::{ApplyError, ApplySession, Unapplicable, Unfit},
    protocol::{Change, Context, Format, Mark, SchemaChange, Transaction},
    streamed_rows::Rows,
    tables::slave::{self, Announced},
};
use crate::fail_point::FailPoint;

/// The schema change of a transaction, and whether rows follow it (`CREATE … SELECT`).
///
/// # Errors
/// When there are others besides it.
pub(crate) fn schema_change_of(transaction: &Transaction) -> Result<Option<&SchemaChange>, Unapplicable> {
    let mut changes = transaction.changes.iter();
    let first = match changes.next() {
        Some(Change::Schema(first)) => Some(first),
        _ => None,
    };
    match changes.any(|change| matches!(change, Change::Schema(_))) {
        true => Err(Unapplicable::Mixed),
        false => Ok(first),
    }
}

/// Whether a schema change was left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// It was announced just now: it has not run.
    New,
    /// It was announced before a crash, and the server's log says that it did not run.
    NotRun,
    /// It was announced before a crash, and the server's log says that it ran.
    Ran,
}

/// Writes the announcement, or finds the one that a crash left.
pub(crate) async fn announce(
    session: &mut ApplySession,
    transaction: &Transaction,
) -> Result<Announcement, ApplyError> {
    let mark = transaction.mark();
    let log = log_of_schema_changes(session, &mark).await?;
    match slave::announced(&mut session.conn).await? {
        Some(found) if !found.mark.is_same(&mark) => {
            let [announced, next] = [&found.mark, &mark].map(|mark| format!("{} ({})", mark.position, mark.gtid));
            Err(Unapplicable::OtherAnnounced { announced, next }.into())
        }
        Some(found) if found.log_before != log => Ok(Announcement::Ran),
        Some(_) => Ok(Announcement::NotRun),
        None if !session.is_mariadb && log == EXECUTED => Err(Unapplicable::AlreadyExecuted(mark.gtid).into()),
        None => {
            slave::announce(&mut session.conn, &Announced { mark, log_before: log }).await?;
            FailPoint::Announced.pass();
            Ok(Announcement::New)
        }
    }
}

/// The rows that follow a schema change in its transaction (`CREATE … SELECT`).
pub(crate) struct RowsBehind<'a> {
    pub(crate) format: Option<&'a Format>,
    pub(crate) rows: Rows<'a>,
}

/// Runs the statement under its context, and puts the session back. Not called when it [ran](Announcement::Ran).
pub(crate) async fn run(
    session: &mut ApplySession,
    gtid: &str,
    change: &SchemaChange,
    rows: &mut RowsBehind<'_>,
    announcement: Announcement,
) -> Result<(), ApplyError> {
    let kind = Kind::of(&change.sql.0);
    let result = run_marked(session, gtid, change, rows, &kind).await;
    let result = as_on_master(gtid, change, result);
    if !session.conn.is_disconnected() {
        session.restore().await?;
        FailPoint::SessionRestored.pass();
    }
    match result {
        Err(error) if announcement == Announcement::NotRun && kind.already_so(error.code()) => Ok(()),
        Err(error) if announcement == Announcement::New && error.code().is_some() && !session.is_broken() => {
            slave::finish_announced(&mut session.conn).await?;
            Err(told_of_right(gtid, error))
        }
        other => other.map_err(|error| told_of_right(gtid, error)),
    }
}

/// The server's text does not say what is to be done where, and the applier tries again until it is.
fn told_of_right(gtid: &str, error: ApplyError) -> ApplyError {
    // Of a schema, an account, a table, a column, a routine, everything.
    const NO_RIGHT: [u16; 6] = [1044, 1045, 1142, 1143, 1370, 1227];
    match error {
        ApplyError::MySql(mysql_async::Error::Server(error)) if NO_RIGHT.contains(&error.code) => {
            Unfit::Right { gtid: gtid.to_owned(), error }.into()
        }
        other => other,
    }
}

/// A statement that failed on the master when it had done a part fails here by the same; one on an account that this
/// server has of its own may be about none.
fn as_on_master(gtid: &str, change: &SchemaChange, result: Result<(), ApplyError>) -> Result<(), ApplyError> {
    // There is no such account, or it is there, or has no such right.
    const NOT_HERE: [u16; 6] = [1133, 1141, 1147, 1269, 1396, 1410];
    let code = result.as_ref().map_or_else(ApplyError::code, |()| Some(0));
    match result {
        Err(_) if code == Some(change.error) => Ok(()),
        Err(error) if change.own_account && code.is_some_and(|code| NOT_HERE.contains(&code)) => {
            tracing::warn!(
                gtid,
                %error,
                "a statement on an account that each server has of its own (root, or a node's) does not fit this server's and \
                 is passed over; do by hand what is wanted here"
            );
            Ok(())
        }
        // Nothing is lost by it: a snapshot leaves out what can't be made, and holds no rows.
        Err(error) if is_drop_of_left_out(&change.sql.0, code) => {
            tracing::warn!(gtid, %error, "a view or trigger is dropped that is not here");
            Ok(())
        }
        Err(error) if is_drop_without_schema(&change.sql.0, code) => {
            tracing::warn!(gtid, %error, "nothing is dropped in a schema that was dropped before");
            Ok(())
        }
        Ok(()) if change.error != 0 => {
            tracing::warn!(
                gtid,
                error = change.error,
                "a statement of which the master could do only a part was done whole"
            );
            Ok(())
        }
        result => result,
    }
}

fn is_drop_of_left_out(sql: &[u8], code: Option<u16>) -> bool {
    let kind = Kind::of(sql);
    match kind.object() {
        "VIEW" => kind.verb() == "DROP" && matches!(code, Some(1051 | 4092)),
        "TRIGGER" => kind.verb() == "DROP" && code == Some(1360),
        _ => false,
    }
}

/// Whether it dropped one thing, if it was there, in a default schema that was not.
fn is_drop_without_schema(sql: &[u8], code: Option<u16>) -> bool {
    const NO_SCHEMA: u16 = 1046;
    let may_lack = sql.to_ascii_uppercase().windows(9).any(|words| words == b"IF EXISTS");
    let names_others = sql.contains(&b'.') || sql.contains(&b',');
    code == Some(NO_SCHEMA) && Kind::of(sql).verb() == "DROP" && may_lack && !names_others
}

/// Moves the position past the schema change, on MariaDB together with the rows that belong to it.
pub(crate) async fn settle(
    session: &mut ApplySession,
    transaction: &Transaction,
    rows: &mut RowsBehind<'_>,
) -> Result<(), ApplyError> {
    let mut written = Rows::Built(&[]);
    let left = if session.is_mariadb { &mut rows.rows } else { &mut written };
    session.commit_rows(rows.format, left, transaction, true).await
}

async fn run_marked(
    session: &mut ApplySession,
    gtid: &str,
    change: &SchemaChange,
    rows: &mut RowsBehind<'_>,
    kind: &Kind,
) -> Result<(), ApplyError> {
    let context = &change.context;
    if !context.schema.is_empty() {
        match session.conn.query_drop(format!("USE {}", quoted_name(&context.schema))).await {
            // The binlog gives a database statement the very database as its schema.
            Err(mysql_async::Error::Server(error)) if error.code == 1049 && kind.is_about_database() => {}
            // It was dropped before this, by another session.
            Err(mysql_async::Error::Server(error)) if error.code == 1049 => session.leave_schema().await?,
            other => other?,
        }
    }
    if let Some(format) = rows.format.filter(|_| !session.is_mariadb) {
        session.tell_format(format).await?;
    }
    session.conn.query_drop(context_statement(context, session.is_mariadb)).await?;
    set_default_collations(session, gtid, context).await?;
    if session.is_mariadb {
        session.conn.query_drop(format!("SET SESSION server_id = {}", marker_id(session.server_id))).await?;
        FailPoint::ContextSet.pass();
        session.conn.query_drop(change.sql.0.as_slice()).await?;
        FailPoint::SchemaChanged.pass();
        return Ok(());
    }
    session.conn.query_drop(format!("SET SESSION gtid_next = {}", quoted_text(gtid))).await?;
    FailPoint::ContextSet.pass();
    let result = run_under_gtid(session, &change.sql.0, &mut rows.rows).await;
    FailPoint::SchemaChanged.pass();
    if !session.conn.is_disconnected() {
        session.conn.query_drop("ROLLBACK").await?;
        session.conn.query_drop("SET SESSION gtid_next = 'AUTOMATIC'").await?;
    }
    result
}

/// MySQL logs `CREATE … SELECT` as a `CREATE TABLE … START TRANSACTION` with the rows behind it. Table and rows are
/// committed as one, under the master's GTID; nothing but rows is allowed in between, so the position comes behind.
async fn run_under_gtid(session: &mut ApplySession, sql: &[u8], rows: &mut Rows<'_>) -> Result<(), ApplyError> {
    session.conn.query_drop(sql).await?;
    if !sql.to_ascii_uppercase().ends_with(b"START TRANSACTION") {
        return Ok(());
    }
    match rows {
        Rows::Built(statements) => session.write(statements).await?,
        Rows::Streamed(streamed) => {
            while let Some(statements) = streamed.next().await? {
                session.write(&statements).await?;
            }
        }
    }
    Ok(session.conn.query_drop("COMMIT").await?)
}

/// The server id under which a server with this id logs schema changes that it applies.
pub(crate) fn marker_id(server_id: u32) -> u32 {
    match server_id ^ (1 << 31) {
        0 => u32::MAX,
        id => id,
    }
}

const EXECUTED: &str = "executed";

/// What the server's own binlog says of schema changes: it differs before and after one.
async fn log_of_schema_changes(session: &mut ApplySession, mark: &Mark) -> Result<String, ApplyError> {
    if !session.is_mariadb {
        let executed: Option<bool> =
            session.conn.exec_first("SELECT GTID_SUBSET(?, @@global.gtid_executed)", (&mark.gtid,)).await?;
        return Ok(if executed == Some(true) { EXECUTED } else { "" }.to_owned());
    }
    let state: Option<String> = session.conn.query_first("SELECT @@global.gtid_binlog_state").await?;
    let marker = marker_id(session.server_id).to_string();
    // `domain-server-seq`, one for each pair of domain and server.
    let marked = |gtid: &&str| gtid.split('-').nth(1) == Some(&marker);
    Ok(state.unwrap_or_default().split(',').map(str::trim).filter(marked).collect::<Vec<_>>().join(","))
}

/// Which collations character sets have by themselves. Servers before MariaDB 11.2 have their own, and no say in it.
async fn set_default_collations(session: &mut ApplySession, gtid: &str, context: &Context) -> Result<(), ApplyError> {
    let Some(ids) = &context.character_set_collations else { return Ok(()) };
    match session.conn.query_drop(collations_statement(ids)).await {
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_VARIABLE => {
            tracing::warn!(
                gtid,
                "this server has no character_set_collations: what names a character set without a collation may get another \
                 one than on the master; let both be of one version"
            );
            Ok(())
        }
        other => Ok(other?),
    }
}

/// The server's error number for a variable that it does not have.
const UNKNOWN_VARIABLE: u16 = 1193;

fn collations_statement(ids: &[u16]) -> String {
    if ids.is_empty() {
        return "SET SESSION character_set_collations = ''".to_owned();
    }
    let ids = ids.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "SET SESSION character_set_collations = (SELECT GROUP_CONCAT(CHARACTER_SET_NAME, '=', FULL_COLLATION_NAME) \
         FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IN ({ids}))"
    )
}

/// One `SET` of everything that the context holds.
fn context_statement(context: &Context, is_mariadb: bool) -> String {
    // As a number the variable takes a character set's default collation only, and the binlog may name another.
    let collations = if is_mariadb { "COLLATION_CHARACTER_SET_APPLICABILITY" } else { "COLLATIONS" };
    let client_charset = |id| {
        format!(
            "character_set_client = (SELECT CHARACTER_SET_NAME FROM information_schema.{collations} WHERE ID = {id})"
        )
    };
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} = {value}"));
    let flag = |name: &str, value: Option<bool>| number(name, value.map(u64::from));
    let [client, connection, server] = context.charset.map_or([None; 3], |ids| ids.map(|id| Some(u64::from(id))));
    let [increment, offset] = context.auto_increment.map_or([None; 2], |both| both.map(|n| Some(u64::from(n))));
    let timestamp_us = context.timestamp_us;
    [
        Some(format!("timestamp = {}.{:06}", timestamp_us / 1_000_000, timestamp_us % 1_000_000)),
        number("sql_mode", context.sql_mode),
        flag("foreign_key_checks", context.foreign_key_checks),
        flag("unique_checks", context.unique_checks),
        flag("sql_auto_is_null", context.sql_auto_is_null),
        flag("check_constraint_checks", context.check_constraint_checks),
        client.map(client_charset),
        number("collation_connection", connection),
        number("collation_server", server),
        number("collation_database", context.collation_database.map(u64::from)),
        number("default_collation_for_utf8mb4", context.default_collation_for_utf8mb4.map(u64::from)),
        context.time_zone.as_ref().map(|zone| format!("time_zone = {}", quoted_text(zone))),
        number("lc_time_names", context.lc_time_names.map(u64::from)),
        number("auto_increment_increment", increment),
        number("auto_increment_offset", offset),
        flag("explicit_defaults_for_timestamp", context.explicit_defaults_for_timestamp),
        flag("sql_if_exists", context.sql_if_exists),
    ]
    .into_iter()
    .flatten()
    .fold(String::from("SET SESSION "), |mut statement, setting| {
        if !statement.ends_with(' ') {
            statement.push_str(", ");
        }
        statement + &setting
    })
}

fn quoted_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// In hexadecimal: no character can end it early, whatever `sql_mode` and character set are.
fn quoted_text(text: &str) -> String {
    text.bytes().fold(String::from("X'"), |hex, byte| hex + &format!("{byte:02x}")) + "'"
}

/// What a statement does, as far as a second run is concerned: its first words, in upper case.
#[derive(Debug, PartialEq, Eq)]
struct Kind(Vec<String>);

impl Kind {
    const WORDS_MAX: usize = 12;

    fn of(sql: &[u8]) -> Self {
        Self(words(sql).take(Self::WORDS_MAX).collect())
    }

    fn verb(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// What is created or dropped: the first such word, so that a name further on does not count.
    fn object(&self) -> &str {
        const OBJECTS: [&str; 14] = [
            "DATABASE",
            "SCHEMA",
            "TABLE",
            "TABLES",
            "VIEW",
            "SEQUENCE",
            "INDEX",
            "USER",
            "ROLE",
            "TRIGGER",
            "PROCEDURE",
            "FUNCTION",
            "PACKAGE",
            "EVENT",
        ];
        self.0.iter().skip(1).map(String::as_str).find(|word| OBJECTS.contains(word)).unwrap_or("")
    }

    fn is_about_database(&self) -> bool {
        matches!(self.object(), "DATABASE" | "SCHEMA")
    }

    /// Whether an error means that an announced statement, run again, had been done (see the module's table).
    fn already_so(&self, code: Option<u16>) -> bool {
        let codes: &[u16] = match (self.verb(), self.object()) {
            ("CREATE" | "DROP", "DATABASE" | "SCHEMA") => &[1007, 1008],
            ("DROP", "TABLE" | "TABLES" | "VIEW" | "SEQUENCE") => &[1051, 1092, 4091, 4092],
            ("CREATE" | "DROP" | "RENAME", "USER" | "ROLE") => &[1396],
            ("CREATE" | "DROP", "PROCEDURE" | "FUNCTION" | "PACKAGE" | "EVENT") => &[1304, 1305, 1537, 1539],
            _ => &[],
        };
        code.is_some_and(|code| codes.contains(&code))
    }
}

/// The words of a statement outside of comments; those of an executable comment (`/*!50017 … */`) count.
fn words(sql: &[u8]) -> impl Iterator<Item = String> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        loop {
            let line_end = |text: &[u8]| text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1);
            rest = match rest {
                [] => return None,
                [b'/', b'*', b'!', tail @ ..] | [b'/', b'*', b'M', b'!', tail @ ..] => tail,
                [b'/', b'*', tail @ ..] => {
                    let end = tail.windows(2).position(|two| two == b"*/").map_or(tail.len(), |at| at + 2);
                    &tail[end..]
                }
                [b'#', tail @ ..] | [b'-', b'-', tail @ ..] => &tail[line_end(tail)..],
                [first, ..] if first.is_ascii_alphabetic() => {
                    let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(rest.len());
                    let (word, tail) = rest.split_at(end);
                    rest = tail;
                    return Some(String::from_utf8_lossy(word).to_ascii_uppercase());
                }
                [_, tail @ ..] => tail,
            };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_forgiven_only_by_its_kinds_own_errors() {
        let cases: [(&str, u16, bool); 14] = [
            ("CREATE TABLE t (i INT)", 1050, false),
            ("create /* of */ table user (i int)", 1396, false),
            ("CREATE DATABASE d", 1007, true),
            ("CREATE /*!50017 DEFINER=`a`@`%` */ FUNCTION f() RETURNS INT RETURN 1", 1304, true),
            ("DROP TABLE a, b", 1051, true),
            ("DROP TABLE a, b", 1050, false),
            ("-- note\nDROP DATABASE d", 1008, true),
            ("CREATE UNIQUE INDEX i ON t (a)", 1061, false),
            ("CREATE USER a IDENTIFIED BY 'x'", 1396, true),
            ("ALTER TABLE t ADD COLUMN c INT", 1060, false),
            ("RENAME TABLE a TO t, b TO a, t TO b", 1050, false),
            ("RENAME USER a TO b", 1396, true),
            ("TRUNCATE TABLE t", 1146, false),
            ("", 1050, false),
        ];
        for (sql, code, forgiven) in cases {
            assert_eq!(Kind::of(sql.as_bytes()).already_so(Some(code)), forgiven, "{sql}");
        }
        assert!(!Kind::of(b"DROP DATABASE d").already_so(None));
    }

    #[test]
    fn a_context_becomes_one_set_that_no_name_can_break_out_of() {
        let context = Context {
            timestamp_us: 1_790_000_000_000_042,
            sql_mode: Some(0),
            charset: Some([33, 45, 8]),
            time_zone: Some("x', sql_log_bin = '0".into()),
            ..Context::default()
        };
        assert_eq!(
            context_statement(&context, true),
            "SET SESSION timestamp = 1790000000.000042, sql_mode = 0, character_set_client = \
             (SELECT CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID = 33), \
             collation_connection = 45, collation_server = 8, \
             time_zone = X'78272c2073716c5f6c6f675f62696e203d202730'"
        );
        assert_eq!(quoted_name("a`b"), "`a``b`");
    }

    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process};
    use towline_middleware::{Position, Role};

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
            if announcement != Announcement::Ran {
                let change = schema_change_of(transaction).unwrap().unwrap();
                run(&mut self.session, &transaction.gtid, change, &mut no_rows(), announcement).await?;
            }
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
        SessionOptions {
            mysql: server.opts(),
            lock_wait: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// One statement a kind, several of which would do harm if run twice or not at all.
    const STATEMENTS: [&str; 22] = [
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
            let found =
                slave.apply(&transaction).await.unwrap_or_else(|error| panic!("{sql} after {crash:?}: {error}"));
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
        change.sql.0 = change
            .sql
            .0
            .iter()
            .copied()
            .filter(|byte| *byte != 0xc3)
            .map(|b| if b == 0xa4 { 0xe4 } else { b })
            .collect();
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
}
