//! The payload of an execute: a prepared statement's id with the values of its parameters.
//!
//! Source: MySQL manual, "COM_STMT_EXECUTE".

use mysql_common::constants::ColumnType;
use towline_middleware::CommandKind;

use super::json::Value;
use crate::wire::cursor::put_lenenc_bytes;

const UNSIGNED: u8 = 0x80;

/// The packet that executes a statement with these values.
pub(crate) fn execute_packet(statement_id: u32, values: &[Value<'_>]) -> Vec<u8> {
    let mut packet = vec![CommandKind::Execute.to_byte()];
    packet.extend_from_slice(&statement_id.to_le_bytes());
    // No cursor, one iteration.
    packet.push(0);
    packet.extend_from_slice(&1u32.to_le_bytes());
    if values.is_empty() {
        return packet;
    }
    let mut nulls = vec![0u8; values.len().div_ceil(8)];
    let mut types = Vec::with_capacity(2 * values.len());
    let mut bytes = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if *value == Value::Null {
            nulls[index / 8] |= 1 << (index % 8);
        }
        let (column_type, flags) = put_value(&mut bytes, value);
        types.extend_from_slice(&[column_type as u8, flags]);
    }
    packet.extend_from_slice(&nulls);
    // The types follow.
    packet.push(1);
    packet.extend_from_slice(&types);
    packet.extend_from_slice(&bytes);
    packet
}

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) -> (ColumnType, u8) {
    match value {
        Value::Null => (ColumnType::MYSQL_TYPE_NULL, 0),
        Value::Bool(yes) => {
            out.push(u8::from(*yes));
            (ColumnType::MYSQL_TYPE_TINY, 0)
        }
        Value::Number(digits) => put_number(out, digits),
        Value::Text(text) => {
            put_lenenc_bytes(out, text.as_bytes());
            (ColumnType::MYSQL_TYPE_VAR_STRING, 0)
        }
        Value::Nested(json) => {
            put_lenenc_bytes(out, json.as_bytes());
            (ColumnType::MYSQL_TYPE_VAR_STRING, 0)
        }
        // As a BLOB it is taken for bytes; as a string it would be taken for text in the session's character set.
        Value::Binary(bytes) => {
            put_lenenc_bytes(out, bytes);
            (ColumnType::MYSQL_TYPE_BLOB, 0)
        }
    }
}

fn put_number(out: &mut Vec<u8>, digits: &str) -> (ColumnType, u8) {
    if let Ok(value) = digits.parse::<i64>() {
        out.extend_from_slice(&value.to_le_bytes());
        return (ColumnType::MYSQL_TYPE_LONGLONG, 0);
    }
    if let Ok(value) = digits.parse::<u64>() {
        out.extend_from_slice(&value.to_le_bytes());
        return (ColumnType::MYSQL_TYPE_LONGLONG, UNSIGNED);
    }
    match digits.parse::<f64>() {
        // As in SQL: with an exponent it is a float, without one an exact decimal.
        Ok(value) if value.is_finite() && digits.contains(['e', 'E']) => {
            out.extend_from_slice(&value.to_le_bytes());
            (ColumnType::MYSQL_TYPE_DOUBLE, 0)
        }
        _ => {
            put_lenenc_bytes(out, digits.as_bytes());
            (ColumnType::MYSQL_TYPE_NEWDECIMAL, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Number("-2"),
            Value::Number("18446744073709551615"),
            Value::Number("1.10"),
            Value::Number("1e2"),
            Value::Text("é".into()),
            Value::Binary(vec![0, 255]),
            Value::Null,
        ];
        let mut expected = vec![0x17, 7, 0, 0, 0, 0, 1, 0, 0, 0];
        expected.extend([0b0000_0001, 0b1, 1]);
        expected.extend([6, 0, 1, 0, 8, 0, 8, 0x80, 246, 0, 5, 0, 253, 0, 252, 0, 6, 0]);
        expected.push(1);
        expected.extend((-2i64).to_le_bytes());
        expected.extend(u64::MAX.to_le_bytes());
        expected.extend(b"\x041.10");
        expected.extend(100f64.to_le_bytes());
        expected.extend([2, 0xc3, 0xa9, 2, 0, 255]);
        assert_eq!(execute_packet(7, &values), expected);
        assert_eq!(execute_packet(7, &[]), [0x17, 7, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
