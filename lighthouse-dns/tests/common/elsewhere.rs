//! EndpointSlices on an API server that does not have them in v1 yet: they live in a group of their own, by a
//! definition, and clients find them under the name that they know. To controllers they are data.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kube::Client;
use kube::client::Body;
use tower::BoxError;

const NAME: &str = "discovery.k8s.io";
/// As long as the name, so that lengths stay right.
const ELSEWHERE: &str = "discovery.k8s.oi";

/// What puts them there.
pub const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: endpointslices.discovery.k8s.oi}
spec:
  group: discovery.k8s.oi
  scope: Namespaced
  names: {kind: EndpointSlice, listKind: EndpointSliceList, plural: endpointslices, singular: endpointslice}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

/// Whether they have to live elsewhere, which is said.
pub fn needed() -> bool {
    strait_envtest::older_in_part(21, "discovery.k8s.io/v1 (a definition stands in)")
}

/// Names the group where it is.
pub fn there(text: &str) -> String {
    text.replace(NAME, ELSEWHERE)
}

/// A client that does not know of it.
pub fn unaware(inner: Client) -> Client {
    Client::new(Elsewhere { inner }, "default")
}

#[derive(Clone)]
struct Elsewhere {
    inner: Client,
}

type Answer = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

impl tower::Service<Request<Body>> for Elsewhere {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.inner.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.uri = there(&parts.uri.to_string()).parse()?;
            let body = body.collect().await?.to_bytes();
            let body = there(std::str::from_utf8(&body)?);
            let request = Request::from_parts(parts, Body::from(body.into_bytes()));
            let (parts, body) = client.send(request).await?.into_parts();
            Ok(Response::from_parts(parts, StreamBody::new(by_line(body))))
        })
    }
}

/// Whole lines, since a chunk may end in the middle of the name.
fn by_line(body: Body) -> BoxStream<'static, Result<Frame<Bytes>, BoxError>> {
    let chunks = Box::pin(body.into_data_stream());
    let lines = unfold(
        (chunks, Vec::new(), false),
        |(mut chunks, mut rest, ended)| async move {
            if ended {
                return None;
            }
            loop {
                if let Some(end) = rest.iter().rposition(|b| *b == b'\n') {
                    let lines: Vec<u8> = rest.drain(..=end).collect();
                    return Some((back(lines), (chunks, rest, false)));
                }
                match chunks.next().await {
                    Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                    Some(Err(e)) => return Some((Err(e.into()), (chunks, Vec::new(), true))),
                    None => return Some((back(rest), (chunks, Vec::new(), true))),
                }
            }
        },
    );
    lines.boxed()
}

fn back(lines: Vec<u8>) -> Result<Frame<Bytes>, BoxError> {
    let text = String::from_utf8(lines)?.replace(ELSEWHERE, NAME);
    Ok(Frame::data(text.into()))
}
