//! How a view is made, also where what it is of has gone.

use mysql_async::{Conn, Error, Row, prelude::Queryable};

use super::{
    Definition,
    definitions::{definition, row},
    quoted,
};
use crate::replication::protocol::Binary;

/// Reads it, in a session in which texts come as they are and whose default schema is another than the view's.
pub(super) async fn read(
    conn: &mut Conn,
    is_mariadb: bool,
    database: &str,
    name: &str,
) -> mysql_async::Result<Definition> {
    let place = format!("{}.{}", quoted(database), quoted(name));
    let object = format!("the view {place}");
    let shown = row(conn, &format!("SHOW CREATE VIEW {place}")).await;
    let settings = [("character_set_client", 2), ("collation_connection", 3)];
    let made = match shown {
        // MariaDB warns of a view that is of what has gone, and shows it without FOR SYSTEM_TIME.
        Ok(shown) if !is_mariadb || conn.get_warnings() == 0 || !has_versions(conn, database, name).await? => {
            definition(database.to_owned(), &shown, 1, &settings, object)
        }
        // Where an index or, on MySQL, a schema has gone it is not shown at all.
        Ok(_) | Err(Error::Server(_)) => stored(conn, is_mariadb, database, name, object).await?,
        Err(error) => return Err(error),
    };
    Ok(Definition { may_lack_objects: true, ..made })
}

async fn has_versions(conn: &mut Conn, database: &str, name: &str) -> mysql_async::Result<bool> {
    let sql = "SELECT VIEW_DEFINITION LIKE '%FOR SYSTEM\\_TIME%' FROM information_schema.VIEWS \
               WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let found: Option<Option<bool>> = conn.exec_first(sql, (database, name)).await?;
    Ok(found.flatten().unwrap_or_default())
}

/// The view as it is kept, which needs nothing of what it names. Introducers of strings are not there, nor on MySQL an
/// algorithm.
async fn stored(
    conn: &mut Conn,
    is_mariadb: bool,
    database: &str,
    name: &str,
    object: String,
) -> mysql_async::Result<Definition> {
    const WHICH: &str = "FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let algorithm = if is_mariadb { "ALGORITHM" } else { "'UNDEFINED'" };
    let sql = format!(
        "SELECT {algorithm}, DEFINER, SECURITY_TYPE, CHECK_OPTION, CHARACTER_SET_CLIENT, COLLATION_CONNECTION {WHICH}"
    );
    type Columns = (String, String, String, String, String, String);
    let found: Option<Columns> = conn.exec_first(sql, (database, name)).await?;
    let (algorithm, definer, security, check, client, collation) = found.unwrap_or_default();
    let (user, host) = definer.rsplit_once('@').unwrap_or((&definer, ""));
    let host = if host.is_empty() { String::new() } else { format!("@{}", quoted(host)) };
    let convert = |text: &str| format!("CONVERT({text} USING {client})");
    let head = format!(
        "CREATE ALGORITHM={algorithm} DEFINER={}{host} SQL SECURITY {security} VIEW {}.{} AS ",
        quoted(user),
        quoted(database),
        quoted(name)
    );
    let sql = format!("SELECT CONCAT({}, {}) {WHICH}", convert("?"), convert("VIEW_DEFINITION"));
    let text: Option<Row> = conn.exec_first(sql, (head, database, name)).await?;
    let mut text: Vec<u8> = text.and_then(|mut row| row.take(0)).unwrap_or_default();
    if check != "NONE" {
        text.extend_from_slice(format!(" WITH {check} CHECK OPTION").as_bytes());
    }
    let settings = [("character_set_client", client), ("collation_connection", collation)];
    Ok(Definition {
        schema: database.to_owned(),
        settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
        sql: Binary(text),
        object,
        ..Definition::default()
    })
}
