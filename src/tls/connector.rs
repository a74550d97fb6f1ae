//! TLS towards MySQL.

use std::{path::Path, sync::Arc};

use mysql_async::SslOpts;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};
use tokio_rustls::TlsConnector;

use super::{HandshakeError, TlsError, provider};
use crate::transport::Transport;

/// What is asked of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify<'a> {
    /// Nothing: who listens in reads nothing, but who stands in between does.
    Nothing,
    /// That this authority has signed it.
    Authority(&'a Path),
    /// That it also names the host that was asked for.
    Identity(&'a Path),
}

/// Begins TLS handshakes with MySQL.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    driver: SslOpts,
    needed: bool,
}

impl Connector {
    /// A connector; `needed` says that a server without TLS is refused.
    ///
    /// # Errors
    /// The authority's certificate can't be used.
    pub fn new(verify: Verify<'_>, needed: bool) -> Result<Self, TlsError> {
        let provider = provider();
        let (verifier, driver): (Arc<dyn ServerCertVerifier>, SslOpts) = match verify {
            Verify::Nothing => (
                Arc::new(Lenient { authority: None, provider: provider.clone() }),
                SslOpts::default().with_danger_accept_invalid_certs(true),
            ),
            Verify::Authority(path) => (
                Arc::new(Lenient { authority: Some(web_pki(path, &provider)?), provider: provider.clone() }),
                driver_roots(path).with_danger_skip_domain_validation(true),
            ),
            Verify::Identity(path) => (web_pki(path, &provider)?, driver_roots(path)),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Authority)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), driver, needed })
    }

    /// Whether a server without TLS is refused.
    pub fn is_needed(&self) -> bool {
        self.needed
    }

    /// The same for the driver, over which the node's own sessions go.
    pub fn driver_options(&self) -> SslOpts {
        self.driver.clone()
    }

    /// Puts a stream to `host` under TLS.
    ///
    /// # Errors
    /// The server is not who it should be, or broke off. The stream is closed then.
    ///
    /// # Cancel safety
    /// A dropped future closes the stream.
    pub(crate) async fn connect(&self, stream: &mut Transport, host: &str) -> Result<(), HandshakeError> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let socket = stream.take_plain().ok_or(HandshakeError::NotInClear)?;
        let tls = TlsConnector::from(self.config.clone()).connect(name, socket).await?;
        *stream = Transport::Tls(Box::new(tls.into()));
        Ok(())
    }
}

fn driver_roots(path: &Path) -> SslOpts {
    SslOpts::default().with_root_certs(vec![path.to_owned().into()]).with_disable_built_in_roots(true)
}

fn web_pki(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let unreadable =
        |source| TlsError::File { key: "tls.backend_ca", what: "certificate", path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(TlsError::Authority)?;
    }
    if roots.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| TlsError::Authority(Error::General(error.to_string())))
}

/// Asks less of a certificate than that it names the host. The server must hold its key in any case.
#[derive(Debug)]
struct Lenient {
    /// Who must have signed it; none takes any certificate.
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The authority's word is checked before the name is looked at.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
