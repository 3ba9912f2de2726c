//! The body of a request, up to a size and in time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::status::{ApiError, ApiResult};

/// Of a body that is too large so much is read and dropped, so that the client comes to read the refusal
/// instead of finding its connection cut.
const DROPPED: usize = 32 << 20;
/// And for no longer than this.
const DROP_TIME: Duration = Duration::from_secs(10);

/// Reads a body.
pub(crate) async fn body<B>(body: B, limit: usize, time: Duration) -> ApiResult<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| {
                ApiError::bad_request(format!("the request's body could not be read: {}", e.into()))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
        Ok(Some(whole.freeze()))
    };
    let outcome: ApiResult<Option<Bytes>> = timeout(time, read)
        .await
        .map_err(|_| ApiError::timed_out("its body did not come"))?;
    if let Some(whole) = outcome? {
        return Ok(whole);
    }
    let mut left = DROPPED;
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // However that ends, the answer is the same.
    let _ = timeout(DROP_TIME.min(time), drain).await;
    Err(ApiError::too_large(limit))
}
