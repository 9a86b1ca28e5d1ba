//! Images that holders bring.

use std::time::Duration;

use bytes::Bytes;
use domain::ImageId;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serialize;
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec, PARTIAL_UPLOAD, UPLOAD_OFFSET};

use super::api::{builder, empty, found, whole};
use super::call::Call;
use super::exchange::send;
use super::{NodeClient, NodeError};

/// How long one piece of an upload may take. Whoever sends it sees to it that it does not
/// stand still.
const LONGEST_PIECE: Duration = Duration::from_hours(24);

impl NodeClient {
    /// Says that an archive is to come; the same again changes nothing.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn begin_image(&self, id: ImageId, spec: &ArchiveSpec) -> Result<HeldImage, NodeError> {
        self.tell("begin the upload of an image", Method::PUT, &image(id), spec).await
    }

    /// Sends a piece of the archive, which begins at this offset. What arrives stays, however
    /// this ends.
    ///
    /// # Errors
    /// See [`NodeError`]; another offset than the upload's is refused with `upload_offset`.
    pub async fn append_image<B>(&self, id: ImageId, offset: u64, body: B) -> Result<HeldImage, NodeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let call = Call::new("upload a piece of an image", LONGEST_PIECE);
        let request = builder(Method::PATCH, &image(id)).header(CONTENT_TYPE, PARTIAL_UPLOAD);
        let request = request.header(UPLOAD_OFFSET, offset).body(body);
        let request = request.map_err(|error| NodeError::protocol(call.operation, error.to_string()))?;
        call.within(async { send(call.operation, &self.socket, request).await?.json(call.operation).await }).await
    }

    /// How an image or its upload is; `None` if the node has neither.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn held_image(&self, id: ImageId) -> Result<Option<HeldImage>, NodeError> {
        let call = Call::new("look at an image", self.deadlines.read);
        found(self.json(call, empty(Method::GET, &image(id))).await)
    }

    /// Has an image made of an archive that is whole; asked again, says how that is.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn import_image(&self, id: ImageId, spec: &ImportSpec) -> Result<HeldImage, NodeError> {
        self.tell("have an image made of an upload", Method::POST, &format!("{}/import", image(id)), spec).await
    }

    /// What the build of an image has said, from this byte on.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn build_log(&self, id: ImageId, from: u64) -> Result<BuildLogPart, NodeError> {
        let call = Call::new("read the log of a build", self.deadlines.read);
        self.json(call, empty(Method::GET, &format!("{}/log?from={from}", image(id)))).await
    }

    /// Forgets an image or its upload; one that is not there is forgotten.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn forget_image(&self, id: ImageId) -> Result<(), NodeError> {
        let call = Call::new("forget an image", self.deadlines.create);
        let request = empty(Method::DELETE, &image(id));
        call.within(async { send(call.operation, &self.socket, request).await?.accepted(call.operation).await })
            .await?;
        Ok(())
    }

    async fn tell(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        spec: &impl Serialize,
    ) -> Result<HeldImage, NodeError> {
        let call = Call::new(operation, self.deadlines.create);
        let body = serde_json::to_vec(spec).map_err(|error| NodeError::protocol(operation, error.to_string()))?;
        let request = builder(method, path).header(CONTENT_TYPE, "application/json");
        let request: Request<Full<Bytes>> = whole(request, body.into(), operation)?;
        self.json(call, request).await
    }
}

fn image(id: ImageId) -> String {
    format!("/v1/images/{id}")
}
