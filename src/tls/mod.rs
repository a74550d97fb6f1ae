//! TLS: towards clients with this node's certificate, towards MySQL as the configuration asks.

mod acceptor;
mod connector;

use std::{io, path::PathBuf, sync::Arc};

use rustls::{crypto::CryptoProvider, pki_types::pem};

pub use self::{
    acceptor::{Acceptor, Certificate},
    connector::{Connector, Verify},
};

/// Why TLS can't be had as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds nothing of what it should.
    #[error("`{key}`: no {what} in PEM form can be read from {}", path.display())]
    File {
        /// The configuration's key.
        key: &'static str,
        /// What should be there.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key are not usable together.
    #[error("`tls.cert` and `tls.key` can't be used: {0}; do they belong together?")]
    Certificate(#[source] rustls::Error),
    /// The certificate authority is not usable.
    #[error("`tls.backend_ca` can't be used: {0}")]
    Authority(#[source] rustls::Error),
}

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream is under TLS already, or has been closed.
    #[error("the stream is not in clear")]
    NotInClear,
    /// The other end refused, was refused, or left.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The one provider of cryptography that this program is built with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
