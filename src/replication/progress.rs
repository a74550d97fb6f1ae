//! What a slave tells about itself.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::time::Instant;
use towline_middleware::Position;

use super::protocol::{Batch, Mark, PushRefusal};

/// How far a slave is, and how it fares.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// The cluster whose changes it takes; empty before the first push.
    pub cluster: String,
    /// The last applied transaction.
    pub mark: Mark,
    /// The newest position that the master has told of; `0:0` before the first push.
    pub head: Position,
    /// Whether it applies.
    pub state: ApplyState,
    /// Seconds between the commit on the master of what is to be applied next, or was applied last, and now. 0 when
    /// all that the master has told of is applied.
    pub lag_seconds: u64,
    /// Seconds since the master was last heard of; none before the first push.
    pub heard_seconds: Option<u64>,
    /// Views, rights and triggers that the snapshot had to leave out, since what they name is not there on the master.
    pub left_out: Vec<String>,
    /// What was done since this process started.
    pub counts: ApplyCounts,
    /// How many pushes were refused since this process started, by why.
    pub refused: BTreeMap<PushRefusal, u64>,
}

/// Whether a slave applies what the master pushes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ApplyState {
    /// It does.
    Running,
    /// Its MySQL is away, or is not fit for a slave as it is now. It goes on by itself when that is mended.
    Unavailable {
        /// What is wrong and how it is mended.
        error: String,
    },
    /// The master's binlog no longer reaches it: it needs a new snapshot.
    OutOfReach {
        /// What the master's server says, and the mend.
        error: String,
    },
    /// It fetches the master's data; until that is whole it serves no client.
    Loading(SnapshotProgress),
    /// A change can't be applied; it stays there until someone mends it and resumes, or restarts the node.
    Stopped(Stop),
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotProgress {
    /// Where it stands.
    pub position: Position,
    /// How many tables it has.
    pub tables: usize,
    /// How many rows are here.
    pub rows: u64,
    /// About how much of it is here, by the master's estimate of its rows.
    pub percent: u64,
}

/// The change that stopped a slave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The transaction that it can't apply.
    pub mark: Mark,
    /// The tables that the transaction changes, as `schema.table`; none for a schema change.
    pub tables: Vec<String>,
    /// MySQL's error number, if MySQL refused it.
    pub code: Option<u16>,
    /// What was wrong, with the key where MySQL names it. Never the statement: it may hold a password.
    pub error: String,
}

/// What an applier has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApplyCounts {
    /// Batches with at least one transaction.
    pub batches: u64,
    /// Transactions applied.
    pub transactions: u64,
    /// Schema changes among them.
    pub schema_changes: u64,
    /// Batches that were tried again after a lock was in the way.
    pub lock_retries: u64,
    /// Client sessions that were ended since they held up the applier.
    pub blockers_ended: u64,
}

/// [`Progress`] as the applier keeps it: with points in time in place of spans.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) cluster: String,
    pub(crate) mark: Mark,
    pub(crate) head: Position,
    pub(crate) state: ApplyState,
    /// The commit time of what is applied next, or was applied last; none when nothing is missing.
    pub(crate) behind_since: Option<u64>,
    pub(crate) heard: Option<Instant>,
    pub(crate) left_out: Vec<String>,
    pub(crate) counts: ApplyCounts,
    pub(crate) refused: BTreeMap<PushRefusal, u64>,
}

impl Default for Track {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            mark: Mark::default(),
            head: Position::default(),
            state: ApplyState::Unavailable { error: "not connected to MySQL yet".to_owned() },
            behind_since: None,
            heard: None,
            left_out: Vec::new(),
            counts: ApplyCounts::default(),
            refused: BTreeMap::new(),
        }
    }
}

impl Track {
    /// Notes what a push says of the master, if it is this slave's own.
    pub(crate) fn hear(&mut self, batch: &Batch) {
        if batch.cluster == self.cluster {
            self.heard = Some(Instant::now());
            self.head = self.head.max(batch.head);
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            cluster: self.cluster.clone(),
            mark: self.mark.clone(),
            head: self.head,
            state: self.state.clone(),
            lag_seconds: self.behind_since.map_or(0, |since| now_seconds().saturating_sub(since)),
            heard_seconds: self.heard.map(|at| at.elapsed().as_secs()),
            left_out: self.left_out.clone(),
            counts: self.counts,
            refused: self.refused.clone(),
        }
    }
}

/// Seconds since 1970 (UTC).
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
