//! Where this node's MySQL listens.

use std::{fmt, io, path::PathBuf};

use tokio::net::{TcpStream, UnixStream};

use crate::transport::Transport;

/// Where this node's MySQL listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host and port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket. Nearer than TCP, but a server that trusts the peer's user id there would trust every client of
    /// this node: `towline check` looks for such accounts.
    Unix(PathBuf),
}

impl Endpoint {
    /// Opens a byte stream.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(&self) -> io::Result<Transport> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Transport::from),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
