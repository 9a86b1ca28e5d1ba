//! Images that holders bring: their uploads, on the public API and on a node's.
//!
//! An upload goes on where it broke off, as "Resumable Uploads for HTTP"
//! (draft-ietf-httpbis-resumable-upload) has it: its offset is asked for, and what is missing
//! sent from there on.

use std::collections::BTreeMap;

use domain::{ArchiveSum, ImageDigest, ImageId, ImageRef, UnixMillis, Wallet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Secret;
use crate::fault::Code;
use crate::v1::node::ImageNeeds;

/// Bytes that have arrived: in a request, where its body begins.
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// Bytes of the whole archive.
pub const UPLOAD_LENGTH: &str = "upload-length";
/// Whether all have arrived: `?1`, or `?0`.
pub const UPLOAD_COMPLETE: &str = "upload-complete";
/// What the body of a `PATCH` is.
pub const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// `POST /images`: an archive is to be uploaded. The same one again goes on with the upload
/// that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// What its holder calls the image: `name:tag`, or `name` for its `latest`. What has that
    /// name is replaced, once the new one is there, which is private until it is published.
    pub image: ImageRef,
    /// Bytes of the archive.
    #[schema(example = 52_428_800)]
    pub size: u64,
    /// The SHA-256 of the archive.
    pub sha256: ArchiveSum,
}

/// An archive on its way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageUpload {
    /// Its name for `/images/uploads/{id}`.
    pub id: ImageId,
    /// What the image will be called.
    pub image: ImageRef,
    /// Bytes of the archive.
    pub size: u64,
    /// How far it is.
    pub state: UploadState,
    /// When it is given up, if it is not whole by then.
    pub expires_at: UnixMillis,
    /// What opens the upload, as `Authorization: Bearer`: in the answer of `POST /images` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum UploadState {
    /// Bytes are missing, or its commit is.
    Receiving {
        /// Bytes that have arrived.
        offset: u64,
    },
    /// Its node does not answer just now.
    Unknown,
    /// The node makes an image of it.
    Importing {
        /// What it is doing, in a few words.
        step: String,
        /// What it is built in, where it is a build's context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<BuildRuntime>,
    },
    /// It is no image that can be taken. Nothing of it is left.
    Failed {
        /// Why, as a fault has it.
        code: Code,
        /// What is wrong with it.
        error: String,
    },
    /// The image is there.
    Imported {
        /// Which.
        image: HolderImage,
    },
}

/// An image that a holder has brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HolderImage {
    /// What its holder calls it.
    pub image: ImageRef,
    /// What an `agent_type` calls it: for its holder the name alone does, too.
    #[schema(example = "4Nd1mYk3mVBrXzVtPpVnV6vWzjYwQbQ1tY5rP1u1n5o3/work:v2")]
    pub agent_type: String,
    /// Whose it is.
    pub wallet: Wallet,
    /// The digest of its manifest.
    pub digest: ImageDigest,
    /// What it takes of the node's disk. What shares it, another tag of the same upload, takes
    /// no more.
    pub bytes: u64,
    /// Whether everybody may spawn it.
    pub published: bool,
    /// When it came, or was tagged.
    pub created_at: UnixMillis,
    /// What it needs.
    #[serde(default, skip_serializing_if = "ImageNeeds::is_empty")]
    pub needs: ImageNeeds,
    /// What it was built in; absent where it was built elsewhere, and brought as an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in: Option<BuildRuntime>,
}

/// The answer of `GET /images`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImagesResponse {
    /// One's own, newest first.
    pub own: Vec<HolderImage>,
    /// One's own archives on their way, and those of the last hour that were refused.
    pub uploads: Vec<ImageUpload>,
    /// Those of others that everybody may spawn, newest first: 500 at most, of each wallet as many as of the others.
    pub published: Vec<HolderImage>,
    /// Whether there are more: each is found by its name and its wallet (`GET /images/{image}?wallet=`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub published_more: bool,
    /// The operator's.
    pub operator: Vec<OperatorImage>,
    /// What one's own take together, uploads included.
    pub used_bytes: u64,
    /// What they may take; absent where one's tier cannot be told just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

/// An image of the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorImage {
    /// What an `agent_type` calls it.
    pub name: String,
    /// The digest of its manifest.
    pub digest: ImageDigest,
}

/// The answer of `GET /images/{image}`, and of what changes one image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageResponse {
    /// The image.
    pub image: HolderImage,
}

/// `PUT /images/{image}`: gives it another name beside its own, or publishes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// One of one's own images, which is to have this name too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ImageRef>,
    /// Whether everybody may spawn it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<bool>,
}

/// The answer of `DELETE /images/{image}`, and of `DELETE /images/uploads/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedImage {
    /// Always `true`: nobody spawns it any more. What runs from it goes on.
    pub success: bool,
    /// What it was called.
    pub image: ImageRef,
}

/// `PUT /v1/images/{id}` on a node: an archive is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSpec {
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: ArchiveSum,
}

/// `POST /v1/images/{id}/import` on a node: an image is to be made of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportSpec {
    /// The name that chooses, where the archive holds several images.
    pub name: String,
    /// Mebibytes that the image may have when unpacked, beside the node's own bound.
    pub max_mib: u64,
    /// How it is built, where the archive is a build's context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    /// Whose it is: holders' images are made by turns. Without it, it waits behind all others without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Wallet>,
}

/// A build that a node is to do for a holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// How, as its holder says.
    pub context: ContextBuild,
    /// What it may build on beside the operator's images: what its holder calls them, and what they are.
    #[serde(default)]
    pub bases: BTreeMap<String, ImageDigest>,
}

/// The body of `POST /images/uploads/{id}/commit`; without one, the archive is an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// The archive is the context of a build, and an image is built of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<ContextBuild>,
}

/// How an image is built of a context: by its Containerfile or its `image.toml`, shut in, without a network.
/// `FROM`, `COPY --from` and `from` name the operator's images and one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextBuild {
    /// The path of the Containerfile, or of the recipe (`*.toml`), in the context: by default `Containerfile`,
    /// `Dockerfile` or `image.toml`, whichever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub containerfile: Option<String>,
    /// The time of the image, in seconds since 1970: no file of it is younger.
    #[serde(default)]
    #[schema(maximum = 253_402_300_799_i64)]
    pub date: u64,
}

impl ContextBuild {
    /// Bytes of the Containerfile's path at most.
    pub const MAX_PATH: usize = 200;
    /// The latest date: the end of the year 9999.
    pub const MAX_DATE: u64 = 253_402_300_799;
}

/// What a holder's build really runs in: never anything else in its place. The strongest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuildRuntime {
    /// A machine of its own on KVM, without a network: its kernel is its own, and all that reads
    /// the context runs in it.
    QemuKvm,
    /// The same machine, emulated.
    QemuTcg,
    /// Namespaces of its own, made by bubblewrap: users who are nobody on the host, no network, no
    /// more system calls, memory, processes, disk and time than a build needs. Its kernel is the node's.
    ContainerBubblewrap,
}

impl BuildRuntime {
    /// All, the strongest first.
    pub const ALL: [Self; 3] = [Self::QemuKvm, Self::QemuTcg, Self::ContainerBubblewrap];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QemuKvm => "qemu-kvm",
            Self::QemuTcg => "qemu-tcg",
            Self::ContainerBubblewrap => "container-bubblewrap",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

/// What an operator calls what builds may run in. The strongest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildKind {
    /// [`BuildRuntime::QemuKvm`] or [`BuildRuntime::QemuTcg`].
    Qemu,
    /// [`BuildRuntime::ContainerBubblewrap`].
    ContainerBubblewrap,
}

impl BuildKind {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::ContainerBubblewrap => "container-bubblewrap",
        }
    }
}

/// The answer of `GET /images/uploads/{id}/log`: what a build has said, from a place on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildLogPart {
    /// Where the text begins, in bytes of all that was said: behind what was asked for, where that is
    /// kept no more.
    pub from: u64,
    /// Whole lines.
    pub text: String,
    /// Where to go on.
    pub next: u64,
}

/// What a node has of a holder's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum HeldImage {
    /// A part of the archive, or all of it.
    Receiving {
        /// Bytes that have arrived.
        offset: u64,
        /// Bytes of the whole.
        size: u64,
    },
    /// It makes an image of it.
    Importing {
        /// What it is doing.
        step: String,
        /// What it is built in, where it is a build's context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<BuildRuntime>,
    },
    /// It is no image that can be taken. Nothing of it is left but this.
    Failed {
        /// Why, as a fault has it.
        code: Code,
        /// What is wrong with it: for its holder to read.
        error: String,
    },
    /// The image.
    Held {
        /// The digest of its manifest.
        digest: ImageDigest,
        /// What it takes of the disk.
        bytes: u64,
        /// What it needs.
        #[serde(default)]
        needs: ImageNeeds,
        /// What it was built in, if it was built here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        built_in: Option<BuildRuntime>,
    },
}
