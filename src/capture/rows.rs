//! The row events of one statement.

use crate::replication::protocol::{Action, Binary, Change, RowsChange, RowsOf};

use super::event::{self, Event, TableMap, kind};

/// How many bytes of row events a piece has at most, unless one event alone has more. Small against
/// `max_allowed_packet` (16 MB by default), so that whoever applies them can fill a `BINLOG` well.
const PIECE: usize = 1 << 20;

/// What is done with the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They travel.
    Travel,
    /// They are this server's own and stay.
    Stay,
    /// They can't be applied anywhere else and must not be passed over.
    Refused,
}

/// Decides by a table's name.
pub(super) fn fate(database: &str, table: &str) -> Fate {
    // Statistics and the server's own book-keeping, which each server makes for itself.
    const OWN_SYSTEM_TABLES: [&str; 7] = [
        "innodb_table_stats",
        "innodb_index_stats",
        "table_stats",
        "index_stats",
        "column_stats",
        "gtid_slave_pos",
        "gtid_executed",
    ];
    match database {
        "towline" => Fate::Stay,
        "mysql" if OWN_SYSTEM_TABLES.contains(&table) => Fate::Stay,
        "mysql" => Fate::Refused,
        _ => Fate::Travel,
    }
}

/// Why a row event could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is damaged.
    Malformed(&'static str),
    /// It changes a system table, named with its schema.
    SystemTable(String),
}

/// Makes changes of the Table_map and row events of a statement, piece by piece.
///
/// The last row event is always held back: only at the statement's end is it known to be the one that must say so.
#[derive(Debug, Default)]
pub(super) struct StatementRows {
    maps: Vec<Map>,
    /// The row events of the next piece.
    rows: Vec<(RowsOf, Event)>,
    /// How many bytes those have.
    bytes: usize,
    /// Whether a piece of the statement was given out.
    begun: bool,
}

#[derive(Debug)]
struct Map {
    id: u64,
    database: String,
    table: String,
    event: Event,
}

impl StatementRows {
    /// Whether row events wait for the end of their statement.
    pub(super) fn is_open(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Takes a Table_map event.
    pub(super) fn map(&mut self, event: Event) -> Result<(), Refused> {
        let map = TableMap::read(event.body()).ok_or(Refused::Malformed("its table map"))?;
        let (id, database, table) = (map.id, map.database.to_owned(), map.table.to_owned());
        self.maps.retain(|map| map.id != id);
        self.maps.push(Map { id, database, table, event });
        Ok(())
    }

    /// Takes a row event. A piece that is full, and the last one of the statement, is appended to `changes`.
    pub(super) fn rows(&mut self, event: Event, changes: &mut Vec<Change>) -> Result<(), Refused> {
        let (id, ends) = event::read_rows_head(event.body()).ok_or(Refused::Malformed("its rows"))?;
        let action = match event.kind() {
            kind::WRITE_ROWS | kind::WRITE_ROWS_V1 => Action::Insert,
            kind::DELETE_ROWS | kind::DELETE_ROWS_V1 => Action::Delete,
            _ => Action::Update,
        };
        match self.maps.iter().find(|map| map.id == id) {
            Some(map) => match fate(&map.database, &map.table) {
                Fate::Travel => {
                    let of = RowsOf { action, database: map.database.clone(), table: map.table.clone() };
                    if self.is_open() && self.bytes + event.bytes().len() > PIECE {
                        self.give_out(false, changes);
                    }
                    self.bytes += event.bytes().len();
                    self.rows.push((of, event));
                }
                Fate::Stay => {}
                Fate::Refused => return Err(Refused::SystemTable(format!("{}.{}", map.database, map.table))),
            },
            None if ends && event::NO_TABLE.contains(&id) => {}
            None => return Err(Refused::Malformed("its table, which has no map")),
        }
        if ends {
            self.end(changes)?;
        }
        Ok(())
    }

    fn end(&mut self, changes: &mut Vec<Change>) -> Result<(), Refused> {
        if let Some((of, last)) = self.rows.pop() {
            // The event that ended the statement may be one that stays here.
            self.rows.push((of, event::ending_statement(last).ok_or(Refused::Malformed("its length"))?));
            self.give_out(true, changes);
        }
        *self = Self::default();
        Ok(())
    }

    fn give_out(&mut self, ends: bool, changes: &mut Vec<Change>) {
        let travelling = self.maps.iter().filter(|map| fate(&map.database, &map.table) == Fate::Travel);
        let maps: Vec<u8> = travelling.flat_map(|map| map.event.bytes()).copied().collect();
        let mut tables: Vec<RowsOf> = Vec::new();
        let mut events = Vec::with_capacity(std::mem::take(&mut self.bytes));
        for (of, event) in self.rows.drain(..) {
            if tables.last() != Some(&of) {
                tables.push(of);
            }
            events.extend_from_slice(event.bytes());
        }
        let starts = !std::mem::replace(&mut self.begun, true);
        changes.push(Change::Rows(RowsChange { tables, maps: Binary(maps), events: Binary(events), starts, ends }));
    }
}
