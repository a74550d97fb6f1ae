//! `[….tls]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, values};
use crate::tls::{Acceptor, Connector, TlsError, Verify};

/// TLS on connections of the MySQL protocol.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The node's certificate, for clients, and those that sign it. Relative to the configuration file.
    #[serde(deserialize_with = "values::optional_relative_path")]
    pub cert: Option<PathBuf>,
    /// Its key. Relative to the configuration file.
    #[serde(deserialize_with = "values::optional_relative_path")]
    pub key: Option<PathBuf>,
    /// Whether clients over TCP must use TLS.
    pub required: bool,
    /// TLS towards the server behind the node.
    pub backend: BackendTls,
    /// The authority that signs the server's certificate. Relative to the configuration file.
    #[serde(deserialize_with = "values::optional_relative_path")]
    pub backend_ca: Option<PathBuf>,
}

/// TLS towards the server behind the node. A Unix socket goes without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendTls {
    /// None.
    #[default]
    Disabled,
    /// Where the server offers it.
    Preferred,
    /// Always; the server may be anybody.
    Required,
    /// Always, and the authority has signed the server's certificate.
    VerifyCa,
    /// Always, and the certificate names the host in the URL.
    VerifyIdentity,
}

impl Tls {
    /// How TLS towards the server begins; none if it is disabled.
    ///
    /// # Errors
    /// The authority's certificate can't be used.
    pub fn connector(&self) -> Result<Option<Connector>, TlsError> {
        let authority = self.backend_ca.as_deref().unwrap_or(Path::new(""));
        let (verify, needed) = match self.backend {
            BackendTls::Disabled => return Ok(None),
            BackendTls::Preferred => (Verify::Nothing, false),
            BackendTls::Required => (Verify::Nothing, true),
            BackendTls::VerifyCa => (Verify::Authority(authority), true),
            BackendTls::VerifyIdentity => (Verify::Identity(authority), true),
        };
        Connector::new(verify, needed).map(Some)
    }

    /// How TLS with clients is taken; none if the node has no certificate.
    ///
    /// # Errors
    /// The certificate or its key can't be used.
    pub fn acceptor(&self) -> Result<Option<Acceptor>, TlsError> {
        self.cert.as_deref().zip(self.key.as_deref()).map(|(cert, key)| Acceptor::new(cert, key)).transpose()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let verifies = matches!(self.backend, BackendTls::VerifyCa | BackendTls::VerifyIdentity);
        match (&self.cert, &self.key) {
            (Some(_), None) => Err(ConfigError::TlsNeeds { key: "tls.cert", needed: "tls.key" }),
            (None, Some(_)) => Err(ConfigError::TlsNeeds { key: "tls.key", needed: "tls.cert" }),
            (None, None) if self.required => Err(ConfigError::TlsNeeds { key: "tls.required", needed: "tls.cert" }),
            _ if verifies && self.backend_ca.is_none() => {
                Err(ConfigError::TlsNeeds { key: "tls.backend", needed: "tls.backend_ca" })
            }
            _ => Ok(()),
        }
    }
}
