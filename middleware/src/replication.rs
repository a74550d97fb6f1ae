//! What a layer may ask of the node's replication.

use std::fmt;

use crate::{BoxFuture, Position};

/// What came of waiting for slaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// As many slaves as configured have applied it, or none were asked for.
    Given,
    /// They have not in time; `reason` says how many did and how many were wanted.
    Missing {
        /// For the client.
        reason: String,
        /// Whether the configuration makes it an error; a warning otherwise.
        is_error: bool,
    },
}

/// The node's replication, as the fan-out layer sees it.
pub trait Replication: Send + Sync + fmt::Debug {
    /// The position of a commit in the master's history; none if the GTID is not of that history, or as long as nothing is
    /// known of it.
    fn position_of(&self, gtid: &str) -> Option<Position>;

    /// The newest position in the master's history that the node knows of.
    fn known(&self) -> Position;

    /// Whether a client's OK waits for slaves at all.
    fn waits(&self) -> bool;

    /// Waits until enough slaves have applied `position`, or the time allowed is over. `known` is what
    /// [`known`](Self::known) told before the commit began: one whose position is not beyond it is of another history, of
    /// which no slave has anything.
    ///
    /// # Cancel safety
    /// A dropped future only stops waiting.
    fn acknowledged(&self, position: Position, known: Position) -> BoxFuture<'_, Acknowledgement>;

    /// The same for a commit that [`position_of`](Self::position_of) tells no position of. A node that has only just started
    /// may soon know it; one that never will must not call the commit acknowledged.
    ///
    /// # Cancel safety
    /// As for [`acknowledged`](Self::acknowledged).
    fn acknowledged_gtid<'a>(&'a self, gtid: &'a str, _known: Position) -> BoxFuture<'a, Acknowledgement> {
        let reason = format!("Committed on the master as {gtid}, which replication does not follow");
        Box::pin(async { Acknowledgement::Missing { reason, is_error: true } })
    }

    /// A statement taken for a read has committed something.
    fn misclassified(&self, key: u64);

    /// A write's OK in a session that tracks GTIDs had none although `ack` needs one.
    fn unlogged_write(&self);
}
