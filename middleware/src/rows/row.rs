//! One row.
//!
//! Source: MySQL manual, "Text Resultset Row" and "Binary Protocol Resultset Row".

use super::{Column, ColumnType, Value, value};
use crate::wire::{Cursor, cursor::put_lenenc_bytes};

/// What stands for NULL in a row of the text form.
const NULL: u8 = 0xfb;

/// A value that a column of this type can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a column of type {0:?} can't hold this value")]
pub struct WrongType(pub ColumnType);

/// A row on its way, in the text or the binary form.
#[derive(Debug)]
pub struct Row<'a> {
    columns: &'a [Column],
    binary: bool,
    cells: Vec<Cell<'a>>,
}

#[derive(Debug)]
enum Cell<'a> {
    /// As the server sent it; none for NULL.
    Sent(Option<&'a [u8]>),
    /// Another value in its place.
    Set(Value<'a>),
}

impl<'a> Row<'a> {
    pub(super) fn decode(columns: &'a [Column], binary: bool, payload: &'a [u8]) -> Option<Self> {
        let cells = if binary { binary_cells(columns, payload)? } else { text_cells(columns.len(), payload)? };
        Some(Self { columns, binary, cells })
    }

    /// A row of one's own.
    pub(super) fn of(columns: &'a [Column], binary: bool, values: Vec<Value<'a>>) -> Self {
        Self { columns, binary, cells: values.into_iter().map(Cell::Set).collect() }
    }

    /// The columns.
    pub fn columns(&self) -> &'a [Column] {
        self.columns
    }

    /// The value of a column, counted from 0; NULL beyond the last.
    pub fn get(&self, index: usize) -> Value<'_> {
        let (Some(cell), Some(column)) = (self.cells.get(index), self.columns.get(index)) else { return Value::Null };
        match cell {
            Cell::Set(value) => value.clone(),
            Cell::Sent(None) => Value::Null,
            Cell::Sent(Some(bytes)) if self.binary => {
                value::of_binary(bytes, column.column_type, column.unsigned).unwrap_or(Value::Bytes((*bytes).into()))
            }
            Cell::Sent(Some(bytes)) => value::of_text(bytes, column.column_type, column.unsigned),
        }
    }

    /// Puts another value in a column's place. NULL goes anywhere.
    ///
    /// # Errors
    /// The column can't hold it, in whichever form the row comes: an integer or a floating-point number stays one, a
    /// DECIMAL stays a number, JSON stays JSON, and dates, times, bits and geometry can only become NULL.
    pub fn set(&mut self, index: usize, value: impl Into<Value<'a>>) -> Result<(), WrongType> {
        let (value, column) = (value.into(), &self.columns[index]);
        if !value.is_null() && !column.holds(&value) {
            return Err(WrongType(column.column_type));
        }
        self.cells[index] = Cell::Set(value);
        Ok(())
    }

    /// Whether a value was set.
    pub(super) fn is_changed(&self) -> bool {
        self.cells.iter().any(|cell| matches!(cell, Cell::Set(_)))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WrongType> {
        match self.binary {
            true => self.encode_binary(out),
            false => {
                self.encode_text(out);
                Ok(())
            }
        }
    }

    fn encode_text(&self, out: &mut Vec<u8>) {
        for cell in &self.cells {
            match cell {
                Cell::Sent(None) | Cell::Set(Value::Null) => out.push(NULL),
                Cell::Sent(Some(bytes)) => put_lenenc_bytes(out, bytes),
                Cell::Set(Value::Bytes(bytes)) => put_lenenc_bytes(out, bytes),
                Cell::Set(value) => put_lenenc_bytes(out, value.to_text().as_bytes()),
            }
        }
    }

    fn encode_binary(&self, out: &mut Vec<u8>) -> Result<(), WrongType> {
        out.push(0);
        let nulls = out.len();
        out.resize(nulls + (self.cells.len() + 2).div_ceil(8), 0);
        for (index, (cell, column)) in self.cells.iter().zip(self.columns).enumerate() {
            match cell {
                Cell::Sent(None) | Cell::Set(Value::Null) => out[nulls + (index + 2) / 8] |= 1 << ((index + 2) % 8),
                Cell::Sent(Some(bytes)) => put_sent(out, bytes, column.column_type),
                Cell::Set(value) => {
                    if !value::put_binary(out, value, column.column_type) {
                        return Err(WrongType(column.column_type));
                    }
                }
            }
        }
        Ok(())
    }
}

fn put_sent(out: &mut Vec<u8>, bytes: &[u8], column_type: ColumnType) {
    match column_type {
        ColumnType::Bytes => put_lenenc_bytes(out, bytes),
        ColumnType::Date | ColumnType::DateTime | ColumnType::Time => {
            // Its length was one byte when it was read.
            out.push(bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
        _ => out.extend_from_slice(bytes),
    }
}

fn text_cells(columns: usize, payload: &[u8]) -> Option<Vec<Cell<'_>>> {
    let mut cursor = Cursor::new(payload);
    let mut cells = Vec::with_capacity(columns);
    for _ in 0..columns {
        let mut ahead = cursor;
        if ahead.u8()? == NULL {
            cursor = ahead;
            cells.push(Cell::Sent(None));
        } else {
            cells.push(Cell::Sent(Some(cursor.lenenc_bytes()?)));
        }
    }
    (cursor.left() == 0).then_some(cells)
}

fn binary_cells<'a>(columns: &[Column], payload: &'a [u8]) -> Option<Vec<Cell<'a>>> {
    let mut cursor = Cursor::new(payload);
    cursor.u8().filter(|header| *header == 0)?;
    // The first two bits of the map are not used.
    let nulls = cursor.bytes((columns.len() + 2).div_ceil(8))?;
    let mut cells = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let is_null = nulls[(index + 2) / 8] & 1 << ((index + 2) % 8) != 0;
        cells.push(Cell::Sent(match is_null {
            true => None,
            false => Some(value::take_binary(&mut cursor, column.column_type)?),
        }));
    }
    (cursor.left() == 0).then_some(cells)
}
