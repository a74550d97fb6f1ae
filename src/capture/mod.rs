//! The master's binlog, made into transactions.
//!
//! [`Capture`] tails the binlog over a replication connection: `stream` opens it and checks each event as it comes in,
//! `format` and `flavor` know what a file begins with and what differs between MariaDB and MySQL, `event` reads the
//! bytes, `unpack` undoes MariaDB's compression, `statement` (on `tokens`) tells what a Query event is, `context` reads the session state that it carries, `rows`
//! collects a statement's row events, and `assemble` makes whole transactions of it all. A transaction that is too long
//! to be held is read a second time where it is needed, by `streamed`.
//!
//! The rule behind every line here: an event that is not understood stops capture with its place in the binlog.
//! Nothing is skipped because it is unknown.

mod assemble;
mod context;
mod error;
mod event;
mod flavor;
mod format;
mod rows;
mod statement;
mod stream;
mod streamed;
mod tokens;
mod unpack;

use std::sync::Arc;

pub use error::{CaptureError, Place};
pub(crate) use flavor::Source;
use mysql_async::Opts;
pub(crate) use stream::begun_at;
pub use streamed::{Rereading, Streamed};
use towline_middleware::{Changed, Epoch};

use self::{assemble::Assembler, stream::EventStream};
use crate::replication::protocol::{self, Format, Mark, Transaction};

/// What to capture, and from where.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// The master's MySQL, with an account that has `REPLICATION SLAVE`.
    pub opts: Opts,
    /// The epoch of the positions that are made.
    pub epoch: Epoch,
    /// The last transaction that is already known; the first one captured stands after it. With an empty GTID capture
    /// starts at the master's first transaction.
    pub from: Mark,
    /// The changes of a transaction with more bytes of events than this are not held: see [`Streamed`].
    pub transaction_bytes_max: usize,
}

/// A transaction, and the format description that its row events need.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The transaction.
    pub transaction: Transaction,
    /// The format that [`Transaction::format`] names; none if it has no row events.
    pub format: Option<Arc<Format>>,
    /// Set if the transaction has changes after all, too many to be held: they must be [read again](Rereading).
    pub streamed: Option<Streamed>,
}

impl Captured {
    /// What it changes. `tables` is where the names are put.
    pub(crate) fn changed<'a>(&'a self, tables: &'a mut Vec<(&'a str, &'a str)>) -> Changed<'a> {
        match &self.streamed {
            None => protocol::changed(&self.transaction.changes, tables),
            Some(streamed) => streamed.changed(tables),
        }
    }
}

/// A connection that tails the master's binlog.
///
/// - Transactions come in commit order, each once, whole.
/// - The same format description always has the same id, whichever binlog file or connection it came by.
/// - Left out, so that only the position moves: changes to the schema `towline`, statistics tables, dropped temporary
///   tables, `ANALYZE`, `OPTIMIZE`, `REPAIR`, `CHECK` and `FLUSH` (they change no data), and what was rolled back.
#[derive(Debug)]
pub struct Capture {
    stream: EventStream,
    assembler: Assembler,
}

impl Capture {
    /// Connects and asks for the binlog after `options.from`.
    ///
    /// # Errors
    /// [`CaptureError::Connect`] if the server can't be reached or refuses the account; [`CaptureError::BinlogGone`] or
    /// [`CaptureError::Forked`] if MySQL's own GTIDs already tell that `from` can't be a start (on MariaDB the server
    /// says so at the first [`Self::next`]); [`CaptureError::Unfit`] if the server is not set up for capture.
    pub async fn open(options: &CaptureOptions) -> Result<Self, CaptureError> {
        let (stream, source) = EventStream::open(options).await?;
        Ok(Self { stream, assembler: Assembler::new(options, source) })
    }

    /// The next transaction. Waits for one for as long as the server is alive.
    ///
    /// # Errors
    /// [`CaptureError::is_transient`] tells whether a new [`Capture`] from the last transaction may go on. After an
    /// error this one is of no more use.
    ///
    /// # Cancel safety
    /// Safe: events that were read stay in `self`, and the next call goes on with them.
    pub async fn next(&mut self) -> Result<Captured, CaptureError> {
        loop {
            if let Some(captured) = self.assembler.pop() {
                return Ok(captured);
            }
            let event = self.stream.next().await.map_err(|error| error.at(self.assembler.last_place()))?;
            self.assembler.push(event)?;
        }
    }
}
