//! The `attrs` of `create_table`: column and key definitions in a grammar of our own.
//!
//! What a client writes is taken apart into words, numbers, strings and names, checked against the grammar, and written
//! anew from what was understood: nothing that is not understood reaches the server.
//!
//! ```text
//! definition = name type attribute*                       "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY"
//!            | PRIMARY KEY (names) | UNIQUE [name] (names) | INDEX [name] (names) | FULLTEXT [name] (names)
//! type       = word [(number, …) | ('string', …)] type-word*
//! attribute  = [NOT] NULL | DEFAULT literal | ON UPDATE CURRENT_TIMESTAMP | AUTO_INCREMENT | PRIMARY KEY | UNIQUE
//!            | COMMENT 'string'
//! ```
//! An object says the same by members: `{"name", "type", "null", "default", "auto_increment", "primary_key", "unique",
//! "comment"}`.

mod parser;
mod types;

use serde_json::value::RawValue;

use self::parser::{InvalidOr, Parser, push_plain_string};

use super::{
    definition_tokens::{Reason, tokens},
    json::{self, Fields, Value},
    json_command::InvalidCommand,
    sql_text::{push_identifier, push_literal},
};

/// A definition that does not follow the grammar.
#[derive(Debug, thiserror::Error)]
#[error("`{definition}` is no column definition: {reason}")]
pub(crate) struct InvalidDefinition {
    definition: String,
    reason: Reason,
}

const OBJECT_FIELDS: [&str; 8] =
    ["name", "type", "null", "default", "auto_increment", "primary_key", "unique", "comment"];

/// Appends the definitions of an `attrs` list, separated by commas.
///
/// # Errors
/// The list is empty or a definition does not follow the grammar.
pub(crate) fn push_definitions(sql: &mut String, attrs: &RawValue) -> Result<(), InvalidCommand> {
    let definitions = json::list("attrs", attrs)?;
    if definitions.is_empty() {
        return Err(InvalidCommand::EmptyList { field: "attrs" });
    }
    for (index, definition) in definitions.into_iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        if definition.get().starts_with('{') {
            push_object(sql, definition)?;
        } else {
            push_string(sql, &json::text("attrs", definition)?)?;
        }
    }
    Ok(())
}

fn push_object(sql: &mut String, definition: &RawValue) -> Result<(), InvalidCommand> {
    let members = json::object("attrs", definition)?;
    // `take` drops a null, but a default may well be one.
    let default_null = members.iter().any(|(name, value)| name == "default" && value.get() == "null");
    let mut fields = Fields::new("a column definition", members);
    let flag = |fields: &mut Fields<'_>, field| fields.take(field).map(|raw| json::boolean(field, raw)).transpose();

    push_identifier(sql, "name", &json::text("name", fields.need("name")?)?)?;
    sql.push(' ');
    let type_text = json::text("type", fields.need("type")?)?;
    let type_name = parse(&type_text, |parser, definition| {
        let type_name = parser.push_type(definition)?;
        parser.end().map(|()| type_name)
    })
    .map(|(text, type_name)| {
        sql.push_str(&text);
        type_name
    })?;
    match flag(&mut fields, "null")? {
        Some(true) => sql.push_str(" NULL"),
        Some(false) => sql.push_str(" NOT NULL"),
        None => {}
    }
    if let Some(default) = fields.take("default") {
        sql.push_str(" DEFAULT ");
        push_default(sql, type_name, &Value::read("default", default)?);
    } else if default_null {
        sql.push_str(" DEFAULT NULL");
    }
    for (field, text) in [("auto_increment", " AUTO_INCREMENT"), ("primary_key", " PRIMARY KEY"), ("unique", " UNIQUE")]
    {
        if flag(&mut fields, field)? == Some(true) {
            sql.push_str(text);
        }
    }
    if let Some(comment) = fields.take("comment") {
        let comment = json::text("comment", comment)?;
        sql.push_str(" COMMENT ");
        push_plain_string(sql, &comment).map_err(|reason| invalid(&comment, reason))?;
    }
    Ok(fields.finish(&OBJECT_FIELDS)?)
}

/// For a point in time the word CURRENT_TIMESTAMP can only mean the clock.
fn push_default(sql: &mut String, type_name: &str, default: &Value<'_>) {
    match default {
        Value::Text(text)
            if matches!(type_name, "TIMESTAMP" | "DATETIME") && text.eq_ignore_ascii_case("CURRENT_TIMESTAMP") =>
        {
            sql.push_str("CURRENT_TIMESTAMP");
        }
        value => push_literal(sql, value),
    }
}

fn push_string(sql: &mut String, definition: &str) -> Result<(), InvalidCommand> {
    let (text, ()) = parse(definition, |parser, sql| {
        match parser.key_kind() {
            Some(kind) => parser.push_key(sql, kind)?,
            None => {
                parser.push_name(sql, "the column's name")?;
                sql.push(' ');
                parser.push_type(sql)?;
                parser.push_attributes(sql)?;
            }
        }
        parser.end()
    })?;
    sql.push_str(&text);
    Ok(())
}

/// Takes `definition` apart and writes it anew.
fn parse<T>(
    definition: &str,
    rule: impl FnOnce(&mut Parser, &mut String) -> Result<T, InvalidOr>,
) -> Result<(String, T), InvalidCommand> {
    let tokens = tokens(definition).map_err(|reason| invalid(definition, reason))?;
    let mut sql = String::new();
    match rule(&mut Parser { tokens: tokens.into_iter().peekable() }, &mut sql) {
        Ok(value) => Ok((sql, value)),
        Err(InvalidOr::Reason(reason)) => Err(invalid(definition, reason).into()),
        Err(InvalidOr::Identifier(error)) => Err(error.into()),
    }
}

fn invalid(definition: &str, reason: Reason) -> InvalidDefinition {
    // The definition comes back in the message, so its length is bounded.
    InvalidDefinition { definition: definition.chars().take(200).collect(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions(attrs: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(attrs).expect("test JSON");
        let mut sql = String::new();
        push_definitions(&mut sql, raw).map(|()| sql).map_err(|error| error.to_string())
    }

    #[test]
    fn strings_are_written_anew() {
        for (attrs, sql) in [
            (
                r#"["id bigint unsigned not null auto_increment primary key"]"#,
                "`id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY",
            ),
            (
                r#"["name varchar(50) character set utf8mb4 collate utf8mb4_bin null default 'it''s'"]"#,
                "`name` VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT _utf8mb4'it''s'",
            ),
            (
                r#"["`a``b` decimal(10, 2) default -1.50 comment 'x'"]"#,
                "`a``b` DECIMAL(10,2) DEFAULT -1.50 COMMENT 'x'",
            ),
            (
                r#"["at timestamp(6) default current_timestamp(6) on update current_timestamp(6)"]"#,
                "`at` TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
            ),
            (r#"["c text default 'x\\' comment ' y'"]"#, "`c` TEXT DEFAULT _utf8mb4 X'785C' COMMENT ' y'"),
            (r#"["kind enum('a', 'b''c', 'é')"]"#, "`kind` ENUM('a','b''c','é')"),
            (r#"["d double precision", "größe int(11) unique key"]"#, "`d` DOUBLE, `größe` INT(11) UNIQUE"),
            (
                r#"["a int", "primary key (a)", "unique u (a, `b`)", "index (a)", "fulltext key ft (t)", "key k (a)"]"#,
                "`a` INT, PRIMARY KEY (`a`), UNIQUE `u` (`a`,`b`), INDEX (`a`), FULLTEXT `ft` (`t`), INDEX `k` (`a`)",
            ),
        ] {
            assert_eq!(definitions(attrs).as_deref(), Ok(sql), "{attrs}");
        }
    }

    #[test]
    fn objects_say_the_same() {
        for (attrs, sql) in [
            (
                r#"[{"name": "id", "type": "int", "auto_increment": true, "primary_key": true}]"#,
                "`id` INT AUTO_INCREMENT PRIMARY KEY",
            ),
            (
                r#"[{"name": "a", "type": "varchar(9)", "null": false, "default": "x\\y", "unique": true, "comment": "it's"}]"#,
                "`a` VARCHAR(9) NOT NULL DEFAULT _utf8mb4 X'785C79' UNIQUE COMMENT 'it''s'",
            ),
            (
                r#"[{"name": "a", "type": "datetime", "default": "current_timestamp"}]"#,
                "`a` DATETIME DEFAULT CURRENT_TIMESTAMP",
            ),
            (r#"[{"name": "a", "type": "text", "default": null, "null": true}]"#, "`a` TEXT NULL DEFAULT NULL"),
        ] {
            assert_eq!(definitions(attrs).as_deref(), Ok(sql), "{attrs}");
        }
    }

    #[test]
    fn nothing_else_passes() {
        for (attrs, part) in [
            (r#"[]"#, "`attrs` is empty"),
            (r#"["id int; DROP TABLE x"]"#, "';'"),
            (r#"["id int) ENGINE=MyISAM"]"#, "'='"),
            (r#"["id int, b int"]"#, "an attribute of a column"),
            (r#"["id int /* x */"]"#, "'/'"),
            (r#"["id int default (sleep(9))"]"#, "a literal"),
            (r#"["id int default now()"]"#, "a literal"),
            (r#"["id int comment 'x' as (1)"]"#, "an attribute of a column"),
            (r#"["id int -- x"]"#, "a number"),
            (r#"["id int default 'x' 'y'"]"#, "an attribute of a column"),
            (r#"["id int comment 'a\\b'"]"#, "no character"),
            (r#"["a enum('x\\')"]"#, "no character"),
            (r#"["id itn"]"#, "did you mean `INT`?"),
            (r#"["id varchar"]"#, "VARCHAR"),
            (r#"["id int(1,2)"]"#, "INT"),
            (r#"["id enum(1)"]"#, "ENUM"),
            (r#"["id int("]"#, "it ends"),
            (r#"["id varchar(5) character set `x`"]"#, "character set"),
            (r#"["`id"]"#, "not closed"),
            (r#"["id"]"#, "a type"),
            (r#"["primary key"]"#, "parentheses"),
            (r#"[5]"#, "must be a string"),
            (r#"[{"name": "id"}]"#, "needs the field `type`"),
            (r#"[{"name": "id", "type": "int", "nul": true}]"#, "did you mean `null`?"),
            (r#"[{"name": "id", "type": "int primary key"}]"#, "the end"),
            (r#"[{"name": "id", "type": "int", "comment": "\\"}]"#, "no character"),
        ] {
            let error = definitions(attrs).expect_err(attrs);
            assert!(error.contains(part), "{attrs}: {error}");
        }
    }
}
