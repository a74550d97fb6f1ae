//! Transactions made of events: a closed list of what each event means, inside a transaction and outside.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use crc32fast::Hasher;
use towline_middleware::{Epoch, Position, Sequence};

use super::{
    CaptureError, CaptureOptions, Captured, Place,
    context::{self, Invoker},
    event::{Event, Query, kind},
    flavor::{Group, Gtid, Source},
    format,
    rows::{Refused, StatementRows},
    statement::{self, Statement},
    stream::EVENT_BYTES_MAX,
    streamed::Streamed,
    unpack,
    xa::{self, Completed, Completion, PreparedAt, PreparedTransactions, Unread, Xid},
};
use crate::replication::{
    apply_session::{Verdict, verdict_of},
    protocol::{Binary, Change, Context, Family, Format, Mark, SchemaChange, Transaction},
};

/// Makes transactions of the events that [`Self::push`] is given in the order of the binlog.
///
/// - Between transactions only events that carry no data are let through.
/// - A transaction is given out when its last event is there, never before.
/// - Of one above the limit only what must be known to [read it again](Self::rereading) is kept.
#[derive(Debug)]
pub(super) struct Assembler {
    source: Source,
    epoch: Epoch,
    transaction_bytes_max: usize,
    /// As whom the master's node logs in to its server.
    user: String,
    /// The number of the last transaction, 0 before the first.
    last: u64,
    file: String,
    /// Where the last event ended in the file.
    end: u32,
    format: Option<Arc<Format>>,
    open: Option<Open>,
    ready: Option<Captured>,
    /// While a transaction is read again: its changes are handed on at once.
    again: Option<Again>,
    /// The XA transactions that may be committed by name.
    pub(super) prepared: PreparedTransactions,
    /// What `ready` lacks.
    unread: Option<Unread>,
}

#[derive(Debug)]
struct Again {
    /// Which changes the transaction itself took back.
    without: Vec<Range<usize>>,
    /// Which file it begins in. One of the same number that the master never finished stands in an earlier file.
    file: String,
    changes: VecDeque<Change>,
}

/// A transaction whose end is still to come.
#[derive(Debug)]
struct Open {
    gtid: Gtid,
    /// Of the CRC32s of its events.
    checksum: Hasher,
    /// The binlog file that it begins in, and where.
    file: String,
    begin: u32,
    /// Those that are held.
    changes: Vec<Change>,
    rows: StatementRows,
    bytes: usize,
    /// How many changes it has made so far, held or not.
    made: usize,
    /// How many were held when they were last counted.
    counted: usize,
    savepoints: Vec<Savepoint>,
    /// Which changes it has taken back; no two of these meet.
    taken_back: Vec<Range<usize>>,
    /// The tables of the row changes that were let go since there are too many; none while all are held.
    let_go: Option<BTreeSet<(String, String)>>,
}

#[derive(Debug)]
struct Savepoint {
    name: Vec<u8>,
    /// How many changes were made, and how many held, before it.
    made: usize,
    held: usize,
}

impl Open {
    fn new(gtid: Gtid, file: String, begin: u32) -> Self {
        Self {
            gtid,
            checksum: Hasher::new(),
            file,
            begin,
            changes: Vec::new(),
            rows: StatementRows::default(),
            bytes: 0,
            made: 0,
            counted: 0,
            savepoints: Vec::new(),
            taken_back: Vec::new(),
            let_go: None,
        }
    }

    /// Counts what the last event has added; false if that was nothing.
    fn count(&mut self) -> bool {
        let added = self.changes.len() - self.counted;
        self.made += added;
        self.counted = self.changes.len();
        added > 0
    }

    fn set_savepoint(&mut self, name: Vec<u8>) {
        self.savepoints.retain(|known| !known.name.eq_ignore_ascii_case(&name));
        self.savepoints.push(Savepoint { name, made: self.made, held: self.changes.len() });
    }

    /// Drops the changes since a savepoint; false if there is none of this name.
    fn roll_back_to(&mut self, name: &[u8]) -> bool {
        let Some(n) = self.savepoints.iter().position(|known| known.name.eq_ignore_ascii_case(name)) else {
            return false;
        };
        let first = self.savepoints[n].made;
        // What was taken back since then is taken back with the rest.
        self.taken_back.retain(|range| range.start < first);
        self.taken_back.push(first..self.made);
        self.changes.truncate(self.savepoints[n].held);
        self.counted = self.changes.len();
        self.savepoints.truncate(n + 1);
        true
    }

    /// Holds the rows no longer, only which tables they are of.
    fn let_rows_go(&mut self) {
        let tables = self.let_go.get_or_insert_default();
        for change in self.changes.extract_if(.., |change| matches!(change, Change::Rows(_))) {
            let Change::Rows(rows) = change else { continue };
            tables.extend(rows.tables.into_iter().map(|of| (of.database, of.table)));
        }
        self.counted = self.changes.len();
    }
}

impl Assembler {
    /// An assembler for the events of `source` that follow `options.from`.
    pub(super) fn new(options: &CaptureOptions, source: Source) -> Self {
        Self {
            source,
            epoch: options.epoch,
            transaction_bytes_max: options.transaction_bytes_max,
            user: options.opts.user().unwrap_or_default().to_owned(),
            last: source.seq_of(&options.from.gtid).unwrap_or(0),
            file: String::new(),
            end: 0,
            format: None,
            open: None,
            ready: None,
            again: None,
            prepared: PreparedTransactions::default(),
            unread: None,
        }
    }

    /// The same, for a stream that begins with this transaction, of which nothing else is read.
    pub(super) fn starting_at(self, at: &PreparedAt) -> Self {
        Self { last: at.seq.saturating_sub(1), prepared: PreparedTransactions::of_one(), ..self }
    }

    /// An assembler that hands the changes of the next transaction on, which is known to be a streamed one.
    pub(super) fn rereading(options: &CaptureOptions, source: Source, streamed: &Streamed) -> Self {
        let Streamed { without, file, .. } = streamed.clone();
        let again = Again { without, file, changes: VecDeque::new() };
        Self { again: Some(again), ..Self::new(options, source) }
    }

    /// The next change of a transaction that is read again.
    pub(super) fn pop_change(&mut self) -> Option<Change> {
        self.again.as_mut()?.changes.pop_front()
    }

    /// The transaction that the last event has completed, unless its rows must be [read](Self::unread) first.
    pub(super) fn pop(&mut self) -> Option<Captured> {
        if self.unread.is_some() { None } else { self.ready.take() }
    }

    /// The transaction that the last event has completed, when only its name is wanted.
    pub(super) fn pass(&mut self) -> Option<Mark> {
        self.unread = None;
        Some(self.ready.take()?.transaction.mark())
    }

    /// What must be [supplied](Self::supply) before the next event is pushed.
    pub(super) fn unread(&self) -> Option<&Unread> {
        self.unread.as_ref()
    }

    /// Takes what was prepared as the transaction that is now committed; none if it is rolled back.
    pub(super) fn supply(&mut self, prepared: Option<Captured>) {
        self.unread = None;
        let (Some(ready), Some(prepared)) = (&mut self.ready, prepared) else { return };
        let Transaction { format, changes, .. } = prepared.transaction;
        ready.transaction = Transaction { format, changes, ..ready.transaction.clone() };
        (ready.format, ready.streamed) = (prepared.format, prepared.streamed);
    }

    /// Where the last event stood.
    pub(super) fn last_place(&self) -> Place {
        let gtid = self.open.as_ref().map_or_else(String::new, |open| open.gtid.text.clone());
        Place { file: self.file.clone(), end: self.end, gtid }
    }

    /// Takes an event.
    pub(super) fn push(&mut self, event: Event) -> Result<(), CaptureError> {
        match event.kind() {
            // These two are made up for each reader, and not always with a CRC32.
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => return Ok(()),
            kind::ROTATE => {
                self.file = format::rotated_to(&event);
                return Ok(());
            }
            kind::FORMAT_DESCRIPTION => return self.begin_file(&event),
            _ if self.format.is_none() => return Err(self.malformed(&event, "its format, which was not described")),
            _ if !event.is_intact() => return Err(CaptureError::Checksum(self.place(&event))),
            _ => {}
        }
        self.end = event.end();
        let size = event.bytes().len();
        let crc = event.crc();
        let place = self.place(&event);
        let event = unpack::unpacked(event, EVENT_BYTES_MAX)
            .ok_or(CaptureError::Malformed { place, what: "its compressed part" })?;
        let Some(open) = &mut self.open else { return self.between(&event) };
        open.checksum.update(&crc);
        open.bytes += size.max(event.bytes().len());
        self.within(event)?;
        self.hand_on();
        Ok(())
    }

    /// What becomes of the changes that the last event has made: they are held until there are too many of them, or
    /// handed on at once.
    fn hand_on(&mut self) {
        let Some(open) = &mut self.open else { return };
        let first = open.made;
        if !open.count() {
            return;
        }
        if let Some(again) = &mut self.again {
            let numbered = (first..).zip(open.changes.drain(..));
            let is_it = open.file == again.file;
            let stays = |n: usize| is_it && !again.without.iter().any(|range| range.contains(&n));
            again.changes.extend(numbered.filter(|(n, _)| stays(*n)).map(|(_, change)| change));
            open.counted = 0;
        } else if open.bytes > self.transaction_bytes_max {
            open.let_rows_go();
        }
    }

    fn begin_file(&mut self, event: &Event) -> Result<(), CaptureError> {
        self.format = Some(Arc::new(format::described(event, || self.place(event))?));
        // A server that died while it wrote leaves the beginning of a transaction; it was never committed.
        if let Some(open) = self.open.take() {
            tracing::warn!(
                gtid = open.gtid.text,
                "the binlog holds a transaction without its end; the master never committed it"
            );
        }
        Ok(())
    }

    fn between(&mut self, event: &Event) -> Result<(), CaptureError> {
        match event.kind() {
            kind::MARIADB_GTID | kind::GTID => self.begin(event),
            kind::STOP | kind::PREVIOUS_GTIDS | kind::IGNORABLE | kind::MARIADB_BINLOG_CHECKPOINT => Ok(()),
            kind::MARIADB_GTID_LIST => self.compare(event),
            _ => Err(self.refusal(event)),
        }
    }

    /// A file must begin after what was read before it.
    fn compare(&self, list: &Event) -> Result<(), CaptureError> {
        let before = self.source.last_before(list).ok_or_else(|| self.malformed(list, "its list of GTIDs"))?;
        if before > self.last {
            let detail = format!("{} begins after number {before}", self.file);
            return Err(CaptureError::BinlogGone { after: format!("number {}", self.last), detail });
        }
        Ok(())
    }

    fn begin(&mut self, event: &Event) -> Result<(), CaptureError> {
        let gtid = Gtid::read(event).ok_or_else(|| self.malformed(event, "its GTID"))?;
        let place = Place { gtid: gtid.text.clone(), ..self.place(event) };
        if gtid.source != self.source {
            return Err(CaptureError::OtherSource { place, expected: self.source.to_string() });
        }
        if gtid.seq <= self.last {
            return Err(CaptureError::NotRising { place, last: self.last });
        }
        // A server that was a replica, or lost its first binlogs unseen, begins with a later number.
        if self.last == 0 && gtid.seq != 1 {
            return Err(CaptureError::BinlogGone {
                after: "the beginning".into(),
                detail: format!("the first transaction in it is {}", gtid.text),
            });
        }
        let mut open = Open::new(gtid, self.file.clone(), event.begin());
        open.checksum.update(&event.crc());
        self.open = Some(open);
        Ok(())
    }

    fn within(&mut self, event: Event) -> Result<(), CaptureError> {
        let place = self.place(&event);
        let Some(open) = &mut self.open else { return Err(CaptureError::UnknownEvent { place, kind: event.kind() }) };
        let is_transaction = open.gtid.group == Group::Transaction;
        let taken = match event.kind() {
            kind::MARIADB_ANNOTATE_ROWS | kind::ROWS_QUERY | kind::IGNORABLE => Ok(()),
            kind::TABLE_MAP if is_transaction => open.rows.map(event),
            kind::WRITE_ROWS_V1..=kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS..=kind::DELETE_ROWS
            | kind::PARTIAL_UPDATE_ROWS
                if is_transaction =>
            {
                open.rows.rows(event, &mut open.changes)
            }
            // The reader gives the events in it next, unpacked.
            kind::TRANSACTION_PAYLOAD => Ok(()),
            kind::XID if is_transaction => return self.commit(&event),
            kind::XA_PREPARE if is_transaction && event.body().first() == Some(&xa::IN_ONE_PHASE) => {
                return self.commit(&event);
            }
            kind::XA_PREPARE if is_transaction => return self.prepare(&event),
            kind::QUERY => return self.query(&event),
            _ => return Err(self.refusal(&event)),
        };
        taken.map_err(|refused| match refused {
            Refused::Malformed(what) => CaptureError::Malformed { place, what },
            Refused::SystemTable(table) => CaptureError::SystemTable { place, table },
        })
    }

    fn query(&mut self, event: &Event) -> Result<(), CaptureError> {
        let malformed = self.malformed(event, "its statement");
        let place = self.place(event);
        let (Some(query), Some(open)) = (Query::read(event.body()), &mut self.open) else { return Err(malformed) };
        let Some((context, invoker)) = context::read(&query, event.timestamp(), self.source.family()) else {
            return Err(malformed);
        };
        let sql_mode = context.sql_mode.unwrap_or(0);
        let excerpt = || statement::excerpt(query.sql, sql_mode);
        let statement = statement::classify(query.sql, sql_mode, query.schema);
        if open.gtid.group == Group::Untold {
            let begins = matches!(statement, Statement::Begin | Statement::XaStart);
            open.gtid.group = if begins { Group::Transaction } else { Group::Single };
        }
        match (statement, open.gtid.group == Group::Transaction) {
            (Statement::Begin | Statement::XaStart, true) if open.made == 0 => Ok(()),
            (Statement::XaEnd, true) => Ok(()),
            (Statement::Commit, true) => self.commit(event),
            (Statement::Rollback, true) => {
                // Row events of tables without transactions stand in groups of their own, so no row here was kept. The
                // table that a failed CREATE OR REPLACE … SELECT has dropped is gone all the same.
                open.changes.retain(|change| matches!(change, Change::Schema(_)));
                open.let_go = None;
                self.commit(event)
            }
            (Statement::Savepoint(name), true) => {
                open.set_savepoint(name.into_owned());
                Ok(())
            }
            (Statement::RollbackTo(name), true) if open.roll_back_to(&name) => Ok(()),
            (Statement::ReleaseSavepoint | Statement::DropTemporary | Statement::OfServer, true) => Ok(()),
            (Statement::DropTemporary | Statement::OfServer | Statement::Maintenance, false) => self.commit(event),
            (statement @ (Statement::Schema | Statement::DropSeveral | Statement::Account), _) => {
                self.schema_change(event, &query, &statement, context, invoker.as_ref())
            }
            (Statement::OfServerAndOthers, _) => Err(CaptureError::Unsupported {
                place,
                event: "a statement that changes together what each server has of its own (the schema towline, logs in mysql) \
                        and what it has not",
                mend: "change them by statements of their own; the slaves need a snapshot from after it",
            }),
            (Statement::System, _) => Err(CaptureError::SystemTable { place, table: format!("mysql ({})", excerpt()) }),
            (Statement::Xa, false) => match Completion::read(query.sql) {
                Some(completion) => self.complete(event, completion),
                None => Err(CaptureError::UnknownStatement { place, sql: excerpt() }),
            },
            (Statement::Data | Statement::Temporary, _) => Err(CaptureError::StatementLogged { place, sql: excerpt() }),
            _ => Err(CaptureError::UnknownStatement { place, sql: excerpt() }),
        }
    }

    /// Takes a change of the schema or of accounts.
    fn schema_change(
        &mut self,
        event: &Event,
        query: &Query<'_>,
        statement: &Statement<'_>,
        mut context: Context,
        invoker: Option<&Invoker<'_>>,
    ) -> Result<(), CaptureError> {
        let place = self.place(event);
        let unsupported = |event, mend| Err(CaptureError::Unsupported { place, event, mend });
        let outside = self.malformed(event, "its transaction, which has not begun");
        let Some(open) = &mut self.open else { return Err(outside) };
        let is_mariadb = self.source.family() == Family::MariaDb;
        let mut ends = true;
        match open.gtid.group {
            Group::AlterNotice => return self.commit(event),
            // CREATE … SELECT: the rows follow, and the commit.
            Group::Transaction if *statement == Statement::Schema && open.made == 0 => ends = false,
            Group::Transaction => {
                return unsupported(
                    "a schema change behind other changes of its transaction",
                    "the slaves need a snapshot from after it",
                );
            }
            // What it did not find, or found, is not there on a slave or there as well; a lock or a kill comes at no same
            // place twice.
            _ if query.error != 0 && verdict_of(query.error) != Verdict::Never => {
                return unsupported(
                    "a schema change that was ended after a part of it was done",
                    "the slaves need a snapshot from after it",
                );
            }
            _ => {}
        }
        // MariaDB drops those that there are, answers with an error and logs all names, mostly without the error.
        let mut error = query.error;
        if is_mariadb && *statement == Statement::DropSeveral {
            context.sql_if_exists = Some(true);
            error = 0;
        }
        let sql_mode = context.sql_mode.unwrap_or(0);
        let sql = match statement {
            Statement::Account => statement::with_invoker(query.sql, sql_mode, invoker),
            _ => Some(statement::with_definer(query.sql, sql_mode, invoker)),
        };
        let Some(sql) = sql else {
            return unsupported(
                "a statement on the current role or user, which the binlog does not name",
                "name the account or role; the slaves need a snapshot from after it",
            );
        };
        let own_account =
            *statement == Statement::Account && statement::names_own_account(&sql, sql_mode, &self.user, is_mariadb);
        let sql = Binary(sql.into_owned());
        open.changes.push(Change::Schema(SchemaChange { sql, context, error, own_account }));
        if ends { self.commit(event) } else { Ok(()) }
    }

    /// Gives the open transaction out; `event` is its last.
    fn commit(&mut self, event: &Event) -> Result<(), CaptureError> {
        let cut = self.malformed(event, "the statement before it, whose end is missing");
        let Some(open) = self.open.take_if(|open| !open.rows.is_open()) else { return Err(cut) };
        self.last = open.gtid.seq;
        let is_rows = |change: &Change| matches!(change, Change::Rows(_));
        let has_rows = open.let_go.is_some() || open.changes.iter().any(is_rows);
        let format = if has_rows { self.format.clone() } else { None };
        let has_schema_change = open.changes.iter().any(|change| !is_rows(change));
        let (without, file, prepared) = (open.taken_back, open.file, None);
        let count = open.made - without.iter().map(ExactSizeIterator::len).sum::<usize>();
        let streamed = open.let_go.map(|tables| Streamed { tables, has_schema_change, without, count, file, prepared });
        self.ready = Some(Captured {
            transaction: Transaction {
                position: Position { epoch: self.epoch, seq: Sequence(open.gtid.seq) },
                gtid: open.gtid.text,
                checksum: Some(open.checksum.finalize()),
                committed_at: event.timestamp().into(),
                format: format.as_ref().map_or(0, |format| format.id),
                changes: if streamed.is_none() { open.changes } else { Vec::new() },
            },
            format,
            streamed,
        });
        Ok(())
    }

    /// Keeps the open transaction for its commit, and gives out one without changes in its place; `event` is its last.
    fn prepare(&mut self, event: &Event) -> Result<(), CaptureError> {
        let malformed = self.malformed(event, "its XA transaction");
        let (Some(open), Some(xid)) = (&self.open, Xid::prepared_by(event.body())) else { return Err(malformed) };
        let gtid = open.gtid.text.clone();
        let at = PreparedAt { file: open.file.clone(), begin: open.begin, gtid, seq: open.gtid.seq };
        let bytes = open.bytes;
        self.commit(event)?;
        let Some(ready) = &mut self.ready else { return Ok(()) };
        let transaction = Transaction { format: 0, changes: Vec::new(), ..ready.transaction.clone() };
        let mut whole = std::mem::replace(ready, Captured { transaction, format: None, streamed: None });
        let bytes = whole.streamed.as_mut().map_or(bytes, |streamed| {
            streamed.prepared = Some(at.clone());
            streamed.memory()
        });
        self.prepared.add(xid, at, whole, bytes);
        Ok(())
    }

    /// Gives out what was prepared, if it is committed by `event`.
    fn complete(&mut self, event: &Event, completion: Completion) -> Result<(), CaptureError> {
        let place = self.place(event);
        self.commit(event)?;
        match self.prepared.complete(completion, place) {
            Completed::WithoutRows => {}
            Completed::Rows(prepared) => self.supply(Some(prepared)),
            // Whoever reads another transaction again has come to the wrong one, and is told so by its GTID.
            Completed::Unread(_) if self.again.is_some() => {}
            Completed::Unread(unread) => self.unread = Some(unread),
        }
        Ok(())
    }

    fn place(&self, event: &Event) -> Place {
        Place { end: event.end(), ..self.last_place() }
    }

    fn malformed(&self, event: &Event, what: &'static str) -> CaptureError {
        CaptureError::Malformed { place: self.place(event), what }
    }

    /// Why an event that is not expected here stops capture.
    fn refusal(&self, event: &Event) -> CaptureError {
        const AS_ROWS: &str =
            "set binlog_format=ROW globally and in every session; the slaves need a snapshot from after it";
        let place = self.place(event);
        let (event, mend) = match event.kind() {
            kind::INTVAR | kind::RAND | kind::USER_VAR => ("the values of a statement logged as text", AS_ROWS),
            kind::BEGIN_LOAD_QUERY | kind::EXECUTE_LOAD_QUERY => ("a LOAD DATA logged as text", AS_ROWS),
            kind::INCIDENT => (
                "an incident: the server could not log some changes",
                "see its error log; the slaves need a snapshot from after it",
            ),
            kind::MARIADB_START_ENCRYPTION => {
                ("the start of an encrypted file", "set encrypt_binlog=OFF, then FLUSH BINARY LOGS")
            }
            kind::GTID_TAGGED => {
                ("a GTID with a tag", "set gtid_next without a tag; the slaves need a snapshot from after it")
            }
            kind::ANONYMOUS_GTID => {
                ("a transaction without a GTID", "set gtid_mode=ON; the slaves need a snapshot from after it")
            }
            kind => return CaptureError::UnknownEvent { place, kind },
        };
        CaptureError::Unsupported { place, event, mend }
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::Opts;

    use super::*;
    use crate::{
        capture::event::{CRC, HEADER},
        replication::protocol::Mark,
    };

    const LIMIT: usize = 1 << 16;
    const ROWS: &[u8] = b"\x07\0\0\0\0\0\x01\0\x01\x01\xfe\x05";
    const MAP: &[u8] = b"\x07\0\0\0\0\0\x01\0\x04shop\0\x01t\0\x01\x01\0\0";

    fn event(kind: u8, body: &[u8]) -> Event {
        let mut blank = vec![0; HEADER + CRC];
        blank[5] = 1; // server id
        blank[9] = (HEADER + CRC) as u8;
        Event::new(blank).unwrap().rebuilt(kind, body).unwrap()
    }

    fn format_description() -> Event {
        let mut lengths = [0_u8; 170];
        for (kind, length) in
            [(kind::QUERY, 13), (kind::TABLE_MAP, 8), (kind::WRITE_ROWS_V1, 8), (kind::WRITE_ROWS, 10)]
        {
            lengths[usize::from(kind) - 1] = length;
        }
        let head = [&[4, 0][..], &[0; 54], &[HEADER as u8]].concat();
        event(kind::FORMAT_DESCRIPTION, &[&head, &lengths[..], &[1]].concat())
    }

    fn gtid(seq: u64, flags: u8) -> Event {
        event(kind::MARIADB_GTID, &[&seq.to_le_bytes()[..], &[0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0]].concat())
    }

    fn query(sql: &str) -> Event {
        event(kind::QUERY, &[&[0; 13][..], b"\0", sql.as_bytes()].concat())
    }

    fn assembler() -> Assembler {
        let (opts, from) = (Opts::default(), Mark::default());
        let options = CaptureOptions { opts, epoch: Epoch(1), from, transaction_bytes_max: LIMIT };
        let mut assembler = Assembler::new(&options, Source::Domain(0));
        assembler.push(format_description()).unwrap();
        assembler
    }

    /// Pushes events until one is refused; gives the transactions and the refusal.
    fn push(events: impl IntoIterator<Item = Event>) -> (Vec<Transaction>, Option<CaptureError>) {
        let mut assembler = assembler();
        let mut transactions = Vec::new();
        for event in events {
            if let Err(error) = assembler.push(event) {
                return (transactions, Some(error));
            }
            transactions.extend(assembler.pop().map(|captured| captured.transaction));
        }
        (transactions, None)
    }

    #[test]
    fn a_transaction_is_given_out_at_its_end() {
        let head = [gtid(1, 0), event(kind::TABLE_MAP, MAP), event(kind::WRITE_ROWS_V1, ROWS)];
        assert_eq!(push(head.clone()).0, []);
        for end in [event(kind::XID, &[0; 8]), query("COMMIT")] {
            let (transactions, refusal) = push([&head[..], &[end]].concat());
            assert!(refusal.is_none(), "{refusal:?}");
            assert_eq!(transactions[0].gtid, "0-1-1");
            assert_eq!(transactions[0].changes.len(), 1);
        }
        let (transactions, _) = push([&head[..], &[query("ROLLBACK")]].concat());
        assert_eq!(transactions[0].changes, []);
        let (transactions, _) = push([gtid(1, 0), query("DROP TABLE IF EXISTS t"), query("ROLLBACK")]);
        assert!(matches!(transactions[0].changes[..], [Change::Schema(_)]), "{transactions:?}");
    }

    #[test]
    fn a_transaction_that_the_server_never_finished_is_dropped_at_the_next_file() {
        let (transactions, refusal) = push([
            gtid(1, 0),
            event(kind::TABLE_MAP, MAP),
            event(kind::WRITE_ROWS_V1, ROWS),
            format_description(),
            gtid(1, 1),
            query("CREATE TABLE t (a INT)"),
        ]);
        assert!(refusal.is_none(), "{refusal:?}");
        let [Transaction { changes, .. }] = &transactions[..] else { panic!("{transactions:?}") };
        assert!(matches!(changes[..], [Change::Schema(_)]), "{changes:?}");
    }

    #[test]
    fn every_other_event_type_is_refused_inside_and_outside() {
        let outside = [kind::STOP, kind::ROTATE, kind::FORMAT_DESCRIPTION, kind::HEARTBEAT, kind::HEARTBEAT_V2];
        let outside = [&outside[..], &[kind::IGNORABLE, kind::PREVIOUS_GTIDS, kind::GTID, 161, 162, 163]].concat();
        let inside =
            [kind::QUERY, kind::ROTATE, kind::FORMAT_DESCRIPTION, kind::XID, kind::HEARTBEAT, kind::HEARTBEAT_V2];
        let inside = [
            &inside[..],
            &[kind::IGNORABLE, kind::ROWS_QUERY, kind::TABLE_MAP, kind::XA_PREPARE, kind::TRANSACTION_PAYLOAD, 160],
        ]
        .concat();
        let rows = [kind::PARTIAL_UPDATE_ROWS, 23, 24, 25, 30, 31, 32];
        // What is taken may still be malformed here; what is not must be refused as itself.
        let refused_as_itself = |error: &CaptureError| {
            matches!(error, CaptureError::UnknownEvent { .. } | CaptureError::Unsupported { .. })
        };
        for kind in 0..=u8::MAX {
            if (165..=171).contains(&kind) {
                continue; // compressed ones become others first
            }
            let refusal = push([event(kind, &[0; 40])]).1;
            assert_eq!(
                refusal.as_ref().is_some_and(refused_as_itself),
                !outside.contains(&kind),
                "{kind}: {refusal:?}"
            );
            let refusal = push([gtid(1, 0), event(kind, &[0; 40])]).1;
            let taken = inside.contains(&kind) || rows.contains(&kind);
            assert_eq!(refusal.as_ref().is_some_and(refused_as_itself), !taken, "{kind}: {refusal:?}");
        }
    }

    #[test]
    fn damage_and_disorder_are_refused() {
        let map = event(kind::TABLE_MAP, MAP);
        let open_rows = event(kind::WRITE_ROWS_V1, b"\x07\0\0\0\0\0\0\0\x01\x01\xfe\x05");
        let xid = event(kind::XID, &[0; 8]);
        let mut flipped = map.bytes().to_vec();
        flipped[25] ^= 1;
        let flipped = Event::new(flipped).unwrap();
        let other_domain = event(kind::MARIADB_GTID, b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0");
        let cases: [(&[Event], &str); 10] = [
            (&[gtid(1, 0), flipped], "CRC32"),
            (&[gtid(1, 0), event(kind::WRITE_ROWS_V1, ROWS)], "no map"),
            (&[gtid(1, 0), map.clone(), open_rows, xid.clone()], "end is missing"),
            (&[gtid(1, 0), event(kind::TABLE_MAP, &MAP[..12])], "table map"),
            (&[gtid(1, 0), xid.clone(), gtid(1, 0)], "does not follow 1"),
            (&[gtid(7, 0)], "no longer holds"),
            (&[other_domain], "second server or domain"),
            (&[gtid(1, 1), xid], "unknown type 16"),
            (&[gtid(1, 0), query("ANALYZE TABLE t")], "none that replication knows"),
            (&[gtid(1, 0), query("ROLLBACK TO `never_set`")], "none that replication knows"),
        ];
        for (events, says) in cases {
            let (_, refusal) = push(events.iter().cloned());
            let refusal = refusal.unwrap_or_else(|| panic!("{says}: nothing was refused")).to_string();
            assert!(refusal.contains(says), "{refusal} does not say {says:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(kinds: Vec<(u8, Vec<u8>)>, flags: u8)| {
            let events = kinds.iter().map(|(kind, body)| event(*kind, body));
            push([gtid(1, flags & !(64 | 128))].into_iter().chain(events));
        });
    }
}
