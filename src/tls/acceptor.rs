//! TLS towards clients.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio_rustls::TlsAcceptor;

use super::{HandshakeError, TlsError, provider};
use crate::transport::Transport;

/// Takes clients' TLS handshakes with the node's certificate. Clones share the certificate, also after a reload.
#[derive(Clone, Debug)]
pub struct Acceptor {
    certificate: PathBuf,
    key: PathBuf,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

/// A certificate that can be used, with its key.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<ServerConfig>);

impl Acceptor {
    /// Reads the certificate, with those that sign it after it, and its key.
    ///
    /// # Errors
    /// A file can't be read, or the two don't belong together.
    pub fn new(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(load(certificate, key)?));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), config })
    }

    /// Reads both files again. Nothing changes before what they hold is put to [use](Self::put_to_use).
    ///
    /// # Errors
    /// As at the start.
    pub fn read_again(&self) -> Result<Certificate, TlsError> {
        load(&self.certificate, &self.key).map(Certificate)
    }

    /// Takes the clients that come from now on by this certificate.
    pub fn put_to_use(&self, certificate: Certificate) {
        *self.config.write() = certificate.0;
    }

    /// Puts a client's stream under TLS. `early` is what the client has sent ahead.
    ///
    /// # Errors
    /// The client broke off, or does not speak TLS 1.2 or 1.3. The stream is closed then.
    ///
    /// # Cancel safety
    /// A dropped future closes the stream.
    pub(crate) async fn accept(&self, stream: &mut Transport, early: &[u8]) -> Result<(), HandshakeError> {
        let socket = stream.take_plain().ok_or(HandshakeError::NotInClear)?;
        let acceptor = TlsAcceptor::from(self.config.read().clone());
        let tls = acceptor.accept_with(socket, |connection| feed(connection, early)).await?;
        *stream = Transport::Tls(Box::new(tls.into()));
        Ok(())
    }
}

/// Hands over what has been read ahead. What is wrong with it comes up again in the handshake, since it never gets
/// complete.
fn feed(connection: &mut ServerConnection, mut early: &[u8]) {
    while !early.is_empty() && connection.read_tls(&mut early).is_ok() {
        if connection.process_new_packets().is_err() {
            return;
        }
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable =
        |source| TlsError::File { key: "tls.cert", what: "certificate", path: certificate.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|source| TlsError::File {
        key: "tls.key",
        what: "private key",
        path: key.to_owned(),
        source,
    })?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(unreadable)?, private)
        .map_err(TlsError::Certificate)?;
    Ok(Arc::new(config))
}
