//! Builds a recipe's layer and its image's documents, always the same.

use std::collections::HashMap;
use std::io::Seek;
use std::path::Path;

use oci_spec::image::{
    Arch, Config as OciConfig, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifest,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::blobs::{BlobStore, publish};
use crate::contents::LayerContents;
use crate::contract;
use crate::digest::{BlobDigest, HashingReader};
use crate::document::{self, descriptor};
use crate::recipe::Recipe;
use crate::{ImageError, Progress};

/// The time of everything that is built: none.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Builds the image over `base` (the manifest of the image below), keeps its
/// blobs, and returns its manifest.
pub(crate) fn build(
    recipe: &Recipe,
    context: &Path,
    base: Option<BlobDigest>,
    blobs: &BlobStore,
    scratch: &Path,
    to: &dyn Progress,
) -> Result<BlobDigest, ImageError> {
    let (mut layers, below) = match base {
        None => (Vec::new(), None),
        Some(sum) => below(sum, blobs)?,
    };
    let contents = LayerContents::of(recipe, context)?;
    to.step("write the layer", Some(contents.bytes()));
    let (sum, size) = layer(&contents, blobs, scratch, to)?;
    layers.push(descriptor(MediaType::ImageLayer, sum, size));
    let config = bytes("config", &config(recipe, below, sum)?)?;
    let config = descriptor(MediaType::ImageConfig, blobs.keep(&config)?, config.len() as u64);
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .map_err(|error| ImageError::document("manifest", error))?;
    blobs.keep(&bytes("manifest", &manifest)?)
}

fn below(sum: BlobDigest, blobs: &BlobStore) -> Result<(Vec<Descriptor>, Option<ImageConfiguration>), ImageError> {
    let manifest: ImageManifest = document::json("manifest", &blobs.document(sum)?)?;
    let config = document::json("config", &blobs.document(BlobDigest::named(manifest.config())?)?)?;
    Ok((manifest.layers().clone(), Some(config)))
}

fn layer(
    contents: &LayerContents,
    blobs: &BlobStore,
    scratch: &Path,
    to: &dyn Progress,
) -> Result<(BlobDigest, u64), ImageError> {
    let failed = |source| ImageError::file("write", scratch, source);
    let mut file = NamedTempFile::new_in(scratch).map_err(failed)?;
    contents.write(file.as_file_mut(), to)?;
    file.rewind().map_err(failed)?;
    let (sum, size) = HashingReader::new(file.as_file(), u64::MAX).finish().map_err(failed)?;
    publish(file, &blobs.path(sum))?;
    Ok((sum, size))
}

fn config(
    recipe: &Recipe,
    below: Option<ImageConfiguration>,
    layer: BlobDigest,
) -> Result<ImageConfiguration, ImageError> {
    let mut diff_ids = below.as_ref().map(|config| config.rootfs().diff_ids().clone()).unwrap_or_default();
    diff_ids.push(layer.to_string());
    let odd = |error| ImageError::document("config", error);
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().map_err(odd)?;
    let run = below.and_then(|config| config.config().clone()).unwrap_or_default();
    ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(over(recipe, run))
        .rootfs(rootfs)
        .build()
        .map_err(odd)
}

/// The recipe's settings over those of the image below.
fn over(recipe: &Recipe, mut run: OciConfig) -> OciConfig {
    if let Some(entrypoint) = &recipe.entrypoint {
        run.set_entrypoint(Some(entrypoint.clone()));
        // What the image below passed to its own program.
        run.set_cmd(None);
    }
    if recipe.cmd.is_some() {
        run.set_cmd(recipe.cmd.clone());
    }
    let kept = |set: &Option<String>, old: &Option<String>| set.clone().or_else(|| old.clone());
    run.set_working_dir(kept(&recipe.workdir, run.working_dir()));
    run.set_user(kept(&recipe.user, run.user()));
    run.set_stop_signal(kept(&recipe.stop_signal, run.stop_signal()));
    run.set_env(Some(environment(recipe, run.env().as_deref().unwrap_or_default())));
    run.set_labels(Some(labels(recipe, run.labels().clone().unwrap_or_default())));
    run
}

fn environment(recipe: &Recipe, below: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let kept = below.iter().filter(|variable| !recipe.env.contains_key(&name(variable))).cloned();
    kept.chain(recipe.env.iter().map(|(name, value)| format!("{name}={value}"))).collect()
}

fn labels(recipe: &Recipe, mut labels: HashMap<String, String>) -> HashMap<String, String> {
    labels.extend(recipe.labels.clone());
    let of_contract = [
        (contract::PORT, recipe.port.map(|port| port.to_string())),
        (contract::READY, recipe.ready.clone()),
        (contract::HEALTH, recipe.health.clone()),
        (contract::STATE_DIR, recipe.state_dir.clone()),
    ];
    labels.extend(of_contract.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    labels
}

/// A document's bytes. Through a [`serde_json::Value`], whose maps are sorted:
/// the library keeps labels in an order that changes from run to run.
fn bytes(what: &'static str, document: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    let odd = |error: serde_json::Error| ImageError::document(what, error);
    serde_json::to_vec(&serde_json::to_value(document).map_err(odd)?).map_err(odd)
}
