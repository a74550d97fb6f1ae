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
//! | `CREATE`/`DROP` of a routine or event | no | 1125, 1304, 1305, 1537, 1539 |
//! | `ALTER EVENT` | no, when it renames | 1537, 1539 |
//! | `REVOKE` | no, per account | 1141, 1147, 1269, 1403, 1962 |
//! | `TRUNCATE`, `GRANT`, `ALTER USER`, `SET PASSWORD` | – | none needed: twice is the same as once |
//! | all others: `CREATE TABLE`, `VIEW`, `INDEX`, `TRIGGER`, `ALTER …`, `RENAME TABLE` | yes | none: the log decides |
//!
//! MariaDB's accounts, routines and events are in Aria tables, which it writes out behind its binlog and, without room on
//! its disk, not before it answers. So these statements are run again even if the log has them (but no `RENAME USER` of
//! several), and their tables are written out before the position moves.
//!
//! One that ended with an error on the master when it had done a part (`DROP USER a, nobody`) may end with the same here.
//!
//! A statement that the server refused takes its announcement back, so that a later try is no crash either.
//!
//! Source: <https://mariadb.com/kb/en/atomic-ddl/>, <https://mariadb.com/kb/en/gtid/#gtid_binlog_state>.

mod context;
mod kind;
#[cfg(test)]
mod tests;

use mysql_async::prelude::Queryable;

use self::{
    context::{collations_statement, context_statement, quoted_name, quoted_text},
    kind::Kind,
};

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

/// Runs the statement under its context, unless it [ran](Announcement::Ran) for good, and puts the session back.
pub(crate) async fn run(
    session: &mut ApplySession,
    gtid: &str,
    change: &SchemaChange,
    rows: &mut RowsBehind<'_>,
    announcement: Announcement,
) -> Result<(), ApplyError> {
    let kind = Kind::of(&change.sql.0);
    let is_in_aria = session.is_mariadb && kind.is_in_aria();
    if announcement == Announcement::Ran && (!is_in_aria || kind.is_undone_by_itself()) {
        return Ok(());
    }
    let result = run_marked(session, gtid, change, rows, &kind).await;
    let result = as_on_master(gtid, change, result);
    if !session.conn.is_disconnected() {
        session.restore().await?;
        FailPoint::SessionRestored.pass();
    }
    match result {
        Err(error) if announcement != Announcement::New && kind.already_so(error.code()) => {}
        Err(error) if announcement == Announcement::New && error.code().is_some() && !session.is_broken() => {
            slave::finish_announced(&mut session.conn).await?;
            return Err(told_of_right(gtid, error));
        }
        other => other.map_err(|error| told_of_right(gtid, error))?,
    }
    if is_in_aria {
        // An error leaves the announcement: the next try finds that it ran, and comes here again.
        write_aria_out(session).await?;
    }
    Ok(())
}

/// Writes out what MariaDB holds back of its accounts, routines and events. A table that a version lacks is passed over.
/// One after the other: all at once they would end a reader that has opened one of them and needs another, with a deadlock.
async fn write_aria_out(session: &mut ApplySession) -> Result<(), ApplyError> {
    const TABLES: [&str; 11] = [
        "global_priv",
        "user",
        "db",
        "tables_priv",
        "columns_priv",
        "procs_priv",
        "proxies_priv",
        "roles_mapping",
        "proc",
        "func",
        "event",
    ];
    let statements = TABLES.map(|table| format!("FLUSH LOCAL TABLES mysql.{table}"));
    Ok(session.conn.query_drop(statements.join("; ")).await?)
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
