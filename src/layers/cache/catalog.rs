//! What is behind a table's name, asked of the server with the node's own account.

use mysql_async::{Conn, prelude::Queryable};

use super::super::OwnServer;

/// A table by schema and name, in lower case.
pub(super) type Table = (String, String);

/// Engines whose every change is in the binlog, or done by its rows.
const ENGINES: [&str; 4] = ["InnoDB", "Aria", "MyISAM", "ROCKSDB"];
/// Schemas whose tables change by themselves, or never travel.
const OWN_SCHEMAS: [&str; 5] = ["information_schema", "performance_schema", "mysql", "sys", "towline"];

/// Finds out what is behind a table's name.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    server: OwnServer,
}

impl Catalog {
    pub(super) fn new(server: OwnServer) -> Self {
        Self { server }
    }

    /// These tables with all whose changes reach them without rows of their own in the binlog: those from which a
    /// foreign key cascades. `None` if one of them is no plain table.
    ///
    /// # Errors
    /// The server can't be asked.
    pub(super) async fn closure(&self, tables: Vec<Table>) -> Result<Option<Vec<Table>>, mysql_async::Error> {
        let Some(opts) = self.server.get() else { return Ok(None) };
        let mut conn = Conn::new(opts).await?;
        let (mut known, mut ahead) = (Vec::new(), tables);
        let mut plain = true;
        while let Some(table) = ahead.pop() {
            if known.contains(&table) {
                continue;
            }
            if !is_plain(&mut conn, &table).await? {
                plain = false;
                break;
            }
            ahead.extend(parents(&mut conn, &table).await?);
            known.push(table);
        }
        conn.disconnect().await?;
        Ok(plain.then_some(known))
    }
}

async fn is_plain(conn: &mut Conn, (schema, table): &Table) -> Result<bool, mysql_async::Error> {
    if OWN_SCHEMAS.contains(&schema.as_str()) {
        return Ok(false);
    }
    let sql = "SELECT t.table_type, COALESCE(t.engine, ''), (SELECT COUNT(*) FROM information_schema.columns c \
               WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name AND c.extra LIKE '%VIRTUAL%') \
               FROM information_schema.tables t WHERE LOWER(t.table_schema) = ? AND LOWER(t.table_name) = ?";
    let found: Vec<(String, String, u64)> = conn.exec(sql, (schema, table)).await?;
    // Two names that differ in case only can't be told apart.
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
