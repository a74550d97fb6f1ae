//! The master's binlog, made into transactions.
//!
//! [`Capture`] tails the binlog over a replication connection: `stream` opens it and checks each event as it comes in,
//! `format` and `flavor` know what a file begins with and what differs between MariaDB and MySQL, `event` reads the
//! bytes, `unpack` undoes MariaDB's compression, `statement` (on `tokens`) tells what a Query event is, `context` reads the session state that it carries, `rows`
//! collects a statement's row events, and `assemble` makes whole transactions of it all. A transaction that is too long
//! to be held is read a second time where it is needed, by `streamed`; `xa` puts what was prepared where it is committed.
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
mod xa;

use std::sync::Arc;

pub use error::{CaptureError, Place};
pub(crate) use flavor::Source;
use mysql_async::Opts;
pub(crate) use stream::begun_at;
pub use streamed::{Rereading, Streamed};
use towline_middleware::{Changed, Epoch, Position, Sequence};

use self::{assemble::Assembler, event::kind, stream::EventStream, xa::Recovery};
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
/// - Transactions come in commit order, each once, whole. What `XA PREPARE` prepares comes where it is committed; at its
///   own place only the position moves.
/// - The same format description always has the same id, whichever binlog file or connection it came by.
/// - Left out, so that only the position moves: changes to the schema `towline`, statistics tables, dropped temporary
///   tables, `ANALYZE`, `OPTIMIZE`, `REPAIR`, `CHECK` and `FLUSH` (they change no data), and what was rolled back.
#[derive(Debug)]
pub struct Capture {
    options: CaptureOptions,
    source: Source,
    stream: EventStream,
    assembler: Assembler,
    start: Mark,
    /// While the rows of an XA transaction are looked for.
    recovery: Option<Recovery>,
}

impl Capture {
    /// Connects and asks for the binlog after `options.from`, which is read once more where the server still has it: it may
    /// be another transaction now.
    ///
    /// # Errors
    /// [`CaptureError::Connect`] if the server can't be reached or refuses the account; [`CaptureError::BinlogGone`] or
    /// [`CaptureError::Forked`] if MySQL's own GTIDs already tell that `from` can't be a start (on MariaDB the server
    /// says so at the first [`Self::next`]); [`CaptureError::Unfit`] if the server is not set up for capture.
    pub async fn open(options: &CaptureOptions) -> Result<Self, CaptureError> {
        if let Some(behind_start) = Self::open_before(options).await? {
            return Ok(behind_start);
        }
        let (stream, source) = EventStream::open(options).await?;
        Ok(Self::at(options, source, stream))
    }

    fn at(options: &CaptureOptions, source: Source, stream: EventStream) -> Self {
        let (assembler, start) = (Assembler::new(options, source), options.from.clone());
        Self { options: options.clone(), source, stream, assembler, start, recovery: None }
    }

    /// Reads from the transaction before `options.from` on, up to that; none if the server does not give it.
    async fn open_before(options: &CaptureOptions) -> Result<Option<Self>, CaptureError> {
        let CaptureOptions { from, .. } = options;
        let Some(before) = number_before(from) else { return Ok(None) };
        let earlier = CaptureOptions { from: before, ..options.clone() };
        let (stream, source) = EventStream::open_near(&earlier).await?;
        let mut capture = Self::at(&earlier, source, stream);
        if source.seq_of(&from.gtid).is_none() {
            return Ok(None);
        }
        let mut found = loop {
            if let Some(mark) = capture.assembler.pass() {
                break mark;
            }
            let pushed = match capture.stream.next().await {
                // It waits for what it does not have; or it is MySQL, which tells so what it passes over before that.
                Ok(event) if [kind::HEARTBEAT, kind::HEARTBEAT_V2].contains(&event.kind()) => {
                    if !stream::holds(&options.opts, source, &from.gtid).await? {
                        return Ok(None);
                    }
                    continue;
                }
                Ok(event) => capture.assembler.push(event),
                Err(error) => Err(error),
            };
            match pushed {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                // The server has no transaction before it, or this one can't be captured, which a snapshot has brought.
                Err(_) => return Ok(None),
            }
        };
        // It may have been captured in an older epoch.
        found.position.epoch = from.position.epoch;
        if found.position > from.position {
            return Ok(None);
        }
        if !found.is_same(from) {
            let detail = "the server has another one of this number, as when its data was put back to an older copy or \
                          RESET MASTER was run";
            return Err(CaptureError::Forked { after: from.gtid.clone(), detail: detail.to_owned() });
        }
        capture.start = found;
        Ok(Some(capture))
    }

    /// The transaction that it has begun after, with its checksum if the server still has it.
    pub(crate) fn start(&self) -> &Mark {
        &self.start
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
            if let Some(unread) = self.assembler.unread() {
                let recovery =
                    self.recovery.get_or_insert_with(|| Recovery::new(&self.options, self.source, unread.clone()));
                let prepared = recovery.run(&mut self.assembler.prepared).await?;
                self.recovery = None;
                self.assembler.supply(prepared);
                continue;
            }
            let event = self.stream.next().await.map_err(|error| error.at(self.assembler.last_place()))?;
            self.assembler.push(event)?;
        }
    }
}

/// The mark of the number before this one, which need not be a transaction; none before the first.
fn number_before(mark: &Mark) -> Option<Mark> {
    let (source, number) = mark.gtid.split_at(mark.gtid.rfind([':', '-'])? + 1);
    let before = number.parse::<u64>().ok()?.checked_sub(1)?;
    let gtid = if before == 0 { String::new() } else { format!("{source}{before}") };
    let position = Position { epoch: mark.position.epoch, seq: Sequence(before) };
    Some(Mark { position, gtid, checksum: None })
}
