//! A slave's tables: where it stands, and which schema change it is about to run.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::{Epoch, Position};

use super::{MissingRow, create, found, other};
use crate::replication::protocol::Mark;

/// A slave's own record: `towline.position`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlaveRecord {
    /// The cluster whose changes this server takes; empty until the first push.
    pub(crate) cluster: String,
    /// The highest epoch of which a master has pushed here.
    pub(crate) fence: Epoch,
    /// The last applied transaction.
    pub(crate) mark: Mark,
    /// When the master committed it, in seconds since 1970 (UTC).
    pub(crate) committed_at: u64,
}

/// A schema change that was announced and not finished: `towline.schema_change`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The transaction that it is.
    pub(crate) mark: Mark,
    /// What the server's own log said before it ran (see `schema_change`).
    pub(crate) log_before: String,
}

/// Reads a slave's record. A server without the tables gets them, and an empty record.
pub(crate) async fn open(conn: &mut Conn) -> mysql_async::Result<SlaveRecord> {
    if let Some(record) = found(record(conn).await)? {
        return Ok(record);
    }
    create(conn, SLAVE_TABLES).await?;
    conn.query_drop("INSERT IGNORE INTO towline.position (id) VALUES (1)").await?;
    record(conn).await?.ok_or_else(|| other(MissingRow("towline.position")))
}

/// Where this slave stands; none if the row is not there.
pub(crate) async fn record(conn: &mut Conn) -> mysql_async::Result<Option<SlaveRecord>> {
    let row: Option<(String, u64, u64, u64, String, u64)> = conn
        .query_first("SELECT cluster, fence, epoch, seq, gtid, committed_at FROM towline.position WHERE id = 1")
        .await?;
    Ok(row.map(|(cluster, fence, epoch, seq, gtid, committed_at)| SlaveRecord {
        cluster,
        fence: Epoch(fence),
        mark: Mark { position: Position::new(epoch, seq), gtid },
        committed_at,
    }))
}

/// Moves the position inside the open transaction. False if the server does not stand at `from`: then nothing must be
/// committed.
pub(crate) async fn move_position(
    conn: &mut Conn,
    from: &Mark,
    to: &Mark,
    committed_at: u64,
) -> mysql_async::Result<bool> {
    conn.exec_drop(
        "UPDATE towline.position SET epoch = ?, seq = ?, gtid = ?, committed_at = ? \
         WHERE id = 1 AND epoch = ? AND seq = ? AND gtid = ?",
        (
            to.position.epoch.0,
            to.position.seq.0,
            &to.gtid,
            committed_at,
            from.position.epoch.0,
            from.position.seq.0,
            &from.gtid,
        ),
    )
    .await?;
    Ok(conn.affected_rows() == 1)
}

/// Takes a cluster's id and raises the fence, if nobody else has in between. False if someone has.
pub(crate) async fn join_cluster(
    conn: &mut Conn,
    record: &SlaveRecord,
    cluster: &str,
    fence: Epoch,
) -> mysql_async::Result<bool> {
    conn.exec_drop(
        "UPDATE towline.position SET cluster = ?, fence = ? WHERE id = 1 AND cluster = ? AND fence = ?",
        (cluster, fence.0, &record.cluster, record.fence.0),
    )
    .await?;
    Ok(conn.affected_rows() == 1)
}

/// The name of a schema on this server that holds tables and is neither the server's nor Towline's.
pub(crate) async fn foreign_schema(conn: &mut Conn) -> mysql_async::Result<Option<String>> {
    conn.query_first(
        "SELECT TABLE_SCHEMA FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN \
         ('mysql', 'information_schema', 'performance_schema', 'sys', 'towline') LIMIT 1",
    )
    .await
}

/// The announced schema change, if one was left unfinished.
pub(crate) async fn announced(conn: &mut Conn) -> mysql_async::Result<Option<Announced>> {
    let row: Option<(u64, u64, String, String)> =
        conn.query_first("SELECT epoch, seq, gtid, log_before FROM towline.schema_change WHERE id = 1").await?;
    Ok(row.map(|(epoch, seq, gtid, log_before)| Announced {
        mark: Mark { position: Position::new(epoch, seq), gtid },
        log_before,
    }))
}

/// Writes down that a schema change is about to run.
pub(crate) async fn announce(conn: &mut Conn, announced: &Announced) -> mysql_async::Result<()> {
    let Announced { mark, log_before } = announced;
    conn.exec_drop(
        "REPLACE INTO towline.schema_change (id, epoch, seq, gtid, log_before) VALUES (1, ?, ?, ?, ?)",
        (mark.position.epoch.0, mark.position.seq.0, &mark.gtid, log_before),
    )
    .await
}

/// Takes the announcement away; in the transaction that moves the position past it.
pub(crate) async fn finish_announced(conn: &mut Conn) -> mysql_async::Result<()> {
    conn.query_drop("DELETE FROM towline.schema_change WHERE id = 1").await
}

const SLAVE_TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS towline.position (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        cluster VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        fence BIGINT UNSIGNED NOT NULL DEFAULT 0,
        epoch BIGINT UNSIGNED NOT NULL DEFAULT 0,
        seq BIGINT UNSIGNED NOT NULL DEFAULT 0,
        gtid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        committed_at BIGINT UNSIGNED NOT NULL DEFAULT 0
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS towline.schema_change (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        epoch BIGINT UNSIGNED NOT NULL,
        seq BIGINT UNSIGNED NOT NULL,
        gtid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        log_before TEXT CHARACTER SET ascii NOT NULL
    ) ENGINE=InnoDB",
];
