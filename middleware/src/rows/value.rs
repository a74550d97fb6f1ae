//! A value of a row or of a parameter.
//!
//! Source: MySQL manual, "Binary Protocol Value".

use std::borrow::Cow;

use super::ColumnType;
use crate::wire::{Cursor, cursor::put_lenenc_bytes};

/// A parameter's type has this flag when it is an integer without a sign.
const UNSIGNED_PARAMETER: u8 = 0x80;

/// A value. Dates and times are text as the server writes them, as are DECIMAL and JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// An integer of an unsigned column or parameter.
    Unsigned(u64),
    /// FLOAT or DOUBLE.
    Float(f64),
    /// All others. Text is in the session's character set, so not always UTF-8.
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As text for people: `NULL`, the number, or the bytes with what is no UTF-8 replaced.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Null => "NULL".into(),
            Self::Integer(value) => value.to_string().into(),
            Self::Unsigned(value) => value.to_string().into(),
            Self::Float(value) => value.to_string().into(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes),
        }
    }

    /// As a literal of SQL that no bytes can break out of, for a text sent on a session that reads UTF-8 or ASCII:
    /// bytes become a hexadecimal literal.
    pub fn to_sql(&self) -> String {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => "''".to_owned(),
            Self::Bytes(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("x'{digits}'")
            }
            other => other.to_text().into_owned(),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u64> for Value<'_> {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Bytes(text.as_bytes().into())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes().into())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Reads a value of the text form by its column's type. What does not look like that type stays bytes.
pub(super) fn of_text<'a>(bytes: &'a [u8], column_type: ColumnType, unsigned: bool) -> Value<'a> {
    let text = || std::str::from_utf8(bytes).ok();
    let typed = match column_type {
        ColumnType::Integer(_) if unsigned => text().and_then(|text| text.parse().ok()).map(Value::Unsigned),
        ColumnType::Integer(_) => text().and_then(|text| text.parse().ok()).map(Value::Integer),
        ColumnType::Float | ColumnType::Double => text().and_then(|text| text.parse().ok()).map(Value::Float),
        _ => None,
    };
    typed.unwrap_or(Value::Bytes(bytes.into()))
}

/// Takes the bytes of a value of the binary form.
pub(super) fn take_binary<'a>(cursor: &mut Cursor<'a>, column_type: ColumnType) -> Option<&'a [u8]> {
    match column_type {
        ColumnType::Integer(len) => cursor.bytes(len.into()),
        ColumnType::Float => cursor.bytes(4),
        ColumnType::Double => cursor.bytes(8),
        ColumnType::Date | ColumnType::DateTime | ColumnType::Time => {
            let len = usize::from(cursor.u8()?);
            cursor.bytes(len)
        }
        ColumnType::Null => cursor.bytes(0),
        ColumnType::Bytes => cursor.lenenc_bytes(),
    }
}

/// Reads a value of the binary form, without its length.
pub(super) fn of_binary<'a>(bytes: &'a [u8], column_type: ColumnType, unsigned: bool) -> Option<Value<'a>> {
    Some(match column_type {
        ColumnType::Integer(len) => {
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            // Shifting up and down again carries the sign down from the value's own top bit.
            let shift = 64 - 8 * u32::from(len);
            match unsigned {
                true => Value::Unsigned(value),
                false => Value::Integer((value << shift).cast_signed() >> shift),
            }
        }
        ColumnType::Float => Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        ColumnType::Double => Value::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        ColumnType::Date => Value::from(date(bytes, false)?),
        ColumnType::DateTime => Value::from(date(bytes, true)?),
        ColumnType::Time => Value::from(time(bytes)?),
        ColumnType::Null => Value::Null,
        ColumnType::Bytes => Value::Bytes(bytes.into()),
    })
}

/// Appends a value in the binary form; false if a column of this type can't hold it.
pub(super) fn put_binary(out: &mut Vec<u8>, value: &Value<'_>, column_type: ColumnType) -> bool {
    match (column_type, value) {
        (ColumnType::Integer(len), Value::Integer(value)) => {
            let bits = 8 * u32::from(len);
            let fits = bits == 64 || (*value >> (bits - 1)) == 0 || (*value >> (bits - 1)) == -1;
            out.extend_from_slice(&value.to_le_bytes()[..len.into()]);
            fits
        }
        (ColumnType::Integer(len), Value::Unsigned(value)) => {
            out.extend_from_slice(&value.to_le_bytes()[..len.into()]);
            len == 8 || *value >> (8 * u32::from(len)) == 0
        }
        (ColumnType::Float, Value::Float(value)) => {
            out.extend_from_slice(&(*value as f32).to_le_bytes());
            true
        }
        (ColumnType::Double, Value::Float(value)) => {
            out.extend_from_slice(&value.to_le_bytes());
            true
        }
        (ColumnType::Bytes, Value::Bytes(bytes)) => {
            put_lenenc_bytes(out, bytes);
            true
        }
        (ColumnType::Bytes, Value::Integer(_) | Value::Unsigned(_) | Value::Float(_)) => {
            put_lenenc_bytes(out, value.to_text().as_bytes());
            true
        }
        _ => false,
    }
}

/// The values of an execute.
pub(crate) fn parameters<'a>(types: &[u8], nulls: &[u8], values: &'a [u8]) -> Option<Vec<Value<'a>>> {
    let mut cursor = Cursor::new(values);
    let each = types.chunks_exact(2).enumerate().map(|(index, of)| {
        let column_type = ColumnType::of_byte(of[0]);
        if nulls.get(index / 8)? & 1 << (index % 8) != 0 {
            return Some(Value::Null);
        }
        of_binary(take_binary(&mut cursor, column_type)?, column_type, of[1] & UNSIGNED_PARAMETER != 0)
    });
    each.collect()
}

/// Source: MySQL manual, "ProtocolBinary::MYSQL_TYPE_DATETIME". Trailing zeros are not sent.
fn date(bytes: &[u8], with_time: bool) -> Option<String> {
    let mut fields = Cursor::new(bytes);
    let (year, month, day) = match bytes.len() {
        0 => (0, 0, 0),
        4 | 7 | 11 => (fields.u16()?, fields.u8()?, fields.u8()?),
        _ => return None,
    };
    let mut text = format!("{year:04}-{month:02}-{day:02}");
    if with_time {
        let (hour, minute, second) =
            if bytes.len() > 4 { (fields.u8()?, fields.u8()?, fields.u8()?) } else { (0, 0, 0) };
        text.push_str(&format!(" {hour:02}:{minute:02}:{second:02}"));
        if bytes.len() > 7 {
            text.push_str(&format!(".{:06}", fields.u32()?));
        }
    }
    Some(text)
}

/// Source: MySQL manual, "ProtocolBinary::MYSQL_TYPE_TIME".
fn time(bytes: &[u8]) -> Option<String> {
    let mut fields = Cursor::new(bytes);
    if bytes.is_empty() {
        return Some("00:00:00".to_owned());
    }
    if !matches!(bytes.len(), 8 | 12) {
        return None;
    }
    let sign = if fields.u8()? != 0 { "-" } else { "" };
    let days = u64::from(fields.u32()?);
    let (hour, minute, second) = (fields.u8()?, fields.u8()?, fields.u8()?);
    let mut text = format!("{sign}{:02}:{minute:02}:{second:02}", days * 24 + u64::from(hour));
    if bytes.len() > 8 {
        text.push_str(&format!(".{:06}", fields.u32()?));
    }
    Some(text)
}
