//! Certificates: given as files, or made here by an authority of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
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

/// What the server needs, and what clients need.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) config: Arc<rustls::ServerConfig>,
    pub(crate) ca_pem: String,
}

fn fail(what: &str, e: impl std::fmt::Display) -> Error {
    Error::Tls(format!("{what}: {e}"))
}

/// Reads or makes the certificates. Without a directory nothing is kept.
pub(crate) fn prepare(tls: &Tls, dir: Option<&Path>) -> Result<Material, Error> {
    let (chain, key, ca_pem) = match tls {
        Tls::Files { certificate, key, ca } => {
            let read = |p: &Path| {
                std::fs::read_to_string(p).map_err(|e| fail(&format!("{} cannot be read", p.display()), e))
            };
            (read(certificate)?, read(key)?, read(ca)?)
        }
        Tls::Generated { names } => generated(names, dir)?,
    };
    let certs = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fail("the server's certificate is not PEM", e))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|e| fail("the server's private key is not PEM", e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail("TLS cannot be set up", e))?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(|e| fail("the server's certificate and key do not fit", e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Material {
        config: Arc::new(config),
        ca_pem,
    })
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
