//! Places between two steps that a crash could separate, where a test lets the process die.
//!
//! Only a build with debug assertions has them: there the variable `FAIL_POINT`, as in `PositionMoved:2`, names a point
//! and how often it must be passed. In a release nothing is read and nothing is compiled in.

/// A point, named after the step that is done there and the next is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// A slave has taken a cluster's id, and nothing of its changes.
    Joined,
    /// A slave's transaction is open, and nothing is in it; not where one packet opens it and writes rows.
    Begun,
    /// A `BINLOG` has written rows.
    RowsWritten,
    /// All rows are written and the position is moved; the announcement of a schema change still stands if there is one.
    PositionMoved,
    /// All is done in the open transaction, and COMMIT is next.
    Filled,
    /// The transaction is committed, and the master was not told.
    Committed,
    /// A schema change is announced.
    Announced,
    /// The session has the context of a schema change.
    ContextSet,
    /// A schema change has run.
    SchemaChanged,
    /// The session is as it was before a schema change, whose position is to be moved.
    SessionRestored,
    /// Something of a snapshot is made by stand-ins for what it names, and these are there.
    StoodIn,
    /// A master has read a transaction from the binlog, and kept it nowhere.
    Captured,
    /// A captured transaction is in memory, where the senders find it.
    Noted,
    /// A slave has answered a push, and nobody has heard it.
    Answered,
    /// What a slave has applied counts for `ack`.
    Confirmed,
}

impl FailPoint {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Joined,
        Self::Begun,
        Self::RowsWritten,
        Self::PositionMoved,
        Self::Filled,
        Self::Committed,
        Self::Announced,
        Self::ContextSet,
        Self::SchemaChanged,
        Self::SessionRestored,
        Self::StoodIn,
        Self::Captured,
        Self::Noted,
        Self::Answered,
        Self::Confirmed,
    ];
    /// The variable that names one.
    pub const VARIABLE: &str = "FAIL_POINT";

    /// Whether a master passes it; else a slave does.
    pub fn is_masters(self) -> bool {
        matches!(self, Self::Captured | Self::Noted | Self::Answered | Self::Confirmed)
    }

    /// Ends the process if it is to end here.
    #[cfg(debug_assertions)]
    pub(crate) fn pass(self) {
        use std::sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        };
        static CHOSEN: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
            let chosen = std::env::var(FailPoint::VARIABLE).ok()?;
            let (point, passages) = chosen.split_once(':')?;
            Some((point.to_owned(), AtomicU32::new(passages.parse().ok()?)))
        });
        let Some((point, passages)) = &*CHOSEN else { return };
        if *point == format!("{self:?}") && passages.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }

    /// Does nothing.
    #[cfg(not(debug_assertions))]
    pub(crate) fn pass(self) {}
}
