//! A slave's tables: where it stands, which schema change it is about to run, and how far a snapshot is.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::{Epoch, Position};

use super::{MissingRow, add_column, create, found, other};
use crate::replication::{protocol::Mark, snapshot::Plan};

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
    /// What tells this server from others: a name that was drawn by lot, and where the server runs, so that one whose data
    /// was copied from another's is told from it.
    pub(crate) server: String,
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
    const SERVER: &str = "CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''";
    for (column, kind) in [("checksum", "INT UNSIGNED NULL"), ("server", SERVER)] {
        found(add_column(conn, "position", column, kind).await.map(Some))?;
    }
    match found(record(conn).await)? {
        Some(record) if !record.server.is_empty() => return Ok(record),
        Some(_) => {}
        None => {
            create(conn, SLAVE_TABLES).await?;
            conn.query_drop("INSERT IGNORE INTO towline.position (id) VALUES (1)").await?;
        }
    }
    let server = format!("{:032x}", fastrand::u128(..));
    conn.exec_drop("UPDATE towline.position SET server = ? WHERE id = 1 AND server = ''", (server,)).await?;
    record(conn).await?.ok_or_else(|| other(MissingRow("towline.position")))
}

/// Where this slave stands; none if the row is not there.
pub(crate) async fn record(conn: &mut Conn) -> mysql_async::Result<Option<SlaveRecord>> {
    type Columns = (String, u64, u64, u64, String, Option<u32>, u64, String);
    let row: Option<Columns> = conn
        .query_first(
            // None of these variables changes while the server runs.
            "SELECT cluster, fence, epoch, seq, gtid, checksum, committed_at, \
             IF(server = '', '', CONCAT_WS(' ', server, @@hostname, @@port, @@datadir)) \
             FROM towline.position WHERE id = 1",
        )
        .await?;
    Ok(row.map(|(cluster, fence, epoch, seq, gtid, checksum, committed_at, server)| SlaveRecord {
        cluster,
        fence: Epoch(fence),
        mark: Mark { position: Position::new(epoch, seq), checksum: checksum.filter(|_| !gtid.is_empty()), gtid },
        committed_at,
        server,
    }))
}

/// The statement that moves the position inside the open transaction. It must change one row: if it changes none the
/// server does not stand at `from`, and nothing must be committed.
pub(crate) fn position_update(from: &Mark, to: &Mark, committed_at: u64) -> String {
    // A GTID is whatever was pushed: in digits it can't end its literal.
    let hex = |gtid: &str| gtid.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let checksum = to.checksum.map_or("NULL".to_owned(), |checksum| checksum.to_string());
    format!(
        "UPDATE towline.position SET epoch = {}, seq = {}, gtid = X'{}', checksum = {checksum}, \
         committed_at = {committed_at} WHERE id = 1 AND epoch = {} AND seq = {} AND gtid = X'{}'",
        to.position.epoch.0,
        to.position.seq.0,
        hex(&to.gtid),
        from.position.epoch.0,
        from.position.seq.0,
        hex(&from.gtid),
    )
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

/// Every schema on this server that is neither the server's nor Towline's.
pub(crate) async fn foreign_schemas(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    conn.query(
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
         ('mysql', 'information_schema', 'performance_schema', 'sys', 'towline')",
    )
    .await
}

/// A snapshot that was begun and is not whole: `towline.snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BegunSnapshot {
    /// Its name on the master.
    pub(crate) id: String,
    /// Whether all that comes before the rows was made.
    pub(crate) made: bool,
}

/// The snapshot that was begun on this server, if there is one.
pub(crate) async fn snapshot(conn: &mut Conn) -> mysql_async::Result<Option<BegunSnapshot>> {
    let row: Option<(String, bool)> =
        found(conn.query_first("SELECT snapshot, made FROM towline.snapshot WHERE id = 1").await)?;
    Ok(row.map(|(id, made)| BegunSnapshot { id, made }))
}

/// Writes down that the data of this server is being replaced: from here on it has no position. It stays of its cluster
/// and behind its fence, which a snapshot that is begun anew is compared with. One that is taken `over` is of that cluster
/// from here on: nothing that was here may stay, even if it is not told so once more.
pub(crate) async fn begin_snapshot(conn: &mut Conn, id: &str, over: Option<&str>) -> mysql_async::Result<()> {
    for table in SNAPSHOT_TABLES {
        conn.query_drop(*table).await?;
    }
    conn.query_drop("BEGIN").await?;
    conn.exec_drop("REPLACE INTO towline.snapshot (id, snapshot, made) VALUES (1, ?, 0)", (id,)).await?;
    conn.query_drop("DELETE FROM towline.snapshot_table").await?;
    conn.query_drop("DELETE FROM towline.snapshot_left_out").await?;
    conn.exec_drop(
        "UPDATE towline.position SET cluster = IFNULL(?, cluster), epoch = 0, seq = 0, gtid = '', checksum = NULL \
         WHERE id = 1",
        (over,),
    )
    .await?;
    conn.query_drop("COMMIT").await
}

/// Writes down that everything before the rows was made, but for what is left out.
pub(crate) async fn snapshot_made(conn: &mut Conn, left_out: &[String]) -> mysql_async::Result<()> {
    conn.query_drop("BEGIN").await?;
    conn.query_drop("UPDATE towline.snapshot SET made = 1 WHERE id = 1").await?;
    leave_out(conn, left_out).await?;
    conn.query_drop("COMMIT").await
}

/// What the snapshot of this server could not make, in words: `towline.snapshot_left_out`.
pub(crate) async fn left_out(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    let found_rows = conn.query("SELECT what FROM towline.snapshot_left_out ORDER BY number").await.map(Some);
    Ok(found(found_rows)?.unwrap_or_default())
}

async fn leave_out(conn: &mut Conn, what: &[String]) -> mysql_async::Result<()> {
    for what in what {
        conn.exec_drop("INSERT INTO towline.snapshot_left_out (what) VALUES (?)", (what,)).await?;
    }
    Ok(())
}

/// How far the rows of a table are: `towline.snapshot_table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableProgress {
    /// The key of the last row that is here; empty if the table can only be begun again.
    pub(crate) after: Vec<i128>,
    /// Whether all of them are here.
    pub(crate) done: bool,
}

/// How far a table is, by its number in the plan; none if it was not begun.
pub(crate) async fn table_progress(conn: &mut Conn, number: usize) -> mysql_async::Result<Option<TableProgress>> {
    let row: Option<(String, bool)> =
        conn.exec_first("SELECT last, done FROM towline.snapshot_table WHERE number = ?", (number,)).await?;
    row.map(|(last, done)| {
        let after = last.split(' ').filter(|number| !number.is_empty()).map(str::parse).collect::<Result<_, _>>();
        Ok(TableProgress { after: after.map_err(other)?, done })
    })
    .transpose()
}

/// Writes down that rows of a table may come.
pub(crate) async fn begin_table(conn: &mut Conn, number: usize) -> mysql_async::Result<()> {
    conn.exec_drop("INSERT INTO towline.snapshot_table (number) VALUES (?)", (number,)).await
}

/// Writes down how far a table is; in the transaction that writes its rows.
pub(crate) async fn move_table(conn: &mut Conn, number: usize, after: &[i128], done: bool) -> mysql_async::Result<()> {
    let last = after.iter().map(i128::to_string).collect::<Vec<_>>().join(" ");
    conn.exec_drop("UPDATE towline.snapshot_table SET last = ?, done = ? WHERE number = ?", (last, done, number)).await
}

/// Gives the server its position and ends the snapshot, at once. What it left out since it was made is added.
pub(crate) async fn finish_snapshot(
    conn: &mut Conn,
    plan: &Plan,
    committed_at: u64,
    left_out: &[String],
) -> mysql_async::Result<()> {
    let Plan { cluster, epoch, mark, .. } = plan;
    conn.query_drop("BEGIN").await?;
    leave_out(conn, left_out).await?;
    conn.exec_drop(
        "UPDATE towline.position SET cluster = ?, fence = GREATEST(fence, ?), epoch = ?, seq = ?, gtid = ?, \
         checksum = ?, committed_at = ? WHERE id = 1",
        (cluster, epoch.0, mark.position.epoch.0, mark.position.seq.0, &mark.gtid, mark.checksum, committed_at),
    )
    .await?;
    conn.query_drop("DELETE FROM towline.snapshot").await?;
    conn.query_drop("DELETE FROM towline.snapshot_table").await?;
    conn.query_drop("DELETE FROM towline.schema_change").await?;
    conn.query_drop("COMMIT").await
}

/// The announced schema change, if one was left unfinished.
pub(crate) async fn announced(conn: &mut Conn) -> mysql_async::Result<Option<Announced>> {
    let row: Option<(u64, u64, String, String)> =
        conn.query_first("SELECT epoch, seq, gtid, log_before FROM towline.schema_change WHERE id = 1").await?;
    Ok(row.map(|(epoch, seq, gtid, log_before)| Announced {
        mark: Mark { position: Position::new(epoch, seq), gtid, checksum: None },
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

const SNAPSHOT_TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS towline.snapshot (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        snapshot VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        made BOOLEAN NOT NULL
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS towline.snapshot_table (
        number INT UNSIGNED NOT NULL PRIMARY KEY,
        last VARCHAR(1024) CHARACTER SET ascii NOT NULL DEFAULT '',
        done BOOLEAN NOT NULL DEFAULT FALSE
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS towline.snapshot_left_out (
        number INT UNSIGNED NOT NULL PRIMARY KEY AUTO_INCREMENT,
        what TEXT CHARACTER SET utf8mb4 NOT NULL
    ) ENGINE=InnoDB",
];

const SLAVE_TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS towline.position (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        cluster VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        fence BIGINT UNSIGNED NOT NULL DEFAULT 0,
        epoch BIGINT UNSIGNED NOT NULL DEFAULT 0,
        seq BIGINT UNSIGNED NOT NULL DEFAULT 0,
        gtid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        checksum INT UNSIGNED NULL,
        committed_at BIGINT UNSIGNED NOT NULL DEFAULT 0,
        server CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS towline.schema_change (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        epoch BIGINT UNSIGNED NOT NULL,
        seq BIGINT UNSIGNED NOT NULL,
        gtid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        log_before TEXT CHARACTER SET ascii NOT NULL
    ) ENGINE=InnoDB",
];
