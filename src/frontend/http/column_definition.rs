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

use serde_json::value::RawValue;

use super::{
    definition_tokens::{Reason, Token, tokens},
    json::{self, Fields, Value},
    json_command::InvalidCommand,
    sql_text::{push_identifier, push_literal, push_text},
};

/// A definition that does not follow the grammar.
#[derive(Debug, thiserror::Error)]
#[error("`{definition}` is no column definition: {reason}")]
pub(crate) struct InvalidDefinition {
    definition: String,
    reason: Reason,
}

/// What may follow the name of a type in parentheses.
#[derive(Clone, Copy, PartialEq)]
enum Arguments {
    /// So many numbers, at least and at most.
    Numbers(usize, usize),
    /// One string or more.
    Strings,
}

/// Which words may follow a type.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Number,
    Text,
    Other,
}

/// Every type by name. Source: MariaDB Knowledge Base, "Data Types"; MySQL manual, "Data Types".
const TYPES: [(&str, Arguments, Family); 47] = {
    use Arguments::{Numbers, Strings};
    use Family::{Number, Other, Text};
    [
        ("TINYINT", Numbers(0, 1), Number),
        ("SMALLINT", Numbers(0, 1), Number),
        ("MEDIUMINT", Numbers(0, 1), Number),
        ("INT", Numbers(0, 1), Number),
        ("INTEGER", Numbers(0, 1), Number),
        ("BIGINT", Numbers(0, 1), Number),
        ("DECIMAL", Numbers(0, 2), Number),
        ("NUMERIC", Numbers(0, 2), Number),
        ("FLOAT", Numbers(0, 2), Number),
        ("DOUBLE", Numbers(0, 2), Number),
        ("REAL", Numbers(0, 2), Number),
        ("BOOL", Numbers(0, 0), Other),
        ("BOOLEAN", Numbers(0, 0), Other),
        ("BIT", Numbers(0, 1), Other),
        ("DATE", Numbers(0, 0), Other),
        ("TIME", Numbers(0, 1), Other),
        ("DATETIME", Numbers(0, 1), Other),
        ("TIMESTAMP", Numbers(0, 1), Other),
        ("YEAR", Numbers(0, 1), Other),
        ("CHAR", Numbers(0, 1), Text),
        ("VARCHAR", Numbers(1, 1), Text),
        ("TINYTEXT", Numbers(0, 0), Text),
        ("TEXT", Numbers(0, 1), Text),
        ("MEDIUMTEXT", Numbers(0, 0), Text),
        ("LONGTEXT", Numbers(0, 0), Text),
        ("ENUM", Strings, Text),
        ("SET", Strings, Text),
        ("BINARY", Numbers(0, 1), Other),
        ("VARBINARY", Numbers(1, 1), Other),
        ("TINYBLOB", Numbers(0, 0), Other),
        ("BLOB", Numbers(0, 1), Other),
        ("MEDIUMBLOB", Numbers(0, 0), Other),
        ("LONGBLOB", Numbers(0, 0), Other),
        ("JSON", Numbers(0, 0), Other),
        ("UUID", Numbers(0, 0), Other),
        ("INET4", Numbers(0, 0), Other),
        ("INET6", Numbers(0, 0), Other),
        ("SERIAL", Numbers(0, 0), Other),
        ("GEOMETRY", Numbers(0, 0), Other),
        ("POINT", Numbers(0, 0), Other),
        ("LINESTRING", Numbers(0, 0), Other),
        ("POLYGON", Numbers(0, 0), Other),
        ("MULTIPOINT", Numbers(0, 0), Other),
        ("MULTILINESTRING", Numbers(0, 0), Other),
        ("MULTIPOLYGON", Numbers(0, 0), Other),
        ("GEOMETRYCOLLECTION", Numbers(0, 0), Other),
        ("VECTOR", Numbers(1, 1), Other),
    ]
};

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

enum InvalidOr {
    Reason(Reason),
    Identifier(super::sql_text::InvalidIdentifier),
}

impl From<Reason> for InvalidOr {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<super::sql_text::InvalidIdentifier> for InvalidOr {
    fn from(error: super::sql_text::InvalidIdentifier) -> Self {
        Self::Identifier(error)
    }
}

/// Where the grammar of the server takes a string but no introducer. A backslash means different things under different
/// `sql_mode`s, and so is not taken.
fn push_plain_string(sql: &mut String, text: &str) -> Result<(), Reason> {
    if let Some(bad) = text.chars().find(|c| *c == '\\' || c.is_control()) {
        return Err(Reason::Character(bad));
    }
    sql.push('\'');
    sql.push_str(&text.replace('\'', "''"));
    sql.push('\'');
    Ok(())
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    fn next(&mut self, expected: &'static str) -> Result<Token, Reason> {
        self.tokens.next().ok_or(Reason::End(expected))
    }

    /// Whether the next word is this one; if so it is gone.
    fn eat(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Word(upper, _) if upper == word)).is_some()
    }

    fn eat_mark(&mut self, mark: char) -> bool {
        self.tokens.next_if_eq(&Token::Mark(mark)).is_some()
    }

    fn expect(&mut self, word: &'static str) -> Result<(), Reason> {
        match self.eat(word) {
            true => Ok(()),
            false => Err(self.unexpected(word)),
        }
    }

    fn unexpected(&mut self, expected: &'static str) -> Reason {
        match self.tokens.peek() {
            Some(token) => Reason::Unexpected { found: token.text(), expected },
            None => Reason::End(expected),
        }
    }

    fn end(&mut self) -> Result<(), InvalidOr> {
        match self.tokens.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end").into()),
        }
    }

    fn push_name(&mut self, sql: &mut String, expected: &'static str) -> Result<(), InvalidOr> {
        match self.next(expected)? {
            Token::Word(_, name) | Token::Name(name) => Ok(push_identifier(sql, "attrs", &name)?),
            other => Err(Reason::Unexpected { found: other.text(), expected }.into()),
        }
    }

    /// Appends a type and returns its name.
    fn push_type(&mut self, sql: &mut String) -> Result<&'static str, InvalidOr> {
        let word = match self.next("a type")? {
            Token::Word(word, _) => word,
            other => return Err(Reason::Unexpected { found: other.text(), expected: "a type" }.into()),
        };
        let Some((name, arguments, family)) = TYPES.iter().find(|(name, ..)| *name == word) else {
            let names: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
            return Err(Reason::UnknownType { nearest: json::nearest(&word, &names), word }.into());
        };
        sql.push_str(name);
        self.push_arguments(sql, name, *arguments)?;
        loop {
            match family {
                Family::Number if self.eat("UNSIGNED") => sql.push_str(" UNSIGNED"),
                Family::Number if self.eat("SIGNED") => sql.push_str(" SIGNED"),
                Family::Number if self.eat("ZEROFILL") => sql.push_str(" ZEROFILL"),
                Family::Number if *name == "DOUBLE" && self.eat("PRECISION") => {}
                Family::Text if self.eat("CHARSET") => self.push_charset(sql, " CHARACTER SET ")?,
                Family::Text if self.eat("CHARACTER") => {
                    self.expect("SET")?;
                    self.push_charset(sql, " CHARACTER SET ")?;
                }
                Family::Text if self.eat("COLLATE") => self.push_charset(sql, " COLLATE ")?,
                _ => return Ok(name),
            }
        }
    }

    fn push_arguments(&mut self, sql: &mut String, name: &'static str, wanted: Arguments) -> Result<(), InvalidOr> {
        let mut count = 0;
        if self.eat_mark('(') {
            loop {
                sql.push(if count == 0 { '(' } else { ',' });
                match (wanted, self.next("an argument")?) {
                    (Arguments::Numbers(..), Token::Number(digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                        sql.push_str(&digits);
                    }
                    (Arguments::Strings, Token::Text(text)) => push_plain_string(sql, &text)?,
                    _ => return Err(Reason::Arguments(name).into()),
                }
                count += 1;
                if !self.eat_mark(',') {
                    break;
                }
            }
            if !self.eat_mark(')') {
                return Err(self.unexpected("a closing parenthesis").into());
            }
            sql.push(')');
        }
        let fits = match wanted {
            Arguments::Numbers(least, most) => (least..=most).contains(&count),
            Arguments::Strings => count > 0,
        };
        if fits { Ok(()) } else { Err(Reason::Arguments(name).into()) }
    }

    fn push_charset(&mut self, sql: &mut String, introduction: &str) -> Result<(), InvalidOr> {
        match self.next("the name of a character set or collation")? {
            Token::Word(_, word) if word.is_ascii() => {
                sql.push_str(introduction);
                sql.push_str(&word);
                Ok(())
            }
            other => {
                let expected = "the name of a character set or collation";
                Err(Reason::Unexpected { found: other.text(), expected }.into())
            }
        }
    }

    fn push_attributes(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        while self.tokens.peek().is_some() {
            if self.eat("NOT") {
                self.expect("NULL")?;
                sql.push_str(" NOT NULL");
            } else if self.eat("NULL") {
                sql.push_str(" NULL");
            } else if self.eat("DEFAULT") {
                sql.push_str(" DEFAULT ");
                self.push_default(sql)?;
            } else if self.eat("ON") {
                self.expect("UPDATE")?;
                self.expect("CURRENT_TIMESTAMP")?;
                sql.push_str(" ON UPDATE CURRENT_TIMESTAMP");
                self.push_precision(sql)?;
            } else if self.eat("AUTO_INCREMENT") {
                sql.push_str(" AUTO_INCREMENT");
            } else if self.eat("PRIMARY") {
                self.expect("KEY")?;
                sql.push_str(" PRIMARY KEY");
            } else if self.eat("UNIQUE") {
                let _ = self.eat("KEY");
                sql.push_str(" UNIQUE");
            } else if self.eat("COMMENT") {
                sql.push_str(" COMMENT ");
                match self.next("a string")? {
                    Token::Text(text) => push_plain_string(sql, &text)?,
                    other => return Err(Reason::Unexpected { found: other.text(), expected: "a string" }.into()),
                }
            } else {
                return Err(self.unexpected("an attribute of a column").into());
            }
        }
        Ok(())
    }

    fn push_default(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        let expected = "a literal or CURRENT_TIMESTAMP";
        match self.next(expected)? {
            Token::Number(digits) => sql.push_str(&digits),
            Token::Text(text) => push_text(sql, &text),
            Token::Word(word, _) if word == "CURRENT_TIMESTAMP" => {
                sql.push_str("CURRENT_TIMESTAMP");
                self.push_precision(sql)?;
            }
            Token::Word(word, _) if matches!(word.as_str(), "NULL" | "TRUE" | "FALSE") => sql.push_str(&word),
            other => return Err(Reason::Unexpected { found: other.text(), expected }.into()),
        }
        Ok(())
    }

    /// The optional `(n)` of CURRENT_TIMESTAMP.
    fn push_precision(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        match self.tokens.peek() {
            Some(Token::Mark('(')) => self.push_arguments(sql, "CURRENT_TIMESTAMP", Arguments::Numbers(1, 1)),
            _ => Ok(()),
        }
    }

    /// Which key a definition is of, if it is one's; its word is gone then.
    fn key_kind(&mut self) -> Option<&'static str> {
        // A column may be called `key`, but then its name needs backticks, as in MySQL.
        [
            ("PRIMARY", "PRIMARY KEY"),
            ("UNIQUE", "UNIQUE"),
            ("INDEX", "INDEX"),
            ("KEY", "INDEX"),
            ("FULLTEXT", "FULLTEXT"),
        ]
        .into_iter()
        .find(|(word, _)| self.eat(word))
        .map(|(_, kind)| kind)
    }

    fn push_key(&mut self, sql: &mut String, kind: &'static str) -> Result<(), InvalidOr> {
        sql.push_str(kind);
        match kind {
            "PRIMARY KEY" => self.expect("KEY")?,
            "INDEX" => {}
            _ => {
                let _ = self.eat("KEY") || self.eat("INDEX");
            }
        }
        sql.push(' ');
        if kind != "PRIMARY KEY" && !matches!(self.tokens.peek(), Some(Token::Mark('('))) {
            self.push_name(sql, "the columns in parentheses")?;
            sql.push(' ');
        }
        if !self.eat_mark('(') {
            return Err(self.unexpected("the columns in parentheses").into());
        }
        let mut separator = '(';
        loop {
            sql.push(separator);
            self.push_name(sql, "a column")?;
            separator = ',';
            if !self.eat_mark(',') {
                break;
            }
        }
        if !self.eat_mark(')') {
            return Err(self.unexpected("a closing parenthesis").into());
        }
        sql.push(')');
        Ok(())
    }
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
