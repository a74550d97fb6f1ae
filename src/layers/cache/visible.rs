//! When what was heard of a master's changes can be read there.
//!
//! A server writes a transaction into its binlog first, where the node hears of it, and commits it in the engine then: a
//! read in between still finds the old rows. Semi-synchronous replication can make that a second.

use std::time::Duration;

use mysql_async::{Conn, Row, prelude::Queryable};
use towline_middleware::Position;

/// MariaDB has nothing that could be waited for: how long until the next look, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Waits until every read that begins sees what had been captured up to `position` when this was called.
pub(super) async fn wait(conn: &mut Conn, position: Position) -> Result<(), mysql_async::Error> {
    if conn.query_first("SELECT VERSION() LIKE '%MariaDB%'").await? == Some(true) {
        wait_mariadb(conn).await
    } else {
        wait_mysql(conn, position).await
    }
}

/// Waits until a snapshot has all commits up to the binlog's present end; they are made in the binlog's order.
///
/// Source: MariaDB, "START TRANSACTION", `WITH CONSISTENT SNAPSHOT` and `Binlog_snapshot_position`.
async fn wait_mariadb(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    let end = conn.query_first::<Row, _>("SHOW MASTER STATUS").await?.and_then(|row| place(row.get(0), row.get(1)));
    let mut pause = PAUSE_MIN;
    loop {
        conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        let seen: Vec<(String, String)> = conn.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
        conn.query_drop("COMMIT").await?;
        let value = |name: &str| seen.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let file = value("Binlog_snapshot_file").cloned();
        let position = value("Binlog_snapshot_position").and_then(|value| value.parse().ok());
        if place(file, position) >= end {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// A place in the binlog, in the order of writing: the files' numbers grow longer after six digits.
fn place(file: Option<String>, position: Option<u64>) -> Option<(usize, String, u64)> {
    let file = file?;
    Some((file.len(), file, position?))
}

/// Waits until the transaction of this position is committed; the GTIDs are those of the server's own.
///
/// Source: MySQL 8.4 Reference Manual, 19.1.3.8 "Stored Function Examples to Manipulate GTIDs", `gtid_executed`.
async fn wait_mysql(conn: &mut Conn, position: Position) -> Result<(), mysql_async::Error> {
    const WAIT: &str = "SELECT WAIT_FOR_EXECUTED_GTID_SET(CONCAT(@@server_uuid, ':', ?), 10)";
    if position.seq.0 == 0 || conn.exec_first(WAIT, (position.seq.0,)).await? == Some(0) {
        return Ok(());
    }
    Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
}
