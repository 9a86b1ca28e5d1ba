//! [`SealingKeyFile`]: where the key lies that seals all others.

use std::path::{Path, PathBuf};

use seal::Key;
use serde::Deserialize;

/// Its name in the store's directory.
pub(crate) const NAME: &str = "sealing.key";
/// Where it lay by default before.
const FORMER: &str = "/var/lib/palatine/gateway/sealing.key";

/// Where the sealing key lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub enum SealingKeyFile {
    /// Where the configuration says, and nowhere else.
    Configured(PathBuf),
    /// The configuration says nothing of it.
    Default {
        /// Where it is made.
        file: PathBuf,
        /// Where it is looked for besides, if the database is sealed already.
        former: PathBuf,
    },
}

impl SealingKeyFile {
    /// The default: in the store's directory, which lasts and may be written to.
    #[must_use]
    pub fn within(directory: &Path) -> Self {
        Self::Default { file: directory.join(NAME), former: PathBuf::from(FORMER) }
    }

    /// Where it lies, or is made.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Configured(file) | Self::Default { file, .. } => file,
        }
    }

    /// Which of the files it may lie in holds a key like this.
    pub(crate) fn found(&self, is_it: impl Fn(&Key) -> bool) -> Option<&Path> {
        let mut files = [self.path()].into_iter().chain(self.former());
        files.find(|file| seal::read(file).is_ok_and(|key| is_it(&key)))
    }

    /// Where it may lie instead.
    pub(crate) fn former(&self) -> Option<&Path> {
        match self {
            Self::Configured(_) => None,
            Self::Default { former, .. } => Some(former),
        }
    }
}

impl From<PathBuf> for SealingKeyFile {
    fn from(file: PathBuf) -> Self {
        Self::Configured(file)
    }
}
