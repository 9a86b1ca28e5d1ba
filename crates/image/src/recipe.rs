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
//! [[directory]]
//! path = "/tmp"
//! mode = "1777"
//!
//! [[copy]]
//! from = "agent"                   # relative to the context
//! to = "/usr/bin/agent"
//! mode = "0755"
//! ```
//!
//! The same recipe and the same files give the same digest: nothing of the
//! clock, of owners or of the order of directories gets in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The recipe's file name.
pub const FILE_NAME: &str = "image.toml";
/// The `from` of an image that builds on nothing.
pub const SCRATCH: &str = "scratch";
/// Bytes of a recipe at most.
const MAX_BYTES: u64 = 1 << 20;

/// A recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it builds on: `scratch`, or an image's name.
    pub from: String,
    /// Program and first arguments; of the image below when absent.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments; of the image below when absent.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    /// Environment, over that of the image below.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Labels, over those of the image below.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// The signal that asks it to end.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// The TCP port it serves.
    #[serde(default)]
    pub port: Option<u16>,
    /// The path that answers 2xx when it is usable.
    #[serde(default)]
    pub ready: Option<String>,
    /// The path that answers 2xx while it is alive.
    #[serde(default)]
    pub health: Option<String>,
    /// Where it keeps state.
    #[serde(default)]
    pub state_dir: Option<String>,
    /// Directories to make.
    #[serde(default)]
    pub directory: Vec<DirectoryStep>,
    /// Files to write, with their text here.
    #[serde(default)]
    pub write: Vec<WriteStep>,
    /// Files and directories to copy.
    #[serde(default)]
    pub copy: Vec<CopyStep>,
}

/// `[[directory]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryStep {
    /// Where, in the image.
    pub path: String,
    /// Permissions in octal. Default `0755`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// `[[write]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteStep {
    /// Where, in the image.
    pub to: String,
    /// What.
    pub text: String,
    /// Permissions in octal. Default `0644`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// `[[copy]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyStep {
    /// What, relative to the context; a directory is copied with all below it.
    pub from: PathBuf,
    /// Where, in the image.
    pub to: String,
    /// Permissions of files in octal. Default `0755` for what may be executed,
    /// else `0644`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// Permissions, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const STICKY_AND_PERMISSIONS: u32 = 0o1777;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| mode & !STICKY_AND_PERMISSIONS == 0);
        mode.map(Self).ok_or_else(|| format!("{text:?} is no mode such as \"0755\""))
    }
}

/// An owner, by numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ownership {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl TryFrom<String> for Ownership {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let (uid, gid) = numbers.ok_or_else(|| format!("{text:?} is no owner such as \"1000:1000\""))?;
        Ok(Self { uid, gid })
    }
}

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
    /// A path in the image that cannot be.
    #[error("{0:?} is no path in an image: begin it with '/', without '..'")]
    Target(String),
}

impl Recipe {
    /// Reads the recipe at `path`: the file, or the directory that holds it.
    ///
    /// # Errors
    /// Says where it looked, or what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let file = if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() };
        let missing = |source| RecipeError::Missing { path: file.clone(), source };
        let mut text = String::new();
        let open = std::fs::File::open(&file).map_err(missing)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(open, MAX_BYTES), &mut text).map_err(missing)?;
        toml::from_str(&text).map_err(|source| RecipeError::Parse { path: file, source: Box::new(source) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_odd_modes_and_odd_owners_are_refused() {
        for text in [
            "from = 'scratch'\nentrypont = []",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nmode='4755'",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nmode='rwx'",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nowner='root'",
            "entrypoint = ['/a']",
        ] {
            assert!(toml::from_str::<Recipe>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_recipe_is_an_error_that_says_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = Recipe::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("image.toml"), "{error}");
    }
}
