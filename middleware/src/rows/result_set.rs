//! A result of a layer's own.

use bytes::Bytes;

use super::{Column, Row, Value, WrongType};
use crate::{
    Command, CommandKind, Completion, Final, Head, Part, Reply, status,
    wire::{cursor::put_lenenc, frame::put_packet},
};

/// Flags of a session that tell of one command and not of the session.
const OF_ONE_COMMAND: u16 = status::MORE_RESULTS | status::CURSOR_EXISTS | status::SESSION_STATE_CHANGED;

/// A result that a layer answers with, in place of the server's.
///
/// ```
/// use towline_middleware::{Command, Role, rows::{Column, ResultSet}, testing};
///
/// let command = Command::query(&testing::session(Role::Master), "SELECT * FROM answer");
/// let reply = ResultSet::new([Column::text("question"), Column::integer("answer")])
///     .row(["everything".into(), 42i64.into()])
///     .reply(&command)?;
/// # Ok::<(), towline_middleware::rows::WrongType>(())
/// ```
#[derive(Clone, Debug)]
pub struct ResultSet<'a> {
    columns: Vec<Column>,
    rows: Vec<Vec<Value<'a>>>,
}

impl<'a> ResultSet<'a> {
    /// A result without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. Values that are missing are NULL, and values beyond the last column are left out.
    #[must_use]
    pub fn row(mut self, values: impl IntoIterator<Item = Value<'a>>) -> Self {
        let mut row: Vec<_> = values.into_iter().take(self.columns.len()).collect();
        row.resize(self.columns.len(), Value::Null);
        self.rows.push(row);
        self
    }

    /// The reply, in the form that the command's client reads: the text form, or the binary form for an execute.
    ///
    /// # Errors
    /// A value is not of its column's type.
    pub fn reply(self, command: &Command) -> Result<Reply, WrongType> {
        let binary = matches!(command.kind(), CommandKind::Execute | CommandKind::BulkExecute);
        let status = command.session().status() & !OF_ONE_COMMAND;
        let (mut bytes, mut payload) = (Vec::new(), Vec::new());
        put_lenenc(&mut payload, self.columns.len() as u64);
        let mut next = put_packet(&mut bytes, 1, &payload);
        for column in &self.columns {
            payload.clear();
            column.encode(&mut payload);
            next = put_packet(&mut bytes, next, &payload);
        }
        if !command.session().deprecates_eof() {
            let [low, high] = status.to_le_bytes();
            next = put_packet(&mut bytes, next, &[0xfe, 0, 0, low, high]);
        }
        for values in self.rows {
            payload.clear();
            Row::of(&self.columns, binary, values).encode(&mut payload)?;
            next = put_packet(&mut bytes, next, &payload);
        }
        let end = Final::Ok(Completion { ends_rows: true, status, ..Completion::default() });
        Ok(Reply::new(Head::Rows, [Part::Packets(Bytes::from(bytes)), Part::Final { end, sequence: next }], None))
    }
}
