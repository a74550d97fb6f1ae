//! The results, and which changes came after them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use towline_middleware::{ChangeFeed, Changed, Command, Completion, Final, Head, Part, Position, Reply, Step};

use super::{
    catalog::{Catalog, Table},
    text,
};

/// More statements, and more changed tables, are not told apart: all is forgotten then.
const KNOWN_MAX: usize = 10_000;
/// What an entry takes besides its bytes, about.
const ENTRY_BYTES: usize = 400;

/// Under what a result is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) user: Arc<str>,
    pub(super) schema: Arc<str>,
    pub(super) variables: Arc<[u8]>,
    pub(super) capabilities: u64,
    pub(super) sql: Bytes,
    pub(super) parameters: Bytes,
}

/// A result as it goes to the client.
#[derive(Debug)]
pub(super) struct Stored {
    packets: Bytes,
    end: Completion,
    sequence: u8,
    /// What it was read from.
    tables: Arc<[Table]>,
    /// The node's last step before it was read.
    begun: u64,
    at: Instant,
}

/// What a look into the store has found.
pub(super) enum Found {
    Result(Arc<Stored>),
    /// Nothing; a result that is read from now on may be kept as one of this step, if of any.
    Nothing {
        step: Option<u64>,
    },
}

/// The results.
///
/// - `steps` counts what was heard of the node's changes. A result is good as long as no change of its tables has a
///   higher number than the one at which it began to be read.
/// - There are two generations. What is asked for moves to the young one; when that holds half of the bytes, it becomes
///   the old one and the old one is dropped.
#[derive(Debug)]
pub(super) struct Store {
    state: Arc<Mutex<State>>,
    told: Arc<Told>,
    bytes_max: usize,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct State {
    steps: u64,
    position: Position,
    told: Commits,
    /// A read that begins sees everything up to here.
    visible: Position,
    /// The last change of everything.
    everything: Change,
    changed: HashMap<Table, Change>,
    young: HashMap<Key, Arc<Stored>, RandomState>,
    young_bytes: usize,
    old: HashMap<Key, Arc<Stored>, RandomState>,
    old_bytes: usize,
    /// By key and default schema: what a statement reads.
    statements: HashMap<(u64, Arc<str>), Reads, RandomState>,
}

/// When something changed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    step: u64,
    position: Position,
}

/// The commits that clients were told of, also through the layer that a reload has taken away: what is in a transaction
/// stays with that until its end.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Commits>);

#[derive(Clone, Copy, Debug, Default)]
struct Commits {
    newest: Position,
    /// How many had a position that nobody knows.
    unplaced: u64,
}

#[derive(Clone, Debug)]
enum Reads {
    /// The server is being asked.
    Asking,
    /// Not of base tables alone.
    Others,
    /// Of these.
    Tables {
        tables: Arc<[Table]>,
        /// Whether the answer hangs on them alone.
        is_steady: bool,
    },
}

impl Stored {
    pub(super) fn new(packets: Bytes, end: Completion, sequence: u8, tables: Arc<[Table]>, begun: u64) -> Self {
        Self { packets, end, sequence, tables, begun, at: Instant::now() }
    }

    pub(super) fn reply(&self) -> Reply {
        let end = Part::Final { end: Final::Ok(self.end.clone()), sequence: self.sequence };
        Reply::new(Head::Rows, [Part::Packets(self.packets.clone()), end], None)
    }

    fn bytes(&self, key: &Key) -> usize {
        self.packets.len() + key.sql.len() + key.parameters.len() + ENTRY_BYTES
    }
}

impl Store {
    pub(super) fn new(bytes_max: usize, ttl: Duration, told: Arc<Told>) -> Self {
        Self { state: Arc::default(), told, bytes_max, ttl }
    }

    /// What had happened up to here nobody has told this store.
    pub(super) fn begin(&self, position: Position, is_visible: bool) {
        let mut state = self.state.lock();
        if state.position < position {
            state.position = position;
            if is_visible {
                state.visible = position;
            }
            state.forget_all();
        }
    }

    /// How many results there are, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.young.len() + state.old.len(), state.young_bytes + state.old_bytes)
    }

    /// How far the node's changes were heard of.
    pub(super) fn position(&self) -> Position {
        self.state.lock().position
    }

    /// Hears that every read which begins sees all up to this position.
    pub(super) fn see(&self, position: Position) {
        let mut state = self.state.lock();
        state.visible = state.visible.max(position);
    }

    /// Hears of a step of the node, and whether every read that begins sees it.
    pub(super) fn step(&self, step: Step<'_>, is_visible: bool) {
        let mut state = self.state.lock();
        state.steps += 1;
        state.position = step.position;
        if is_visible {
            state.visible = step.position;
        }
        match step.changed {
            Changed::Tables(tables) => {
                let change = state.change();
                for (schema, table) in tables {
                    state.changed.insert((schema.to_lowercase(), table.to_lowercase()), change);
                }
                if state.changed.len() > KNOWN_MAX {
                    state.forget_all();
                }
            }
            Changed::Everything => state.forget_all(),
        }
    }

    /// Hears of the end of a command: if that committed something, nothing older may be served from now on.
    pub(super) fn acknowledge(&self, end: &Final) {
        let Final::Ok(completion) = end else { return };
        if completion.details().gtid.is_none() {
            return;
        }
        let mut commits = self.told.0.lock();
        match completion.details().position {
            Some(position) => commits.newest = commits.newest.max(position),
            None => commits.unplaced += 1,
        }
    }

    /// The state with all that clients were told of.
    fn informed(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let told = *self.told.0.lock();
        let unplaced = std::mem::replace(&mut state.told, told).unplaced;
        // Commits are made in the binlog's order.
        state.visible = state.visible.max(told.newest);
        if told.unplaced != unplaced {
            state.steps += 1;
            state.forget_all();
        }
        state
    }

    /// Looks for a result that is not older than the node's position.
    pub(super) fn find(&self, key: &Key, tables: &[Table], changes: &ChangeFeed) -> Found {
        let mut state = self.informed();
        if !state.serves(changes) {
            return state.nothing(tables);
        }
        let Some(stored) = state.young.get(key).or_else(|| state.old.get(key)).cloned() else {
            return state.nothing(tables);
        };
        if !state.is_good(&stored) || stored.at.elapsed() > self.ttl {
            state.remove(key);
            return state.nothing(tables);
        }
        if let Some((key, stored)) = state.old.remove_entry(key) {
            state.old_bytes -= stored.bytes(&key);
            self.put(&mut state, key, stored);
        }
        Found::Result(stored)
    }

    /// Keeps a result, unless its tables have changed since it began to be read.
    pub(super) fn insert(&self, mut key: Key, stored: Stored, changes: &ChangeFeed) {
        let mut state = self.informed();
        if stored.bytes(&key) > self.bytes_max / 2 || !changes.is_live() || !state.is_good(&stored) {
            return;
        }
        // Copied: a slice of a packet would keep the whole buffer in which it came.
        key.sql = Bytes::copy_from_slice(&key.sql);
        state.remove(&key);
        self.put(&mut state, key, Arc::new(stored));
    }

    fn put(&self, state: &mut State, key: Key, stored: Arc<Stored>) {
        state.young_bytes += stored.bytes(&key);
        state.young.insert(key, stored);
        if state.young_bytes > self.bytes_max / 2 {
            state.old = std::mem::take(&mut state.young);
            state.old_bytes = std::mem::take(&mut state.young_bytes);
        }
    }

    /// What a statement reads whose names without a schema mean this one's; none if its result can't be kept, or that is
    /// not known yet. The server is asked in the background.
    pub(super) fn tables(&self, command: &Command, schema: &Arc<str>, catalog: &Catalog) -> Option<Arc<[Table]>> {
        match self.reads(command, schema, catalog)? {
            Reads::Tables { tables, is_steady: true } => Some(tables),
            _ => None,
        }
    }

    /// Whether a statement is known to read base tables alone. The server is asked in the background.
    pub(super) fn is_of_base_tables(&self, command: &Command, catalog: &Catalog) -> bool {
        matches!(self.reads(command, &command.schema(), catalog), Some(Reads::Tables { .. }))
    }

    fn reads(&self, command: &Command, schema: &Arc<str>, catalog: &Catalog) -> Option<Reads> {
        let plan = command.plan().filter(|plan| plan.key != 0 && !plan.tables.is_empty())?;
        let statement = (plan.key, schema.clone());
        let mut state = self.state.lock();
        if let Some(reads) = state.statements.get(&statement) {
            return Some(reads.clone());
        }
        let session = command.session();
        let text = session.classifier().without_literals(command.sql(), session.sql_mode());
        let named = plan.tables.iter().map(|(own, table)| {
            let schema = own.clone().unwrap_or_else(|| schema.to_lowercase());
            (schema, table.clone())
        });
        let tables: Vec<Table> = named.collect();
        if tables.iter().any(|(schema, _)| schema.is_empty()) {
            state.know(statement, Reads::Others);
            return None;
        }
        let is_steady = text.is_some_and(|text| text::is_steady(&text));
        state.know(statement.clone(), Reads::Asking);
        let (everything, position) = (state.everything, state.position);
        drop(state);
        let (state, catalog) = (self.state.clone(), catalog.clone());
        tokio::spawn(async move {
            let closure = catalog.closure(tables, position).await;
            let mut state = state.lock();
            // After a change of the schema the answer may be of before it.
            if state.everything != everything {
                return;
            }
            match closure {
                Ok(Some(tables)) => state.know(statement, Reads::Tables { tables: tables.into(), is_steady }),
                Ok(None) => state.know(statement, Reads::Others),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the cache can't ask the server about tables; trying again");
                    state.statements.remove(&statement);
                }
            }
        });
        None
    }
}

impl State {
    /// Whether all that was acknowledged has been heard of.
    fn serves(&self, changes: &ChangeFeed) -> bool {
        changes.is_live() && self.position >= self.told.newest
    }

    /// That there is nothing to serve for a read of these tables.
    fn nothing(&self, tables: &[Table]) -> Found {
        Found::Nothing { step: self.is_visible(tables).then_some(self.steps) }
    }

    /// Whether a read that begins sees all that was heard of these tables.
    fn is_visible(&self, tables: &[Table]) -> bool {
        let mut changes = tables.iter().filter_map(|table| self.changed.get(table)).chain([&self.everything]);
        changes.all(|changed| changed.position <= self.visible)
    }

    /// A change at the present step.
    fn change(&self) -> Change {
        Change { step: self.steps, position: self.position }
    }

    fn is_good(&self, stored: &Stored) -> bool {
        let is_older = |table| self.changed.get(table).is_some_and(|changed| changed.step > stored.begun);
        stored.begun >= self.everything.step && !stored.tables.iter().any(is_older)
    }

    fn remove(&mut self, key: &Key) {
        if let Some((key, stored)) = self.young.remove_entry(key) {
            self.young_bytes -= stored.bytes(&key);
        }
        if let Some((key, stored)) = self.old.remove_entry(key) {
            self.old_bytes -= stored.bytes(&key);
        }
    }

    fn know(&mut self, statement: (u64, Arc<str>), reads: Reads) {
        if self.statements.len() >= KNOWN_MAX {
            self.statements.clear();
        }
        self.statements.insert(statement, reads);
    }

    fn forget_all(&mut self) {
        self.everything = self.change();
        self.changed.clear();
        self.statements.clear();
        (self.young, self.old) = Default::default();
        (self.young_bytes, self.old_bytes) = (0, 0);
    }
}
