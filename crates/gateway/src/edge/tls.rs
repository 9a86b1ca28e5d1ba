//! Certificates of one's own, taken over again when their files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file holds no PEM of its kind.
    #[error("{path} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The two do not go together, or rustls does not take them.
    #[error("the certificate and its key cannot be used together")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use and where it came from.
#[derive(Debug)]
pub(crate) struct Certificates {
    cert_file: PathBuf,
    key_file: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(RwLock<(Arc<CertifiedKey>, [u8; 32])>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

impl Certificates {
    /// Reads both files.
    pub(crate) fn load(cert_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (cert, key) = (read(cert_file)?, read(key_file)?);
        let certified = certify(&provider, (cert_file, &cert), (key_file, &key))?;
        let current = Current(RwLock::new((Arc::new(certified), digest(&cert, &key))));
        let (cert_file, key_file) = (cert_file.to_owned(), key_file.to_owned());
        Ok(Self { cert_file, key_file, provider, current: Arc::new(current) })
    }

    /// What greets TLS clients, in HTTP/2 where they can.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let resolver: Arc<dyn ResolvesServerCert> = self.current.clone();
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Takes the files over if they changed; says whether they had. Half a
    /// change (a new certificate, the old key) is an error until it is whole.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let (cert, key) = (read(&self.cert_file)?, read(&self.key_file)?);
        let digest = digest(&cert, &key);
        if self.current.0.read().unwrap_or_else(PoisonError::into_inner).1 == digest {
            return Ok(false);
        }
        let certified = certify(&self.provider, (&self.cert_file, &cert), (&self.key_file, &key))?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(certified), digest);
        Ok(true)
    }
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    Ok(zeroize::Zeroizing::new(bytes))
}

fn digest(cert: &[u8], key: &[u8]) -> [u8; 32] {
    let (cert, key) = (Sha256::digest(cert), Sha256::digest(key));
    Sha256::new().chain_update(cert).chain_update(key).finalize().into()
}

fn certify(
    provider: &CryptoProvider,
    (cert_file, cert): (&Path, &[u8]),
    (key_file, key): (&Path, &[u8]),
) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, what| TlsError::Pem { path: path.to_owned(), what };
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let certs = certs.ok().filter(|certs| !certs.is_empty()).ok_or_else(|| pem(cert_file, "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| pem(key_file, "private key"))?;
    Ok(CertifiedKey::from_der(certs, key, provider)?)
}
