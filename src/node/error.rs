//! Why a node does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use towline_middleware::LayerError;

use crate::{
    check::{CheckError, Report},
    frontend::http::FrontError,
    managed::ManagedError,
    replication::hub::HubError,
    tls::TlsError,
};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration names a layer that can't be had.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A slave would tell its master an address that means nothing there.
    #[error(
        "`http.listen` is {listen}, which is no address to reach this slave at: set `cluster.url`, as in http://10.0.0.2:5001"
    )]
    NoUrl {
        /// The address.
        listen: SocketAddr,
    },
    /// TLS can't be had as configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The private MariaDB does not start.
    #[error(transparent)]
    Managed(#[from] ManagedError),
    /// MySQL can't be checked.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// MySQL lacks what replication needs.
    #[error("MySQL is not set up for this node (`towline check` shows the same):\n{0}")]
    Unfit(Report),
    /// An address can't be listened on.
    #[error("`{key}`: can't listen on {addr}; is the port in use?")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A Unix socket can't be listened on.
    #[error("`mysql_front.socket`: can't listen on {}; is another node running there?", path.display())]
    ListenUnix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The slaves or the secret are not usable.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The HTTP front can't be made.
    #[error(transparent)]
    Http(#[from] FrontError),
    /// The system refuses what every process may do.
    #[error("can't listen for signals or read a socket's address")]
    System(#[source] io::Error),
}

impl NodeError {
    /// Whether the configuration, or the server's, must be changed before another start can succeed.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::Layer(_)
                | Self::NoUrl { .. }
                | Self::Tls(_)
                | Self::Unfit(_)
                | Self::Check(CheckError::Refused { .. } | CheckError::Tls { .. })
        )
    }
}
