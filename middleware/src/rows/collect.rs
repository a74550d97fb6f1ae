//! Small results, read whole.

use super::{
    Column, Row, Value,
    reader::{Packet, ResultReader, malformed},
};
use crate::{Command, Completion, Error, Final, Head, Part, Reply, ServerError};

/// What a layer's own command came to.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The columns of its last result; none without rows. Of a COM_FIELD_LIST: the columns that it lists.
    pub columns: Vec<Column>,
    /// The rows of its results.
    pub rows: Vec<Record>,
    /// How it ended.
    pub end: Result<Completion, ServerError>,
}

/// The values of one row.
pub type Record = Vec<Value<'static>>;

impl Reply {
    /// Reads the reply to a layer's own command to its end, as long as its rows have no more than `bytes_max` bytes.
    ///
    /// # Errors
    /// The session is over, as it is when there are more rows: nobody could tell the rest of them from the next reply.
    pub async fn collect(mut self, command: &Command, bytes_max: usize) -> Result<Collected, Error> {
        let mut reader = ResultReader::new(command, bytes_max);
        let mut collected = Collected { columns: Vec::new(), rows: Vec::new(), end: Ok(Completion::default()) };
        let (is_rows, mut left) = (self.head() == Head::Rows && reader.refusal().is_none(), bytes_max);
        while let Some(part) = self.next().await? {
            match part {
                Part::Packets(bytes) if is_rows => {
                    left = left.checked_sub(bytes.len()).ok_or(malformed("reply: it is longer than a layer takes"))?;
                    reader.feed(&bytes);
                    while let Some(packet) = reader.next_packet()? {
                        if let Packet::Row(payload) = packet {
                            let row = Row::decode(reader.columns(), reader.is_binary(), &payload);
                            let row = row.ok_or(malformed("row"))?;
                            collected.rows.push((0..row.columns().len()).map(|i| owned(row.get(i))).collect());
                        }
                    }
                }
                Part::Packets(_) => {}
                Part::Final { end: Final::Ok(completion), .. } => {
                    collected.columns = reader.columns().to_vec();
                    collected.end = reader.refusal().map_or(Ok(completion), Err);
                    reader.end_result();
                }
                Part::Final { end: Final::Err(error), .. } => collected.end = Err(error),
                Part::Turn(_) => return Err(malformed("reply: it asks for a file")),
            }
        }
        Ok(collected)
    }
}

fn owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Integer(value) => Value::Integer(value),
        Value::Unsigned(value) => Value::Unsigned(value),
        Value::Float(value) => Value::Float(value),
        Value::Bytes(bytes) => Value::Bytes(bytes.into_owned().into()),
    }
}
