//! Transactions that are too long to be held in memory: read once to know that they were committed and what they took
//! back, and again, change by change, by whoever needs them.

use std::{collections::BTreeSet, ops::Range};

use towline_middleware::Changed;

use super::{CaptureError, CaptureOptions, assemble::Assembler, stream::EventStream, xa::PreparedAt};
use crate::replication::protocol::Change;

/// What is known of the changes of a transaction that is not held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streamed {
    /// The tables whose rows it changes, with their schemas.
    pub(super) tables: BTreeSet<(String, String)>,
    /// Whether it begins with a schema change (`CREATE … SELECT`).
    pub(super) has_schema_change: bool,
    /// Which of its changes it took back itself, by a rollback to a savepoint.
    pub(super) without: Vec<Range<usize>>,
    /// How many changes it has without those.
    pub(super) count: usize,
    /// The binlog file that it begins in.
    pub(super) file: String,
    /// Where it was prepared, if it is an XA transaction: its changes stand there.
    pub(super) prepared: Option<PreparedAt>,
}

impl Streamed {
    /// About how many bytes it takes in memory besides itself.
    pub(crate) fn memory(&self) -> usize {
        let tables: usize = self.tables.iter().map(|(database, table)| 64 + database.len() + table.len()).sum();
        tables + size_of_val(self.without.as_slice()) + self.file.len()
    }

    pub(super) fn changed<'a>(&'a self, tables: &'a mut Vec<(&'a str, &'a str)>) -> Changed<'a> {
        if self.has_schema_change {
            return Changed::Everything;
        }
        tables.extend(self.tables.iter().map(|(database, table)| (database.as_str(), table.as_str())));
        Changed::Tables(tables)
    }
}

/// A streamed transaction, read once more over a connection of its own.
#[derive(Debug)]
pub struct Rereading {
    stream: EventStream,
    assembler: Assembler,
    gtid: String,
    /// How many changes it must have.
    count: usize,
    /// How many were handed on.
    found: usize,
}

impl Rereading {
    /// Connects and asks for the transaction after `options.from`, which has this GTID, or for what it was prepared as.
    ///
    /// # Errors
    /// As [`Capture::open`](super::Capture::open).
    pub async fn open(options: &CaptureOptions, gtid: &str, streamed: &Streamed) -> Result<Self, CaptureError> {
        let (stream, source) = match &streamed.prepared {
            None => EventStream::open(options).await?,
            Some(at) => EventStream::open_at(options, &at.file, at.begin.into()).await?,
        };
        let mut assembler = Assembler::rereading(options, source, streamed);
        let mut gtid = gtid.to_owned();
        if let Some(at) = &streamed.prepared {
            assembler = assembler.starting_at(at);
            gtid.clone_from(&at.gtid);
        }
        Ok(Self { stream, assembler, gtid, count: streamed.count, found: 0 })
    }

    /// Its next change; none at its end, when all that it must have were handed on.
    ///
    /// # Errors
    /// As [`Capture::next`](super::Capture::next), and [`CaptureError::ReadOtherwise`].
    pub async fn next(&mut self) -> Result<Option<Change>, CaptureError> {
        loop {
            if let Some(change) = self.assembler.pop_change() {
                self.found += 1;
                return Ok(Some(change));
            }
            if let Some(end) = self.assembler.pop() {
                let (gtid, next) = (self.gtid.clone(), end.transaction.gtid);
                return match (self.count, self.found) {
                    _ if next != gtid => {
                        Err(CaptureError::Forked { after: gtid, detail: format!("{next} follows in its place") })
                    }
                    (first, second) if first != second => Err(CaptureError::ReadOtherwise { gtid, first, second }),
                    _ => Ok(None),
                };
            }
            let event = self.stream.next().await.map_err(|error| error.at(self.assembler.last_place()))?;
            self.assembler.push(event)?;
        }
    }
}
