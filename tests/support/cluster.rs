//! A cluster's API for tests of control planes: our server in this process, or in a rerun a real kube-apiserver
//! (crate strait-envtest). Included by the tests of several crates, each of which is written once for both; the test
//! that runs them again is here.

use std::path::Path;

use kube::Client;
use strait_apiserver::{Config, Server, User};
use strait_envtest::ControlPlane;

/// A running API server; ours or a real one.
pub enum ApiServer {
    Ours(Server),
    Real(Box<ControlPlane>),
}

impl ApiServer {
    /// One with Strait's definitions that is forgotten when it ends.
    pub async fn start() -> Self {
        match strait_envtest::here() {
            Some(assets) => {
                let plane = ControlPlane::start(&assets).await.unwrap();
                Self::define(plane).await
            }
            None => {
                let mut config = Config::in_memory();
                config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
                config.manifests = definitions();
                Self::Ours(Server::start(config).await.unwrap())
            }
        }
    }

    /// A real one over a folder that outlives it.
    pub async fn real_over(assets: &Path, folder: &Path, port: Option<u16>) -> Self {
        let plane = ControlPlane::over(assets, folder, port).await.unwrap();
        Self::define(plane).await
    }

    async fn define(plane: ControlPlane) -> Self {
        let plane = Self::Real(Box::new(plane));
        for definition in definitions() {
            plane.apply(&definition).await;
        }
        plane
    }

    /// The administrator's client.
    pub async fn admin(&self) -> Client {
        match self {
            Self::Ours(server) => Client::new(server.admin_service(), "default"),
            Self::Real(plane) => plane.client(strait_envtest::Client::Admin).await.unwrap(),
        }
    }

    /// A client of a service account.
    pub async fn account(&self, namespace: &str, name: &str) -> Client {
        match self {
            Self::Ours(server) => {
                let user = format!("system:serviceaccount:{namespace}:{name}");
                let groups = format!("system:serviceaccounts:{namespace}");
                let user = User::new(&user, &["system:serviceaccounts", &groups]);
                Client::new(server.service_as(user), "default")
            }
            Self::Real(plane) => plane
                .client(strait_envtest::Client::Account(namespace, name))
                .await
                .unwrap(),
        }
    }

    /// Applies a manifest as the administrator.
    pub async fn apply(&self, manifest: &str) {
        match self {
            Self::Ours(server) => server.apply_manifest(manifest).await.unwrap(),
            Self::Real(_) => strait_envtest::apply(&self.admin().await, manifest)
                .await
                .unwrap(),
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        match self {
            Self::Ours(server) => server.shutdown().await,
            // Its processes are waited for.
            Self::Real(plane) => tokio::task::spawn_blocking(move || drop(plane)).await.unwrap(),
        }
    }
}

fn definitions() -> Vec<String> {
    strait_api::crds::crds()
        .iter()
        .map(|crd| strait_api::crds::to_yaml(crd).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_these_on_a_real_kube_apiserver() {
    let this = concat!(module_path!(), "::all_of_these_on_a_real_kube_apiserver");
    // The harness names tests without their crate.
    let (_, this) = this.split_once("::").unwrap();
    strait_envtest::again(strait_envtest::On::Many, &[this])
        .await
        .unwrap();
}
