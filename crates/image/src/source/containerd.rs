//! An operator's own containerd: one image of it, by the name that it has there, over the gRPC API
//! of its images and its contents (`api/services` of containerd 1.6). Nothing is changed in it.
//!
//! It is believed no more than a registry: what it gives for a digest has that digest, or is
//! refused. Its snapshots are not looked at: there an image has no digest any more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use oci_spec::image::{Descriptor, ImageManifest};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::error::ContainerdError;
use super::remote::{self, RemoteStore};
use crate::blobs::{BlobStore, MAX_DOCUMENT};
use crate::digest::BlobDigest;
use crate::document;
use crate::signature::{self, FoundSignature, MAX_PAYLOAD, MAX_SIGNATURES, TrustedKeys};
use crate::{ImageError, Progress};

/// Names of other images that are told, at most.
const MAX_NAMES: usize = 10;
/// Bytes of one of its answers at most: a piece of a blob is 1 MiB, and the list of its images has
/// some hundred bytes of each.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// An image in a containerd.
#[derive(Clone, Debug)]
pub struct ContainerdSource {
    /// Its socket. Whoever may use that is root on this machine.
    pub socket: PathBuf,
    /// The namespace of containerd that has the image.
    pub namespace: String,
    /// The image's name there, in full.
    pub image: String,
}

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, Message)]
struct Target {
    #[prost(string, tag = "2")]
    digest: String,
    #[prost(int64, tag = "3")]
    size: i64,
}

/// `containerd.services.images.v1.Image`.
#[derive(Clone, PartialEq, Message)]
struct ImageRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    target: Option<Target>,
}

#[derive(Clone, PartialEq, Message)]
struct GetImageRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct GetImageResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct ListImagesRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    images: Vec<ImageRecord>,
}

/// `containerd.services.content.v1.ReadContentRequest`: all of it, from its start.
#[derive(Clone, PartialEq, Message)]
struct ReadContentRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct ReadContentResponse {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// Copies the image into the blobs, and returns its manifest. Where there are trusted keys, one of
/// them must have signed it.
pub(crate) async fn fetch(
    source: &ContainerdSource,
    blobs: &BlobStore,
    bounds: &crate::Config,
    trusted: Option<&TrustedKeys>,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let session = Session::open(source, bounds).await?;
    let whole = Duration::from_secs(bounds.pull_timeout_s);
    let slow = |_| ContainerdError::Slow { socket: source.socket.clone(), after_s: bounds.pull_timeout_s };
    let taken = async {
        to.step("ask containerd", None);
        remote::image(&session, session.found().await?, blobs, bounds, trusted, to).await
    };
    timeout(whole, taken).await.map_err(slow)?
}

struct Session<'a> {
    source: &'a ContainerdSource,
    grpc: Grpc<Channel>,
    /// How long one answer, or one piece of it, may take.
    within: Duration,
    namespace: MetadataValue<tonic::metadata::Ascii>,
}

impl<'a> Session<'a> {
    async fn open(source: &'a ContainerdSource, bounds: &crate::Config) -> Result<Self, ContainerdError> {
        let refused = |why| ContainerdError::Socket { socket: source.socket.clone(), source: why };
        // Once by itself: what gRPC makes of a socket that is not there says nothing of it.
        UnixStream::connect(&source.socket).await.map_err(refused)?;
        let namespace = source.namespace.parse();
        let namespace = namespace.map_err(|_| ContainerdError::Namespace(source.namespace.clone()))?;
        let socket = source.socket.clone();
        let connect = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is sent and looked at by nobody.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connect);
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        Ok(Self { source, grpc, within: Duration::from_millis(bounds.registry_timeout_ms), namespace })
    }

    /// The digest and the size of what its image is.
    async fn found(&self) -> Result<(BlobDigest, Option<u64>), ImageError> {
        match self.target(&self.source.image).await? {
            Some((sum, size)) => Ok((sum, Some(size))),
            None => Err(self.no_image().await.into()),
        }
    }

    /// What a name means there; nothing where there is no such image.
    async fn target(&self, name: &str) -> Result<Option<(BlobDigest, u64)>, ImageError> {
        let asked = self.ask::<_, GetImageResponse>("images.v1.Images/Get", GetImageRequest { name: name.to_owned() });
        let target = match asked.await {
            Ok(answer) => answer.image.and_then(|image| image.target),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(self.said("the image", &status).into()),
        };
        let Some(Target { digest, size }) = target else { return Ok(None) };
        let size = u64::try_from(size).map_err(|_| ImageError::document("descriptor", "it has a size below zero"))?;
        Ok(Some((BlobDigest::parse(&digest)?, size)))
    }

    async fn no_image(&self) -> ContainerdError {
        // Where they cannot be listed none is told.
        let listed = self.ask::<_, ListImagesResponse>("images.v1.Images/List", ListImagesRequest {}).await;
        let mut names: Vec<_> = listed.map(|listed| listed.images).unwrap_or_default();
        names.sort_by(|one, other| one.name.cmp(&other.name));
        let more = if names.len() > MAX_NAMES { ", …" } else { "" };
        let names: Vec<_> = names.into_iter().take(MAX_NAMES).map(|image| image.name).collect();
        let ContainerdSource { namespace, image, .. } = self.source.clone();
        let known = if names.is_empty() { "none".to_owned() } else { format!("{}{more}", names.join(", ")) };
        ContainerdError::NoImage { image, namespace, known }
    }

    async fn copy(&self, sum: BlobDigest, size: u64, blobs: &BlobStore, to: &dyn Progress) -> Result<(), ImageError> {
        if blobs.has(sum) {
            to.advance(size);
            return Ok(());
        }
        let mut incoming = blobs.begin(sum, size)?;
        let mut pieces = self.read(sum).await?;
        while let Some(piece) = self.next(&mut pieces, sum).await? {
            incoming.write(&piece)?;
            to.advance(piece.len() as u64);
        }
        incoming.finish()
    }

    /// Something small as a whole, verified.
    async fn small(&self, sum: BlobDigest, at_most: u64) -> Result<Vec<u8>, ImageError> {
        let (mut pieces, mut bytes) = (self.read(sum).await?, Vec::new());
        while let Some(piece) = self.next(&mut pieces, sum).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > at_most {
                return Err(ImageError::document("signatures", format!("{sum} is larger than {at_most} bytes")));
            }
        }
        let found = BlobDigest::of(&bytes);
        if found == sum { Ok(bytes) } else { Err(ImageError::mismatch(sum, found)) }
    }

    async fn read(&self, sum: BlobDigest) -> Result<tonic::Streaming<ReadContentResponse>, ImageError> {
        let request = self.request(ReadContentRequest { digest: sum.to_string() });
        let mut grpc = self.grpc.clone();
        let asked = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
            grpc.server_streaming(request, path, ProstCodec::default()).await
        };
        let answered = timeout(self.within, asked).await.unwrap_or_else(|_| Err(self.late()));
        Ok(answered.map_err(|status| self.unread(sum, &status))?.into_inner())
    }

    async fn next(
        &self,
        pieces: &mut tonic::Streaming<ReadContentResponse>,
        sum: BlobDigest,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let next = timeout(self.within, pieces.message()).await.unwrap_or_else(|_| Err(self.late()));
        Ok(next.map_err(|status| self.unread(sum, &status))?.map(|piece| piece.data))
    }

    async fn ask<A, B>(&self, method: &str, request: A) -> Result<B, Status>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/containerd.services.{method}"))
            .map_err(|error| Status::internal(error.to_string()))?;
        let (mut grpc, request) = (self.grpc.clone(), self.request(request));
        let asked = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(request, path, ProstCodec::<A, B>::default()).await
        };
        Ok(timeout(self.within, asked).await.unwrap_or_else(|_| Err(self.late()))?.into_inner())
    }

    fn request<A>(&self, message: A) -> Request<A> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }

    fn late(&self) -> Status {
        Status::deadline_exceeded(format!("no answer within {:?}", self.within))
    }

    fn unread(&self, sum: BlobDigest, status: &Status) -> ContainerdError {
        if status.code() != Code::NotFound {
            return self.said("the image's content", status);
        }
        let ContainerdSource { namespace, image, .. } = self.source.clone();
        ContainerdError::NoContent { digest: sum.to_string(), namespace, image }
    }

    fn said(&self, what: &'static str, status: &Status) -> ContainerdError {
        let said = format!("{} ({:?})", status.message(), status.code());
        ContainerdError::Said { what, socket: self.source.socket.clone(), said }
    }
}

impl RemoteStore for Session<'_> {
    const TAKING: &'static str = "copy the layers";

    async fn document(&self, sum: BlobDigest, size: Option<u64>, blobs: &BlobStore) -> Result<Vec<u8>, ImageError> {
        let size = size.ok_or_else(|| ImageError::Missing(sum.to_string()))?;
        if size > MAX_DOCUMENT {
            return Err(ImageError::document("manifest", "it is larger than 4 MiB"));
        }
        self.copy(sum, size, blobs, &crate::NoProgress).await?;
        blobs.document(sum)
    }

    /// Under the names by which registries have them.
    async fn signatures(&self, digests: &[BlobDigest]) -> Result<Vec<FoundSignature>, ImageError> {
        let (mut found, repository) = (Vec::new(), repository(&self.source.image));
        for digest in digests {
            let name = format!("{repository}:{}", signature::tag(*digest));
            let Some((sum, _)) = self.target(&name).await? else { continue };
            let manifest: ImageManifest = document::json("signatures", &self.small(sum, MAX_DOCUMENT).await?)?;
            for (at, signature) in signature::named(&manifest).take(MAX_SIGNATURES - found.len()) {
                let payload = self.small(BlobDigest::named(at)?, MAX_PAYLOAD).await?;
                found.push(FoundSignature { payload, signature: signature.to_owned() });
            }
        }
        Ok(found)
    }

    async fn blob(&self, descriptor: &Descriptor, blobs: &BlobStore, to: &dyn Progress) -> Result<(), ImageError> {
        self.copy(BlobDigest::named(descriptor)?, descriptor.size(), blobs, to).await
    }
}

/// A name without its tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_name_without_tag_and_digest() {
        for (image, expected) in [
            ("docker.io/library/echo:1", "docker.io/library/echo"),
            ("registry:5000/echo", "registry:5000/echo"),
            ("registry:5000/echo:1@sha256:00", "registry:5000/echo"),
            ("echo", "echo"),
        ] {
            assert_eq!(repository(image), expected);
        }
    }

    #[test]
    fn messages_have_the_fields_of_containerds_own() {
        // An image `a` with a label, whose target is `b` of three bytes, of some kind.
        let said = b"\x0a\x15\x0a\x01a\x12\x06\x0a\x01k\x12\x01v\x1a\x08\x0a\x01t\x12\x01b\x18\x03";
        let image = GetImageResponse::decode(&said[..]).unwrap().image.unwrap();
        assert_eq!((image.name.as_str(), image.target), ("a", Some(Target { digest: "b".into(), size: 3 })));
        let piece = ReadContentResponse::decode(&b"\x08\x05\x12\x02hi"[..]).unwrap();
        assert_eq!(piece.data, b"hi");
        assert_eq!(ReadContentRequest { digest: "d".into() }.encode_to_vec(), b"\x0a\x01d");
    }
}
