//! The assembly of a node.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use towline_middleware::Role;

use crate::config::Config;

/// What a node prints on its standard output, as one line of JSON, once it serves: its ports may have been chosen by
/// the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The node's role.
    pub role: Role,
    /// Where it serves the MySQL protocol.
    pub mysql_front: SocketAddr,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Where it serves status, metrics and administration.
    pub admin: SocketAddr,
}

/// Runs a node until it is told to stop by SIGTERM or Ctrl-C.
///
/// # Errors
/// Why it could not start, or what ended it.
pub async fn run(_config: Config, role: Role) -> anyhow::Result<()> {
    anyhow::bail!("the {role} node is not assembled yet")
}
