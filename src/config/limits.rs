//! `[….limits]`.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use serde::Deserialize;

use super::values;

/// What one node may be asked at once, and how long things may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Threads that serve clients and slaves; by default [`Limits::worker_threads_or_default`].
    pub worker_threads: Option<NonZeroUsize>,
    /// MySQL clients at once.
    pub connections_max: NonZeroU32,
    /// The largest packet of a MySQL client, held in memory until it is whole. MySQL's own limit holds besides.
    pub packet_bytes_max: NonZeroUsize,
    /// How long a client may take to log in.
    #[serde(rename = "handshake_timeout_ms", deserialize_with = "values::milliseconds")]
    pub handshake_timeout: Duration,
    /// How long a MySQL client may go without a command. MySQL's own wait_timeout holds besides.
    #[serde(rename = "idle_timeout_ms", deserialize_with = "values::milliseconds")]
    pub idle_timeout: Duration,
    /// How long a MySQL client may take nothing of its reply.
    #[serde(rename = "write_timeout_ms", deserialize_with = "values::milliseconds")]
    pub write_timeout: Duration,
    /// After how long a silence a TCP connection's other end, client or server, is asked whether it is still there.
    #[serde(rename = "keepalive_ms", deserialize_with = "values::milliseconds")]
    pub keepalive: Duration,
    /// How long running commands may take when the node stops.
    #[serde(rename = "shutdown_grace_ms", deserialize_with = "values::milliseconds")]
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            worker_threads: None,
            connections_max: const { NonZeroU32::new(500).unwrap() },
            packet_bytes_max: const { NonZeroUsize::new(64 << 20).unwrap() },
            handshake_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(8 * 60 * 60),
            write_timeout: Duration::from_secs(60),
            keepalive: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// As configured, or half of the cores: the MySQL beside it needs the others, and fewer threads that have more to do
    /// wake each other less often.
    pub fn worker_threads_or_default(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.worker_threads.map_or_else(|| (cores() / 2).max(1), NonZeroUsize::get)
    }
}
