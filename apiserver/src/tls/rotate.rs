//! Certificates that change while the server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::{Texts, Tls, configure, prepare};
use crate::api::{Api, ended};
use crate::error::Error;

/// The certificates in use. A connection keeps those that it began with.
pub(crate) struct Rotating {
    tls: Tls,
    clients: Option<PathBuf>,
    dir: Option<PathBuf>,
    current: RwLock<Arc<rustls::ServerConfig>>,
}

impl Rotating {
    /// Reads or makes the certificates. The second part is what they were made of.
    pub(crate) fn start(
        tls: &Tls,
        clients: Option<&Path>,
        dir: Option<&Path>,
    ) -> Result<(Arc<Self>, Texts), Error> {
        let texts = prepare(tls, clients, dir)?;
        let rotating = Rotating {
            tls: tls.clone(),
            clients: clients.map(Path::to_owned),
            dir: dir.map(Path::to_owned),
            current: RwLock::new(configure(&texts)?),
        };
        Ok((Arc::new(rotating), texts))
    }

    /// For a new connection.
    pub(crate) fn current(&self) -> Arc<rustls::ServerConfig> {
        self.current.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether there are files that may change.
    fn lasting(&self) -> bool {
        self.dir.is_some() || self.clients.is_some() || matches!(self.tls, Tls::Files { .. })
    }

    /// Looks at the files every so often, until the server ends. Content is compared, not times: what a
    /// mounted Secret changes are links.
    pub(crate) async fn follow(self: Arc<Self>, mut used: Texts, every: Duration, api: Arc<Api>) {
        if !self.lasting() {
            return;
        }
        let mut shutdown = api.shutdown.subscribe();
        let mut last_error = String::new();
        loop {
            tokio::select! {
                () = ended(&mut shutdown) => return,
                () = tokio::time::sleep(every) => {}
            }
            let this = self.clone();
            let before = used.clone();
            let read = tokio::task::spawn_blocking(move || this.read(&before));
            let outcome = match read.await {
                Ok(outcome) => outcome,
                Err(e) => Err(Error::Other(e.to_string())),
            };
            match outcome {
                Ok(None) => last_error.clear(),
                Ok(Some((texts, config))) => {
                    *self.current.write().unwrap_or_else(|e| e.into_inner()) = config;
                    used = texts;
                    last_error.clear();
                    tracing::info!("new certificates are in use for new connections");
                }
                // Certificate and key are two files, and for a moment they may not fit.
                Err(e) => {
                    let text = e.to_string();
                    if text != last_error {
                        tracing::warn!(error = %text, "new certificates cannot be used; the former ones stay in use");
                        last_error = text;
                    }
                }
            }
        }
    }

    fn read(&self, used: &Texts) -> Result<Option<(Texts, Arc<rustls::ServerConfig>)>, Error> {
        if let (Tls::Generated { .. }, None) = (&self.tls, &self.dir) {
            // What was made for this process alone is kept; only the authority for clients may change.
            let clients = self.clients.as_deref().map(super::read).transpose()?;
            let texts = Texts {
                clients,
                ..used.clone()
            };
            return fresh(texts, used);
        }
        fresh(
            prepare(&self.tls, self.clients.as_deref(), self.dir.as_deref())?,
            used,
        )
    }
}

fn fresh(texts: Texts, used: &Texts) -> Result<Option<(Texts, Arc<rustls::ServerConfig>)>, Error> {
    if texts == *used {
        return Ok(None);
    }
    let config = configure(&texts)?;
    Ok(Some((texts, config)))
}
