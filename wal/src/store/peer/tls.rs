//! Who may speak to whom: both sides have a certificate of one authority, which is made for this.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Another version of the protocol gets another name, and the handshake fails between the two.
const PROTOCOL: &[u8] = b"skytide-store/1";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerTlsError {
    #[error("cannot read {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("private key {} can be read by others: chmod 600 it", path.display())]
    KeyPermissions { path: PathBuf },
    #[error("{what} {} holds no certificate", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    #[error("the certificates cannot be used")]
    Settings(#[from] rustls::Error),
    #[error("the authority's certificate cannot be used")]
    Authority(#[from] VerifierBuilderError),
}

/// PEM files of one side. Whoever has a certificate of the authority is let in: it is for these hosts alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// The own certificate, then what leads to the authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl PeerTls {
    pub fn client(&self) -> Result<Arc<ClientConfig>, PeerTlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?);
        let mut config = builder.with_client_auth_cert(self.chain()?, self.private_key()?)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }

    pub fn server(&self) -> Result<Arc<ServerConfig>, PeerTlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone()).build()?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(self.chain()?, self.private_key()?)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, PeerTlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority", &self.authority)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
        certificates("certificate", &self.certificate)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, PeerTlsError> {
        // A file that is not there is told of below.
        if std::fs::metadata(&self.key).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
            return Err(PeerTlsError::KeyPermissions {
                path: self.key.clone(),
            });
        }
        PrivateKeyDer::from_pem_file(&self.key).map_err(|source| PeerTlsError::File {
            what: "private key",
            path: self.key.clone(),
            source,
        })
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|source| PeerTlsError::File {
        what,
        path: path.to_owned(),
        source,
    })?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(PeerTlsError::Empty {
            what,
            path: path.to_owned(),
        }),
    }
}
