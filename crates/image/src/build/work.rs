//! What every step is done with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::confine::{Bind, Confined, Slash};
use crate::recipe::StepLimits;
use crate::{Config, ImageError, Progress};

/// What every step is done with.
pub(super) struct Work<'a> {
    /// A folder of this build's own.
    pub(super) scratch: &'a Path,
    /// The variables that the image is run with.
    pub(super) env: &'a BTreeMap<String, String>,
    /// No file is younger: seconds since 1970.
    pub(super) epoch: i64,
    pub(super) bounds: &'a Config,
    pub(super) to: &'a dyn Progress,
}

impl Work<'_> {
    /// A new folder in the scratch.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, ImageError> {
        let path = self.scratch.join(name);
        let made = match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::create_dir(&path),
        };
        made.map(|()| path.clone()).map_err(|source| ImageError::file("create", &path, source))
    }

    /// Runs the words in the image's own root, with what is bound there.
    pub(super) fn in_image(
        &self,
        root: &Path,
        binds: Vec<Bind<'_>>,
        limits: StepLimits,
        words: &[&str],
    ) -> Result<(), ImageError> {
        let mut env = self.env.clone();
        env.extend(self.fixed());
        self.run(Slash::Image(root), root, binds, env, limits, words)
    }

    /// Runs a program of the host's that fills the image's root.
    pub(super) fn on_root(&self, root: &Path, binds: Vec<Bind<'_>>, words: &[&str]) -> Result<(), ImageError> {
        self.run(Slash::HostPrograms, root, binds, self.fixed(), StepLimits::default(), words)
    }

    fn run(
        &self,
        slash: Slash<'_>,
        root: &Path,
        binds: Vec<Bind<'_>>,
        env: BTreeMap<String, String>,
        limits: StepLimits,
        words: &[&str],
    ) -> Result<(), ImageError> {
        let mounts = matches!(slash, Slash::HostPrograms);
        let watched = (root, self.bounds.max_entries);
        Confined { slash, binds, env, mounts, limits, watched }.run(words, self.to)
    }

    /// What makes programs do the same each time, and ask nobody.
    fn fixed(&self) -> BTreeMap<String, String> {
        let fixed = [
            ("SOURCE_DATE_EPOCH", self.epoch.to_string()),
            ("HOME", "/root".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("PYTHONHASHSEED", "0".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ];
        fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
