//! A session's prepared statements, as an execute refers to them.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
};

use bytes::Bytes;

use crate::{Plan, rows::Column};

/// Where the map of NULLs starts in an execute: behind the command byte, the id, the flags and the iterations.
///
/// Source: MySQL manual, "COM_STMT_EXECUTE".
const NULL_MAP: usize = 10;

/// A prepared statement: what was prepared, and what an execute leaves out since an earlier one has said it.
#[derive(Debug)]
pub struct Prepared {
    /// As it goes to the server: a layer may have rewritten it.
    text: Mutex<(Bytes, Arc<Plan>)>,
    schema: Arc<str>,
    parameters: AtomicU16,
    /// Two bytes per parameter, from the last execute that told them.
    types: Mutex<Bytes>,
    /// Those that the server was told. A layer may have answered the execute that told them.
    told: Mutex<Bytes>,
    /// A parameter's value was sent by itself, and is not in the execute.
    has_long_data: AtomicBool,
    /// The execute that runs has got past all that may answer in the server's place.
    is_sent: AtomicBool,
    /// The columns of the last execute that has opened a cursor.
    cursor: Mutex<Option<Arc<[Column]>>>,
}

impl Prepared {
    pub(crate) fn new(sql: Bytes, plan: Arc<Plan>, schema: Arc<str>) -> Self {
        Self {
            text: Mutex::new((sql, plan)),
            schema,
            parameters: AtomicU16::new(0),
            types: Mutex::default(),
            told: Mutex::default(),
            has_long_data: AtomicBool::new(false),
            is_sent: AtomicBool::new(false),
            cursor: Mutex::default(),
        }
    }

    /// The SQL that the server has prepared, with what classification found in it.
    pub fn text(&self) -> (Bytes, Arc<Plan>) {
        lock(&self.text).clone()
    }

    /// The default schema at its preparation: names without one mean tables of this at each execute, whatever the
    /// session's default schema is by then.
    ///
    /// Source: MariaDB's and MySQL's `Prepared_statement`, which changes to the schema of its preparation while it runs.
    pub fn schema(&self) -> Arc<str> {
        self.schema.clone()
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> u16 {
        self.parameters.load(Relaxed)
    }

    pub(crate) fn rewritten(&self, sql: Bytes, plan: Arc<Plan>) {
        *lock(&self.text) = (sql, plan);
    }

    pub(crate) fn set_parameters(&self, parameters: u16) {
        self.parameters.store(parameters, Relaxed);
    }

    pub(crate) fn set_long_data(&self, yes: bool) {
        self.has_long_data.store(yes, Relaxed);
    }

    /// An execute of either kind goes to the server, which forgets long data with it.
    pub(crate) fn sends(&self) {
        self.is_sent.store(true, Relaxed);
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent.load(Relaxed)
    }

    /// An execute has been answered: with what went to the server, its long data has gone.
    pub(crate) fn answered(&self) {
        if self.is_sent.swap(false, Relaxed) {
            self.set_long_data(false);
        }
    }

    /// The columns of the rows that a fetch from its cursor brings; none as long as nobody has seen them.
    pub(crate) fn cursor_columns(&self) -> Option<Arc<[Column]>> {
        lock(&self.cursor).clone()
    }

    pub(crate) fn set_cursor_columns(&self, columns: Option<Arc<[Column]>>) {
        *lock(&self.cursor) = columns;
    }

    pub(crate) fn has_long_data(&self) -> bool {
        self.has_long_data.load(Relaxed)
    }

    /// Remembers the types, if this execute tells them.
    pub(crate) fn learn_types(&self, execute: &[u8]) {
        let Some(layout) = Layout::of(execute, self.parameters()) else { return };
        if let Some(told) = layout.types {
            let mut types = lock(&self.types);
            if *types != *told {
                *types = Bytes::copy_from_slice(told);
            }
        }
    }

    /// The execute as the server must get it: with the types, if it was not told them yet. `None` if it may stay as it is.
    pub(crate) fn completed(&self, execute: &[u8]) -> Option<Bytes> {
        let layout = Layout::of(execute, self.parameters())?;
        let types = lock(&self.types).clone();
        let mut told = lock(&self.told);
        if layout.types.is_some() || types == *told {
            *told = types;
            return None;
        }
        let head = NULL_MAP + layout.nulls.len();
        let completed = [&execute[..head], &[1], &types, layout.values].concat().into();
        *told = types;
        Some(completed)
    }

    /// The types and the rest of this execute: NULL map and values. `None` if something of it came otherwise.
    pub(crate) fn layout<'a>(&self, execute: &'a [u8]) -> Option<(Bytes, &'a [u8], &'a [u8])> {
        if self.has_long_data() {
            return None;
        }
        let layout = Layout::of(execute, self.parameters())?;
        let types = lock(&self.types).clone();
        (types.len() == 2 * usize::from(self.parameters())).then_some((types, layout.nulls, layout.values))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is replaced in one step, so a panic elsewhere can't have left them half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pieces of an execute.
struct Layout<'a> {
    nulls: &'a [u8],
    types: Option<&'a [u8]>,
    values: &'a [u8],
}

impl<'a> Layout<'a> {
    fn of(execute: &'a [u8], parameters: u16) -> Option<Self> {
        let parameters = usize::from(parameters);
        if parameters == 0 {
            return Some(Self { nulls: &[], types: None, values: &[] });
        }
        let (nulls, rest) = execute.get(NULL_MAP..)?.split_at_checked(parameters.div_ceil(8))?;
        let (told, rest) = rest.split_first()?;
        let (types, values) = rest.split_at_checked(if *told == 1 { 2 * parameters } else { 0 })?;
        Some(Self { nulls, types: (*told == 1).then_some(types), values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Intent;

    #[test]
    fn types_are_remembered_and_long_data_hides_the_values() {
        let prepared = Prepared::new(Bytes::new(), Arc::new(Plan::bare(Intent::Read, "test")), "".into());
        prepared.set_parameters(1);
        let first = [&[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0][..], &[0, 1, 3, 0], &7u32.to_le_bytes()].concat();
        let later = [&[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0][..], &[0, 0], &8u32.to_le_bytes()].concat();
        assert!(prepared.layout(&later).is_none(), "no types yet");
        prepared.learn_types(&first);
        for (execute, value) in [(&first, 7u32), (&later, 8)] {
            let (types, nulls, values) = prepared.layout(execute).expect("all is known");
            assert_eq!((&types[..], nulls, values), (&[3, 0][..], &[0][..], &value.to_le_bytes()[..]));
        }
        // The server has seen neither: a layer has answered the first.
        let completed = prepared.completed(&later).expect("the types are missing");
        assert_eq!(completed, [&first[..first.len() - 4], &8u32.to_le_bytes()].concat());
        assert_eq!(prepared.completed(&later), None, "now it knows them");
        for len in 0..first.len() - 4 {
            prepared.learn_types(&first[..len]);
        }
        prepared.set_long_data(true);
        assert!(prepared.layout(&later).is_none());
    }
}
