//! The project's own images of packages: recipes among the assets, built here when one is first wanted.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image::{BuildOptions, ImageStore, Progress};
use toml::Table;
use wire::v1::public::STARTER_IMAGES;

use crate::commands::build::BuildProgress;
use crate::config::Config;
use crate::up::{LocalStackInfo, StateDir};

/// What stands for all of them.
pub(crate) const ALL: &str = "all";
/// Who has a lock on this file, beside the recipes' copies, builds.
const LOCK: &str = ".lock";
/// How often it is looked whether another command still builds.
const LOOK: Duration = Duration::from_millis(200);
/// What a recipe says that builds on nothing.
const SCRATCH: &str = "scratch";

/// The recipes, and the store of what runs here.
#[derive(Clone, Debug)]
pub(crate) struct Starters {
    recipes: PathBuf,
    /// Where they are copied to: what a build looks up is written beside its recipe.
    copies: PathBuf,
    settings: Settings,
}

/// Where it is said how images are made, and where they lie.
#[derive(Clone, Debug)]
pub(crate) enum Settings {
    Known(Box<image::Config>),
    /// In this configuration.
    In(PathBuf),
}

impl Settings {
    fn read(&self) -> Result<image::Config> {
        match self {
            Self::Known(images) => Ok((**images).clone()),
            Self::In(config) => Ok(Config::load(Some(config))?.images),
        }
    }
}

impl Starters {
    /// Those among these assets, for the store of the stack with this state.
    pub(crate) fn new(assets: &Path, state: &StateDir, settings: Settings) -> Self {
        Self { recipes: assets.join("images"), copies: state.root().join("recipes"), settings }
    }

    /// Those of the stack that runs here.
    pub(crate) fn of(stack: &LocalStackInfo, state: &StateDir) -> Self {
        Self::new(&stack.assets, state, Settings::In(stack.config.clone()))
    }

    /// Whether one can be built here.
    pub(crate) fn has(&self, name: &str) -> bool {
        STARTER_IMAGES.contains(&name) && self.recipe(name).is_some()
    }

    /// Builds those of these that the store has not, and what they build on, and shows how it goes. Blocks; needs root.
    pub(crate) fn build(&self, names: &[String]) -> Result<()> {
        let all = names.iter().any(|name| name == ALL);
        let names: Vec<&str> = if all { STARTER_IMAGES.to_vec() } else { names.iter().map(String::as_str).collect() };
        if let Some(first) = names.first()
            && !rustix::process::geteuid().is_root()
        {
            bail!(
                "the image {first} is not built here yet, and root alone builds images: sudo -E palatine up --images {first}"
            );
        }
        if names.is_empty() {
            return Ok(());
        }
        let _turn = self.turn()?;
        let store = ImageStore::open(&self.settings.read()?).context("open the image store")?;
        names.into_iter().try_for_each(|name| self.build_one(&store, name))
    }

    /// Waits until no other command builds here: it would take the recipe away that is being read.
    fn turn(&self) -> Result<File> {
        let at = || format!("lock {}", self.copies.display());
        fs::create_dir_all(&self.copies).with_context(at)?;
        let file = File::create(self.copies.join(LOCK)).with_context(at)?;
        let mut waiting = None;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(at),
            }
            if waiting.is_none() {
                eprintln!("Another command builds images here; waiting for it");
                waiting = Some(BuildProgress::start()?);
            }
            if waiting.as_ref().is_some_and(Progress::stopped) {
                bail!("stopped while another command built images here");
            }
            thread::sleep(LOOK);
        }
    }

    fn build_one(&self, store: &ImageStore, name: &str) -> Result<()> {
        if store.list()?.iter().any(|image| image.names.iter().any(|known| known == name)) {
            return Ok(());
        }
        let Some(recipe) = self.recipe(name) else {
            bail!("there is no recipe of {name} in {}", self.recipes.display());
        };
        let below = below(&recipe)?;
        if below != SCRATCH {
            self.build_one(store, &below)?;
        }
        eprintln!("Building the image {name}, which is not here yet: once, for some minutes");
        let progress = BuildProgress::start()?;
        let copy = self.copied(&recipe)?;
        let built = store.build(&copy, &BuildOptions::default(), name, &progress);
        built.with_context(|| format!("build the image {name}; to try again: palatine up --images {name}"))?;
        progress.done();
        Ok(())
    }

    /// The folder of a recipe: agents' have a longer name.
    fn recipe(&self, name: &str) -> Option<PathBuf> {
        let folders = [format!("agent-{name}"), name.to_owned()].map(|folder| self.recipes.join(folder));
        folders.into_iter().find(|folder| folder.join("image.toml").is_file())
    }

    fn copied(&self, recipe: &Path) -> Result<PathBuf> {
        let to = self.copies.join(recipe.file_name().context("find the name of a recipe's folder")?);
        let copy = || -> Result<()> {
            if to.exists() {
                fs::remove_dir_all(&to)?;
            }
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(recipe)? {
                let file = entry?.path();
                fs::copy(&file, to.join(file.file_name().unwrap_or_default()))?;
            }
            Ok(())
        };
        copy().with_context(|| format!("copy {} to {}", recipe.display(), to.display()))?;
        Ok(to)
    }
}

/// What a recipe builds on.
fn below(recipe: &Path) -> Result<String> {
    let file = recipe.join("image.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let recipe: Table = toml::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    Ok(recipe.get("from").and_then(|from| from.as_str()).unwrap_or(SCRATCH).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_of_packages_has_a_recipe_that_builds_on_nothing_or_on_another_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let starters = Starters::new(&checkout, &state, Settings::In(dir.path().join("nothing")));
        for name in STARTER_IMAGES {
            assert!(starters.has(name), "{name}");
            let below = below(&starters.recipe(name).unwrap()).unwrap();
            assert!(below == SCRATCH || STARTER_IMAGES.contains(&below.as_str()), "{name} builds on {below}");
        }
        // What every stack has is not built by need, and nobody else's is.
        assert!(!starters.has("echo") && !starters.has("../base"));
    }

    #[test]
    fn one_command_at_a_time_builds_here() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let starters = Starters::new(dir.path(), &state, Settings::In(dir.path().join("nothing")));
        let (turn, other) = (starters.turn().unwrap(), starters.clone());
        let (done, ended) = std::sync::mpsc::channel();
        let waiting = thread::spawn(move || done.send(other.turn().map(drop)));
        assert!(ended.recv_timeout(3 * LOOK).is_err(), "it waits");
        drop(turn);
        ended.recv().unwrap().unwrap();
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_recipe_is_copied_whole_and_the_one_among_the_assets_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(&dir.path().join("state"))).unwrap();
        let recipe = dir.path().join("images/agent-nano");
        fs::create_dir_all(&recipe).unwrap();
        fs::write(recipe.join("image.toml"), "from = \"scratch\"").unwrap();
        fs::write(recipe.join("agent.py"), "1").unwrap();
        let starters = Starters::new(dir.path(), &state, Settings::In(dir.path().join("nothing")));
        for _ in 0..2 {
            let copy = starters.copied(&recipe).unwrap();
            assert_eq!(fs::read_to_string(copy.join("agent.py")).unwrap(), "1");
            assert!(!copy.join("image.lock").exists(), "nothing is left of an earlier build");
            fs::write(copy.join("image.lock"), "").unwrap();
        }
        assert!(!recipe.join("image.lock").exists());
    }
}
