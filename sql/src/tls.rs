//! libpq's SSL settings as a rustls configuration, for the SQL client and the walsender client alike.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest as _;

use crate::conn::{Host, Place};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslMode {
    Disable,
    /// Plain; encrypted if the server refuses plain.
    Allow,
    /// Encrypted; plain if the server has or allows no encryption.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SslRoots {
    None,
    /// The operating system's certificate store.
    System,
    File(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SslSettings {
    pub mode: SslMode,
    pub roots: SslRoots,
    /// The client's own certificate chain.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("cannot read {what} {path:?}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{what} {path:?} holds nothing usable")]
    Empty { what: &'static str, path: PathBuf },
    #[error("private key {path:?} can be read by others: chmod 600 it")]
    KeyPermissions { path: PathBuf },
    #[error("sslcert {path:?} has no private key: set sslkey")]
    NoKey { path: PathBuf },
    #[error("this sslmode needs a root certificate: set sslrootcert to a file, or to \"system\"")]
    NoRoots,
    #[error("the operating system has no usable root certificates: set sslrootcert to a file")]
    NoSystemRoots,
    #[error("sslmode=verify-full needs a host name to verify: set host beside hostaddr")]
    NoName,
    #[error("TLS settings refused")]
    Settings(#[from] rustls::Error),
}

impl SslSettings {
    /// What TLS handshakes with these settings use.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier {
            roots: self.roots()?,
            provider: provider.clone(),
        });
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let key = self
                    .key
                    .as_ref()
                    .ok_or_else(|| TlsError::NoKey { path: path.clone() })?;
                let key = provider.key_provider.load_private_key(private_key(key)?)?;
                // Not `with_client_auth_cert`: that wants to parse the certificate and knows version 3
                // only, while the recipe in PostgreSQL's manual makes version 1.
                let own = CertifiedKey::new(certificates("sslcert", path)?, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
        };
        // Servers of 17 and later insist on ALPN only for direct TLS, which we do not do, but accept it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<Roots, TlsError> {
        let check = match self.mode {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => {
                return Ok(Roots::Unchecked);
            }
            SslMode::VerifyCa => NameCheck::No,
            SslMode::VerifyFull => NameCheck::Yes,
        };
        let mut store = RootCertStore::empty();
        let mut pinned = Vec::new();
        match &self.roots {
            SslRoots::None => return Err(TlsError::NoRoots),
            SslRoots::System => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
            }
            SslRoots::File(path) => {
                pinned = certificates("sslrootcert", path)?;
                store.add_parsable_certificates(pinned.iter().cloned());
            }
        }
        Ok(Roots::Checked { store, pinned, check })
    }
}

/// The name to send and verify. An address stands for itself.
pub(crate) fn server_name(host: &Host, mode: SslMode) -> Result<ServerName<'static>, TlsError> {
    let Place::Name { name, address } = &host.place else {
        return Err(TlsError::NoName);
    };
    match (ServerName::try_from(name.clone()), address) {
        (Ok(name), _) => Ok(name),
        // A name no certificate can hold; where none is verified any stand-in will do.
        (Err(_), Some(address)) if mode != SslMode::VerifyFull => Ok(ServerName::from(*address)),
        (Err(_), None) if mode != SslMode::VerifyFull => {
            Ok(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])))
        }
        (Err(_), _) => Err(TlsError::NoName),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let found = CertificateDer::pem_file_iter(path)
        .map_err(file)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(file)?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(found)
}

/// As libpq: a key others can read is refused, except a root-owned one for its group.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    if let Ok(meta) = std::fs::metadata(path) {
        let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
        if meta.permissions().mode() & forbidden != 0 {
            return Err(TlsError::KeyPermissions {
                path: path.to_owned(),
            });
        }
    }
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        what: "sslkey",
        path: path.to_owned(),
        source,
    })
}

/// RFC 5929 `tls-server-end-point`: the certificate hashed by its own signature's hash function, with
/// SHA-256 standing in for MD5 and SHA-1. `None` where the signature names no hash (Ed25519).
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let der = certificate.as_ref();
    let hashed = match signature_oid(der)? {
        // 1.2.840.113549.1.1.{4,5,11}: RSA with MD5, SHA-1, SHA-256; 1.2.840.10045.4.{1,3.2}: ECDSA
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => sha2::Sha256::digest(der).to_vec(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => {
            sha2::Sha384::digest(der).to_vec()
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => {
            sha2::Sha512::digest(der).to_vec()
        }
        _ => return None,
    };
    Some(hashed)
}

/// RFC 5280: `Certificate ::= SEQUENCE { tbsCertificate, SEQUENCE { algorithm OID, … }, signature }`.
fn signature_oid(der: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_ID: u8 = 0x06;
    let (certificate, _) = der_value(der, SEQUENCE)?;
    let (_, after_body) = der_value(certificate, SEQUENCE)?;
    let (algorithm, _) = der_value(after_body, SEQUENCE)?;
    der_value(algorithm, OBJECT_ID).map(|(oid, _)| oid)
}

/// One DER value of the expected tag: its content, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [first, short, rest @ ..] = der else {
        return None;
    };
    if *first != tag {
        return None;
    }
    let (len, rest) = match short {
        0..=0x7f => (usize::from(*short), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (
                len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

#[derive(Debug, PartialEq, Eq)]
enum NameCheck {
    Yes,
    No,
}

#[derive(Debug)]
enum Roots {
    Unchecked,
    Checked {
        store: RootCertStore,
        /// The file's certificates as they are: a self-signed server certificate may be its own root,
        /// which the chain check alone would refuse.
        pinned: Vec<CertificateDer<'static>>,
        check: NameCheck,
    },
}

/// Checks what the sslmode promises, and always that the server holds its certificate's key.
#[derive(Debug)]
struct Verifier {
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Roots::Checked { store, pinned, check } = &self.roots {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            if !pinned.contains(end_entity) {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, store, intermediates, now, algorithms)?;
            }
            if *check == NameCheck::Yes {
                verify_server_name(&parsed, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_algorithm_is_found_in_a_certificate() {
        // SEQUENCE { SEQUENCE {}, SEQUENCE { OID ecdsa-with-SHA256 }, … }
        let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let der = [&[0x30, 14, 0x30, 0, 0x30, 10, 6, 8][..], &oid].concat();
        assert_eq!(signature_oid(&der), Some(&oid[..]));
        for cut in 0..der.len() {
            assert_eq!(signature_oid(&der[..cut]), None, "cut at {cut}");
        }
        assert_eq!(
            server_end_point(&CertificateDer::from(der)).map(|hash| hash.len()),
            Some(32)
        );
        assert_eq!(
            server_end_point(&CertificateDer::from(vec![0x30, 0x85, 0, 0])),
            None
        );
    }
}
