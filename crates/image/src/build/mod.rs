//! Recipes and Containerfiles to images, always the same.
//!
//! | file | does |
//! |---|---|
//! | `stages` | takes the steps one after the other; each leaves a layer |
//! | `cache` | finds the layer that a step with the same inputs left before |
//! | `packages`, `pip`, `npm` | look up once what a step means (`pins`), fetch and install it |
//! | `confine` | runs what belongs to the image: in namespaces of its own, bounded (`cgroup`), without calls (`filter`) that no build needs |
//! | `root`, `tidy`, `pack` | what a step changed, without what changes from build to build, as a layer |
//! | `work` | what every step is done with |
//! | `plan` | what `buildah` is to do with a holder's context, by its Containerfile or its recipe |
//! | `containerfile` | has `buildah` do it, behind the same walls |
//! | `documents` | the image's config and manifest |
//!
//! Programs of the image run as root of a user namespace whose ids mean nobody on the
//! host, without a network, and see no file of the host but the programs that install
//! packages. What fetches (apt, pip, npm) is the host's own, and runs nothing it fetched.

mod cache;
mod cgroup;
mod confine;
mod containerfile;
mod documents;
mod error;
mod filter;
mod npm;
mod pack;
mod packages;
mod pins;
mod pip;
mod plan;
mod root;
mod stages;
mod tidy;
mod work;

pub(crate) use cache::LayerCache;
pub use confine::{last, plain_line};
pub use containerfile::find as find_containerfile;
pub(crate) use containerfile::{
    Bases, BuildFiles, ContainerfileBuild, ENVIRONMENT, LIMITS, Layout, SETTINGS, bases, build as build_containerfile,
    chosen, explained, file_name, looked_for, must_fit, read as read_containerfile, read_packed, storage,
};
pub use error::BuildError;
pub(crate) use plan::{MAX_BYTES as MAX_RECIPE_BYTES, Plan};
pub(crate) use stages::{BuildRequest, build};
