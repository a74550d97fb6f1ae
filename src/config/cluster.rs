//! `[….cluster]`.

use std::{num::NonZeroUsize, time::Duration};

use serde::Deserialize;

use super::values::{self, HttpUrl, Secret};

/// The other nodes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// What every node of the cluster knows: with it a master proves itself to a slave and a slave to its master.
    pub secret: Option<Secret>,
    /// A master's: the slaves that it has from the start, as the URLs of their HTTP.
    pub slaves: Vec<HttpUrl>,
    /// A slave's: its master's administration, where it registers itself at its start.
    pub master: Option<HttpUrl>,
    /// A slave's: the name under which it registers; its `url` if absent.
    pub id: Option<String>,
    /// A slave's: the URL of its HTTP as the master reaches it; `http.listen` if absent.
    pub url: Option<HttpUrl>,
    /// A slave's: whether it fetches a new snapshot by itself when the master's binlog no longer reaches it.
    pub resnapshot: bool,
    /// How many slaves must have applied a write before its client gets the OK.
    pub ack: Ack,
    /// How long a client's OK waits for them.
    #[serde(rename = "ack_timeout_ms", deserialize_with = "values::milliseconds")]
    pub ack_timeout: Duration,
    /// What the client gets when they have not in time.
    pub ack_on_timeout: AckOnTimeout,
    /// How much of the newest transactions the master keeps in memory for its slaves.
    pub ring_bytes_max: NonZeroUsize,
    /// About how much one push carries at most; a single transaction may be longer.
    pub batch_bytes_max: NonZeroUsize,
    /// How long a slave may take to answer a push, and ten times as long for each change of a streamed transaction.
    #[serde(rename = "push_timeout_ms", deserialize_with = "values::milliseconds")]
    pub push_timeout: Duration,
    /// A master's: how often it compares its slaves with itself; never if 0.
    #[serde(rename = "verify_interval_s", deserialize_with = "values::seconds")]
    pub verify_interval: Duration,
    /// A master's: whether a slave that was found to differ gets no more changes until it is resumed.
    pub verify_stops_slave: bool,
    /// The longest transaction that is held in memory, in bytes of its events. A longer one is streamed.
    pub transaction_buffer_bytes_max: NonZeroUsize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            secret: None,
            slaves: Vec::new(),
            master: None,
            id: None,
            url: None,
            resnapshot: false,
            ack: Ack::None,
            ack_timeout: Duration::from_secs(5),
            ack_on_timeout: AckOnTimeout::Warning,
            ring_bytes_max: const { NonZeroUsize::new(64 << 20).unwrap() },
            batch_bytes_max: const { NonZeroUsize::new(1 << 20).unwrap() },
            push_timeout: Duration::from_secs(30),
            verify_interval: Duration::ZERO,
            verify_stops_slave: false,
            transaction_buffer_bytes_max: const { NonZeroUsize::new(16 << 20).unwrap() },
        }
    }
}

/// How many slaves must have applied a write before its client gets the OK. Every registered slave counts, up or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// None: the OK waits for nobody.
    #[default]
    None,
    /// At least one.
    One,
    /// More than half of the nodes, the master among them.
    Majority,
    /// Every one.
    All,
}

/// What a client gets whose write too few slaves have applied in time. The write itself is committed on the master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckOnTimeout {
    /// An OK with a warning.
    #[default]
    Warning,
    /// An error that says that the write is committed on the master.
    Error,
}
