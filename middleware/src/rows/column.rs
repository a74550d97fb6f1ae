//! The definition of a result's column.
//!
//! Source: MySQL manual, "Column Definition" and "enum_field_types".

use super::{Value, value};
use crate::wire::{Cursor, cursor::put_lenenc_bytes};

const UNSIGNED: u16 = 0x20;
/// The id of the character set `binary`.
const BINARY: u16 = 63;
/// The id of `utf8mb4_general_ci`.
const UTF8MB4: u16 = 45;

/// How a column's values look in the binary form, and as what they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// An integer of so many bytes.
    Integer(u8),
    /// FLOAT.
    Float,
    /// DOUBLE.
    Double,
    /// DATE.
    Date,
    /// DATETIME and TIMESTAMP.
    DateTime,
    /// TIME.
    Time,
    /// The type of a bare NULL.
    Null,
    /// All others: text, binary, DECIMAL, JSON, BIT, ENUM, SET, geometry.
    Bytes,
}

impl ColumnType {
    pub(crate) fn of_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Integer(1),
            2 | 13 => Self::Integer(2),
            3 | 9 => Self::Integer(4),
            8 => Self::Integer(8),
            4 => Self::Float,
            5 => Self::Double,
            10 | 14 => Self::Date,
            7 | 12 | 17 | 18 => Self::DateTime,
            11 | 19 => Self::Time,
            6 => Self::Null,
            _ => Self::Bytes,
        }
    }
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its schema; empty for an expression.
    pub schema: String,
    /// The table that it comes from, by its own name and not an alias; empty for an expression.
    pub table: String,
    /// Its name in the table; empty for an expression.
    pub original_name: String,
    /// Its name in the result: an alias, if it has one.
    pub name: String,
    /// How its values look.
    pub column_type: ColumnType,
    /// Whether an integer has no sign.
    pub unsigned: bool,
    type_byte: u8,
    charset: u16,
    flags: u16,
    decimals: u8,
}

impl Column {
    /// A column of text in UTF-8.
    pub fn text(name: &str) -> Self {
        Self::new(name, 253, UTF8MB4, 0)
    }

    /// A column of bytes.
    pub fn binary(name: &str) -> Self {
        Self::new(name, 252, BINARY, 0x80)
    }

    /// A column of integers with a sign.
    pub fn integer(name: &str) -> Self {
        Self::new(name, 8, BINARY, 0)
    }

    /// A column of integers without a sign.
    pub fn unsigned(name: &str) -> Self {
        Self::new(name, 8, BINARY, UNSIGNED)
    }

    /// A column of floating-point numbers.
    pub fn double(name: &str) -> Self {
        Self::new(name, 5, BINARY, 0)
    }

    fn new(name: &str, type_byte: u8, charset: u16, flags: u16) -> Self {
        Self {
            schema: String::new(),
            table: String::new(),
            original_name: String::new(),
            name: name.to_owned(),
            column_type: ColumnType::of_byte(type_byte),
            unsigned: flags & UNSIGNED != 0,
            type_byte,
            charset,
            flags,
            decimals: if type_byte == 5 { 31 } else { 0 },
        }
    }

    /// Whether this value may stand in the column. NULL is asked for elsewhere.
    pub(super) fn holds(&self, value: &Value<'_>) -> bool {
        let is_text = |is: fn(&str) -> bool| match value {
            Value::Bytes(bytes) => std::str::from_utf8(bytes).is_ok_and(is),
            _ => true,
        };
        let fits = value::put_binary(&mut Vec::new(), value, self.column_type);
        fits && match self.type_byte {
            // DECIMAL, old and new.
            0 | 246 => is_text(|text| {
                text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.')) && text.parse::<f64>().is_ok()
            }),
            // JSON.
            245 => is_text(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()),
            // BIT and geometry.
            16 | 255 => false,
            _ => true,
        }
    }

    /// Reads a definition, with MariaDB's extended metadata in it if that was agreed on.
    ///
    /// Source: MariaDB Knowledge Base, "Result Set Packets", "Column Definition Packet".
    pub(super) fn decode(payload: &[u8], extended: bool) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        let mut text = || Some(String::from_utf8_lossy(cursor.lenenc_bytes()?).into_owned());
        let (_catalog, schema, _alias, table) = (text()?, text()?, text()?, text()?);
        let (name, original_name) = (text()?, text()?);
        if extended {
            cursor.lenenc_bytes()?;
        }
        // The length of the fixed fields.
        cursor.lenenc()?;
        let charset = cursor.u16()?;
        cursor.u32()?;
        let type_byte = cursor.u8()?;
        let (flags, decimals) = (cursor.u16()?, cursor.u8()?);
        let column_type = ColumnType::of_byte(type_byte);
        let unsigned = flags & UNSIGNED != 0;
        Some(Self { schema, table, original_name, name, column_type, unsigned, type_byte, charset, flags, decimals })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for text in ["def", &self.schema, &self.table, &self.table, &self.name, &self.original_name] {
            put_lenenc_bytes(out, text.as_bytes());
        }
        out.push(0x0c);
        out.extend_from_slice(&self.charset.to_le_bytes());
        out.extend_from_slice(&u32::from(u16::MAX).to_le_bytes());
        out.push(self.type_byte);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&[self.decimals, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_holds_what_is_of_its_type() {
        let of = |type_byte| Column::new("c", type_byte, BINARY, 0);
        for (type_byte, value, holds) in [
            (3, Value::from("***"), false),
            (3, Value::from(7i64), true),
            (1, Value::from(300i64), false),
            (5, Value::from("***"), false),
            (10, Value::from("***"), false),
            (12, Value::from("2026-01-01"), false),
            (246, Value::from("***"), false),
            (246, Value::from("-1.50"), true),
            (246, Value::from(0i64), true),
            (245, Value::from("***"), false),
            (245, Value::from("\"***\""), true),
            (16, Value::from("1"), false),
            (253, Value::from("***"), true),
            (252, Value::from(7i64), true),
        ] {
            assert_eq!(of(type_byte).holds(&value), holds, "{type_byte} {value:?}");
        }
    }
}
