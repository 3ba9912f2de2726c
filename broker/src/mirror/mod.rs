//! The mirror: what a member's agent does with the broker.
//!
//! Four loops, each of one shape (watch, index, `strait_core::mirror`, apply): [`publish`] brings this
//! cluster's own records to the broker, [`receive`] the others' records here, [`verdicts`] says on each copy
//! whether it counts here, [`nodes`] gives this cluster's nodes their overlay addresses. The first two live
//! in a [`session`] with the broker, which is opened again, for ever, when it breaks; the other two do not
//! need the broker. Losing the broker takes nothing away here.

mod index;
mod nodes;
mod publish;
mod receive;
mod records;
mod session;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use strait_api::ClusterId;
use strait_core::mirror::Problem;
use strait_daemon::Shutdown;
use tokio::sync::watch;

pub use session::Metrics;

/// What the mirror is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace of Strait in this cluster.
    pub namespace: String,
    /// Name of this process in the Lease on the broker.
    pub identity: String,
    /// What is counted.
    pub metrics: Metrics,
}

/// Runs the mirror until shut down. It may be started before `strait join`, and then waits for it. A broker
/// that is away, records that cannot be read, an API server that does not answer: all that is logged, shown
/// as conditions, and tried again; it ends nothing.
pub async fn run(client: Client, settings: Settings, shutdown: Shutdown) {
    let left_out = LeftOut::default();
    tokio::join!(
        session::run(&client, &settings, &left_out, &shutdown),
        nodes::run(&client, &settings, &shutdown),
        verdicts::run(&client, &settings, &left_out, &shutdown),
    );
}

/// What of each member's records on the broker is not copied, as far as it was looked at: the receiver
/// finds it out, the verdicts tell it.
#[derive(Debug, Default)]
struct LeftOut(watch::Sender<BTreeMap<ClusterId, BTreeSet<Problem>>>);
