//! Watching and changing rows as they stream by.

use bytes::Bytes;

use super::{
    Column, Row,
    reader::{Packet, ResultReader, malformed},
};
use crate::{
    BoxFuture, Command, CommandKind, Error, Final, Head, Part, Parts, Reply, ServerError, wire::frame::put_packet,
};

/// The longest row that is decoded.
const ROW_BYTES_MAX: usize = 64 << 20;

/// What is done with the rows of a reply. An error ends the result, with it in place of what follows.
pub trait RowMap: Send {
    /// Looks at a result's columns, before its rows and also when it has none.
    ///
    /// # Errors
    /// What the client gets in place of the rows.
    fn columns(&mut self, _columns: &[Column]) -> Result<(), ServerError> {
        Ok(())
    }

    /// Looks at a row, and may change it.
    ///
    /// # Errors
    /// What the client gets in place of this row and those behind it.
    fn row(&mut self, row: &mut Row<'_>) -> Result<(), ServerError>;
}

impl<F: FnMut(&mut Row<'_>) -> Result<(), ServerError> + Send> RowMap for F {
    fn row(&mut self, row: &mut Row<'_>) -> Result<(), ServerError> {
        self(row)
    }
}

impl Reply {
    /// Shows every row to `map` as it streams by; what it sets goes to the client. Rows that it does not change keep
    /// the server's bytes. An error of its takes the place of the row and of all that follows: the rest of the rows is
    /// read and dropped, and the client gets the error.
    ///
    /// Replies without rows pass as they are, and so does the answer to a COM_FIELD_LIST, which has columns only. Rows that a
    /// fetch reads from a cursor have the columns of the execute that opened it; if nobody has seen those, the client gets
    /// an error in the place of the rows.
    #[must_use]
    pub fn map_rows(
        self,
        command: &Command,
        map: impl FnMut(&mut Row<'_>) -> Result<(), ServerError> + Send + 'static,
    ) -> Self {
        self.map_result(command, map)
    }

    /// The same with a look at the columns first.
    #[must_use]
    pub fn map_result(self, command: &Command, map: impl RowMap + 'static) -> Self {
        if self.head() != Head::Rows || command.kind() == CommandKind::FieldList {
            return self;
        }
        let reader = ResultReader::new(command, ROW_BYTES_MAX);
        let refusal = reader.refusal();
        self.wrap(|parts| Box::new(Mapped { parts, reader, map, has_columns: false, next: 1, refusal }))
    }

    /// Keeps `guard` until the reply has been read to its end or dropped.
    #[must_use]
    pub fn keep(self, guard: impl Send + 'static) -> Self {
        if self.is_complete() {
            return self;
        }
        self.inspect(move |_| {
            // It is held by being captured.
            let _held = &guard;
        })
    }

    /// Shows every part to `watch` as it streams by, the last one included.
    #[must_use]
    pub fn inspect(self, watch: impl FnMut(&Part) + Send + 'static) -> Self {
        self.wrap(|parts| Box::new(Watched { parts, watch }))
    }
}

struct Watched<F> {
    parts: Box<dyn Parts>,
    watch: F,
}

impl<F: FnMut(&Part) + Send> Parts for Watched<F> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let part = self.parts.next().await?;
            part.iter().for_each(&mut self.watch);
            Ok(part)
        })
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.parts.answer(payload)
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        self.parts.left()
    }
}

struct Mapped<M> {
    parts: Box<dyn Parts>,
    reader: ResultReader,
    map: M,
    /// Whether the map has seen the current result's columns.
    has_columns: bool,
    /// The number of the next packet for the client: a changed row may have more frames than the server's, or fewer.
    next: u8,
    refusal: Option<ServerError>,
}

impl<M: RowMap> Mapped<M> {
    /// Shows the map the columns, once per result.
    fn show_columns(&mut self) {
        if !std::mem::replace(&mut self.has_columns, true)
            && self.refusal.is_none()
            && let Err(error) = self.map.columns(self.reader.columns())
        {
            self.refusal = Some(error);
        }
    }

    fn packets(&mut self, bytes: &Bytes) -> Result<Bytes, Error> {
        self.reader.feed(bytes);
        let (mut out, mut changed) = (Vec::with_capacity(bytes.len()), Vec::new());
        while let Some(packet) = self.reader.next_packet()? {
            if matches!(packet, Packet::Row(_)) {
                self.show_columns();
            }
            let payload = match &packet {
                Packet::Frame(payload) | Packet::Column(payload) => payload,
                Packet::Row(_) if self.refusal.is_some() => continue,
                Packet::Row(payload) => {
                    let row = Row::decode(self.reader.columns(), self.reader.is_binary(), payload);
                    let mut row = row.ok_or(malformed("row"))?;
                    if let Err(error) = self.map.row(&mut row) {
                        self.refusal = Some(error);
                        continue;
                    }
                    if row.is_changed() {
                        changed.clear();
                        row.encode(&mut changed)
                            .map_err(|source| Error::Layer { layer: "map_rows", source: source.into() })?;
                        self.next = put_packet(&mut out, self.next, &changed);
                        continue;
                    }
                    payload
                }
            };
            self.next = put_packet(&mut out, self.next, payload);
        }
        Ok(out.into())
    }

    fn end_result(&mut self) {
        self.reader.end_result();
        self.has_columns = false;
    }

    fn end(&mut self, end: Final) -> Part {
        self.show_columns();
        self.end_result();
        let sequence = self.next;
        self.next = sequence.wrapping_add(1);
        Part::Final { end: self.refusal.clone().map_or(end, Final::Err), sequence }
    }
}

impl<M: RowMap> Parts for Mapped<M> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            loop {
                let Some(part) = self.parts.next().await? else { return Ok(None) };
                match part {
                    Part::Packets(bytes) => {
                        let bytes = self.packets(&bytes)?;
                        if !bytes.is_empty() {
                            return Ok(Some(Part::Packets(bytes)));
                        }
                    }
                    // Behind an error no other result may follow.
                    Part::Final { end: Final::Ok(completion), .. }
                        if self.refusal.is_some() && completion.has_more() =>
                    {
                        self.end_result();
                    }
                    Part::Final { end, .. } => return Ok(Some(self.end(end))),
                    Part::Turn(_) => return Ok(Some(part)),
                }
            }
        })
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.parts.answer(payload)
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        self.parts.left()
    }
}
