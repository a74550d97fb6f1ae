//! The rows of a reply, made into JSON.
//!
//! A [`RowReader`] is fed with the raw packets of a reply and gives one JSON array per row, in column order: integers
//! beyond 2^53 and DECIMAL as strings (a JSON number would lose digits in most clients), bytes as `{"base64": …}`, BIT
//! as a number, dates and times as strings.
//!
//! Source: MySQL manual, "Text Resultset Row", "Binary Protocol Resultset Row", "Column Definition Packet".

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mysql_common::constants::ColumnType;
use serde::Serialize;

use crate::wire::{Cursor, Malformed, frame::Packets};

/// The largest integer up to which every one can be a JSON number without losing digits.
const EXACT_MAX: u64 = 1 << 53;
/// The id of the character set `binary`.
const BINARY: u16 = 63;
const UNSIGNED: u16 = 0x20;
const ENUM: u16 = 0x100;
const SET: u16 = 0x800;

/// Why rows can't be made into JSON.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// The server sent what can't stand there.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// One row is longer than a whole reply may be.
    #[error("a row is longer than http.response_bytes_max ({limit_bytes} bytes)")]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    /// Its name or alias.
    pub(crate) name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub(crate) type_name: &'static str,
    #[serde(skip)]
    kind: Kind,
    #[serde(skip)]
    unsigned: bool,
    #[serde(skip)]
    decimals: u8,
}

/// How a column's values are written in JSON, and read from a binary row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An integer of so many bytes in a binary row.
    Integer(usize),
    Float,
    Double,
    Bit,
    Decimal,
    Date,
    DateTime,
    Time,
    Text,
    Binary,
    Null,
}

impl Column {
    fn decode(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        for _catalog_schema_table_original_table in 0..4 {
            cursor.lenenc_bytes()?;
        }
        let name = String::from_utf8_lossy(cursor.lenenc_bytes()?).into_owned();
        cursor.lenenc_bytes()?;
        cursor.lenenc()?;
        let charset = cursor.u16()?;
        cursor.u32()?;
        let column_type = ColumnType::try_from(cursor.u8()?).ok()?;
        let flags = cursor.u16()?;
        let decimals = cursor.u8()?;
        let unsigned = flags & UNSIGNED != 0;
        let (type_name, kind) = type_of(column_type, charset == BINARY, unsigned, flags);
        Some(Self { name, type_name, kind, unsigned, decimals })
    }
}

fn type_of(column_type: ColumnType, binary: bool, unsigned: bool, flags: u16) -> (&'static str, Kind) {
    use ColumnType as T;
    let signed = |signed, with_sign| if unsigned { with_sign } else { signed };
    let text = |text, bytes| if binary { (bytes, Kind::Binary) } else { (text, Kind::Text) };
    match column_type {
        T::MYSQL_TYPE_TINY => (signed("TINYINT", "TINYINT UNSIGNED"), Kind::Integer(1)),
        T::MYSQL_TYPE_SHORT => (signed("SMALLINT", "SMALLINT UNSIGNED"), Kind::Integer(2)),
        T::MYSQL_TYPE_INT24 => (signed("MEDIUMINT", "MEDIUMINT UNSIGNED"), Kind::Integer(4)),
        T::MYSQL_TYPE_LONG => (signed("INT", "INT UNSIGNED"), Kind::Integer(4)),
        T::MYSQL_TYPE_LONGLONG => (signed("BIGINT", "BIGINT UNSIGNED"), Kind::Integer(8)),
        T::MYSQL_TYPE_YEAR => ("YEAR", Kind::Integer(2)),
        T::MYSQL_TYPE_FLOAT => ("FLOAT", Kind::Float),
        T::MYSQL_TYPE_DOUBLE => ("DOUBLE", Kind::Double),
        T::MYSQL_TYPE_DECIMAL | T::MYSQL_TYPE_NEWDECIMAL => ("DECIMAL", Kind::Decimal),
        T::MYSQL_TYPE_BIT => ("BIT", Kind::Bit),
        T::MYSQL_TYPE_DATE | T::MYSQL_TYPE_NEWDATE => ("DATE", Kind::Date),
        T::MYSQL_TYPE_DATETIME | T::MYSQL_TYPE_DATETIME2 => ("DATETIME", Kind::DateTime),
        T::MYSQL_TYPE_TIMESTAMP | T::MYSQL_TYPE_TIMESTAMP2 => ("TIMESTAMP", Kind::DateTime),
        T::MYSQL_TYPE_TIME | T::MYSQL_TYPE_TIME2 => ("TIME", Kind::Time),
        T::MYSQL_TYPE_NULL => ("NULL", Kind::Null),
        // The server says that JSON is binary, but it is UTF-8.
        T::MYSQL_TYPE_JSON => ("JSON", Kind::Text),
        T::MYSQL_TYPE_GEOMETRY => ("GEOMETRY", Kind::Binary),
        T::MYSQL_TYPE_VECTOR => ("VECTOR", Kind::Binary),
        _ if flags & ENUM != 0 => ("ENUM", Kind::Text),
        _ if flags & SET != 0 => ("SET", Kind::Text),
        T::MYSQL_TYPE_STRING => text("CHAR", "BINARY"),
        T::MYSQL_TYPE_VARCHAR | T::MYSQL_TYPE_VAR_STRING => text("VARCHAR", "VARBINARY"),
        _ => text("TEXT", "BLOB"),
    }
}

/// What [`RowReader::next`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// All columns of a result are known.
    Columns,
    /// A row was appended.
    Row,
}

/// Where in a result the next packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Count,
    Columns(u64),
    Rows,
}

/// Reads the packets of a reply's results.
#[derive(Debug)]
pub(crate) struct RowReader {
    /// Whether rows are in the binary form, that of prepared statements.
    binary: bool,
    state: State,
    columns: Vec<Column>,
    packets: Packets,
    row_bytes_max: usize,
}

impl RowReader {
    /// A reader for the reply to an execute (`binary`) or to a query. No row may have more than `row_bytes_max` bytes.
    pub(crate) fn new(binary: bool, row_bytes_max: usize) -> Self {
        Self { binary, state: State::Count, columns: Vec::new(), packets: Packets::new(row_bytes_max), row_bytes_max }
    }

    /// The columns of the current result.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Takes more packets; they may end in the middle of one.
    pub(crate) fn feed(&mut self, packets: &Bytes) {
        self.packets.feed(packets);
    }

    /// The current result has ended: the next packet starts another.
    pub(crate) fn end_result(&mut self) {
        self.state = State::Count;
        self.columns.clear();
    }

    /// Reads on until all columns are known or a row is whole, and appends that row to `out` as a JSON array. `None`
    /// when it takes more packets.
    ///
    /// # Errors
    /// See [`RowError`].
    pub(crate) fn next(&mut self, out: &mut String) -> Result<Option<Item>, RowError> {
        let too_long = |_| RowError::TooLong { limit_bytes: self.row_bytes_max };
        while let Some(packet) = self.packets.next_payload().map_err(too_long)? {
            match self.state {
                State::Count => {
                    let count = Cursor::new(&packet).lenenc().filter(|count| *count > 0);
                    self.state = State::Columns(count.ok_or(Malformed("column count"))?);
                }
                State::Columns(left) => {
                    self.columns.push(Column::decode(&packet).ok_or(Malformed("column definition"))?);
                    self.state = State::Columns(left - 1);
                    if left == 1 {
                        self.state = State::Rows;
                        return Ok(Some(Item::Columns));
                    }
                }
                State::Rows => {
                    let pushed = match self.binary {
                        true => push_binary_row(out, &self.columns, &packet),
                        false => push_text_row(out, &self.columns, &packet),
                    };
                    pushed.ok_or(Malformed("row"))?;
                    return Ok(Some(Item::Row));
                }
            }
        }
        Ok(None)
    }
}

fn push_text_row(out: &mut String, columns: &[Column], row: &[u8]) -> Option<()> {
    let mut cursor = Cursor::new(row);
    for (index, column) in columns.iter().enumerate() {
        out.push(if index == 0 { '[' } else { ',' });
        // 0xfb is NULL; any other byte starts a length.
        let mut ahead = cursor;
        if ahead.u8()? == 0xfb {
            cursor = ahead;
            out.push_str("null");
        } else {
            push_text_value(out, column, cursor.lenenc_bytes()?);
        }
    }
    out.push(']');
    (cursor.left() == 0).then_some(())
}

fn push_text_value(out: &mut String, column: &Column, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok();
    match (column.kind, text) {
        (Kind::Integer(_), Some(text)) => match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(value), _) => push_signed(out, value),
            (_, Ok(value)) => push_unsigned(out, value),
            _ => push_string(out, text),
        },
        (Kind::Float | Kind::Double, Some(text)) => match text.parse::<f64>() {
            // The server's own digits, where they are a JSON number (not so under ZEROFILL).
            Ok(_) if serde_json::from_str::<serde_json::Number>(text).is_ok() => out.push_str(text),
            Ok(value) => push_json(out, &value),
            Err(_) => push_string(out, text),
        },
        (Kind::Bit, _) => push_bits(out, bytes),
        (Kind::Binary, _) | (_, None) => push_base64(out, bytes),
        (_, Some(text)) => push_string(out, text),
    }
}

fn push_binary_row(out: &mut String, columns: &[Column], row: &[u8]) -> Option<()> {
    let mut cursor = Cursor::new(row);
    cursor.u8().filter(|header| *header == 0)?;
    // The first two bits of the map are not used.
    let nulls = cursor.bytes((columns.len() + 2).div_ceil(8))?;
    for (index, column) in columns.iter().enumerate() {
        out.push(if index == 0 { '[' } else { ',' });
        let bit = index + 2;
        if nulls[bit / 8] & 1 << (bit % 8) != 0 {
            out.push_str("null");
        } else {
            push_binary_value(out, column, &mut cursor)?;
        }
    }
    out.push(']');
    (cursor.left() == 0).then_some(())
}

fn push_binary_value(out: &mut String, column: &Column, cursor: &mut Cursor<'_>) -> Option<()> {
    match column.kind {
        Kind::Integer(len) => {
            let value = cursor.bytes(len)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            // Shifting up and down again carries the sign down from the value's own top bit.
            let shift = 64 - 8 * len as u32;
            match column.unsigned {
                true => push_unsigned(out, value),
                false => push_signed(out, (value << shift).cast_signed() >> shift),
            }
        }
        Kind::Float => push_json(out, &f32::from_bits(cursor.u32()?)),
        Kind::Double => {
            let bytes = cursor.bytes(8)?.try_into().ok()?;
            push_json(out, &f64::from_le_bytes(bytes));
        }
        Kind::Bit => push_bits(out, cursor.lenenc_bytes()?),
        Kind::Date | Kind::DateTime => push_date(out, column, cursor)?,
        Kind::Time => push_time(out, column, cursor)?,
        Kind::Decimal | Kind::Text | Kind::Binary => push_text_value(out, column, cursor.lenenc_bytes()?),
        Kind::Null => out.push_str("null"),
    }
    Some(())
}

/// Source: MySQL manual, "ProtocolBinary::MYSQL_TYPE_DATETIME". Trailing zeros are not sent.
fn push_date(out: &mut String, column: &Column, cursor: &mut Cursor<'_>) -> Option<()> {
    let len = usize::from(cursor.u8()?);
    let mut fields = Cursor::new(cursor.bytes(len)?);
    let (year, month, day) = match len {
        0 => (0, 0, 0),
        4 | 7 | 11 => (fields.u16()?, fields.u8()?, fields.u8()?),
        _ => return None,
    };
    let mut text = format!("{year:04}-{month:02}-{day:02}");
    if column.kind == Kind::DateTime {
        let (hour, minute, second) = if len > 4 { (fields.u8()?, fields.u8()?, fields.u8()?) } else { (0, 0, 0) };
        let micros = if len > 7 { fields.u32()? } else { 0 };
        text.push_str(&format!(" {hour:02}:{minute:02}:{second:02}"));
        push_fraction(&mut text, column.decimals, micros);
    }
    push_string(out, &text);
    Some(())
}

/// Source: MySQL manual, "ProtocolBinary::MYSQL_TYPE_TIME".
fn push_time(out: &mut String, column: &Column, cursor: &mut Cursor<'_>) -> Option<()> {
    let len = usize::from(cursor.u8()?);
    let mut fields = Cursor::new(cursor.bytes(len)?);
    let mut text = String::new();
    let mut micros = 0;
    match len {
        0 => text.push_str("00:00:00"),
        8 | 12 => {
            let negative = fields.u8()? != 0;
            let days = u64::from(fields.u32()?);
            let (hour, minute, second) = (fields.u8()?, fields.u8()?, fields.u8()?);
            micros = if len > 8 { fields.u32()? } else { 0 };
            let sign = if negative { "-" } else { "" };
            text.push_str(&format!("{sign}{:02}:{minute:02}:{second:02}", days * 24 + u64::from(hour)));
        }
        _ => return None,
    }
    push_fraction(&mut text, column.decimals, micros);
    push_string(out, &text);
    Some(())
}

/// The fraction with as many digits as the column has; six where the column does not say, unless it is zero.
fn push_fraction(text: &mut String, decimals: u8, micros: u32) {
    let digits = match decimals {
        0 if micros == 0 => return,
        digits @ 1..=6 => usize::from(digits),
        _ if micros == 0 => return,
        _ => 6,
    };
    text.push('.');
    text.push_str(&format!("{micros:06}")[..digits]);
}

fn push_signed(out: &mut String, value: i64) {
    match value.unsigned_abs() <= EXACT_MAX {
        true => push_json(out, &value),
        false => push_string(out, &value.to_string()),
    }
}

/// Appends a number, or a string where a number would lose digits.
pub(crate) fn push_unsigned(out: &mut String, value: u64) {
    match value <= EXACT_MAX {
        true => push_json(out, &value),
        false => push_string(out, &value.to_string()),
    }
}

/// BIT comes as up to eight bytes, the most significant first.
fn push_bits(out: &mut String, bytes: &[u8]) {
    match bytes.len() {
        ..=8 => push_unsigned(out, bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))),
        _ => push_base64(out, bytes),
    }
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    out.push_str("{\"base64\":\"");
    BASE64_STANDARD.encode_string(bytes, out);
    out.push_str("\"}");
}

fn push_string(out: &mut String, text: &str) {
    push_json(out, text);
}

/// Appends a value as JSON.
pub(crate) fn push_json<T: Serialize + ?Sized>(out: &mut String, value: &T) {
    // Only a map with keys that are no strings, or a type that refuses by itself, can't be JSON; none is used here.
    out.push_str(&serde_json::to_string(value).expect("numbers and strings are JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        cursor::put_lenenc_bytes,
        frame::{PAYLOAD_MAX, put_packet},
    };

    fn definition(name: &str, column_type: ColumnType, charset: u16, flags: u16, decimals: u8) -> Vec<u8> {
        let mut payload = Vec::new();
        for text in ["def", "s", "t", "t", name, name] {
            put_lenenc_bytes(&mut payload, text.as_bytes());
        }
        payload.push(0x0c);
        payload.extend_from_slice(&charset.to_le_bytes());
        payload.extend_from_slice(&20u32.to_le_bytes());
        payload.push(column_type as u8);
        payload.extend_from_slice(&flags.to_le_bytes());
        payload.extend_from_slice(&[decimals, 0, 0]);
        payload
    }

    /// A result's packets but for its end.
    fn packets(definitions: &[Vec<u8>], rows: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut next = put_packet(&mut out, 1, &[definitions.len() as u8]);
        for payload in definitions.iter().chain(rows) {
            next = put_packet(&mut out, next, payload);
        }
        out
    }

    fn read(binary: bool, bytes: &[u8], chunk: usize) -> Result<(Vec<&'static str>, Vec<String>), RowError> {
        let mut reader = RowReader::new(binary, 64 << 20);
        let (mut types, mut rows) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(chunk) {
            reader.feed(&Bytes::copy_from_slice(piece));
            loop {
                let mut row = String::new();
                match reader.next(&mut row)? {
                    Some(Item::Columns) => types = reader.columns().iter().map(|column| column.type_name).collect(),
                    Some(Item::Row) => rows.push(row),
                    None => break,
                }
            }
        }
        Ok((types, rows))
    }

    fn text_row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut row = Vec::new();
        for value in values {
            match value {
                Some(bytes) => put_lenenc_bytes(&mut row, bytes),
                None => row.push(0xfb),
            }
        }
        row
    }

    use ColumnType as T;

    #[test]
    fn text_rows_of_every_kind() {
        let cases: &[(Vec<u8>, &[u8], &str, &str)] = &[
            (definition("a", T::MYSQL_TYPE_LONG, BINARY, 0, 0), b"-5", "INT", "-5"),
            (definition("a", T::MYSQL_TYPE_LONG, BINARY, UNSIGNED, 0), b"00042", "INT UNSIGNED", "42"),
            (definition("a", T::MYSQL_TYPE_LONGLONG, BINARY, 0, 0), b"9007199254740992", "BIGINT", "9007199254740992"),
            (
                definition("a", T::MYSQL_TYPE_LONGLONG, BINARY, 0, 0),
                b"-9007199254740993",
                "BIGINT",
                "\"-9007199254740993\"",
            ),
            (
                definition("a", T::MYSQL_TYPE_LONGLONG, BINARY, UNSIGNED, 0),
                b"18446744073709551615",
                "BIGINT UNSIGNED",
                "\"18446744073709551615\"",
            ),
            (definition("a", T::MYSQL_TYPE_NEWDECIMAL, BINARY, 0, 2), b"1.10", "DECIMAL", "\"1.10\""),
            (definition("a", T::MYSQL_TYPE_DOUBLE, BINARY, 0, 31), b"1e20", "DOUBLE", "1e20"),
            (definition("a", T::MYSQL_TYPE_FLOAT, BINARY, 0, 31), b"0001.5", "FLOAT", "1.5"),
            (definition("a", T::MYSQL_TYPE_BIT, BINARY, UNSIGNED, 0), b"\x01\x02", "BIT", "258"),
            (definition("a", T::MYSQL_TYPE_YEAR, BINARY, UNSIGNED, 0), b"2026", "YEAR", "2026"),
            (
                definition("a", T::MYSQL_TYPE_DATETIME, BINARY, 0, 0),
                b"2026-01-02 03:04:05",
                "DATETIME",
                "\"2026-01-02 03:04:05\"",
            ),
            (definition("a", T::MYSQL_TYPE_VAR_STRING, 45, 0, 0), "é\"\n".as_bytes(), "VARCHAR", "\"é\\\"\\n\""),
            (definition("a", T::MYSQL_TYPE_VAR_STRING, BINARY, 0, 0), b"ab", "VARBINARY", "{\"base64\":\"YWI=\"}"),
            (definition("a", T::MYSQL_TYPE_VAR_STRING, 8, 0, 0), b"\xe9", "VARCHAR", "{\"base64\":\"6Q==\"}"),
            (definition("a", T::MYSQL_TYPE_BLOB, 45, 0, 0), b"x", "TEXT", "\"x\""),
            (definition("a", T::MYSQL_TYPE_BLOB, BINARY, 0, 0), b"", "BLOB", "{\"base64\":\"\"}"),
            (definition("a", T::MYSQL_TYPE_JSON, BINARY, 0, 0), b"{}", "JSON", "\"{}\""),
            (definition("a", T::MYSQL_TYPE_STRING, 45, ENUM, 0), b"x", "ENUM", "\"x\""),
            (definition("a", T::MYSQL_TYPE_STRING, BINARY, 0, 0), b"x", "BINARY", "{\"base64\":\"eA==\"}"),
            (definition("a", T::MYSQL_TYPE_GEOMETRY, BINARY, 0, 0), b"x", "GEOMETRY", "{\"base64\":\"eA==\"}"),
        ];
        for (definition, value, type_name, json) in cases {
            let bytes = packets(std::slice::from_ref(definition), &[text_row(&[Some(value)]), text_row(&[None])]);
            let expected = (vec![*type_name], vec![format!("[{json}]"), "[null]".to_owned()]);
            assert_eq!(read(false, &bytes, bytes.len()), Ok(expected));
        }
    }

    #[test]
    fn binary_rows_of_every_kind() {
        let cases: &[(Vec<u8>, &[u8], &str)] = &[
            (definition("a", T::MYSQL_TYPE_TINY, BINARY, 0, 0), &[0xff], "-1"),
            (definition("a", T::MYSQL_TYPE_TINY, BINARY, UNSIGNED, 0), &[0xff], "255"),
            (definition("a", T::MYSQL_TYPE_INT24, BINARY, 0, 0), &[0xfe, 0xff, 0xff, 0xff], "-2"),
            (
                definition("a", T::MYSQL_TYPE_LONGLONG, BINARY, 0, 0),
                &[0, 0, 0, 0, 0, 0, 0, 0x80],
                "\"-9223372036854775808\"",
            ),
            (definition("a", T::MYSQL_TYPE_FLOAT, BINARY, 0, 31), &1.5f32.to_le_bytes(), "1.5"),
            (definition("a", T::MYSQL_TYPE_DOUBLE, BINARY, 0, 31), &1e300f64.to_le_bytes(), "1e+300"),
            (definition("a", T::MYSQL_TYPE_DATE, BINARY, 0, 0), &[4, 0xea, 7, 1, 2], "\"2026-01-02\""),
            (definition("a", T::MYSQL_TYPE_DATE, BINARY, 0, 0), &[0], "\"0000-00-00\""),
            (definition("a", T::MYSQL_TYPE_DATETIME, BINARY, 0, 0), &[4, 0xea, 7, 1, 2], "\"2026-01-02 00:00:00\""),
            (
                definition("a", T::MYSQL_TYPE_TIMESTAMP, BINARY, 0, 3),
                &[11, 0xea, 7, 1, 2, 3, 4, 5, 0x40, 0xe2, 1, 0],
                "\"2026-01-02 03:04:05.123\"",
            ),
            (
                definition("a", T::MYSQL_TYPE_TIMESTAMP, BINARY, 0, 3),
                &[7, 0xea, 7, 1, 2, 3, 4, 5],
                "\"2026-01-02 03:04:05.000\"",
            ),
            (definition("a", T::MYSQL_TYPE_TIME, BINARY, 0, 0), &[8, 1, 34, 0, 0, 0, 22, 59, 59], "\"-838:59:59\""),
            (definition("a", T::MYSQL_TYPE_TIME, BINARY, 0, 0), &[0], "\"00:00:00\""),
            (definition("a", T::MYSQL_TYPE_NEWDECIMAL, BINARY, 0, 2), b"\x031.1", "\"1.1\""),
            (definition("a", T::MYSQL_TYPE_BIT, BINARY, UNSIGNED, 0), &[1, 5], "5"),
            (definition("a", T::MYSQL_TYPE_BLOB, BINARY, 0, 0), &[2, 0, 0xff], "{\"base64\":\"AP8=\"}"),
        ];
        for (definition, value, json) in cases {
            let row = [&[0, 0][..], value].concat();
            let bytes = packets(std::slice::from_ref(definition), &[row, vec![0, 0b100]]);
            let rows = read(true, &bytes, bytes.len()).expect("well-formed").1;
            assert_eq!(rows, [format!("[{json}]"), "[null]".to_owned()]);
        }
    }

    #[test]
    fn any_cut_gives_the_same_rows() {
        let columns =
            [definition("a", T::MYSQL_TYPE_LONG, BINARY, 0, 0), definition("b", T::MYSQL_TYPE_BLOB, 45, 0, 0)];
        let rows: Vec<_> = (0..5).map(|_| text_row(&[Some(b"1"), Some(b"text")])).collect();
        let bytes = packets(&columns, &rows);
        let whole = read(false, &bytes, bytes.len()).unwrap();
        assert_eq!(whole.1.len(), 5);
        for chunk in 1..bytes.len() {
            assert_eq!(read(false, &bytes, chunk).unwrap(), whole, "in pieces of {chunk}");
        }
    }

    #[test]
    fn a_row_of_several_frames_is_one_row_and_has_a_limit() {
        let long = vec![b'x'; PAYLOAD_MAX];
        let column = definition("a", T::MYSQL_TYPE_BLOB, 45, 0, 0);
        let bytes = packets(&[column], &[text_row(&[Some(&long)])]);
        let rows = read(false, &bytes, 65_536).unwrap().1;
        assert_eq!((rows.len(), rows[0].len()), (1, PAYLOAD_MAX + 4));
        let mut reader = RowReader::new(false, 1000);
        reader.feed(&bytes.into());
        assert_eq!(reader.next(&mut String::new()), Ok(Some(Item::Columns)));
        assert_eq!(reader.next(&mut String::new()), Err(RowError::TooLong { limit_bytes: 1000 }));
    }

    #[test]
    fn truncated_and_overlong_rows_are_errors() {
        let column = definition("a", T::MYSQL_TYPE_LONG, BINARY, 0, 0);
        for (binary, row) in [
            (false, &b"\x05ab"[..]),
            (false, b"\x01a\x01b"),
            (false, b""),
            (true, &[0, 0, 1]),
            (true, &[1, 0, 1, 0, 0, 0]),
        ] {
            let bytes = packets(std::slice::from_ref(&column), &[row.to_vec()]);
            assert!(read(binary, &bytes, bytes.len()).is_err(), "{row:?}");
        }
    }
}
