//! The packets of a reply's results, one by one.

use bytes::Bytes;

use super::Column;
use crate::{
    Command, CommandKind, Error, ServerError,
    wire::{Cursor, frame::Packets},
};

/// The first byte of MariaDB's report on the progress of a command. A real error is a final, and no row begins with it.
const PROGRESS: u8 = 0xff;

/// One packet of a result, without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// How many columns there are, the EOF behind their definitions for a client that wants one, and MariaDB's reports on
    /// the progress of a command.
    Frame(Bytes),
    /// A column's definition.
    Column(Bytes),
    /// A row.
    Row(Bytes),
}

/// Where in a result the next packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Count,
    Columns(u64),
    Eof,
    Rows,
    /// Of a COM_FIELD_LIST: column definitions to the end.
    Definitions,
}

/// Reads the packets of a reply whose head is [`Head::Rows`](crate::Head::Rows).
#[derive(Debug)]
pub struct ResultReader {
    binary: bool,
    deprecates_eof: bool,
    extended_metadata: bool,
    state: State,
    columns: Vec<Column>,
    is_unknown: bool,
    packets: Packets,
}

impl ResultReader {
    /// A reader for the reply to this command. A row of more than `row_bytes_max` bytes ends the session.
    pub fn new(command: &Command, row_bytes_max: usize) -> Self {
        let kind = command.kind();
        let of_cursor = if kind == CommandKind::Fetch { Some(command.cursor_columns()) } else { None };
        Self {
            binary: matches!(kind, CommandKind::Execute | CommandKind::BulkExecute | CommandKind::Fetch),
            deprecates_eof: command.session().deprecates_eof(),
            extended_metadata: command.session().has_extended_metadata(),
            state: match kind {
                CommandKind::Fetch => State::Rows,
                CommandKind::FieldList => State::Definitions,
                _ => State::Count,
            },
            is_unknown: of_cursor == Some(None),
            columns: of_cursor.flatten().map_or_else(Vec::new, |columns| columns.to_vec()),
            packets: Packets::new(row_bytes_max),
        }
    }

    /// What to say where rows of a cursor come whose columns nobody has seen: the execute that opened it has left them
    /// out, as MariaDB's clients may ask, or was run over another way.
    pub(crate) fn refusal(&self) -> Option<ServerError> {
        let text = "A layer can't read rows of this cursor, whose columns it has not seen: execute the statement again";
        self.is_unknown.then(|| ServerError::new(1105, b"HY000", text))
    }

    /// Whether the columns are all there.
    pub(crate) fn is_at_rows(&self) -> bool {
        self.state == State::Rows
    }

    /// Whether rows are in the binary form.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// The columns of the current result, as far as they have come. Of a fetch: those of its cursor.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Takes the bytes of a [`Part::Packets`](crate::Part::Packets); they may end in the middle of a packet.
    pub fn feed(&mut self, packets: &Bytes) {
        self.packets.feed(packets);
    }

    /// The current result has ended: the next packet starts another.
    pub fn end_result(&mut self) {
        self.state = State::Count;
        self.columns.clear();
    }

    /// The next packet; `None` when it takes more bytes.
    ///
    /// # Errors
    /// The server sent what can't stand there, or a row is too long; [`Error::OutdatedSession`].
    pub fn next_packet(&mut self) -> Result<Option<Packet>, Error> {
        let too_long = |_| malformed("row: it is longer than a layer that looks at it takes");
        let Some(payload) = self.packets.next_payload().map_err(too_long)? else { return Ok(None) };
        if payload.first() == Some(&PROGRESS) {
            return Ok(Some(Packet::Frame(payload)));
        }
        Ok(Some(match self.state {
            State::Count => {
                let mut cursor = Cursor::new(&payload);
                let count = cursor.lenenc().filter(|count| *count > 0);
                if cursor.u8() == Some(0) {
                    // MariaDB's cached metadata, which is agreed on only by sessions that began without layers.
                    return Err(Error::OutdatedSession);
                }
                self.state = State::Columns(count.ok_or(malformed("column count"))?);
                Packet::Frame(payload)
            }
            State::Columns(left) => {
                self.push_column(&payload)?;
                self.state = match left {
                    1 if self.deprecates_eof => State::Rows,
                    1 => State::Eof,
                    _ => State::Columns(left - 1),
                };
                Packet::Column(payload)
            }
            State::Eof => {
                self.state = State::Rows;
                Packet::Frame(payload)
            }
            State::Rows => Packet::Row(payload),
            State::Definitions => {
                self.push_column(&payload)?;
                Packet::Column(payload)
            }
        }))
    }

    fn push_column(&mut self, payload: &[u8]) -> Result<(), Error> {
        let column = Column::decode(payload, self.extended_metadata);
        self.columns.push(column.ok_or(malformed("column definition"))?);
        Ok(())
    }
}

pub(super) fn malformed(what: &'static str) -> Error {
    Error::Protocol { peer: "MySQL", what }
}
