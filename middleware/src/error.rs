//! The two ways in which a command goes wrong: a refusal, which is a reply, and an end of the session.

use std::{borrow::Cow, fmt, io};

use bytes::Bytes;

/// An error that the client gets as a reply: MySQL's ERR packet. The session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// MySQL's error number, as in 1290.
    pub code: u16,
    /// Five ASCII characters, as in `HY000`.
    pub sqlstate: [u8; 5],
    /// The text. From a server it is in the session's `character_set_results`, so not always UTF-8.
    pub message: Bytes,
}

impl ServerError {
    /// An error of our own.
    pub fn new(code: u16, sqlstate: &[u8; 5], message: impl Into<Cow<'static, str>>) -> Self {
        let message = match message.into() {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        Self { code, sqlstate: *sqlstate, message }
    }

    /// 1290: a slave refuses a write, or a node refuses what would hide writes from replication.
    pub fn refused(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(1290, b"HY000", reason)
    }

    /// 1047: a command that this node does not carry out.
    pub fn unknown_command(name: &str) -> Self {
        Self::new(1047, b"08S01", format!("Unknown command: Towline does not support {name}"))
    }

    /// 1053: the node is stopping.
    pub fn stopping() -> Self {
        Self::new(1053, b"08S01", "Server shutdown in progress: this Towline node is stopping")
    }

    /// 1053: the node's data is not whole.
    pub fn loading() -> Self {
        Self::new(1053, b"08S01", "This Towline slave is fetching a snapshot of its master: try again later")
    }

    /// The text for people; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.message)
    }

    /// The SQLSTATE as text.
    pub fn state(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.sqlstate)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} ({}): {}", self.code, self.state(), self.text())
    }
}

impl std::error::Error for ServerError {}

/// What ends a session. A layer returns it only when the session can't go on; a refusal is a
/// [`Reply`](crate::Reply) with a [`ServerError`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to the client broke.
    #[error("the client's connection broke")]
    Client(#[source] io::Error),
    /// The connection to this node's MySQL broke or could not be made.
    #[error("the connection to MySQL broke")]
    Upstream(#[source] io::Error),
    /// A peer sent what the protocol does not allow.
    #[error("{peer} broke the MySQL protocol: {what}")]
    Protocol {
        /// `client` or `MySQL`.
        peer: &'static str,
        /// What was wrong.
        what: &'static str,
    },
    /// A client's packet is larger than this node takes.
    #[error("the client sent a packet of more than {limit_bytes} bytes")]
    PacketTooLarge {
        /// The limit (`limits.packet_bytes_max`).
        limit_bytes: usize,
    },
    /// Layers have been loaded that read rows, and this session, which began before, has agreed with MariaDB on results
    /// whose columns are left out.
    #[error("a session that began before layers were loaded has agreed on results that they can't read")]
    OutdatedSession,
    /// A layer failed beyond repair.
    #[error("layer `{layer}` failed")]
    Layer {
        /// The layer's name in the configuration.
        layer: &'static str,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What the client may be told before its session ends: no inner detail leaves the node.
    pub fn to_client(&self) -> Option<ServerError> {
        match self {
            Self::Client(_) => None,
            // Not 2013, a number of the client's own: MariaDB's C library takes that from a peer for a malformed packet.
            Self::Upstream(_) => Some(ServerError::new(
                1053,
                b"08S01",
                "Lost connection to the MySQL server behind this Towline node; reconnect",
            )),
            Self::Protocol { .. } => Some(ServerError::new(1835, b"HY000", "Malformed communication packet")),
            Self::PacketTooLarge { limit_bytes } => Some(ServerError::new(
                1153,
                b"08S01",
                format!(
                    "Got a packet bigger than this Towline node takes: limits.packet_bytes_max is {limit_bytes} bytes"
                ),
            )),
            Self::OutdatedSession => Some(ServerError::new(
                1053,
                b"08S01",
                "This Towline node has loaded layers that can't read the cached metadata of this session; reconnect",
            )),
            Self::Layer { .. } => {
                Some(ServerError::new(1105, b"HY000", "A middleware layer failed; see the node's log"))
            }
        }
    }
}
