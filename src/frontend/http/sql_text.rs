//! SQL text that can't be broken out of: identifiers and literals, right under every `sql_mode`.
//!
//! - A literal is plain ASCII between quotes, or hexadecimal: what a backslash or a byte above 127 means hangs on
//!   `sql_mode` and on the connection's character set, so none of them ever stands in a text of ours.
//! - An identifier stands between backticks. Its bytes are UTF-8, so it needs a connection whose client character set
//!   is `utf8mb4`, which is what [`accounts`](super::accounts) sets up before each command.

use std::fmt::Write;

use super::json::Value;

/// The longest identifier that a server takes, in characters. Source: MySQL manual, "Identifier Length Limits".
const IDENTIFIER_CHARS_MAX: usize = 64;

/// A name that can't be a database, table or column.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidIdentifier {
    /// No characters at all.
    #[error("`{0}` is empty; name a database, table or column")]
    Empty(String),
    /// More than 64 characters.
    #[error("`{0}` is longer than the 64 characters that MySQL allows a name")]
    TooLong(String),
    /// A character that no name may hold.
    #[error("{0:?} holds {1:?}, which no name in MySQL may hold (or it ends in a space)")]
    Character(String, char),
}

/// Appends `name` as an identifier; `field` says in errors whose name it is.
///
/// # Errors
/// It can't be one. Source: MySQL manual, "Schema Object Names": no U+0000, nothing beyond U+FFFF, no space at the end.
pub(crate) fn push_identifier(sql: &mut String, field: &str, name: &str) -> Result<(), InvalidIdentifier> {
    if name.is_empty() {
        return Err(InvalidIdentifier::Empty(field.to_owned()));
    }
    if name.chars().count() > IDENTIFIER_CHARS_MAX {
        return Err(InvalidIdentifier::TooLong(name.to_owned()));
    }
    if let Some(bad) = name.chars().find(|c| *c == '\0' || *c > '\u{ffff}') {
        return Err(InvalidIdentifier::Character(name.to_owned(), bad));
    }
    if name.ends_with(' ') {
        return Err(InvalidIdentifier::Character(name.to_owned(), ' '));
    }
    sql.push('`');
    for c in name.chars() {
        if c == '`' {
            sql.push('`');
        }
        sql.push(c);
    }
    sql.push('`');
    Ok(())
}

/// Appends a value as a literal. A list or an object becomes its JSON text.
pub(crate) fn push_literal(sql: &mut String, value: &Value<'_>) {
    match value {
        Value::Null => sql.push_str("NULL"),
        Value::Bool(yes) => sql.push_str(if *yes { "TRUE" } else { "FALSE" }),
        Value::Number(digits) => sql.push_str(digits),
        Value::Text(text) => push_text(sql, text),
        Value::Nested(json) => push_text(sql, json),
        Value::Binary(bytes) => push_hex(sql, "_binary ", bytes),
    }
}

/// Appends a text literal.
pub(crate) fn push_text(sql: &mut String, text: &str) {
    if !text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\\') {
        return push_hex(sql, "_utf8mb4 ", text.as_bytes());
    }
    sql.push_str("_utf8mb4'");
    for c in text.chars() {
        if c == '\'' {
            sql.push('\'');
        }
        sql.push(c);
    }
    sql.push('\'');
}

fn push_hex(sql: &mut String, introducer: &str, bytes: &[u8]) {
    sql.reserve(introducer.len() + 3 + 2 * bytes.len());
    sql.push_str(introducer);
    sql.push_str("X'");
    for byte in bytes {
        write!(sql, "{byte:02X}").expect("a String takes everything");
    }
    sql.push('\'');
}

/// Appends the pattern of a LIKE with its escape character, which is `!` whatever `sql_mode` says.
/// In the client's pattern `%` and `_` are wildcards and a backslash takes that away.
pub(crate) fn push_like_pattern(sql: &mut String, pattern: &str) {
    let mut ours = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let (c, escaped) = match c {
            // A backslash at the very end has nothing to escape and stands for itself.
            '\\' => (chars.next().unwrap_or('\\'), true),
            c => (c, false),
        };
        if c == '!' || escaped && matches!(c, '%' | '_') {
            ours.push('!');
        }
        ours.push(c);
    }
    push_text(sql, &ours);
    sql.push_str(" ESCAPE '!'");
}

/// Appends the pattern of a LIKE that finds `term` anywhere, whatever characters it has.
pub(crate) fn push_containing_pattern(sql: &mut String, term: &str) {
    let mut pattern = String::with_capacity(term.len() + 2);
    pattern.push('%');
    for c in term.chars() {
        if matches!(c, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    push_text(sql, &pattern);
    sql.push_str(" ESCAPE '!'");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(value: Value<'_>) -> String {
        let mut sql = String::new();
        push_literal(&mut sql, &value);
        sql
    }

    #[test]
    fn every_kind_of_literal() {
        for (value, sql) in [
            (Value::Null, "NULL"),
            (Value::Bool(true), "TRUE"),
            (Value::Number("-12345678901234567890.5"), "-12345678901234567890.5"),
            (Value::Text("O'Reilly \"x\" -- ;".into()), "_utf8mb4'O''Reilly \"x\" -- ;'"),
            (Value::Text("".into()), "_utf8mb4''"),
            (Value::Text("\\' OR 1=1 -- ".into()), "_utf8mb4 X'5C27204F5220313D31202D2D20'"),
            (Value::Text("é😀".into()), "_utf8mb4 X'C3A9F09F9880'"),
            (Value::Text("a\0b\n".into()), "_utf8mb4 X'6100620A'"),
            (Value::Binary(vec![0, 0x5c, 0xff]), "_binary X'005CFF'"),
            (Value::Binary(vec![]), "_binary X''"),
            (Value::Nested(r#"{"a": [1, "x'"]}"#), r#"_utf8mb4'{"a": [1, "x''"]}'"#),
        ] {
            assert_eq!(literal(value), sql);
        }
    }

    #[test]
    fn a_name_cannot_leave_its_backticks() {
        let mut sql = String::new();
        push_identifier(&mut sql, "table", "a` (b) VALUES (1); -- ").expect_err("it ends in a space");
        push_identifier(&mut sql, "table", "a`; DROP TABLE `b").unwrap();
        assert_eq!(sql, "`a``; DROP TABLE ``b`");
        for bad in ["", "a\0", "x ", "😀", &"x".repeat(65)] {
            assert!(push_identifier(&mut String::new(), "table", bad).is_err(), "{bad:?} was taken for a name");
        }
        push_identifier(&mut String::new(), "table", &"é".repeat(64)).expect("64 characters are allowed");
    }

    #[test]
    fn like_has_the_same_escape_under_every_sql_mode() {
        for (pattern, sql) in [
            ("50%", "_utf8mb4'50%' ESCAPE '!'"),
            ("50\\%!", "_utf8mb4'50!%!!' ESCAPE '!'"),
            ("a\\\\b", "_utf8mb4 X'615C62' ESCAPE '!'"),
            ("\\", "_utf8mb4 X'5C' ESCAPE '!'"),
        ] {
            let mut text = String::new();
            push_like_pattern(&mut text, pattern);
            assert_eq!(text, sql);
        }
        let mut text = String::new();
        push_containing_pattern(&mut text, "5_0%!");
        assert_eq!(text, "_utf8mb4'%5!_0!%!!%' ESCAPE '!'");
    }
}
