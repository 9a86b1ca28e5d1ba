//! The steps of a recipe, one after the other: each leaves a layer, or finds the one it left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::BuildError;
use super::cache::{self, LayerCache, sum_of};
use super::documents::{self, BuiltLayer};
use super::pack::{self, Owners, pack};
use super::pins::Pins;
use super::root::{BuildRoot, Change, changes, tree};
use super::tidy::tidy;
use super::work::Work;
use super::{npm, packages, pip};
use crate::blobs::{BlobStore, publish};
use crate::contents::{LayerContents, OwnerIds, inside, target};
use crate::digest::{BlobDigest, HashingReader};
use crate::layer::unpack;
use crate::progress::CountingReader;
use crate::recipe::{Action, NpmStep, Ownership, PackagesStep, Recipe, RecipeError, RunStep, Step, TarStep};
use crate::{Config, ImageError, Progress};

/// What is to be built.
pub(crate) struct BuildRequest<'a> {
    pub(crate) recipe: &'a Recipe,
    /// The recipe's file.
    pub(crate) file: &'a Path,
    /// Where what it copies is.
    pub(crate) context: &'a Path,
    /// The manifest of the image below.
    pub(crate) base: Option<BlobDigest>,
    /// Whether what `image.lock` says is looked up anew.
    pub(crate) update: bool,
    /// No file of the image is younger: seconds since 1970.
    pub(crate) epoch: i64,
}

/// Builds the image, keeps its blobs, and returns its manifest.
pub(crate) fn build(
    request: &BuildRequest<'_>,
    blobs: &BlobStore,
    cache: &LayerCache,
    scratch: &Path,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let (layers, below) = match request.base {
        None => (Vec::new(), None),
        Some(sum) => documents::below(sum, blobs)?,
    };
    let env = &request.recipe.run.env;
    let work = Work { scratch, env, epoch: request.epoch, bounds, to };
    let pins = Pins::read(request.file, request.update)?;
    let mut stages = Stages { request, work, blobs, cache, pins, layers, root: None };
    let steps = &request.recipe.steps;
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        if to.stopped() {
            return Err(BuildError::Stopped.into());
        }
        let taken = stages.take(&steps[at..]).map_err(|source| ImageError::Step {
            step: step.action.name(),
            line: step.line,
            file: request.file.to_owned(),
            source: Box::new(source),
        })?;
        at += taken;
    }
    stages.pins.finish()?;
    documents::keep(&request.recipe.run, &stages.layers, below, request.epoch, blobs)
}

struct Stages<'a> {
    request: &'a BuildRequest<'a>,
    work: Work<'a>,
    blobs: &'a BlobStore,
    cache: &'a LayerCache,
    pins: Pins,
    layers: Vec<BuiltLayer>,
    /// Made when the first step needs it.
    root: Option<BuildRoot>,
}

impl Stages<'_> {
    /// Does the first of these steps, and those that share its layer; how many.
    fn take(&mut self, steps: &[Step]) -> Result<usize, ImageError> {
        match &steps[0].action {
            Action::Directory(_) | Action::Write(_) | Action::Copy(_) => return self.files(steps),
            Action::Packages(step) => self.packages(step)?,
            Action::Pip(step) => {
                let plan = pip::plan(step, &mut self.pins, &self.work)?;
                let inputs = pip::inputs(step, &plan.pinned, self.work.env);
                self.in_root(&inputs, |root, work| pip::install(step, plan, root, work))?;
            }
            Action::Npm(step) => self.npm(step)?,
            Action::Tar(step) => self.tar(step)?,
            Action::Run(step) => self.run(step)?,
        }
        Ok(1)
    }

    fn packages(&mut self, step: &PackagesStep) -> Result<(), ImageError> {
        let plan = match packages::known(step, &mut self.pins)? {
            Some(plan) => plan,
            None => {
                let below = self.root()?.below()?;
                packages::look_up(step, &below, &mut self.pins, &self.work)?
            }
        };
        let inputs = json!({"packages": step, "installed": plan.pinned.installed, "sources": plan.sources});
        if self.found(cache::key(&self.layers, &inputs, self.work.epoch)) {
            return Ok(());
        }
        let below = self.root()?.below()?;
        self.in_root(&inputs, |root, work| packages::install(step, plan, &below, root, work))
    }

    fn run(&mut self, step: &RunStep) -> Result<(), ImageError> {
        let inputs = json!({"run": step.command, "env": self.work.env});
        let shown: String = step.command.trim().lines().next().unwrap_or_default().chars().take(60).collect();
        self.in_root(&inputs, |root, work| {
            work.to.step(&format!("run {shown}"), None);
            work.in_image(root, Vec::new(), step.limits(), &["/bin/sh", "-ec", &step.command])
        })
    }

    /// What was written, made and copied one after the other is one layer, made anew each time.
    fn files(&mut self, steps: &[Step]) -> Result<usize, ImageError> {
        let actions: Vec<&Action> = steps.iter().map(|step| &step.action).take_while(|one| is_of_files(one)).collect();
        let mut accounts = None;
        let context = self.request.context;
        let contents = LayerContents::of(&actions, context, &mut |owner| match owner {
            Ownership::Ids { uid, gid } => Ok((*uid, *gid)),
            Ownership::Names { user, group } => {
                if accounts.is_none() {
                    accounts = Some(self.root()?.accounts()?);
                }
                let ids: Option<OwnerIds> = accounts.as_ref().and_then(|known| known.ids(user, group));
                let (user, group) = (user.clone(), group.clone());
                Ok(ids.ok_or(RecipeError::Owner { user, group })?)
            }
        })?;
        self.work.to.step("write files", Some(contents.bytes()));
        let layer = self.layer(|file| contents.write(file, self.work.to))?;
        self.layers.push(layer);
        Ok(actions.len())
    }

    fn npm(&mut self, step: &NpmStep) -> Result<(), ImageError> {
        let prefix = target(&step.to)?;
        let pinned = npm::plan(step, &mut self.pins, &self.work)?;
        let inputs = json!({"npm": step, "lock": pinned.package_lock});
        let key = cache::key(&self.layers, &inputs, self.work.epoch);
        if self.found(key) {
            return Ok(());
        }
        let (folder, laid) = npm::install(step, &pinned, &self.work)?;
        let layer = self.packed(&folder, &laid, &prefix, Owners::Root)?;
        self.made(key, layer)
    }

    /// An archive is a layer as it is, but for what packs it.
    fn tar(&mut self, step: &TarStep) -> Result<(), ImageError> {
        let from = inside(self.request.context, &step.from)?;
        // A link would lead out of the context, and a device or a pipe has no end.
        if !from.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Err(RecipeError::NoFile(step.from.clone()).into());
        }
        let sum = sum_of(&from)?;
        let key = cache::key(&self.layers, &json!({"tar": sum}), self.work.epoch);
        if self.found(key) {
            return Ok(());
        }
        let failed = |source| ImageError::file("read", &from, source);
        let most = self.work.bounds.max_image_bytes();
        let open = copied(&from, &sum, most, self.work.scratch)?;
        self.work.to.step("unpack the archive", Some(open.metadata().map_err(failed)?.len()));
        let mut plain = HashingReader::new(unpack(CountingReader::new(open, self.work.to)).map_err(failed)?, most);
        let layer = self.layer(|file| io::copy(&mut plain, file).map(drop).map_err(failed))?;
        self.layers.push(layer.clone());
        // What is wrong with it is told here, where it is named.
        self.root()?;
        self.cache.keep(key, Some(&layer))
    }

    /// Does a step in the root, unless it was done with these inputs before.
    fn in_root(
        &mut self,
        inputs: &Value,
        step: impl FnOnce(&Path, &Work<'_>) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let key = cache::key(&self.layers, inputs, self.work.epoch);
        if self.found(key) {
            return Ok(());
        }
        let path = self.root()?.path().to_owned();
        let most = self.work.bounds.max_entries;
        let before = tree(&path, most)?;
        step(&path, &self.work)?;
        tidy(&path, &tree(&path, most)?)?;
        let changed = changes(&before, &tree(&path, most)?);
        let layer = self.packed(&path, &changed, Path::new(""), Owners::Shifted)?;
        if layer.is_some()
            && let Some(root) = &mut self.root
        {
            root.made_one();
        }
        self.made(key, layer)
    }

    /// Whether a step with this key was done before: then its layer is taken.
    fn found(&mut self, key: BlobDigest) -> bool {
        let Some(layer) = self.cache.find(key, self.blobs) else { return false };
        self.work.to.step("take the layer of an earlier build", None);
        self.layers.extend(layer);
        true
    }

    fn made(&mut self, key: BlobDigest, layer: Option<BuiltLayer>) -> Result<(), ImageError> {
        self.cache.keep(key, layer.as_ref())?;
        self.layers.extend(layer);
        Ok(())
    }

    /// The root, with all layers so far in it.
    fn root(&mut self) -> Result<&BuildRoot, ImageError> {
        if self.root.is_none() {
            if !rustix::process::geteuid().is_root() {
                return Err(ImageError::NotRoot);
            }
            self.root = Some(BuildRoot::create(self.work.scratch.join("build"))?);
        }
        let root = self.root.as_mut().expect("it was made above");
        root.catch_up(&self.layers, self.blobs, self.work.bounds, self.work.to)?;
        Ok(root)
    }

    fn packed(
        &self,
        root: &Path,
        changed: &BTreeMap<PathBuf, Change>,
        prefix: &Path,
        owners: Owners,
    ) -> Result<Option<BuiltLayer>, ImageError> {
        if changed.is_empty() {
            return Ok(None);
        }
        let to = self.work.to;
        to.step("write the layer", Some(pack::bytes(changed)));
        self.layer(|file| pack(root, changed, prefix, (owners, self.work.epoch), file, to)).map(Some)
    }

    /// Keeps what is written as a blob.
    fn layer(&self, write: impl FnOnce(&mut File) -> Result<(), ImageError>) -> Result<BuiltLayer, ImageError> {
        let scratch = self.work.scratch;
        let failed = |source| ImageError::file("write", scratch, source);
        let mut file = NamedTempFile::new_in(scratch).map_err(failed)?;
        write(file.as_file_mut())?;
        file.rewind().map_err(failed)?;
        let (sum, size) = HashingReader::new(file.as_file(), u64::MAX).finish().map_err(failed)?;
        publish(file, &self.blobs.path(sum))?;
        Ok(BuiltLayer::plain(sum, size))
    }
}

/// A copy of a file that has this sum: whoever writes to the file meanwhile has no layer kept under
/// the sum of another.
fn copied(from: &Path, sum: &str, most: u64, scratch: &Path) -> Result<File, ImageError> {
    let failed = |source| ImageError::file("copy", from, source);
    let mut read = HashingReader::new(File::open(from).map_err(failed)?, most);
    let mut copy = tempfile::tempfile_in(scratch).map_err(failed)?;
    io::copy(&mut read, &mut copy).map_err(failed)?;
    let found = read.finish().map_err(failed)?.0.hex();
    if found != sum {
        let (name, expected) = (from.display().to_string(), sum.to_owned());
        return Err(BuildError::Unsteady { name, expected, found }.into());
    }
    copy.rewind().map_err(failed)?;
    Ok(copy)
}

fn is_of_files(action: &Action) -> bool {
    matches!(action, Action::Directory(_) | Action::Write(_) | Action::Copy(_))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_archive_that_is_written_to_after_it_was_summed_gives_no_layer() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar");
        std::fs::write(&archive, "one").unwrap();
        let sum = sum_of(&archive).unwrap();
        let mut text = String::new();
        copied(&archive, &sum, 100, dir.path()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        std::fs::write(&archive, "another").unwrap();
        let refused = copied(&archive, &sum, 100, dir.path()).unwrap_err().to_string();
        assert!(refused.contains("is written to while it is read"), "{refused}");
        assert!(copied(&archive, &sum_of(&archive).unwrap(), 3, dir.path()).is_err());
    }
}
