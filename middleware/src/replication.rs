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
    /// The position of a commit in the master's history; none if the GTID is not of that history.
    fn position_of(&self, gtid: &str) -> Option<Position>;

    /// Whether a client's OK waits for slaves at all.
    fn waits(&self) -> bool;

    /// Waits until enough slaves have applied `position`, or the time allowed is over.
    ///
    /// # Cancel safety
    /// A dropped future only stops waiting.
    fn acknowledged(&self, position: Position) -> BoxFuture<'_, Acknowledgement>;

    /// A statement taken for a read has committed something.
    fn misclassified(&self, digest: u64);

    /// A write's OK in a session that tracks GTIDs had none although `ack` needs one.
    fn unlogged_write(&self);
}
