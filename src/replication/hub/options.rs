//! How a hub is set up, and how it fares.

use std::{fmt, sync::Arc, time::Duration};

use mysql_async::Opts;
use reqwest::Url;
use serde::Serialize;
use towline_middleware::{ChangeFeed, Classifier, Epoch, Position};

use crate::{
    config::{Ack, AckOnTimeout},
    replication::protocol::{Family, Mark},
};

/// How a master captures and pushes.
#[derive(Clone)]
pub struct HubOptions {
    /// The master's MySQL, with an account that may read the binlog and write the schema `towline`.
    pub mysql: Opts,
    /// What the slaves know the master by; none pushes without authorization.
    pub secret: Option<String>,
    /// The URLs of slaves that are registered at the start. One that is already registered keeps its name.
    pub slaves: Vec<String>,
    /// How many slaves must have applied a write before its client gets the OK.
    pub ack: Ack,
    /// How long the OK waits for them.
    pub ack_timeout: Duration,
    /// What the client gets when they have not in time.
    pub ack_on_timeout: AckOnTimeout,
    /// How many bytes of the newest transactions are kept in memory.
    pub ring_bytes_max: usize,
    /// How many bytes of transactions one push carries; a single one may be longer.
    pub batch_bytes_max: usize,
    /// How many transactions one push carries.
    pub batch_transactions_max: usize,
    /// A transaction with more bytes of events is not held in memory but streamed.
    pub transaction_bytes_max: usize,
    /// How long a slave may take to answer a push, and ten times as long to take one change of a streamed transaction.
    pub push_timeout: Duration,
    /// How often it is looked for what is about to go wrong with a slave.
    pub outlook_interval: Duration,
    /// How often all slaves are compared with the master; none for never.
    pub verify_interval: Option<Duration>,
    /// Whether a slave that differs gets no more changes until it is resumed.
    pub verify_stops_slave: bool,
    /// Learns which statements the server has shown to be writes.
    pub classifier: Arc<dyn Classifier>,
    /// Is told each captured transaction before the position moves.
    pub changes: ChangeFeed,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor how to log in.
        f.debug_struct("HubOptions").field("slaves", &self.slaves).field("ack", &self.ack).finish_non_exhaustive()
    }
}

/// Why the hub could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The master's MySQL.
    #[error("the list of slaves in the master's MySQL could not be read or changed: {0}")]
    MySql(#[from] mysql_async::Error),
    /// A slave's URL.
    #[error("`{0}` is no URL of a slave: write http://host:port")]
    Url(String),
    /// A slave's id.
    #[error("a slave's id is 1 to 128 characters long")]
    Id,
    /// A slave of the other family of servers.
    #[error("the slave's server is {slave}, this master's is {master}: a slave needs a server of its master's family")]
    Family {
        /// The slave's.
        slave: Family,
        /// The master's.
        master: Family,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(#[source] reqwest::Error),
    /// The secret.
    #[error("the cluster's secret has characters that HTTP can't carry in a header")]
    Secret,
}

/// How the hub fares.
#[derive(Clone, Debug, Serialize)]
pub struct HubStatus {
    /// The cluster's id; empty until the master's MySQL was reached.
    pub cluster: String,
    /// The master's epoch.
    pub epoch: Epoch,
    /// Whether it captures.
    #[serde(flatten)]
    pub state: HubState,
    /// The newest captured transaction.
    pub captured: Mark,
    /// What memory begins after.
    pub ring_after: Position,
    /// Transactions in memory.
    pub ring_transactions: usize,
    /// Bytes in memory.
    pub ring_bytes: usize,
    /// Writes whose OK had no GTID although `ack` needs one.
    pub unlogged_writes: u64,
}

/// Whether the hub captures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HubState {
    /// The master's MySQL was not reached yet.
    Starting,
    /// It does.
    Running,
    /// The master's MySQL is away; it is tried again.
    Away {
        /// What went wrong.
        error: String,
    },
    /// The binlog holds what can't be captured, or the server is not set up for it. It is tried again slowly; but not where
    /// the server has lost the history that was captured.
    Stopped {
        /// What it is and how it is mended.
        error: String,
    },
}

/// The URL without a slash at its end: one slave has one spelling.
pub(super) fn checked_url(url: &str) -> Result<String, HubError> {
    let ok = Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host()) && url.len() <= 512;
    if ok { Ok(url.trim_end_matches('/').to_owned()) } else { Err(HubError::Url(url.to_owned())) }
}
