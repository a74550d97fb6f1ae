//! What is behind a table's name, and what can be read, asked of the server with the node's own account.

use std::sync::Arc;

use mysql_async::{Conn, DriverError, prelude::Queryable};
use tokio::sync::Mutex;
use towline_middleware::Position;

use super::{super::OwnServer, visible};

/// A table by schema and name, in lower case.
pub(super) type Table = (String, String);

/// Engines whose every change is in the binlog, or done by its rows.
const ENGINES: [&str; 4] = ["InnoDB", "Aria", "MyISAM", "ROCKSDB"];
/// Schemas whose tables change by themselves, or never travel.
pub(in crate::layers) const OWN_SCHEMAS: [&str; 5] =
    ["information_schema", "performance_schema", "mysql", "sys", "towline"];

/// Asks the server with the node's own account.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    server: OwnServer,
    conn: Arc<Mutex<Option<Conn>>>,
}

impl Catalog {
    pub(super) fn new(server: OwnServer) -> Self {
        Self { server, conn: Arc::default() }
    }

    /// These tables with all whose changes reach them without rows of their own in the binlog: those from which a
    /// foreign key cascades. `None` if one of them is no plain table. The answer is not older than `position`.
    ///
    /// # Errors
    /// The server can't be asked.
    pub(super) async fn closure(
        &self,
        tables: Vec<Table>,
        position: Position,
    ) -> Result<Option<Vec<Table>>, mysql_async::Error> {
        self.ask(async |conn| {
            visible::wait(conn, position).await?;
            let (mut known, mut ahead) = (Vec::new(), tables);
            while let Some(table) = ahead.pop() {
                if known.contains(&table) {
                    continue;
                }
                if !is_plain(conn, &table).await? {
                    return Ok(None);
                }
                ahead.extend(parents(conn, &table).await?);
                known.push(table);
            }
            Ok(Some(known))
        })
        .await
    }

    /// Waits until every read that begins sees what had been captured up to `position` when this was called.
    ///
    /// # Errors
    /// The server can't be asked.
    pub(super) async fn wait_visible(&self, position: Position) -> Result<(), mysql_async::Error> {
        self.ask(async |conn| visible::wait(conn, position).await).await
    }

    /// Asks on the one connection, which is kept unless that fails.
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut Conn) -> Result<T, mysql_async::Error>,
    ) -> Result<T, mysql_async::Error> {
        let mut held = self.conn.lock().await;
        let mut conn = match held.take() {
            Some(conn) => conn,
            None => Conn::new(self.server.get().ok_or(DriverError::ConnectionClosed)?).await?,
        };
        let answer = question(&mut conn).await?;
        *held = Some(conn);
        Ok(answer)
    }
}

async fn is_plain(conn: &mut Conn, (schema, table): &Table) -> Result<bool, mysql_async::Error> {
    if OWN_SCHEMAS.contains(&schema.as_str()) {
        return Ok(false);
    }
    let sql = "SELECT t.table_type, COALESCE(t.engine, ''), (SELECT COUNT(*) FROM information_schema.columns c \
               WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name \
               AND (c.extra LIKE '%VIRTUAL%' OR c.data_type = 'time')) \
               FROM information_schema.tables t WHERE LOWER(t.table_schema) = ? AND LOWER(t.table_name) = ?";
    let found: Vec<(String, String, u64)> = conn.exec(sql, (schema, table)).await?;
    // Two names that differ in case only can't be told apart. A time of day becomes a date by the day on which it is read.
    Ok(matches!(found.as_slice(), [(kind, engine, 0)]
        if kind == "BASE TABLE" && ENGINES.iter().any(|known| known.eq_ignore_ascii_case(engine))))
}

/// The tables whose deletes and updates cascade to this one, which the storage engine does without rows in the binlog.
async fn parents(conn: &mut Conn, (schema, table): &Table) -> Result<Vec<Table>, mysql_async::Error> {
    let sql = "SELECT LOWER(unique_constraint_schema), LOWER(referenced_table_name) \
               FROM information_schema.referential_constraints \
               WHERE LOWER(constraint_schema) = ? AND LOWER(table_name) = ? \
               AND (update_rule NOT IN ('RESTRICT', 'NO ACTION') OR delete_rule NOT IN ('RESTRICT', 'NO ACTION'))";
    conn.exec(sql, (schema, table)).await
}
