//! The SQL of each action.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::{InvalidCommand, JsonCommand};
use crate::frontend::http::{
    column_definition::push_definitions,
    condition::push_condition,
    json::{self, Fields, Value},
    search::Search,
    sql_text::{push_identifier, push_literal},
};

pub(super) fn database(fields: &mut Fields<'_>, verb: &str, condition: &'static str) -> Result<String, InvalidCommand> {
    let mut sql = verb.to_owned();
    push_existence(&mut sql, fields, condition)?;
    sql.push(' ');
    push_identifier(&mut sql, "dbname", &json::text("dbname", fields.need("dbname")?)?)?;
    Ok(sql)
}

pub(super) fn table_statement(
    fields: &mut Fields<'_>,
    verb: &str,
    condition: &'static str,
) -> Result<String, InvalidCommand> {
    let mut sql = verb.to_owned();
    push_existence(&mut sql, fields, condition)?;
    sql.push(' ');
    push_table(&mut sql, fields)?;
    Ok(sql)
}

fn push_existence(sql: &mut String, fields: &mut Fields<'_>, condition: &'static str) -> Result<(), InvalidCommand> {
    if let Some(raw) = fields.take(condition)
        && json::boolean(condition, raw)?
    {
        sql.push_str(if condition == "if_exists" { " IF EXISTS" } else { " IF NOT EXISTS" });
    }
    Ok(())
}

/// Appends the table with its schema: a command never hangs on the session's default.
fn push_table(sql: &mut String, fields: &mut Fields<'_>) -> Result<(), InvalidCommand> {
    push_identifier(sql, "dbname", &json::text("dbname", fields.need("dbname")?)?)?;
    sql.push('.');
    push_identifier(sql, "table", &json::text("table", fields.need("table")?)?)?;
    Ok(())
}

pub(super) fn create_table(fields: &mut Fields<'_>) -> Result<String, InvalidCommand> {
    let mut sql = table_statement(fields, "CREATE TABLE", "if_not_exists")?;
    sql.push_str(" (");
    push_definitions(&mut sql, fields.need("attrs")?)?;
    sql.push(')');
    Ok(sql)
}

pub(super) fn insert(fields: &mut Fields<'_>) -> Result<String, InvalidCommand> {
    let mut sql = String::from("INSERT INTO ");
    push_table(&mut sql, fields)?;
    let data = fields.need("data")?;
    let rows = match data.get().starts_with('[') {
        true => json::list("data", data)?,
        false => vec![data],
    };
    if rows.is_empty() {
        return Err(InvalidCommand::EmptyList { field: "data" });
    }
    let rows = rows.into_iter().map(|row| json::object("data", row)).collect::<Result<Vec<_>, _>>()?;
    // Rows may differ in their columns; what a row lacks takes the column's default.
    let mut columns: HashMap<&str, usize> = HashMap::new();
    let mut names = Vec::new();
    for (name, _) in rows.iter().flatten() {
        columns.entry(name).or_insert_with(|| {
            names.push(name);
            names.len() - 1
        });
    }
    sql.push_str(" (");
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        push_identifier(&mut sql, "data", name)?;
    }
    sql.push_str(") VALUES ");
    for (index, row) in rows.iter().enumerate() {
        sql.push_str(if index > 0 { ", (" } else { "(" });
        let mut values = vec![None; names.len()];
        for (name, value) in row {
            values[columns[name.as_str()]] = Some(Value::read(name, value)?);
        }
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                sql.push_str(", ");
            }
            match value {
                Some(value) => push_literal(&mut sql, value),
                None => sql.push_str("DEFAULT"),
            }
        }
        sql.push(')');
    }
    Ok(sql)
}

pub(super) fn update(fields: &mut Fields<'_>) -> Result<String, InvalidCommand> {
    let mut sql = String::from("UPDATE ");
    push_table(&mut sql, fields)?;
    let assignments = json::object("data", fields.need("data")?)?;
    if assignments.is_empty() {
        return Err(InvalidCommand::EmptyList { field: "data" });
    }
    for (index, (name, value)) in assignments.iter().enumerate() {
        sql.push_str(if index > 0 { ", " } else { " SET " });
        push_identifier(&mut sql, "data", name)?;
        sql.push_str(" = ");
        push_literal(&mut sql, &Value::read(name, value)?);
    }
    push_where_or_all(&mut sql, fields, "update")?;
    Ok(sql)
}

pub(super) fn delete(fields: &mut Fields<'_>) -> Result<String, InvalidCommand> {
    let mut sql = String::from("DELETE FROM ");
    push_table(&mut sql, fields)?;
    push_where_or_all(&mut sql, fields, "delete")?;
    Ok(sql)
}

fn push_where_or_all(sql: &mut String, fields: &mut Fields<'_>, action: &'static str) -> Result<(), InvalidCommand> {
    let all = fields.take("all").map(|raw| json::boolean("all", raw)).transpose()? == Some(true);
    let narrowed = push_where(sql, fields)?;
    if narrowed || all { Ok(()) } else { Err(InvalidCommand::WithoutQuery { action }) }
}

/// Appends the WHERE of `query`, if it has one, and tells whether it has.
fn push_where(sql: &mut String, fields: &mut Fields<'_>) -> Result<bool, InvalidCommand> {
    let mut condition = String::new();
    if let Some(raw) = fields.take("query") {
        push_condition(&mut condition, raw)?;
    }
    if condition.is_empty() {
        return Ok(false);
    }
    sql.push_str(" WHERE ");
    sql.push_str(&condition);
    Ok(true)
}

pub(super) fn select(fields: &mut Fields<'_>) -> Result<String, InvalidCommand> {
    let mut sql = String::from("SELECT ");
    push_selected(&mut sql, fields)?;
    sql.push_str(" FROM ");
    push_table(&mut sql, fields)?;
    push_where(&mut sql, fields)?;
    push_order_and_limit(&mut sql, fields)?;
    Ok(sql)
}

fn push_selected(sql: &mut String, fields: &mut Fields<'_>) -> Result<(), InvalidCommand> {
    let Some(attrs) = fields.take("attrs") else {
        sql.push('*');
        return Ok(());
    };
    let names = names("attrs", attrs)?;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        push_identifier(sql, "attrs", name)?;
    }
    Ok(())
}

/// A list of strings that is not empty.
fn names(field: &'static str, raw: &RawValue) -> Result<Vec<String>, InvalidCommand> {
    let names = json::list(field, raw)?
        .into_iter()
        .map(|raw| json::text(field, raw).map(|name| name.into_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    if names.is_empty() { Err(InvalidCommand::EmptyList { field }) } else { Ok(names) }
}

fn push_order_and_limit(sql: &mut String, fields: &mut Fields<'_>) -> Result<(), InvalidCommand> {
    if let Some(order) = fields.take("order") {
        for (index, name) in names("order", order)?.iter().enumerate() {
            sql.push_str(if index > 0 { ", " } else { " ORDER BY " });
            push_identifier(sql, "order", name.strip_prefix('-').unwrap_or(name))?;
            if name.starts_with('-') {
                sql.push_str(" DESC");
            }
        }
    }
    let mut number = |field| fields.take(field).map(|raw| json::count(field, raw)).transpose();
    match (number("limit")?, number("offset")?) {
        (None, None) => {}
        (Some(limit), None) => sql.push_str(&format!(" LIMIT {limit}")),
        // MySQL has no OFFSET without LIMIT; its manual gives this number for "all".
        (limit, Some(offset)) => sql.push_str(&format!(" LIMIT {} OFFSET {offset}", limit.unwrap_or(u64::MAX))),
    }
    Ok(())
}

pub(super) fn search(fields: &mut Fields<'_>) -> Result<Search, InvalidCommand> {
    let mut select = String::from("SELECT ");
    push_selected(&mut select, fields)?;
    select.push_str(" FROM ");
    let text = |fields: &mut Fields<'_>, field| json::text(field, fields.need(field)?).map(|text| text.into_owned());
    let (dbname, table) = (text(fields, "dbname")?, text(fields, "table")?);
    push_identifier(&mut select, "dbname", &dbname)?;
    select.push('.');
    push_identifier(&mut select, "table", &table)?;
    let term = text(fields, "term")?;
    if term.trim().is_empty() {
        return Err(InvalidCommand::EmptyCondition { field: "term".to_owned() });
    }
    let columns = fields.take("columns").map(|raw| names("columns", raw)).transpose()?;
    for column in columns.iter().flatten() {
        push_identifier(&mut String::new(), "columns", column)?;
    }
    let mut condition = String::new();
    if let Some(raw) = fields.take("query") {
        push_condition(&mut condition, raw)?;
    }
    let mut tail = String::new();
    push_order_and_limit(&mut tail, fields)?;
    Ok(Search { dbname, table, term, columns, select, condition, tail })
}

pub(super) fn query<'a>(fields: &mut Fields<'a>) -> Result<JsonCommand<'a>, InvalidCommand> {
    let sql = json::text("sql", fields.need("sql")?)?.into_owned();
    if sql.trim().is_empty() {
        return Err(InvalidCommand::EmptyList { field: "sql" });
    }
    let dbname = match fields.take("dbname") {
        Some(raw) => {
            let dbname = json::text("dbname", raw)?.into_owned();
            push_identifier(&mut String::new(), "dbname", &dbname)?;
            Some(dbname)
        }
        None => None,
    };
    let params = match fields.take("params") {
        Some(raw) => {
            json::list("params", raw)?.into_iter().map(|raw| Value::read("params", raw)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    Ok(JsonCommand::Query { dbname, sql, params })
}
