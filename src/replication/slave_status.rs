//! What a master knows of one slave.

use serde::Serialize;
use towline_middleware::Position;

use super::protocol::Mark;

/// One registered slave, as the master sees it.
#[derive(Clone, Debug, Serialize)]
pub struct SlaveStatus {
    /// The name under which it is registered.
    pub id: String,
    /// Where its HTTP is.
    pub url: String,
    /// How pushing to it goes.
    #[serde(flatten)]
    pub state: SlaveState,
    /// Where it stood when it last said so.
    pub mark: Option<Mark>,
    /// How many numbers the newest captured transaction is ahead of it: at most so many transactions, since numbers
    /// have gaps. None while its place is not known.
    pub behind: Option<u64>,
    /// Seconds since the commit of the oldest transaction that it lacks; 0 when it lacks none. None while its place is
    /// not known.
    pub lag_seconds: Option<u64>,
    /// Transactions that it has confirmed to this process.
    pub pushed: u64,
    /// What last went wrong, even if it is well again.
    pub last_error: Option<String>,
    /// Its server's limit of a packet in bytes, when it last said so.
    pub max_allowed_packet: Option<u64>,
    /// Seconds until the master's server is due to purge the binlog that it needs next. None where nothing is to be
    /// purged, or it needs no file of the past.
    pub binlog_left_seconds: Option<u64>,
    /// What is about to go wrong with it, and how that is mended.
    pub warnings: Vec<String>,
}

/// How pushing to a slave goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SlaveState {
    /// It was not asked yet where it stands.
    Connecting,
    /// It gets the newest transactions from memory.
    Streaming,
    /// It is behind what memory holds and gets transactions from the binlog over a connection of its own.
    CatchingUp,
    /// It gets nothing until it is resumed.
    Paused {
        /// Why.
        reason: String,
    },
    /// It does not answer, or says that it can't work now. It is asked again, ever more slowly up to a limit.
    Away {
        /// What it said, or how the connection failed.
        error: String,
    },
    /// It refuses: a change can't be applied there, or it is not of this history. It is asked again slowly.
    Refusing {
        /// The refusal's word (`stopped`, `forked`, `other_cluster` …).
        refusal: String,
        /// What it said.
        error: String,
    },
    /// It has transactions that the master's binlog does not have.
    Ahead {
        /// Where it stands.
        slave: Position,
    },
    /// The binlog no longer reaches back to where it stands, or holds what can't be captured behind that.
    NeedsSnapshot {
        /// What the master's server said.
        error: String,
    },
    /// The master's own MySQL is away while the slave needs its binlog.
    MasterAway {
        /// What went wrong.
        error: String,
    },
}
