//! What a schema holds, as text that can be compared.

use std::collections::BTreeMap;

use mysql_async::{Conn, Row, Value, prelude::Queryable};

/// Tables with more rows are compared by their checksum alone.
const ROWS_MAX: usize = 1000;

/// The `SHOW CREATE` of everything in the schema, and what its tables hold.
pub(crate) async fn contents(conn: &mut Conn, schema: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    conn.query_drop(format!("USE `{schema}`")).await.unwrap();
    let mut questions = vec![format!("SHOW CREATE DATABASE `{schema}`")];
    for (name, kind) in names(conn, "TABLES", "TABLE_NAME, TABLE_TYPE", "TABLE_SCHEMA").await {
        let name = quoted(&name);
        match kind.as_str() {
            "VIEW" => questions.push(format!("SHOW CREATE VIEW {name}")),
            "SEQUENCE" => questions.extend([format!("SHOW CREATE SEQUENCE {name}"), format!("SELECT * FROM {name}")]),
            _ => questions.extend([
                format!("SHOW CREATE TABLE {name}"),
                format!("CHECKSUM TABLE {name}"),
                format!("SELECT * FROM {name} LIMIT {ROWS_MAX}"),
            ]),
        }
    }
    for (name, _) in names(conn, "TRIGGERS", "TRIGGER_NAME, ''", "TRIGGER_SCHEMA").await {
        questions.push(format!("SHOW CREATE TRIGGER {}", quoted(&name)));
    }
    for (name, kind) in names(conn, "ROUTINES", "ROUTINE_NAME, ROUTINE_TYPE", "ROUTINE_SCHEMA").await {
        questions.push(format!("SHOW CREATE {kind} {}", quoted(&name)));
    }
    for (name, _) in names(conn, "EVENTS", "EVENT_NAME, ''", "EVENT_SCHEMA").await {
        questions.push(format!("SHOW CREATE EVENT {}", quoted(&name)));
    }
    for question in questions {
        let answer = without_counter(answer(conn, &question).await);
        all.insert(question, answer);
    }
    all
}

/// A table's definition without its next number: what a statement reserved on the master and did not use is nowhere in
/// the binlog.
pub(crate) fn without_counter(definition: String) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    let Some((before, after)) = definition.split_once(COUNTER) else { return definition };
    before.to_owned() + after.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// The rows of an answer, sorted.
pub(crate) async fn answer(conn: &mut Conn, question: &str) -> String {
    let rows: Vec<Row> = conn.query(question).await.unwrap_or_else(|error| panic!("{question}: {error}"));
    let mut rows: Vec<String> = rows.into_iter().map(text).collect();
    rows.sort();
    rows.join("\n")
}

fn text(row: Row) -> String {
    let value = |value: Value| match value {
        Value::Bytes(bytes) => bytes.escape_ascii().to_string(),
        other => other.as_sql(true),
    };
    row.unwrap().into_iter().map(value).collect::<Vec<_>>().join(" | ")
}

async fn names(conn: &mut Conn, table: &str, columns: &str, schema: &str) -> Vec<(String, String)> {
    let query = format!("SELECT {columns} FROM information_schema.{table} WHERE {schema} = DATABASE()");
    conn.query(query).await.unwrap()
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
