//! Row events, made into `BINLOG '…'` statements: the one place that builds them.
//!
//! Source: <https://mariadb.com/kb/en/binlog/> and the event layouts in
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Log__event.html>.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::apply_session::PACKET_MARGIN;
use super::protocol::{Change, Format, RowsChange, Transaction};

/// What is wrong with events that a master sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DamagedEvents {
    /// An event's length field does not agree with the bytes that there are.
    #[error("an event is cut short")]
    CutShort,
    /// CRC32 of an event or of a format description.
    #[error("an event's CRC32 does not match its bytes")]
    Checksum,
    /// Only Table_map events may be in `maps`, and only row events in `events`.
    #[error("an event of type {0} has no place in a row change")]
    EventType(u8),
    /// The pieces of a statement do not follow one another.
    #[error("the pieces of a statement are out of order")]
    Pieces,
    /// The transaction names a format that did not come with it.
    #[error("the format {0} of a transaction is not in the batch")]
    NoFormat(u32),
    /// A streamed transaction, whose changes were applied and rolled back again.
    #[error("the streamed transaction broke off before its last line")]
    BrokeOff,
    /// A streamed transaction counts its changes.
    #[error("the streamed transaction says that it has {said} changes, but {came} came")]
    Count {
        /// By its last line.
        said: u64,
        /// By those before it.
        came: u64,
    },
}

/// Why events can't be put into statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CantBuild {
    #[error(transparent)]
    Damaged(#[from] DamagedEvents),
    /// One row event with its maps exceeds the server's limit.
    #[error(
        "a row event of {needed} bytes is above this server's max_allowed_packet: raise it to at least {} there",
        // The server takes multiples of 1024 only.
        (needed + PACKET_MARGIN).next_multiple_of(1024)
    )]
    TooLarge { needed: usize },
}

/// A table as a Table_map event names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TableName {
    pub(crate) database: String,
    pub(crate) table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// The statement that tells a session how to read the events that follow. It goes out alone and outside of a
/// transaction, since on MySQL `gtid_next` must be reset behind it.
///
/// # Errors
/// When the event is not the one that the format's id names.
pub(crate) fn format_statement(format: &Format) -> Result<Vec<u8>, DamagedEvents> {
    let (event, rest) = Event::first(&format.event.0)?;
    event.check(&[FORMAT_DESCRIPTION])?;
    if !event.0.ends_with(&format.id.to_le_bytes()) || !rest.is_empty() {
        return Err(DamagedEvents::Checksum);
    }
    Ok(statement(&format.event.0))
}

/// How many bytes a statement has at most, unless one row event alone needs more: with what is sent before it in the same
/// packet what packets have at most before the protocol splits them.
const STATEMENT_BYTES: usize = (1 << 24) - 4096;

/// The fewest statements of at most `bytes_max` bytes that write the rows of these transactions, in order, under one
/// format.
///
/// # Errors
/// When an event is damaged, or too large for any statement.
pub(crate) fn row_statements<'a>(
    transactions: impl IntoIterator<Item = &'a Transaction>,
    bytes_max: usize,
) -> Result<Vec<Vec<u8>>, CantBuild> {
    let mut rows = RowStatements::new(bytes_max);
    for transaction in transactions {
        for change in &transaction.changes {
            let Change::Rows(change) = change else { continue };
            rows.add(change)?;
        }
        rows.end()?;
    }
    Ok(rows.take())
}

/// Builds `BINLOG` statements of row changes.
///
/// - A statement is cut only between row events, and every `BINLOG` starts a running statement with all of its
///   Table_map events: without them MariaDB writes nothing and says OK, and MySQL dies.
/// - The CRC32 of every event is checked, since `BINLOG` does not.
pub(crate) struct RowStatements {
    packer: Packer,
    /// The maps of the statement that runs, as its last piece had them; none between statements.
    running: Option<Vec<u8>>,
}

impl RowStatements {
    /// Builds statements of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let packer = Packer {
            events_max: events_max(bytes_max.min(STATEMENT_BYTES)),
            alone_max: events_max(bytes_max),
            statements: Vec::new(),
            packed: Vec::new(),
        };
        Self { packer, running: None }
    }

    /// Adds the next change.
    ///
    /// # Errors
    /// When an event is damaged, or too large for any statement.
    pub(crate) fn add(&mut self, rows: &RowsChange) -> Result<(), CantBuild> {
        if self.running.is_some() == rows.starts {
            return Err(DamagedEvents::Pieces.into());
        }
        for map in Events(&rows.maps.0) {
            map?.check(&[TABLE_MAP])?;
        }
        if self.running.take().is_some_and(|maps| maps != rows.maps.0) {
            // A BINLOG has opened its tables by then, and would pass over the rows of another.
            self.packer.close();
        }
        let mut ended = false;
        let mut needs_maps = rows.starts;
        for event in Events(&rows.events.0) {
            let event = event?;
            event.check(ROWS)?;
            if ended {
                return Err(DamagedEvents::Pieces.into());
            }
            ended = event.ends_statement()?;
            self.packer.push(&rows.maps.0, event.0, needs_maps)?;
            needs_maps = false;
        }
        if ended != rows.ends {
            return Err(DamagedEvents::Pieces.into());
        }
        self.running = (!rows.ends).then(|| rows.maps.0.clone());
        Ok(())
    }

    /// The end of a transaction.
    ///
    /// # Errors
    /// When a statement is not whole.
    pub(crate) fn end(&self) -> Result<(), DamagedEvents> {
        if self.running.is_some() { Err(DamagedEvents::Pieces) } else { Ok(()) }
    }

    /// The statements that write what was added since the last time.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        self.packer.close();
        std::mem::take(&mut self.packer.statements)
    }
}

/// The tables that a transaction's Table_map events name. The checksums are [`row_statements`]' part.
///
/// # Errors
/// When a map is cut short.
pub(crate) fn tables_of(transaction: &Transaction) -> Result<Vec<TableName>, DamagedEvents> {
    let mut tables = Vec::new();
    for change in &transaction.changes {
        if let Change::Rows(rows) = change {
            add_tables_of(rows, &mut tables)?;
        }
    }
    Ok(tables)
}

/// Adds the tables that a change's Table_map events name.
///
/// # Errors
/// When a map is cut short.
pub(crate) fn add_tables_of(rows: &RowsChange, tables: &mut Vec<TableName>) -> Result<(), DamagedEvents> {
    for map in Events(&rows.maps.0) {
        let name = map?.table_name()?;
        if !tables.contains(&name) {
            tables.push(name);
        }
    }
    Ok(())
}

/// Collects events until a statement is full.
struct Packer {
    /// How many bytes of events a statement takes.
    events_max: usize,
    /// How many bytes a single row event and its maps may have.
    alone_max: usize,
    statements: Vec<Vec<u8>>,
    packed: Vec<u8>,
}

impl Packer {
    /// Adds one row event; `maps` go before it when its statement begins here or a new `BINLOG` does.
    fn push(&mut self, maps: &[u8], event: &[u8], starts: bool) -> Result<(), CantBuild> {
        let alone = maps.len() + event.len();
        if alone > self.alone_max {
            return Err(CantBuild::TooLarge { needed: statement_len(alone) });
        }
        let needed = if starts { alone } else { event.len() };
        let cut = self.packed.len() + needed > self.events_max;
        if cut {
            self.close();
        }
        if starts || self.packed.is_empty() {
            self.packed.extend_from_slice(maps);
        }
        self.packed.extend_from_slice(event);
        Ok(())
    }

    fn close(&mut self) {
        if !self.packed.is_empty() {
            self.statements.push(statement(&self.packed));
            self.packed.clear();
        }
    }
}

const PREFIX: &[u8] = b"BINLOG '";

fn statement(events: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(statement_len(events.len()));
    text.extend_from_slice(PREFIX);
    let at = text.len();
    text.resize(statement_len(events.len()) - 1, 0);
    BASE64_STANDARD
        .encode_slice(events, &mut text[at..])
        .expect("the buffer has the length that base64 needs, by `statement_len`");
    text.push(b'\'');
    text
}

fn statement_len(events_len: usize) -> usize {
    PREFIX.len() + events_len.div_ceil(3) * 4 + 1
}

fn events_max(bytes_max: usize) -> usize {
    bytes_max.saturating_sub(PREFIX.len() + 1) / 4 * 3
}

const TABLE_MAP: u8 = 19;
const FORMAT_DESCRIPTION: u8 = 15;
/// Write, update and delete in versions 1 and 2, and MySQL's partial update.
const ROWS: &[u8] = &[23, 24, 25, 30, 31, 32, 39];
const STMT_END: u16 = 1;
const HEADER_LEN: usize = 19;
const CHECKSUM_LEN: usize = 4;

/// One binlog event, whole: 19 bytes of header, body, CRC32.
#[derive(Clone, Copy)]
struct Event<'a>(&'a [u8]);

impl<'a> Event<'a> {
    fn first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), DamagedEvents> {
        let len = bytes.get(9..13).ok_or(DamagedEvents::CutShort)?;
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        if len < HEADER_LEN + CHECKSUM_LEN || len > bytes.len() {
            return Err(DamagedEvents::CutShort);
        }
        let (event, rest) = bytes.split_at(len);
        Ok((Self(event), rest))
    }

    fn kind(self) -> u8 {
        self.0[4]
    }

    fn check(self, kinds: &[u8]) -> Result<(), DamagedEvents> {
        if !kinds.contains(&self.kind()) {
            return Err(DamagedEvents::EventType(self.kind()));
        }
        let (covered, sum) = self.0.split_at(self.0.len() - CHECKSUM_LEN);
        if crc32fast::hash(covered).to_le_bytes() != sum {
            return Err(DamagedEvents::Checksum);
        }
        Ok(())
    }

    /// What lies between header and checksum.
    fn body(self) -> &'a [u8] {
        &self.0[HEADER_LEN..self.0.len() - CHECKSUM_LEN]
    }

    /// A row event's flags stand behind its 6 bytes of table id.
    fn ends_statement(self) -> Result<bool, DamagedEvents> {
        let flags = self.body().get(6..8).ok_or(DamagedEvents::CutShort)?;
        Ok(u16::from_le_bytes([flags[0], flags[1]]) & STMT_END != 0)
    }

    /// A Table_map's names stand behind its 6 bytes of table id and 2 of flags, each with its length before it and a
    /// NUL behind it.
    fn table_name(self) -> Result<TableName, DamagedEvents> {
        let rest = self.body().get(8..).ok_or(DamagedEvents::CutShort)?;
        let (database, rest) = short_string(rest)?;
        let (table, _) = short_string(rest)?;
        Ok(TableName { database, table })
    }
}

fn short_string(bytes: &[u8]) -> Result<(String, &[u8]), DamagedEvents> {
    let (&len, rest) = bytes.split_first().ok_or(DamagedEvents::CutShort)?;
    let (text, rest) = rest.split_at_checked(usize::from(len)).ok_or(DamagedEvents::CutShort)?;
    let rest = rest.get(1..).ok_or(DamagedEvents::CutShort)?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// The events that stand end to end in some bytes; ends after the first damaged one.
struct Events<'a>(&'a [u8]);

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, DamagedEvents>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let first = Event::first(self.0);
        self.0 = first.map_or(&[], |(_, rest)| rest);
        Some(first.map(|(event, _)| event))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use towline_middleware::Position;

    use super::*;
    use crate::replication::protocol::Binary;

    /// An event as a server writes it; `flags` are a row event's, a map ignores them.
    fn event(kind: u8, table: u8, flags: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4] = kind;
        bytes.extend_from_slice(&[table, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&flags.to_le_bytes());
        if kind == TABLE_MAP {
            bytes.extend_from_slice(&[1, b'd', 0, 1, b'a' + table, 0]);
        }
        bytes.resize(bytes.len() + len, table);
        let whole = bytes.len() + CHECKSUM_LEN;
        bytes[9..13].copy_from_slice(&u32::try_from(whole).unwrap().to_le_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// A statement on `tables` tables with row events of these lengths, cut into pieces after those marked.
    fn statement_of(tables: u8, rows: &[(usize, bool)]) -> Vec<Change> {
        let maps: Vec<u8> = (0..tables).flat_map(|table| event(TABLE_MAP, table, 0, 5)).collect();
        let piece = |starts| RowsChange {
            tables: Vec::new(),
            maps: Binary(maps.clone()),
            events: Binary::default(),
            starts,
            ends: false,
        };
        let mut pieces = vec![piece(true)];
        for (n, (len, cut)) in rows.iter().enumerate() {
            let last = n + 1 == rows.len();
            let current = pieces.last_mut().unwrap();
            let flags = if last { STMT_END } else { 0 };
            current.events.0.extend(event(23, u8::try_from(n).unwrap() % tables, flags, *len));
            current.ends = last;
            if *cut && !last {
                pieces.push(piece(false));
            }
        }
        pieces.into_iter().map(Change::Rows).collect()
    }

    fn transaction(changes: Vec<Change>) -> Transaction {
        Transaction {
            position: Position::new(1, 1),
            gtid: "0-1-1".into(),
            checksum: None,
            committed_at: 0,
            format: 1,
            changes,
        }
    }

    fn decoded(statement: &[u8]) -> Vec<u8> {
        let text = statement.strip_prefix(PREFIX).unwrap().strip_suffix(b"'").unwrap();
        BASE64_STANDARD.decode(text).unwrap()
    }

    /// The kinds and table ids of the events in a statement.
    fn events_in(statement: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
        let bytes = decoded(statement);
        Events(&bytes).map(|event| event.unwrap()).map(|e| (e.kind(), e.body()[0], e.0.to_vec())).collect()
    }

    proptest! {
        /// However statements are cut, and whatever fits into a BINLOG: no rows event stands without the map of its
        /// table before it in the same BINLOG, no limit is broken, and all rows come out in order, once.
        #[test]
        fn every_rows_event_has_its_map_before_it(
            statements in prop::collection::vec(
                (1..4_u8, prop::collection::vec((0..300_usize, any::<bool>()), 1..12)), 1..6),
            limit in 900..4000_usize,
        ) {
            let transactions: Vec<_> =
                statements.iter().map(|(tables, rows)| transaction(statement_of(*tables, rows))).collect();
            let built = row_statements(&transactions, limit).unwrap();
            let mut written = Vec::new();
            for statement in &built {
                prop_assert!(statement.len() <= limit);
                let mut mapped = Vec::new();
                for (kind, table, bytes) in events_in(statement) {
                    if kind == TABLE_MAP {
                        mapped.push(table);
                    } else {
                        prop_assert!(mapped.contains(&table), "a rows event without its map");
                        if Event(&bytes).ends_statement().unwrap() {
                            mapped.clear();
                        }
                        written.extend(bytes);
                    }
                }
            }
            let sent: Vec<u8> = transactions.iter().flat_map(|t| &t.changes).flat_map(|change| match change {
                Change::Rows(rows) => rows.events.0.clone(),
                Change::Schema(_) => unreachable!("none was made"),
            }).collect();
            prop_assert_eq!(written, sent);
        }

        /// Bytes from anywhere give an error, never a panic.
        #[test]
        fn damaged_bytes_are_refused(maps in prop::collection::vec(any::<u8>(), 0..80), events in prop::collection::vec(any::<u8>(), 1..80)) {
            let change = RowsChange { tables: Vec::new(), maps: Binary(maps), events: Binary(events), starts: true, ends: true };
            let transaction = transaction(vec![Change::Rows(change)]);
            prop_assert!(matches!(row_statements([&transaction], 4000), Err(CantBuild::Damaged(_))));
            let _ = tables_of(&transaction);
        }
    }

    #[test]
    fn pieces_that_do_not_follow_one_another_are_refused() {
        let whole = statement_of(1, &[(10, true), (10, true), (10, false)]);
        assert_eq!(whole.len(), 3);
        assert!(row_statements([&transaction(whole.clone())], 4000).is_ok());
        for wrong in [vec![0, 1], vec![1, 2], vec![0, 2, 1], vec![0, 0, 1, 2], vec![0, 1, 2, 2]] {
            let pieces = wrong.iter().map(|n| whole[*n].clone()).collect();
            let built = row_statements([&transaction(pieces)], 4000);
            assert_eq!(built, Err(DamagedEvents::Pieces.into()), "{wrong:?}");
        }
    }

    #[test]
    fn an_event_above_the_limit_is_named_with_the_size_that_it_needs() {
        let changes = statement_of(1, &[(10_000, false)]);
        let Err(CantBuild::TooLarge { needed }) = row_statements([&transaction(changes.clone())], 4000) else {
            panic!("it can't fit")
        };
        let built = row_statements([&transaction(changes)], needed).unwrap();
        assert_eq!(built[0].len(), needed);
    }

    #[test]
    fn tables_are_read_from_the_maps() {
        let transaction = transaction([statement_of(2, &[(1, false)]), statement_of(3, &[(1, false)])].concat());
        let names: Vec<_> = tables_of(&transaction).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["d.a", "d.b", "d.c"]);
    }
}
