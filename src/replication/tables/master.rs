//! A master's tables: its cluster and the slaves in it.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::Epoch;

use super::{MissingRow, add_column, create, found, other};

/// The master's own record: `towline.cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterRecord {
    pub(crate) id: String,
    pub(crate) epoch: Epoch,
}

/// One row of `towline.slaves`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegisteredSlave {
    pub(crate) id: String,
    pub(crate) url: String,
    /// Why nothing is pushed to it, if so.
    pub(crate) paused: Option<String>,
}

/// Reads a master's record. A server without the tables gets them, and its cluster an id at random.
pub(crate) async fn open(conn: &mut Conn) -> mysql_async::Result<ClusterRecord> {
    if let Some(record) = record(conn).await? {
        add_column(conn, "slaves", "paused", "VARCHAR(512) NULL").await?;
        return Ok(record);
    }
    create(conn, MASTER_TABLES).await?;
    let id = format!("{:032x}", u128::from_le_bytes(random_bytes()?));
    conn.exec_drop("INSERT IGNORE INTO towline.cluster (id, cluster, epoch) VALUES (1, ?, 1)", (id,)).await?;
    cluster_record(conn).await?.ok_or_else(|| other(MissingRow("towline.cluster")))
}

/// Reads a master's record; none if the server has none.
pub(crate) async fn record(conn: &mut Conn) -> mysql_async::Result<Option<ClusterRecord>> {
    found(cluster_record(conn).await)
}

async fn cluster_record(conn: &mut Conn) -> mysql_async::Result<Option<ClusterRecord>> {
    let row: Option<(String, u64)> =
        conn.query_first("SELECT cluster, epoch FROM towline.cluster WHERE id = 1").await?;
    Ok(row.map(|(id, epoch)| ClusterRecord { id, epoch: Epoch(epoch) }))
}

/// Every registered slave.
pub(crate) async fn slaves(conn: &mut Conn) -> mysql_async::Result<Vec<RegisteredSlave>> {
    let sql = "SELECT id, url, paused FROM towline.slaves ORDER BY id";
    conn.query_map(sql, |(id, url, paused)| RegisteredSlave { id, url, paused }).await
}

/// Adds a slave, or gives a known one its new URL. Another entry of the same URL is the same slave under an older id. One
/// that is paused stays so under either.
pub(crate) async fn register_slave(conn: &mut Conn, id: &str, url: &str) -> mysql_async::Result<RegisteredSlave> {
    let paused: Option<Option<String>> =
        conn.exec_first("SELECT MAX(paused) FROM towline.slaves WHERE url = ? OR id = ?", (url, id)).await?;
    let slave = RegisteredSlave { id: id.to_owned(), url: url.to_owned(), paused: paused.flatten() };
    conn.exec_drop("DELETE FROM towline.slaves WHERE url = ? AND id <> ?", (url, id)).await?;
    conn.exec_drop(
        "INSERT INTO towline.slaves (id, url, paused) VALUES (?, ?, ?) \
         ON DUPLICATE KEY UPDATE url = VALUES(url), paused = VALUES(paused)",
        (id, url, &slave.paused),
    )
    .await?;
    Ok(slave)
}

/// Writes down that nothing is to be pushed to a slave, and why; or, with none, that all is.
pub(crate) async fn set_pause(conn: &mut Conn, id: &str, reason: Option<&str>) -> mysql_async::Result<()> {
    conn.exec_drop("UPDATE towline.slaves SET paused = ? WHERE id = ?", (reason, id)).await
}

/// Removes a slave. False if there was none of that id.
pub(crate) async fn remove_slave(conn: &mut Conn, id: &str) -> mysql_async::Result<bool> {
    conn.exec_drop("DELETE FROM towline.slaves WHERE id = ?", (id,)).await?;
    Ok(conn.affected_rows() > 0)
}

const MASTER_TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS towline.cluster (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY CHECK (id = 1),
        cluster VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        epoch BIGINT UNSIGNED NOT NULL
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS towline.slaves (
        id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        url VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        registered_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        paused VARCHAR(512) NULL
    ) ENGINE=InnoDB",
];

fn random_bytes() -> mysql_async::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(other)?;
    Ok(bytes)
}
