//! The `query` object, made into the condition of a WHERE.
//!
//! ```json
//! {"status": "open", "price": {"gte": 10, "lt": 20}, "or": [{"owner": null}, {"owner": {"in": [1, 2]}}]}
//! ```
//! Members are AND-ed; `or` with a list takes one such object per alternative. Nothing in it can be empty: an empty
//! alternative would match every row, which nobody means.

use serde_json::value::RawValue;

use super::{
    json::{self, Value},
    json_command::InvalidCommand,
    sql_text::{push_identifier, push_like_pattern, push_literal},
};

/// The operators of a column's object.
const OPERATORS: [&str; 9] = ["eq", "ne", "lt", "lte", "gt", "gte", "in", "like", "null"];

/// How deep `or` may nest. Each level is read once more, so the depth is a bound on the cost, too.
const DEPTH_MAX: usize = 16;

/// Appends the condition for a `query` object; nothing when it has no members.
///
/// # Errors
/// What it says can't be a condition.
pub(crate) fn push_condition(sql: &mut String, query: &RawValue) -> Result<(), InvalidCommand> {
    push_all(sql, query, DEPTH_MAX)
}

fn push_all(sql: &mut String, query: &RawValue, depth: usize) -> Result<(), InvalidCommand> {
    for (index, (name, value)) in json::object("query", query)?.into_iter().enumerate() {
        if index > 0 {
            sql.push_str(" AND ");
        }
        if name == "or" && value.get().starts_with('[') {
            push_any(sql, value, depth)?;
        } else {
            push_column(sql, &name, value)?;
        }
    }
    Ok(())
}

fn push_any(sql: &mut String, alternatives: &RawValue, depth: usize) -> Result<(), InvalidCommand> {
    let depth = depth.checked_sub(1).ok_or(InvalidCommand::TooDeep { depth_max: DEPTH_MAX })?;
    let alternatives = json::list("or", alternatives)?;
    if alternatives.is_empty() {
        return Err(InvalidCommand::EmptyCondition { field: "or".to_owned() });
    }
    sql.push('(');
    for (index, alternative) in alternatives.into_iter().enumerate() {
        if index > 0 {
            sql.push_str(" OR ");
        }
        if json::object("or", alternative)?.is_empty() {
            return Err(InvalidCommand::EmptyCondition { field: "or".to_owned() });
        }
        sql.push('(');
        push_all(sql, alternative, depth)?;
        sql.push(')');
    }
    sql.push(')');
    Ok(())
}

fn push_column(sql: &mut String, column: &str, wanted: &RawValue) -> Result<(), InvalidCommand> {
    match wanted.get().as_bytes().first() {
        Some(b'[') => Err(InvalidCommand::ListOutsideIn { field: column.to_owned() }),
        Some(b'{') => match Value::read(column, wanted)? {
            value @ Value::Binary(_) => push_comparison(sql, column, "eq", &value),
            _ => push_operators(sql, column, wanted),
        },
        _ => push_comparison(sql, column, "eq", &Value::read(column, wanted)?),
    }
}

fn push_operators(sql: &mut String, column: &str, operators: &RawValue) -> Result<(), InvalidCommand> {
    let operators = json::object(column, operators)?;
    if operators.is_empty() {
        return Err(InvalidCommand::EmptyCondition { field: column.to_owned() });
    }
    for (index, (operator, operand)) in operators.into_iter().enumerate() {
        if index > 0 {
            sql.push_str(" AND ");
        }
        match operator.as_str() {
            "in" => push_in(sql, column, operand)?,
            "like" => {
                push_identifier(sql, "query", column)?;
                sql.push_str(" LIKE ");
                push_like_pattern(sql, &json::text("like", operand)?);
            }
            "null" => push_null_test(sql, column, json::boolean("null", operand)?)?,
            _ => push_comparison(sql, column, &operator, &Value::read(column, operand)?)?,
        }
    }
    Ok(())
}

fn push_comparison(sql: &mut String, column: &str, operator: &str, value: &Value<'_>) -> Result<(), InvalidCommand> {
    let symbol = match operator {
        "eq" => " = ",
        "ne" => " <> ",
        "lt" => " < ",
        "lte" => " <= ",
        "gt" => " > ",
        "gte" => " >= ",
        other => {
            return Err(InvalidCommand::UnknownOperator {
                column: column.to_owned(),
                operator: other.to_owned(),
                nearest: json::nearest(other, &OPERATORS),
            });
        }
    };
    match (operator, value) {
        ("eq", Value::Null) => push_null_test(sql, column, true),
        ("ne", Value::Null) => push_null_test(sql, column, false),
        // `a < NULL` is never true: a mistake that would go unnoticed.
        (_, Value::Null) => {
            Err(InvalidCommand::NullOperand { column: column.to_owned(), operator: operator.to_owned() })
        }
        (_, Value::Nested(_)) => Err(InvalidCommand::NestedOperand { column: column.to_owned() }),
        _ => {
            push_identifier(sql, "query", column)?;
            sql.push_str(symbol);
            push_literal(sql, value);
            Ok(())
        }
    }
}

fn push_null_test(sql: &mut String, column: &str, is_null: bool) -> Result<(), InvalidCommand> {
    push_identifier(sql, "query", column)?;
    sql.push_str(if is_null { " IS NULL" } else { " IS NOT NULL" });
    Ok(())
}

/// `in` finds NULL, too, when the list has it; an empty list finds nothing.
fn push_in(sql: &mut String, column: &str, list: &RawValue) -> Result<(), InvalidCommand> {
    let mut values = Vec::new();
    let mut with_null = false;
    for raw in json::list("in", list)? {
        match Value::read(column, raw)? {
            Value::Null => with_null = true,
            Value::Nested(_) => return Err(InvalidCommand::NestedOperand { column: column.to_owned() }),
            value => values.push(value),
        }
    }
    if values.is_empty() {
        return match with_null {
            true => push_null_test(sql, column, true),
            false => {
                sql.push_str("FALSE");
                Ok(())
            }
        };
    }
    if with_null {
        sql.push('(');
    }
    push_identifier(sql, "query", column)?;
    sql.push_str(" IN (");
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        push_literal(sql, value);
    }
    sql.push(')');
    if with_null {
        sql.push_str(" OR ");
        push_null_test(sql, column, true)?;
        sql.push(')');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(query: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(query).expect("test JSON");
        let mut sql = String::new();
        push_condition(&mut sql, raw).map(|()| sql).map_err(|error| error.to_string())
    }

    #[test]
    fn every_operator() {
        for (query, sql) in [
            (r#"{}"#, ""),
            (r#"{"a": 1}"#, "`a` = 1"),
            (r#"{"a": null}"#, "`a` IS NULL"),
            (r#"{"a": {"ne": null}}"#, "`a` IS NOT NULL"),
            (r#"{"a": {"null": true}, "b": {"null": false}}"#, "`a` IS NULL AND `b` IS NOT NULL"),
            (r#"{"a": {"gte": 1, "lt": 2.50}}"#, "`a` >= 1 AND `a` < 2.50"),
            (r#"{"a": {"gt": "x"}, "b": {"lte": true}}"#, "`a` > _utf8mb4'x' AND `b` <= TRUE"),
            (r#"{"a": {"in": [1, "x", null]}}"#, "(`a` IN (1, _utf8mb4'x') OR `a` IS NULL)"),
            (r#"{"a": {"in": []}}"#, "FALSE"),
            (r#"{"a": {"in": [null]}}"#, "`a` IS NULL"),
            (r#"{"a": {"like": "x%"}}"#, "`a` LIKE _utf8mb4'x%' ESCAPE '!'"),
            (r#"{"a": {"base64": "AA=="}}"#, "`a` = _binary X'00'"),
            (r#"{"a": {"ne": {"base64": "AA=="}}}"#, "`a` <> _binary X'00'"),
            (r#"{"z": 0, "or": [{"a": 1, "b": 2}, {"c": 3}]}"#, "`z` = 0 AND ((`a` = 1 AND `b` = 2) OR (`c` = 3))"),
            (r#"{"or": {"eq": 5}}"#, "`or` = 5"),
            (r#"{"a`b": 1}"#, "`a``b` = 1"),
        ] {
            assert_eq!(condition(query).as_deref(), Ok(sql), "{query}");
        }
    }

    #[test]
    fn what_would_match_too_much_or_nothing_is_refused() {
        for (query, part) in [
            (r#"{"or": []}"#, "`or` is empty"),
            (r#"{"or": [{"a": 1}, {}]}"#, "`or` is empty"),
            (r#"{"a": {}}"#, "`a` is empty"),
            (r#"{"a": [1, 2]}"#, "\"in\""),
            (r#"{"a": {"lt": null}}"#, "`lt`"),
            (r#"{"a": {"eq": {"b": 1}}}"#, "`a`"),
            (r#"{"a": {"gtr": 1}}"#, "did you mean `gte`?"),
            (r#"{"a": {"1=1 OR ": 1}}"#, "no operator"),
            (r#"{"": 1}"#, "empty"),
            (r#"[1]"#, "must be an object"),
            (r#"{"a": {"like": 5}}"#, "must be a string"),
        ] {
            let error = condition(query).expect_err(query);
            assert!(error.contains(part), "{query}: {error}");
        }
    }

    #[test]
    fn or_nests_only_so_deep() {
        let nested = |depth: usize| format!("{}{}{}", r#"{"or":["#.repeat(depth), r#"{"a":1}"#, "]}".repeat(depth));
        assert!(condition(&nested(DEPTH_MAX)).is_ok());
        assert!(condition(&nested(DEPTH_MAX + 1)).unwrap_err().contains("16"));
        assert!(condition(&nested(20_000)).is_err());
    }
}
