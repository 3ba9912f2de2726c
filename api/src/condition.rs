//! `metav1.Condition`, without the Kubernetes client.

use serde::{Deserialize, Serialize};

/// One aspect of an object's state, in the shape of Kubernetes' `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(transform = crate::schema::condition))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, in CamelCase.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A CamelCase word (several joined by commas where the API says so), never empty.
    pub reason: String,
    /// A sentence for people; may be empty.
    pub message: String,
    /// When `status` last changed (RFC 3339).
    pub last_transition_time: String,
    /// The object's generation that the condition speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition that holds or not, with its time still to be set by [`Condition::merge_into`].
    pub fn new(type_: &str, holds: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: String::new(),
            observed_generation: None,
        }
    }

    /// Puts this condition into a list keyed by type; the transition time is `now` only where `status`
    /// changed. Says whether the list changed.
    pub fn merge_into(mut self, list: &mut Vec<Condition>, now: &str) -> bool {
        match list.iter_mut().find(|c| c.type_ == self.type_) {
            Some(old) => {
                self.last_transition_time = if old.status == self.status {
                    old.last_transition_time.clone()
                } else {
                    now.to_owned()
                };
                let changed = *old != self;
                *old = self;
                changed
            }
            None => {
                self.last_transition_time = now.to_owned();
                list.push(self);
                true
            }
        }
    }
}
