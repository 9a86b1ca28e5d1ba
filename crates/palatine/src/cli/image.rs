//! `palatine image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use domain::ImageRef;

/// Which image store is meant, where the operator's images are: those that everybody may spawn.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageStoreArgs {
    /// The store of this machine's node: of what `palatine up` runs here, or of the configuration that is found
    #[arg(long, global = true, conflicts_with = "store")]
    pub(crate) node: bool,
    /// The store of the node with this configuration
    #[arg(long, short, global = true, env = "PALATINE_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The store in this folder, which nobody serves, whatever the configuration says
    #[arg(long, global = true, value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
}

impl ImageStoreArgs {
    /// Whether a store on this machine was named, and not what runs.
    pub(crate) const fn is_named(&self) -> bool {
        self.node || self.config.is_some() || self.store.is_some()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bring an image of your own to the gateway; what broke off goes on
    Push(PushImage),
    /// Give one of your images another name beside its own
    Tag {
        /// The image: name or name:tag
        image: ImageRef,
        /// The other name
        name: ImageRef,
    },
    /// Let everybody spawn one of your images, as <your wallet>/<name>
    Publish {
        /// The image: name or name:tag
        image: ImageRef,
        /// Take it back: nobody else spawns it from now on
        #[arg(long)]
        undo: bool,
    },
    /// Take in an OCI layout or archive (docker save, podman, skopeo): as an image of your own, as push does; with --node for everybody
    Import {
        /// The layout's folder or the archive; with --containerd the image's name there, in full
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Its name: what `agent_type` will say
        name: String,
        #[command(flatten)]
        from: FromContainerd,
    },
    /// Take an image from a registry, by digest, into the store of this machine's node
    Pull {
        /// Such as registry.example/agents/chat@sha256:…
        reference: String,
        /// Its name
        name: String,
    },
    /// Build a Containerfile or an image.toml, on the node that will have the image, as one of your own; with --node, --config or --store for everybody, packages and all
    Build {
        /// The folder with its image.toml, Containerfile or Dockerfile, or one of these files
        #[arg(value_hint = ValueHint::AnyPath)]
        dir: PathBuf,
        /// Its name: what `agent_type` will say
        name: String,
        /// Where what it copies is; by default its own folder
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        context: Option<PathBuf>,
        /// Look the versions of its packages up anew, and write them to image.lock
        #[arg(long)]
        update: bool,
        /// The time of the image: seconds since 1970, and no file is younger
        #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=253_402_300_799))]
        date: i64,
    },
    /// Write an image of a store as an OCI archive, to push it, or to import it on another machine
    Export {
        /// Its name
        name: String,
        /// The file, such as chat.oci.tar.gz
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// List the images that you may spawn; with --node, --config or --store, those of a store
    Ls,
    /// Show one of your images; with --node, --config or --store, one of a store
    Show {
        /// Its name
        name: String,
    },
    /// Remove one of your images; with --node, --config or --store, one of a store
    Rm {
        /// Its name
        name: String,
    },
}

impl ImageCommand {
    /// Whether the gateway is asked for it, and no store on this machine.
    pub(crate) const fn is_for_gateway(&self, store: &ImageStoreArgs) -> bool {
        match self {
            Self::Push(_) | Self::Tag { .. } | Self::Publish { .. } => true,
            Self::Import { from, .. } if from.containerd.is_some() => false,
            Self::Import { .. } | Self::Build { .. } | Self::Ls | Self::Show { .. } | Self::Rm { .. } => {
                !store.is_named()
            }
            Self::Pull { .. } | Self::Export { .. } => false,
        }
    }

    /// Whether a store is otherwise after it.
    pub(crate) const fn changes(&self) -> bool {
        match self {
            Self::Import { .. } | Self::Pull { .. } | Self::Build { .. } | Self::Rm { .. } => true,
            Self::Export { .. }
            | Self::Ls
            | Self::Show { .. }
            | Self::Push(_)
            | Self::Tag { .. }
            | Self::Publish { .. } => false,
        }
    }
}

/// Where an image is taken from that is in a containerd of this machine.
#[derive(Debug, Args)]
pub(crate) struct FromContainerd {
    /// Take it from the operator's own containerd (images.containerd, or this socket), for everybody
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, value_hint = ValueHint::FilePath)]
    pub(crate) containerd: Option<Option<PathBuf>>,
    /// Its namespace there: k8s.io has those of Kubernetes, moby those of docker
    #[arg(long, requires = "containerd", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushImage {
    /// An archive (docker save, podman save, skopeo copy), or the folder of an OCI layout
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// What it is called: name or name:tag. What has that name is replaced
    pub(crate) image: ImageRef,
    /// Let everybody spawn it, as <your wallet>/<name>
    #[arg(long)]
    pub(crate) publish: bool,
}
