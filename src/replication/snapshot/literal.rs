//! Values as literals of SQL that give back the very value, under `character_set_client = binary` and `sql_mode` without
//! `NO_BACKSLASH_ESCAPES`.

use std::io::Write;

use mysql_async::Value;

/// Appends a value of a column of this type.
pub(super) fn push(sql: &mut Vec<u8>, value: &Value, kind: &str) {
    // Writing to a vector does not fail.
    let _ = match value {
        Value::NULL => sql.write_all(b"NULL"),
        Value::Int(number) => write!(sql, "{number}"),
        Value::UInt(number) => write!(sql, "{number}"),
        // As the double that it is: read back, it is rounded to the same float.
        Value::Float(number) => write!(sql, "{:e}", f64::from(*number)),
        Value::Double(number) => write!(sql, "{number:e}"),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            write!(sql, "'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
        }
        Value::Time(negative, days, hours, minutes, seconds, micros) => {
            let sign = if *negative { "-" } else { "" };
            let hours = days * 24 + u32::from(*hours);
            write!(sql, "'{sign}{hours:02}:{minutes:02}:{seconds:02}.{micros:06}'")
        }
        Value::Bytes(bytes) => {
            push_bytes(sql, bytes, kind);
            Ok(())
        }
    };
}

fn push_bytes(sql: &mut Vec<u8>, bytes: &[u8], kind: &str) {
    // These read text, and take binary strings for their own inner form.
    let charset = match kind {
        "json" => Some("utf8mb4"),
        "uuid" | "inet4" | "inet6" => Some("latin1"),
        _ => None,
    };
    if charset.is_some() {
        sql.extend_from_slice(b"CONVERT(");
    }
    sql.push(b'\'');
    for byte in bytes {
        match byte {
            0 => sql.extend_from_slice(b"\\0"),
            b'\'' => sql.extend_from_slice(b"\\'"),
            b'\\' => sql.extend_from_slice(b"\\\\"),
            byte => sql.push(*byte),
        }
    }
    sql.push(b'\'');
    if let Some(charset) = charset {
        sql.extend_from_slice(format!(" USING {charset})").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_text_early() {
        let literal = |value: Value, kind: &str| {
            let mut sql = Vec::new();
            push(&mut sql, &value, kind);
            String::from_utf8(sql).unwrap()
        };
        assert_eq!(literal(Value::Bytes(b"a'b\\c\0\n".to_vec()), "text"), "'a\\'b\\\\c\\0\n'");
        assert_eq!(literal(Value::Bytes(b"::1".to_vec()), "inet6"), "CONVERT('::1' USING latin1)");
        assert_eq!(literal(Value::Float(0.1), "float"), "1.0000000149011612e-1");
        assert_eq!(literal(Value::Time(true, 34, 22, 59, 59, 5), "time"), "'-838:59:59.000005'");
        assert_eq!(literal(Value::Date(0, 0, 0, 0, 0, 0, 0), "date"), "'0000-00-00 00:00:00.000000'");
        assert_eq!(literal(Value::NULL, "json"), "NULL");
    }
}
