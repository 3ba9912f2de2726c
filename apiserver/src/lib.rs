//! A Kubernetes-style API server in one process, over one file.
//!
//! It is the stand-alone broker, the API server of the lab's clusters, and the fake API server of tests.
//! It owns the store, the HTTP side, and the answers: discovery, built-in kinds and custom resources with
//! their schemas, the patches and server-side apply, watches, tables, tokens and access control, as a real
//! kube-apiserver gives them (tests/fixtures holds what one answered). It runs no pods and no controllers
//! but those that belong to the API: garbage collection and the end of namespaces. It must know nothing of
//! Strait's own kinds: those come as custom resource definitions.
//!
//! Read next: `server` (start to stop), `http` (a request's way), `rest` (the verbs), `store`; README.md for
//! whoever runs it.
//!
//! ```no_run
//! # async fn demo() -> Result<(), strait_apiserver::Error> {
//! use strait_apiserver::{Config, Data, Server};
//! let mut config = Config::new(Data::Directory("/var/lib/strait/broker".into()));
//! config.listeners.push(std::net::TcpListener::bind("127.0.0.1:6443").expect("a free port"));
//! let server = Server::start(config).await?;
//! println!("{}", server.admin_kubeconfig("https://127.0.0.1:6443"));
//! # Ok(()) }
//! ```

mod api;
mod apply;
mod audit;
mod auth;
pub mod backup;
mod builtin;
mod catalog;
mod config;
mod controllers;
mod discovery;
mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod http;
mod json;
mod limits;
mod manifests;
mod openapi;
mod patch;
mod patient;
mod proto;
mod protobuf;
mod rest;
mod reviews;
mod schema;
mod selector;
mod server;
mod stall;
mod status;
mod store;
mod table;
mod tls;
mod yaml;

pub use audit::Audit;
pub use auth::User;
pub use config::{Config, Data, Limits, Version};
pub use error::Error;
pub use files::{allow_many_connections, write_private};
pub use http::Service;
pub use server::{Server, kubeconfig};
pub use store::Window;
pub use tls::Tls;
