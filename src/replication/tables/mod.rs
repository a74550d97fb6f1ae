//! The schema `towline`: where a node keeps its state, in its own MySQL. Changes to it never travel.

pub(crate) mod master;
pub(crate) mod slave;

use mysql_async::{Conn, prelude::Queryable};

/// A missing schema or table is no error but nothing found. Looked at before anything is created, since a
/// `CREATE … IF NOT EXISTS` is written to the binlog each time.
fn found<T>(result: mysql_async::Result<Option<T>>) -> mysql_async::Result<Option<T>> {
    match result {
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1049 | 1146) => Ok(None),
        other => other,
    }
}

async fn create(conn: &mut Conn, tables: &[&str]) -> mysql_async::Result<()> {
    conn.query_drop("CREATE DATABASE IF NOT EXISTS towline").await?;
    for table in tables {
        conn.query_drop(*table).await?;
    }
    Ok(())
}

/// Adds a column to a table that an older node has made without it.
async fn add_column(conn: &mut Conn, table: &str, column: &str, kind: &str) -> mysql_async::Result<()> {
    const UNKNOWN_COLUMN: u16 = 1054;
    match conn.query_drop(format!("SELECT {column} FROM towline.{table} LIMIT 0")).await {
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_COLUMN => {
            conn.query_drop(format!("ALTER TABLE towline.{table} ADD COLUMN {column} {kind}")).await
        }
        other => other,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` has lost its row: restore it or register this server anew")]
struct MissingRow(&'static str);

fn other(error: impl std::error::Error + Send + Sync + 'static) -> mysql_async::Error {
    mysql_async::Error::Other(Box::new(error))
}
