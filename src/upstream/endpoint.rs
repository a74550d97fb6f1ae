//! Where this node's MySQL listens, and how it is reached there.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::net::{TcpStream, UnixStream};

use crate::{keepalive::Keepalive, tls::Connector, transport::Transport};

/// Where this node's MySQL listens, and how it is reached there. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Reached>);

#[derive(Clone, Debug)]
struct Reached {
    address: Address,
    tls: Option<Connector>,
    proxy_protocol: bool,
    keepalive: Keepalive,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Endpoint {
    /// Host, by name or address, and port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(Address::Tcp { host: host.into(), port })
    }

    /// A Unix socket. Nearer than TCP, but a server that trusts the peer's user id there would trust every client of
    /// this node: `towline check` looks for such accounts.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Address::Unix(path.into()))
    }

    fn new(address: Address) -> Self {
        Self(Arc::new(Reached { address, tls: None, proxy_protocol: false, keepalive: Keepalive::new(Duration::ZERO) }))
    }

    /// The same under TLS. A Unix socket stays in clear: nobody can listen in there.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Connector>) -> Self {
        let tls = tls.filter(|_| self.host().is_some());
        Arc::make_mut(&mut self.0).tls = tls;
        self
    }

    /// The same with the client's address told to the server by the PROXY protocol.
    #[must_use]
    pub fn with_proxy_protocol(mut self, proxy_protocol: bool) -> Self {
        Arc::make_mut(&mut self.0).proxy_protocol = proxy_protocol;
        self
    }

    /// The same, and the server is asked whether it is still there when it is silent. A Unix socket knows by itself.
    #[must_use]
    pub fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        Arc::make_mut(&mut self.0).keepalive = keepalive;
        self
    }

    /// TLS; none for a stream in clear.
    pub(super) fn tls(&self) -> Option<&Connector> {
        self.0.tls.as_ref()
    }

    /// Whether the server is told the client's address by the PROXY protocol.
    pub(super) fn tells_client(&self) -> bool {
        self.0.proxy_protocol
    }

    /// The name under which the server's certificate is checked; none over a Unix socket.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.0.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// Opens a byte stream.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(&self) -> io::Result<Transport> {
        match &self.0.address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                self.0.keepalive.set(&stream, Duration::ZERO)?;
                Ok(stream.into())
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Transport::from),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.address {
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
