//! Writes the gateway's own record and its status, again and again until the API server has them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use strait_api::names::FIELD_MANAGER_PREFIX;
use strait_api::records::{Gateway, GatewaySpec, GatewayStatus};
use strait_daemon::client::CALL_TIMEOUT;
use strait_daemon::{Shutdown, Watched};
use tokio::sync::watch;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// Between two writes: tunnels come up together.
const PAUSE: Duration = Duration::from_millis(200);

/// What the publisher waits for.
enum Next {
    Change,
    After(Duration),
}

/// What should be written; none until it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) spec: Option<GatewaySpec>,
    pub(crate) status: GatewayStatus,
}

/// Where the record lies.
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The records as they are.
    pub(crate) gateways: Watched<Gateway>,
}

impl Publisher {
    /// Runs until shut down. `desired` changes when there is something new to compare.
    pub(crate) async fn run(self, mut desired: watch::Receiver<Desired>, shutdown: Shutdown) {
        tokio::select! {
            // Until the list is complete, nobody knows what is there.
            () = self.gateways.live() => {}
            () = shutdown.wait() => return,
        }
        let mut retry = FIRST_RETRY;
        loop {
            let wanted = desired.borrow_and_update().clone();
            let next = match self.write(&wanted).await {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    Next::Change
                }
                Err(error) => {
                    tracing::warn!(
                        gateway = self.name,
                        "own record not written, trying again in {retry:?}: {error:#}"
                    );
                    let wait = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    Next::After(wait)
                }
            };
            let next = async {
                match next {
                    Next::After(wait) => tokio::time::sleep(wait).await,
                    Next::Change => {
                        tokio::time::sleep(PAUSE).await;
                        // An error says that the daemon has ended, and so does `shutdown`.
                        if desired.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    }
                }
            };
            tokio::select! {
                () = next => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Writes what differs.
    async fn write(&self, wanted: &Desired) -> Result<()> {
        let Some(spec) = &wanted.spec else {
            return Ok(());
        };
        let existing = self.gateways.get(&self.namespace, &self.name);
        if existing
            .as_ref()
            .is_none_or(|existing| !same(&existing.spec, spec))
        {
            self.apply_spec(spec).await?;
        }
        if existing
            .as_ref()
            .is_some_and(|existing| existing.spec.removed_at.is_some())
        {
            // The tombstone may belong to another field manager, which an apply does not touch.
            let patch = Patch::Merge(json!({ "spec": { "removedAt": null } }));
            self.call(self.api().patch(&self.name, &PatchParams::default(), &patch))
                .await?;
        }
        let status = existing
            .as_ref()
            .and_then(|existing| existing.status.clone())
            .unwrap_or_default();
        if status != wanted.status {
            self.apply_status(&wanted.status).await?;
        }
        Ok(())
    }

    async fn apply_spec(&self, spec: &GatewaySpec) -> Result<()> {
        let object = json!({
            "apiVersion": "strait.dev/v1alpha1",
            "kind": "Gateway",
            "metadata": { "name": self.name, "namespace": self.namespace },
            "spec": spec,
        });
        self.call(self.api().patch(&self.name, &parameters(), &Patch::Apply(object)))
            .await?;
        tracing::info!(gateway = self.name, addresses = ?spec.addresses, port = spec.udp_port, overlay = ?spec.overlay_addresses, "published this gateway's record");
        Ok(())
    }

    async fn apply_status(&self, status: &GatewayStatus) -> Result<()> {
        let object = json!({
            "apiVersion": "strait.dev/v1alpha1",
            "kind": "Gateway",
            "metadata": { "name": self.name, "namespace": self.namespace },
            "status": status,
        });
        self.call(
            self.api()
                .patch_status(&self.name, &parameters(), &Patch::Apply(object)),
        )
        .await?;
        Ok(())
    }

    fn api(&self) -> Api<Gateway> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
        let what = || format!("patch gateways {}/{}", self.namespace, self.name);
        tokio::time::timeout(CALL_TIMEOUT, call)
            .await
            .with_context(|| format!("{}: no answer within {CALL_TIMEOUT:?}", what()))?
            .with_context(what)
    }
}

fn parameters() -> PatchParams {
    PatchParams::apply(&format!("{FIELD_MANAGER_PREFIX}gateway")).force()
}

/// Whether the record says what it should, in the fields that this gateway writes.
fn same(existing: &GatewaySpec, wanted: &GatewaySpec) -> bool {
    let ours = |spec: &GatewaySpec| GatewaySpec {
        removed_at: None,
        ..spec.clone()
    };
    ours(existing) == ours(wanted)
}
