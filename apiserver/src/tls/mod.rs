//! Certificates: given as files, or made here by an authority of our own. They are read again when their
//! files change.

pub(crate) mod identity;
pub(crate) mod rotate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::Error;
use crate::files;

/// Where the server's certificate comes from.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Made by an authority of our own, for these DNS names and addresses. Kept in the data directory
    /// and used again; the server certificate is made anew when the names change.
    Generated {
        /// DNS names and IP addresses.
        names: Vec<String>,
    },
    /// From PEM files.
    Files {
        /// The server's certificate and what it was signed with, except the root.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The certificate that clients shall trust.
        ca: PathBuf,
    },
}

fn fail(what: &str, e: impl std::fmt::Display) -> Error {
    Error::Tls(format!("{what}: {e}"))
}

/// The text of the certificates and keys in use.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    chain: String,
    key: String,
    /// What clients shall trust.
    pub(crate) ca: String,
    /// Whose signature a client's certificate needs.
    clients: Option<String>,
}

/// Reads or makes the certificates. Without a directory nothing is kept.
pub(crate) fn prepare(tls: &Tls, clients: Option<&Path>, dir: Option<&Path>) -> Result<Texts, Error> {
    let (chain, key, ca) = match tls {
        Tls::Files { certificate, key, ca } => (read(certificate)?, read(key)?, read(ca)?),
        Tls::Generated { names } => generated(names, dir)?,
    };
    let clients = clients.map(read).transpose()?;
    Ok(Texts {
        chain,
        key,
        ca,
        clients,
    })
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| fail(&format!("{} cannot be read", path.display()), e))
}

/// TLS 1.2 and 1.3 with these certificates.
pub(crate) fn configure(texts: &Texts) -> Result<Arc<rustls::ServerConfig>, Error> {
    let certs = certificates(&texts.chain, "the server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(texts.key.as_bytes())
        .map_err(|e| fail("the server's private key is not PEM", e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| fail("TLS cannot be set up", e))?;
    let builder = match &texts.clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let what = "the authority for client certificates";
            let mut roots = rustls::RootCertStore::empty();
            for cert in certificates(pem, what)? {
                roots
                    .add(cert)
                    .map_err(|e| fail(&format!("{what} cannot be used"), e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| fail(&format!("{what} cannot be used"), e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certs, key)
        .map_err(|e| fail("the server's certificate and key do not fit", e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fail(&format!("{what} is not PEM"), e))?;
    if certs.is_empty() {
        return Err(Error::Tls(format!(
            "{what} is not there: the file holds no certificate"
        )));
    }
    Ok(certs)
}

/// What our authority's certificate says; it is always the same, so that it need not be read back.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
        .distinguished_name
        .push(DnType::CommonName, "strait-apiserver-ca");
    params
}

fn authority() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = authority_params().self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn issue(ca_key: &str, names: &[String]) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::new(authority_params(), KeyPair::from_pem(ca_key)?);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "strait-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let cert = params.signed_by(&key, &issuer)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn generated(names: &[String], dir: Option<&Path>) -> Result<(String, String, String), Error> {
    let make = |e: rcgen::Error| fail("a certificate cannot be made", e);
    let Some(dir) = dir else {
        let (ca, ca_key) = authority().map_err(make)?;
        let (cert, key) = issue(&ca_key, names).map_err(make)?;
        return Ok((cert, key, ca));
    };
    let file = |name: &str| dir.join(name);
    let (ca, ca_key) = match (files::read(&file("ca.crt"))?, files::read(&file("ca.key"))?) {
        (Some(ca), Some(key)) => (ca, key),
        _ => {
            let (ca, key) = authority().map_err(make)?;
            files::write(&file("ca.key"), key.as_bytes(), true)?;
            files::write(&file("ca.crt"), ca.as_bytes(), false)?;
            (ca, key)
        }
    };
    let wanted = names.join("\n");
    let have = files::read(&file("server.names"))?;
    let kept = (
        files::read(&file("server.crt"))?,
        files::read(&file("server.key"))?,
    );
    let (cert, key) = match kept {
        (Some(cert), Some(key)) if have.as_deref() == Some(&wanted) => (cert, key),
        _ => {
            let (cert, key) = issue(&ca_key, names).map_err(make)?;
            files::write(&file("server.key"), key.as_bytes(), true)?;
            files::write(&file("server.crt"), cert.as_bytes(), false)?;
            files::write(&file("server.names"), wanted.as_bytes(), false)?;
            (cert, key)
        }
    };
    Ok((cert, key, ca))
}
