//! Images that holders bring.

use std::fmt;

use bytes::Bytes;
use domain::{ImageId, ImageRef};
use futures_util::Stream;
use reqwest::Body;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Serialize;
use wire::Secret;
use wire::v1::images::{
    BuildLogPart, CommitRequest, ImageChange, ImageRequest, ImageResponse, ImageUpload, ImagesResponse, PARTIAL_UPLOAD,
    RemovedImage, UPLOAD_OFFSET,
};

use super::http::Call;
use super::{ClientError, GatewayClient};

const JSON: &str = "application/json";

/// One upload, opened by its token. Cheap to clone.
#[derive(Clone)]
pub struct ImageUploader {
    client: GatewayClient,
    id: ImageId,
    token: Secret,
}

impl fmt::Debug for ImageUploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageUploader").field("id", &self.id).finish_non_exhaustive()
    }
}

impl GatewayClient {
    /// The images that may be spawned: one's own, published ones, the operator's.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<ImagesResponse, ClientError> {
        self.signed(Call::get("list the images", "/images", self.limits.read)).await
    }

    /// One of one's own images.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image(&self, image: &ImageRef) -> Result<ImageResponse, ClientError> {
        self.signed(Call::get("look at an image", path(image), self.limits.read)).await
    }

    /// Begins the upload of an archive, or goes on with the one that was begun.
    ///
    /// # Errors
    /// See [`ClientError`]; what does not fit is refused with `image_quota`.
    pub async fn begin_image(&self, request: &ImageRequest) -> Result<(ImageUpload, ImageUploader), ClientError> {
        let operation = "begin the upload of an image";
        let call = Call::post(operation, "/images", self.limits.read).body(JSON, body(operation, request)?);
        let upload: ImageUpload = self.signed(call).await?;
        let token = upload.token.clone().ok_or_else(|| ClientError::protocol(operation, "it has no token"))?;
        let uploader = ImageUploader { client: self.clone(), id: upload.id, token };
        Ok((upload, uploader))
    }

    /// Names an image, or publishes it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_image(&self, image: &ImageRef, change: &ImageChange) -> Result<ImageResponse, ClientError> {
        let operation = "change an image";
        let call = Call { method: Method::PUT, ..Call::get(operation, path(image), self.limits.read) };
        self.signed(call.body(JSON, body(operation, change)?)).await
    }

    /// Removes one of one's own images.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_image(&self, image: &ImageRef) -> Result<RemovedImage, ClientError> {
        self.signed(Call::delete("remove an image", path(image), self.limits.read)).await
    }
}

impl ImageUploader {
    /// How the upload is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<ImageUpload, ClientError> {
        self.send(Call::get("look at the upload", self.path(), self.client.limits.read)).await
    }

    /// Sends a piece of `length` bytes, which begins at this offset. What arrives stays, however
    /// this ends.
    ///
    /// # Errors
    /// See [`ClientError`]; another offset than the upload's is refused with `upload_offset`.
    pub async fn append(
        &self,
        offset: u64,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<ImageUpload, ClientError> {
        let call = Call::get("upload a piece of the image", self.path(), self.client.limits.upload);
        let call = call.header(CONTENT_TYPE.as_str(), PARTIAL_UPLOAD)?.header(UPLOAD_OFFSET, &offset.to_string())?;
        let mut call = call.header(CONTENT_LENGTH.as_str(), &length.to_string())?;
        call.method = Method::PATCH;
        self.client.open_with(call.keyed(&self.token)?, Body::wrap_stream(bytes)).await
    }

    /// Has an image made of what has arrived, or built of it; asked again, says how that is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn commit(&self, how: &CommitRequest) -> Result<ImageUpload, ClientError> {
        let operation = "have an image made of the upload";
        let call = Call::post(operation, format!("{}/commit", self.path()), self.client.limits.read);
        self.send(call.body(JSON, body(operation, how)?)).await
    }

    /// What the build of it has said, from this byte on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn log(&self, from: u64) -> Result<BuildLogPart, ClientError> {
        let path = format!("{}/log?from={from}", self.path());
        self.send(Call::get("read the log of the build", path, self.client.limits.read)).await
    }

    /// Gives the upload up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn give_up(&self) -> Result<RemovedImage, ClientError> {
        self.send(Call::delete("give the upload up", self.path(), self.client.limits.read)).await
    }

    fn path(&self) -> String {
        format!("/images/uploads/{}", self.id)
    }

    async fn send<T: serde::de::DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        self.client.open(call.keyed(&self.token)?).await
    }
}

fn path(image: &ImageRef) -> String {
    format!("/images/{image}")
}

fn body(operation: &'static str, of: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(of).map_err(|error| ClientError::protocol(operation, error))
}
