//! A client that speaks TLS and HTTP/1.1 as bytes, to do what a proper client would not.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection.
pub(crate) struct Wire {
    pub(crate) stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

/// Settings of a client that trusts `ca`, and may show a certificate (PEM of chain and key).
pub(crate) fn client(ca: &str, shown: Option<(&str, &str)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(cert.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<_, _>>()
                .unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Wire> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        Ok(Wire {
            stream,
            read: Vec::new(),
        })
    }

    /// The server's certificate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let shown = self.stream.get_ref().1.peer_certificates().unwrap();
        shown[0].to_vec()
    }

    pub(crate) async fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await
    }

    /// Reads until the text read holds `mark`; returns what comes before its end.
    pub(crate) async fn until(&mut self, mark: &str) -> std::io::Result<String> {
        loop {
            let found = self.read.windows(mark.len()).position(|w| w == mark.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + mark.len());
                let text = std::mem::replace(&mut self.read, rest);
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            let mut buffer = [0; 16 << 10];
            let n = self.stream.read(&mut buffer).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.read.extend_from_slice(&buffer[..n]);
        }
    }

    /// Reads an answer with a length: status, headers, body.
    pub(crate) async fn answer(&mut self) -> std::io::Result<(u16, String, String)> {
        let head = self.until("\r\n\r\n").await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let lower = head.to_lowercase();
        let length: usize = lower
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
            .unwrap_or(0);
        while self.read.len() < length {
            let mut buffer = [0; 16 << 10];
            let n = self.stream.read(&mut buffer).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.read.extend_from_slice(&buffer[..n]);
        }
        let rest = self.read.split_off(length);
        let body = String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
        Ok((status, lower, body))
    }

    /// Asks and reads the answer.
    pub(crate) async fn get(&mut self, path: &str, token: &str) -> std::io::Result<(u16, String, String)> {
        let authorization = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n");
        self.send(&text).await?;
        self.answer().await
    }
}
