//! Events are kept for an hour after they last happened.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::api::Api;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Op, Write, WriteError};

const STORAGE: &str = "events";
const KEEP: SignedDuration = SignedDuration::from_hours(1);

/// Removes what is older.
pub(super) async fn expire(api: &Arc<Api>) -> ApiResult<()> {
    let limit = Timestamp::now() - KEEP;
    for object in api.store.list(STORAGE, "").items {
        if last_seen(&object.value()).is_none_or(|t| t >= limit) {
            continue;
        }
        let key = Key {
            resource: STORAGE.into(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        };
        // One that happened again meanwhile is at another version, and stays.
        let write = Write {
            key,
            expect: Some(object.rv),
            op: Op::Delete,
        };
        if let Err(WriteError::Storage(e)) = api.store.write(write).await {
            return Err(ApiError::internal(e));
        }
    }
    Ok(())
}

/// The latest time that the event names.
fn last_seen(event: &Value) -> Option<Timestamp> {
    [
        "/metadata/creationTimestamp",
        "/eventTime",
        "/lastTimestamp",
        "/series/lastObservedTime",
    ]
    .iter()
    .filter_map(|p| event.pointer(p)?.as_str()?.parse().ok())
    .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_time_counts() {
        let at = |t: &str| t.parse::<Timestamp>().ok();
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "eventTime": null,
            "series": {"lastObservedTime": "2026-01-01T05:00:00.000000Z"}});
        assert_eq!(last_seen(&event), at("2026-01-01T05:00:00Z"));
        assert_eq!(last_seen(&json!({"metadata": {}})), None);
    }
}
