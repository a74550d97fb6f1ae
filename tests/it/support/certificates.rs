//! Certificates for the tests, made as they run.

use std::{fs, path::PathBuf};

use mysql_async::SslOpts;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use towline::tls::Acceptor;

/// An authority, and a certificate that it has signed for `localhost` and 127.0.0.1.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let certificates = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        certificates.sign("localhost");
        certificates
    }

    /// Makes all of it anew, with this name besides the address.
    pub(crate) fn sign(&self, name: &str) {
        let mut authority = CertificateParams::new([]).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signed");
        let key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new([name.to_owned(), "127.0.0.1".to_owned()]).expect("names");
        let server = server.signed_by(&key, &authority).expect("signed");
        for (file, text) in [("ca.pem", authority.pem()), ("cert.pem", server.pem()), ("key.pem", key.serialize_pem())]
        {
            fs::write(self.path(file), text).expect("a file");
        }
    }

    /// `ca.pem`, `cert.pem` or `key.pem`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// What a node takes clients by.
    pub(crate) fn acceptor(&self) -> Acceptor {
        Acceptor::new(&self.path("cert.pem"), &self.path("key.pem")).expect("a usable certificate")
    }

    /// What a client that trusts the authority connects by.
    pub(crate) fn client(&self) -> SslOpts {
        SslOpts::default().with_root_certs(vec![self.path("ca.pem").into()]).with_disable_built_in_roots(true)
    }

    /// A server's options.
    pub(crate) fn server_args(&self) -> [String; 2] {
        [("cert", "cert.pem"), ("key", "key.pem")]
            .map(|(name, file)| format!("--ssl-{name}={}", self.path(file).display()))
    }
}
