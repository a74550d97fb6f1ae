//! The rows of a reply: reading them as they stream by, changing some of them, and making results of one's own.
//!
//! Nothing is decoded unless asked for: a value that is not changed keeps the server's bytes.

mod collect;
mod column;
mod cursor;
mod map;
mod reader;
mod result_set;
mod row;
mod value;

pub use collect::{Collected, Record};
pub use column::{Column, ColumnType};
pub use map::RowMap;
pub use reader::{Packet, ResultReader};
pub use result_set::ResultSet;
pub use row::{Row, WrongType};
pub use value::Value;

pub(crate) use {cursor::CursorColumns, value::parameters};
