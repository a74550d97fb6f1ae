//! What changes in this node's data, as layers hear of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::Position;

/// A step of this node's position: captured from the binlog on a master, applied on a slave.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Where the node stands after it.
    pub position: Position,
    /// What it changed.
    pub changed: Changed<'a>,
}

/// What a transaction changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed<'a> {
    /// Rows of these tables, as `(schema, table)`; a table may be there more than once.
    Tables(&'a [(&'a str, &'a str)]),
    /// The schema, accounts, or more than is known.
    Everything,
}

type Listener = dyn Fn(Step<'_>) + Send + Sync;

/// The steps of this node's position, in their order. Clones share the listeners.
///
/// - A step is told before anybody sees the new position: what a listener has thrown away can't be served at it.
/// - A read that begins before a step may see its rows already; it never lacks those of an earlier one.
#[derive(Clone, Default)]
pub struct ChangeFeed(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_live: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    position: Position,
    listeners: Vec<Weak<Listener>>,
}

/// Keeps a listener listening; dropped, it hears nothing more.
#[must_use = "a listener that is dropped hears nothing"]
pub struct Listening(#[allow(dead_code, reason = "it is held for its life alone")] Arc<Listener>);

impl ChangeFeed {
    /// Calls `listener` for every step from now on. It must be quick: the node's position waits for it.
    pub fn listen(&self, listener: impl Fn(Step<'_>) + Send + Sync + 'static) -> Listening {
        let listener: Arc<Listener> = Arc::new(listener);
        self.lock().listeners.push(Arc::downgrade(&listener));
        Listening(listener)
    }

    /// Whether anybody listens.
    pub fn has_listeners(&self) -> bool {
        self.lock().listeners.iter().any(|listener| listener.strong_count() > 0)
    }

    /// Where the node stood after the last step that was told, whether or not anybody listened; 0 before the first.
    pub fn position(&self) -> Position {
        self.lock().position
    }

    /// Whether steps are told at all: not while a master's binlog is out of reach or can't be captured.
    pub fn is_live(&self) -> bool {
        self.0.is_live.load(SeqCst)
    }

    /// The node's: tells a step, before it shows the position.
    pub fn tell(&self, step: Step<'_>) {
        let mut told = self.lock();
        told.position = step.position;
        told.listeners.retain(|listener| match listener.upgrade() {
            Some(listener) => {
                listener(step);
                true
            }
            None => false,
        });
    }

    /// The node's: whether steps will be told from now on.
    pub fn set_live(&self, yes: bool) {
        self.0.is_live.store(yes, SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        // Valid after every single step.
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ChangeFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeFeed").field("is_live", &self.is_live()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listening")
    }
}
