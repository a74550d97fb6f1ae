//! What a server holds besides rows, as statements that make it again.

use mysql_async::{Conn, Row, Value, from_value_opt, prelude::Queryable};

use super::{Column, Definition, Plan, TablePlan, quoted, views};
use crate::replication::{
    NO_LIMITS,
    protocol::{Binary, Family},
};

/// Schemas that each server has of its own.
const OWN_SCHEMAS: &str = "('mysql', 'information_schema', 'performance_schema', 'sys', 'towline')";
/// Accounts that each server has of its own.
const OWN_ACCOUNTS: &str = "User IN ('root', 'mariadb.sys', 'mysql', '') OR User LIKE 'mysql.%'";

/// Why a snapshot can't hold what the server holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionError {
    #[error(transparent)]
    MySql(#[from] mysql_async::Error),
    #[error(
        "{0} uses the engine {1}, of which no moment can be read for certain: run `ALTER TABLE {0} ENGINE=InnoDB`, or move it \
         to another server"
    )]
    OtherEngine(String, String),
}

/// How a table is made, but for the number that its next row gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape(Vec<u8>);

impl Shape {
    /// Reads it, with the statement that makes the table.
    pub(super) async fn read(conn: &mut Conn, database: &str, table: &str) -> mysql_async::Result<(Self, Binary)> {
        const NEXT: &[u8] = b" AUTO_INCREMENT=";
        set_up(conn).await?;
        conn.query_drop("SET SESSION character_set_results = NULL").await?;
        let sql = show(conn, &format!("TABLE {}.{}", quoted(database), quoted(table)), 1).await?;
        let mut shape = sql.0.clone();
        while let Some(at) = shape.windows(NEXT.len()).position(|part| part == NEXT) {
            let digits = shape[at + NEXT.len()..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            shape.drain(at..at + NEXT.len() + digits);
        }
        Ok((Self(shape), sql))
    }
}

/// A sequence of MariaDB's.
#[derive(Debug)]
pub(super) struct Sequence {
    database: String,
    /// Its name with the schema's, quoted.
    place: String,
}

/// Fills in what is to be made before and after the rows but for accounts, and which tables have some. Nobody may change a
/// schema meanwhile. Returns the sequences, whose values any client may change, and how the tables are made.
pub(super) async fn read(conn: &mut Conn, plan: &mut Plan) -> Result<(Vec<Sequence>, Vec<Shape>), DefinitionError> {
    set_up(conn).await?;
    let sql = format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN {OWN_SCHEMAS}");
    let databases: Vec<String> = conn.query(sql).await?;
    conn.query_drop("SET SESSION character_set_results = NULL").await?;
    for database in &databases {
        let create = show(conn, &format!("DATABASE {}", quoted(database)), 1).await?;
        plan.before.push(Definition {
            sql: create,
            object: format!("the schema {}", quoted(database)),
            ..Definition::default()
        });
    }
    let (mut sequences, mut shapes, mut of_views) = (Vec::new(), Vec::new(), Vec::new());
    for (database, name, kind, engine, rows) in tables(conn).await? {
        let place = format!("{}.{}", quoted(&database), quoted(&name));
        match kind.as_str() {
            "VIEW" => of_views.push(views::read(conn, plan.family == Some(Family::MariaDb), &database, &name).await?),
            "SEQUENCE" => {
                let create = show(conn, &format!("SEQUENCE {place}"), 1).await?;
                plan.before.push(plain(&database, create, format!("the sequence {place}")));
                sequences.push(Sequence { database, place });
            }
            // Others know no moments, or, as MyRocks, do not tell whether a table was put in the place of another.
            _ if engine != "InnoDB" => return Err(DefinitionError::OtherEngine(place, engine)),
            _ => {
                let (shape, create) = Shape::read(conn, &database, &name).await?;
                plan.before.push(plain(&database, create, format!("the table {place}")));
                shapes.push(shape);
                plan.tables.push(table(conn, database, name, kind == "SYSTEM VERSIONED", rows).await?);
            }
        }
    }
    routines(conn, &mut plan.before).await?;
    plan.before.extend(of_views);
    triggers_and_events(conn, &mut plan.after).await?;
    Ok((sequences, shapes))
}

/// Adds the values of sequences, which nobody can write to the binlog meanwhile. One that is about to be written there may
/// be in already; it comes once more, and is the same.
pub(super) async fn read_sequences(
    conn: &mut Conn,
    sequences: Vec<Sequence>,
    plan: &mut Plan,
) -> mysql_async::Result<()> {
    for Sequence { database, place } in sequences {
        let next: Option<(i64, u64)> =
            conn.query_first(format!("SELECT next_not_cached_value, cycle_count FROM {place}")).await?;
        let (next, cycle) = next.unwrap_or_default();
        let sql = format!("DO SETVAL({place}, {next}, 0, {cycle})");
        plan.after.push(plain(&database, Binary(sql.into_bytes()), format!("the value of the sequence {place}")));
    }
    Ok(())
}

fn plain(database: &str, sql: Binary, object: String) -> Definition {
    Definition { schema: database.to_owned(), sql, object, ..Definition::default() }
}

/// A column of `SHOW CREATE`'s only row.
async fn show(conn: &mut Conn, what: &str, column: usize) -> mysql_async::Result<Binary> {
    let row: Option<Row> = conn.query_first(format!("SHOW CREATE {what}")).await?;
    Ok(Binary(row.and_then(|mut row| row.take(column)).unwrap_or_default()))
}

type TableRow = (String, String, String, String, u64);

async fn tables(conn: &mut Conn) -> mysql_async::Result<Vec<TableRow>> {
    conn.query(format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, IFNULL(ENGINE, ''), IFNULL(TABLE_ROWS, 0) \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {OWN_SCHEMAS} AND TABLE_TYPE <> 'TEMPORARY' \
         ORDER BY TABLE_SCHEMA, TABLE_NAME"
    ))
    .await
}

async fn table(
    conn: &mut Conn,
    database: String,
    table: String,
    versioned: bool,
    rows: u64,
) -> mysql_async::Result<TablePlan> {
    let found: Vec<(String, String, String, Option<String>)> = conn
        .exec(
            "SELECT COLUMN_NAME, LOWER(DATA_TYPE), EXTRA, GENERATION_EXPRESSION FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
            (&database, &table),
        )
        .await?;
    let is_time = |how: &Option<String>| how.as_deref().is_some_and(|how| how == "ROW START" || how == "ROW END");
    let has_times = found.iter().any(|(.., how)| is_time(how));
    let is_generated = |extra: &str| extra.contains("VIRTUAL GENERATED") || extra.contains("STORED GENERATED");
    let mut columns: Vec<Column> = found
        .into_iter()
        .filter(|(_, _, extra, how)| !is_generated(extra) || is_time(how))
        .map(|(name, kind, ..)| Column { name, kind })
        .collect();
    if versioned && !has_times {
        columns.extend(["row_start", "row_end"].map(|name| Column { name: name.into(), kind: "timestamp".into() }));
    }
    let key: Vec<(String, bool)> = conn
        .exec(
            "SELECT c.COLUMN_NAME, LOWER(c.DATA_TYPE) IN ('tinyint', 'smallint', 'mediumint', 'int', 'bigint') \
             FROM information_schema.STATISTICS s \
             JOIN information_schema.COLUMNS c USING (TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME) \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND s.INDEX_NAME = 'PRIMARY' ORDER BY s.SEQ_IN_INDEX",
            (&database, &table),
        )
        .await?;
    let fetched = |name: &String| columns.iter().any(|column| column.name == *name);
    let resumable = !versioned && key.iter().all(|(name, is_integer)| *is_integer && fetched(name));
    let key = if resumable { key.into_iter().map(|(name, _)| name).collect() } else { Vec::new() };
    Ok(TablePlan { database, table, columns, key, versioned, rows })
}

pub(super) async fn row(conn: &mut Conn, sql: &str) -> mysql_async::Result<Vec<Value>> {
    let row: Option<Row> = conn.query_first(sql).await?;
    Ok(row.map(Row::unwrap).unwrap_or_default())
}

/// The statement in one column of a row, under the settings in others.
pub(super) fn definition(
    database: String,
    row: &[Value],
    sql: usize,
    settings: &[(&str, usize)],
    object: String,
) -> Definition {
    let bytes = |column: usize| row.get(column).and_then(|value| from_value_opt::<Vec<u8>>(value.clone()).ok());
    let text = |column| String::from_utf8_lossy(&bytes(column).unwrap_or_default()).into_owned();
    let settings = settings.iter().map(|(name, column)| ((*name).to_owned(), text(*column))).collect();
    let sql = Binary(bytes(sql).unwrap_or_default());
    Definition { schema: database, settings, sql, object, ..Definition::default() }
}

async fn routines(conn: &mut Conn, definitions: &mut Vec<Definition>) -> mysql_async::Result<()> {
    let routines: Vec<(String, String, String)> = conn
        .query(format!(
            "SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA NOT IN {OWN_SCHEMAS} AND ROUTINE_TYPE IN ('PROCEDURE', 'FUNCTION', 'PACKAGE', 'PACKAGE BODY') \
             ORDER BY ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME"
        ))
        .await?;
    for (database, name, kind) in routines {
        let object = format!("{kind} {}.{}", quoted(&database), quoted(&name));
        let row = row(conn, &format!("SHOW CREATE {object}")).await?;
        let settings = [("sql_mode", 1), ("character_set_client", 3), ("collation_connection", 4)];
        definitions.push(definition(database, &row, 2, &settings, object));
    }
    Ok(())
}

async fn triggers_and_events(conn: &mut Conn, definitions: &mut Vec<Definition>) -> mysql_async::Result<()> {
    let triggers: Vec<(String, String)> = conn
        .query(format!(
            "SELECT TRIGGER_SCHEMA, TRIGGER_NAME FROM information_schema.TRIGGERS \
             WHERE TRIGGER_SCHEMA NOT IN {OWN_SCHEMAS} \
             ORDER BY EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER"
        ))
        .await?;
    for (database, name) in triggers {
        let object = format!("TRIGGER {}.{}", quoted(&database), quoted(&name));
        let row = row(conn, &format!("SHOW CREATE {object}")).await?;
        let settings = [("sql_mode", 1), ("character_set_client", 3), ("collation_connection", 4)];
        let trigger = definition(database, &row, 2, &settings, object);
        // A column that it sets may have gone.
        definitions.push(Definition { may_lack_objects: true, ..trigger });
    }
    let events: Vec<(String, String, u64)> = conn
        .query(format!(
            "SELECT EVENT_SCHEMA, EVENT_NAME, UNIX_TIMESTAMP(LAST_ALTERED) FROM information_schema.EVENTS \
             WHERE EVENT_SCHEMA NOT IN {OWN_SCHEMAS}"
        ))
        .await?;
    for (database, name, altered) in events {
        let object = format!("EVENT {}.{}", quoted(&database), quoted(&name));
        let row = row(conn, &format!("SHOW CREATE {object}")).await?;
        let settings = [("sql_mode", 1), ("time_zone", 2), ("character_set_client", 4), ("collation_connection", 5)];
        let mut event = definition(database, &row, 3, &settings, object);
        // A server makes no event whose time is over, and the master has it.
        event.settings.push(("timestamp".to_owned(), altered.to_string()));
        definitions.push(event);
    }
    Ok(())
}

/// Texts come as the bytes that they are, whatever the character set of the session that made them.
pub(super) async fn set_up(conn: &mut Conn) -> mysql_async::Result<()> {
    conn.query_drop(NO_LIMITS).await?;
    conn.query_drop("SET SESSION sql_mode = '', sql_quote_show_create = 1, time_zone = '+00:00'").await
}

/// Fills in roles, users and what they may do, and holds up those who would change them until the session ends. Where
/// nobody can do so while schemas are held up, nothing more is held. Returns the rights on single objects, which are to be
/// given when those are there.
pub(super) async fn accounts(
    conn: &mut Conn,
    is_mariadb: bool,
    definitions: &mut Vec<Definition>,
) -> mysql_async::Result<Vec<Definition>> {
    set_up(conn).await?;
    if is_mariadb {
        // Each statement on accounts writes this table first, and the binlog last. Readers wait behind those who wait to
        // write, but for this session.
        conn.query_drop("LOCK TABLES mysql.user READ").await?;
    } else {
        conn.query_drop("SET SESSION print_identified_with_as_hex = 1").await?;
    }
    let is_role = if is_mariadb { "is_role = 'Y'" } else { "FALSE" };
    let accounts: Vec<(String, String, bool)> = conn
        .query(format!(
            "SELECT User, Host, {is_role} FROM mysql.user WHERE NOT ({OWN_ACCOUNTS}) \
             AND CONCAT(User, '@', Host) <> CURRENT_USER() ORDER BY 3 DESC, 1, 2"
        ))
        .await?;
    let (mut rights, mut on_objects) = (Vec::new(), Vec::new());
    for (user, host, is_role) in accounts {
        let account = if is_role { quoted(&user) } else { format!("{}@{}", quoted(&user), quoted(&host)) };
        let about = |sql: String| Definition {
            sql: Binary(sql.into_bytes()),
            account: Some(format!("{user}@{host}")),
            object: format!("the account {account}"),
            ..Definition::default()
        };
        if is_role && user != "PUBLIC" {
            definitions.push(about(format!("DROP ROLE IF EXISTS {account}")));
            definitions.push(about(format!("CREATE ROLE {account}")));
        } else if !is_role {
            definitions.push(about(format!("DROP USER IF EXISTS {account}")));
            let create: Option<String> = conn.query_first(format!("SHOW CREATE USER {account}")).await?;
            definitions.push(about(create.unwrap_or_default()));
        }
        let grants: Vec<String> = conn.query(format!("SHOW GRANTS FOR {account}")).await?;
        for grant in grants {
            // On all, on a schema, or of a role.
            if !grant.contains(" ON ") || grant.contains(".* TO ") {
                rights.push(about(grant));
            } else {
                on_objects.push(Definition { may_lack_objects: true, ..about(grant) });
            }
        }
    }
    definitions.extend(rights);
    Ok(on_objects)
}
