//! An image's config and manifest, from its recipe and its layers.

use std::collections::HashMap;

use oci_spec::image::{
    Arch, Config as OciConfig, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifest,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ImageError;
use crate::blobs::BlobStore;
use crate::digest::BlobDigest;
use crate::document::{self, descriptor};
use crate::recipe::RunSettings;

/// A layer, and the digest of its plain bytes.
#[derive(Clone, Debug)]
pub(super) struct BuiltLayer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: BlobDigest,
}

impl BuiltLayer {
    /// One that is not packed.
    pub(super) fn plain(sum: BlobDigest, bytes: u64) -> Self {
        Self { descriptor: descriptor(MediaType::ImageLayer, sum, bytes), diff_id: sum }
    }
}

/// The layers and the config of the image with this manifest.
pub(super) fn below(
    sum: BlobDigest,
    blobs: &BlobStore,
) -> Result<(Vec<BuiltLayer>, Option<ImageConfiguration>), ImageError> {
    let manifest: ImageManifest = document::json("manifest", &blobs.document(sum)?)?;
    let config: ImageConfiguration = document::json("config", &blobs.document(BlobDigest::named(manifest.config())?)?)?;
    document::check_config(&config, &manifest)?;
    let layers = manifest.layers().iter().zip(config.rootfs().diff_ids());
    let layers = layers.map(|(descriptor, diff_id)| {
        Ok(BuiltLayer { descriptor: descriptor.clone(), diff_id: BlobDigest::parse(diff_id)? })
    });
    Ok((layers.collect::<Result<_, ImageError>>()?, Some(config)))
}

/// Keeps config and manifest of an image that is run so and made of these layers at
/// this time (seconds since 1970).
pub(super) fn keep(
    run: &RunSettings,
    layers: &[BuiltLayer],
    below: Option<ImageConfiguration>,
    created: i64,
    blobs: &BlobStore,
) -> Result<BlobDigest, ImageError> {
    let config = bytes("config", &config(run, layers, below, created)?)?;
    let config = descriptor(MediaType::ImageConfig, blobs.keep(&config)?, config.len() as u64);
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers.iter().map(|layer| layer.descriptor.clone()).collect::<Vec<_>>())
        .build()
        .map_err(|error| ImageError::document("manifest", error))?;
    blobs.keep(&bytes("manifest", &manifest)?)
}

fn config(
    run: &RunSettings,
    layers: &[BuiltLayer],
    below: Option<ImageConfiguration>,
    created: i64,
) -> Result<ImageConfiguration, ImageError> {
    let odd = |error| ImageError::document("config", error);
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().map_err(odd)?;
    let created = OffsetDateTime::from_unix_timestamp(created).ok().and_then(|at| at.format(&Rfc3339).ok());
    let created = created.ok_or_else(|| ImageError::document("config", "SOURCE_DATE_EPOCH is no time"))?;
    ImageConfigurationBuilder::default()
        .created(created)
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(over(run, below.and_then(|config| config.config().clone()).unwrap_or_default()))
        .rootfs(rootfs)
        .build()
        .map_err(odd)
}

/// The recipe's settings over those of the image below.
fn over(settings: &RunSettings, mut run: OciConfig) -> OciConfig {
    if let Some(entrypoint) = &settings.entrypoint {
        run.set_entrypoint(Some(entrypoint.clone()));
        // What the image below passed to its own program.
        run.set_cmd(None);
    }
    if settings.cmd.is_some() {
        run.set_cmd(settings.cmd.clone());
    }
    let kept = |set: &Option<String>, old: &Option<String>| set.clone().or_else(|| old.clone());
    run.set_working_dir(kept(&settings.workdir, run.working_dir()));
    run.set_user(kept(&settings.user, run.user()));
    run.set_stop_signal(kept(&settings.stop_signal, run.stop_signal()));
    run.set_env(Some(environment(settings, run.env().as_deref().unwrap_or_default())));
    let mut labels: HashMap<_, _> = run.labels().clone().unwrap_or_default();
    labels.extend(settings.labels.clone());
    run.set_labels(Some(labels));
    run
}

/// The recipe's variables over those of the image below, as `NAME=value`.
fn environment(settings: &RunSettings, below: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let kept = below.iter().filter(|variable| !settings.env.contains_key(&name(variable))).cloned();
    kept.chain(settings.env.iter().map(|(name, value)| format!("{name}={value}"))).collect()
}

/// A document's bytes. Through a [`serde_json::Value`], whose maps are sorted:
/// the library keeps labels in an order that changes from run to run.
fn bytes(what: &'static str, document: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    let odd = |error: serde_json::Error| ImageError::document(what, error);
    serde_json::to_vec(&serde_json::to_value(document).map_err(odd)?).map_err(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_without_a_date_is_dated_as_before() {
        let config = config(&RunSettings::default(), &[], None, 0).unwrap();
        assert_eq!(config.created().as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
