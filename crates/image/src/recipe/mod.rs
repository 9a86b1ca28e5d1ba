//! The local recipe: an `image.toml` beside files, built into an OCI image.
//!
//! ```toml
//! from = "scratch"                 # or the name of an image in the store
//! entrypoint = ["/usr/bin/agent"]
//! user = "1000:1000"
//! port = 8080
//! ready = "/ready"
//!
//! [env]
//! LOG = "info"
//!
//! [[packages]]                     # of Debian, on an empty root or on an image that has apt
//! suite = "bookworm"
//! include = ["ca-certificates", "git", "python3"]
//!
//! [[pip]]                          # wheels, into a virtual environment
//! python = "3.11"
//! requirements = ["httpx==0.28.1"]
//! to = "/opt/agent"
//!
//! [[npm]]                          # packages, below <to>/node_modules
//! packages = ["typescript@5.9.3"]
//! to = "/opt/tools"
//!
//! [[tar]]                          # an archive, packed or plain, as a layer
//! from = "layer.tar.gz"
//!
//! [[directory]]
//! path = "/tmp"
//! mode = "1777"
//!
//! [[copy]]
//! from = "agent"                   # relative to the context
//! to = "/usr/bin/agent"
//! mode = "0755"
//! owner = "root:root"              # by names of the image, or by numbers
//!
//! [[run]]                          # as root of the image alone, without a network
//! command = "useradd --create-home agent"
//! timeout_s = 60
//! ```
//!
//! Steps are done in the order in which they stand. The same recipe, files and
//! `image.lock` give the same digest: nothing of the clock, of owners or of the
//! order of directories gets in. What `[[packages]]`, `[[pip]]` and `[[npm]]` mean is
//! looked up once and written to `image.lock` beside the recipe.

mod check;
mod error;
mod file;
mod steps;

pub use error::RecipeError;
pub use file::{FILE_NAME, Recipe, RunSettings, SCRATCH};
pub use steps::{
    Action, CopyStep, DirectoryStep, FileMode, NpmStep, Ownership, PackagesStep, PipStep, RunStep, Step, StepLimits,
    TarStep, WriteStep,
};
