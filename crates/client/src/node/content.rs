//! The files of a disk, passed on in both directions.

use std::time::Duration;

use bytes::Bytes;
use domain::{ContentCall, OwnedDisk};
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, Uri};
use hyper::body::Body;
use wire::content::HOLDER;

use super::call::Call;
use super::exchange::send;
use super::{NodeBody, NodeClient, NodeError};
use crate::hop::strip_hop_by_hop;

/// How long a call may take until its answer begins: a helper may have to be started and its disk
/// checked before.
const BEGIN: Duration = Duration::from_secs(180);
/// The same of an archive, which is measured before it is sent: the node gives up first.
const BEGIN_ARCHIVE: Duration = Duration::from_secs(630);
/// How long an upload may take, and the making of one file of several: it is answered when all of it is there. Whoever sends it sees to it
/// that it does not stand still.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);

impl NodeClient {
    /// Passes a call to whoever answers for the files of a disk, with the request's own query, and
    /// hands back the answer, whatever its status, its body still flowing. `holder` is the disk's.
    /// The caller's own credentials must be gone from the headers.
    ///
    /// # Errors
    /// See [`NodeError`]; what the node itself refuses is an answer too, in the form of that API.
    pub async fn content<B>(
        &self,
        disk: OwnedDisk,
        call: ContentCall,
        holder: &str,
        request: Request<B>,
    ) -> Result<Response<NodeBody>, NodeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let patience = match (request.method(), call) {
            (&Method::PUT, _) | (_, ContentCall::Compose) => LONGEST_UPLOAD,
            (_, ContentCall::Archive) => BEGIN_ARCHIVE,
            (_, ContentCall::Path | ContentCall::Dir | ContentCall::File) => BEGIN,
        };
        let operation = Call::new("work on the disk's files", patience);
        let protocol = |error: String| NodeError::protocol(operation.operation, error);
        let path = match disk {
            OwnedDisk::Volume(id) => format!("/v1/volumes/{id}/content/{}", call.as_str()),
            OwnedDisk::Data(pod) => format!("/v1/pods/{pod}/data/{}", call.as_str()),
        };
        let (mut head, body) = request.into_parts();
        let target = head.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        strip_hop_by_hop(&mut head.headers);
        head.headers.insert(HOST, HeaderValue::from_static("node"));
        head.headers.insert(HOLDER, HeaderValue::from_str(holder).map_err(|error| protocol(error.to_string()))?);
        head.uri = Uri::try_from(target).map_err(|error| protocol(error.to_string()))?;
        head.version = http::Version::HTTP_11;
        let request = Request::from_parts(head, body);
        let answer = operation.within(send(operation.operation, &self.socket, request)).await?;
        let (mut head, incoming) = answer.response.into_parts();
        strip_hop_by_hop(&mut head.headers);
        Ok(Response::from_parts(head, NodeBody::new(operation.operation, incoming, None, answer.connection)))
    }
}
