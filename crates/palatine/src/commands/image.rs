//! `palatine image`: the images of this machine's node.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use client::NodeClient;
use domain::ImageDigest;
use image::{ImageStore, Listed};
use serde::Serialize;

use crate::cli::{ConfigFile, Image};
use crate::config::Config;
use crate::output::{self, show};
use crate::up::Step;

/// An image, as `--json` shows it.
#[derive(Serialize)]
pub(crate) struct Shown {
    pub(crate) digest: ImageDigest,
    pub(crate) names: Vec<String>,
    pub(crate) disk_bytes: u64,
    pub(crate) port: u16,
}

impl From<&Listed> for Shown {
    fn from(listed: &Listed) -> Self {
        let image = &listed.image;
        Self { digest: image.digest, names: listed.names.clone(), disk_bytes: image.disk_bytes, port: image.run.port }
    }
}

pub(crate) fn run(file: &ConfigFile, command: Image, json: bool) -> Result<()> {
    let config = Config::load(file.config.as_deref())?;
    let store = ImageStore::open(&config.images).context("open the image store (root keeps it)")?;
    let taken = |name: String, image: image::Image| {
        let shown = Shown::from(&Listed { names: vec![name], image });
        show(json, &shown, |shown| format!("{} {}", shown.names.join(" "), shown.digest))
    };
    match command {
        Image::Import { path, name } => {
            let step = Step::start("Importing the image");
            let image = store.import(&path, &name, &step)?;
            step.done();
            taken(name, image)?;
        }
        Image::Pull { reference, name } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let step = Arc::new(Step::start("Pulling the image"));
            let image = runtime.block_on(store.pull(&reference, Some(&name), None, step.clone()))?;
            step.finish();
            taken(name, image)?;
        }
        Image::Build { dir, name } => {
            let step = Step::start("Building the image");
            let image = store.build(&dir, None, &name, &step)?;
            step.done();
            taken(name, image)?;
        }
        Image::Ls => {
            let shown: Vec<Shown> = store.list()?.iter().map(Shown::from).collect();
            show(json, &shown, |shown| output::images(shown))?;
        }
        Image::Rm { name } => {
            let removed = store.remove(&name, &in_use(&config)?)?;
            println!("{name} ({}): {} MiB freed", removed.digest, removed.freed_bytes / (1024 * 1024));
        }
    }
    Ok(())
}

/// The images of the agents that the node has. While it does not answer, nobody
/// can tell, and nothing is removed.
fn in_use(config: &Config) -> Result<BTreeSet<ImageDigest>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let list = runtime.block_on(NodeClient::new(&config.node.socket).list());
    let sandboxes = list.context("ask the node which images are in use; start hypercore first")?;
    Ok(sandboxes.iter().map(|sandbox| sandbox.image).collect())
}
