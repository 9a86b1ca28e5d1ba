//! Why a recipe cannot be built.

use std::path::PathBuf;

/// Steps of a recipe at most.
pub(super) const MAX_STEPS: usize = 64;

/// Why a recipe cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// There is none.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not one.
    #[error("{path} cannot be read")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("line {line}: {field} {why}")]
    Field {
        /// The line of its step, from 1.
        line: usize,
        /// The step and the field.
        field: String,
        /// What is wrong with it, and what was expected.
        why: String,
    },
    /// More steps than anybody needs.
    #[error("it has {0} steps; there may be {MAX_STEPS}")]
    Steps(usize),
    /// What is to be copied is not there, or not inside the context.
    #[error("{from} is not in the context {context}")]
    Outside {
        /// What the recipe names.
        from: PathBuf,
        /// Where it was looked for.
        context: PathBuf,
    },
    /// What is to be copied is no file, directory or symlink.
    #[error("{0} is no file, directory or symlink")]
    Special(PathBuf),
    /// What is to be unpacked is no file.
    #[error("{0} is no file of the context")]
    NoFile(PathBuf),
    /// A path in the image that cannot be.
    #[error("{0:?} is no path in an image: begin it with '/', without '..'")]
    Target(String),
    /// A user or group that the image does not have at that step.
    #[error("the image has no user {user:?} with a group {group:?} here: make them by an earlier step, or use numbers")]
    Owner {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
    /// A step that is not done in a holder's build.
    #[error("line {line}: {step} {why}")]
    NotForHolders {
        /// The line of the step, from 1.
        line: usize,
        /// What it is.
        step: &'static str,
        /// Why not, and what works.
        why: &'static str,
    },
    /// A setting that is not made in a holder's build.
    #[error("{what} {why}")]
    Setting {
        /// Which.
        what: String,
        /// Why not.
        why: &'static str,
    },
}
