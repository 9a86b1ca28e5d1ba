//! `palatine image`, where a store is meant: the images of this machine's node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client::NodeClient;
use domain::ImageDigest;
use image::{BuildOptions, ContainerdSource, ImageStore, ImageSummary};

use crate::answers::{ExportedImage, ImageRow, RemovedStoreImage};
use crate::cli::{FromContainerd, ImageCommand, ImageStoreArgs};
use crate::commands::build::BuildProgress;
use crate::config::Config;
use crate::output::{self, show};
use crate::up::{StateDir, Step};

pub(crate) fn run(state: &StateDir, named: &ImageStoreArgs, command: ImageCommand, json: bool) -> Result<()> {
    let location = StoreLocation::find(state, named)?;
    eprintln!("The image store: {}", location.images.store.display());
    let store = ImageStore::open(&location.images).context("open the image store (root keeps it)")?;
    if location.node.is_none() && command.changes() {
        refuse_served(&store)?;
    }
    let imported = |name: String, image: image::Image| {
        let shown = ImageRow::from(&ImageSummary { names: vec![name], image });
        show(json, &shown, |shown| format!("{} {}", shown.names.join(" "), shown.digest))
    };
    match command {
        ImageCommand::Import { path, name, from: FromContainerd { containerd: Some(socket), namespace } } => {
            let socket = socket.unwrap_or_else(|| location.images.containerd.clone());
            let image = path.to_str().context("an image's name in containerd is text")?.to_owned();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let step = Arc::new(Step::start("Taking the image from containerd"));
            let source = ContainerdSource { socket, namespace, image };
            let image = runtime.block_on(store.import_from_containerd(&source, &name, step.clone()))?;
            step.finish();
            imported(name, image)?;
        }
        ImageCommand::Import { path, name, .. } => {
            let step = Step::start("Importing the image");
            let image = store.import(&path, &name, &step)?;
            step.done();
            imported(name, image)?;
        }
        ImageCommand::Pull { reference, name } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let step = Arc::new(Step::start("Pulling the image"));
            let image = runtime.block_on(store.pull(&reference, Some(&name), None, step.clone()))?;
            step.finish();
            imported(name, image)?;
        }
        ImageCommand::Build { dir, name, context, update, date } => {
            let build = BuildProgress::start()?;
            let options = BuildOptions { context: context.as_deref(), update, epoch: date };
            let image = store.build(&dir, &options, &name, &build)?;
            build.done();
            imported(name, image)?;
        }
        ImageCommand::Export { name, file } => {
            let step = Step::start("Writing the archive");
            let digest = store.export(&name, &file, &step)?;
            step.done();
            let exported = ExportedImage { name, digest, file };
            show(json, &exported, |one| format!("{} {} {}", one.name, one.digest, one.file.display()))?;
        }
        ImageCommand::Push(_) | ImageCommand::Tag { .. } | ImageCommand::Publish { .. } => {
            unreachable!("these commands ask a gateway and are not passed here")
        }
        ImageCommand::Ls => {
            let shown: Vec<ImageRow> = store.list()?.iter().map(ImageRow::from).collect();
            show(json, &shown, |shown| output::images(shown))?;
        }
        ImageCommand::Show { name } => {
            show(json, &called(&store, &name)?, |shown| output::images(std::slice::from_ref(shown)))?;
        }
        ImageCommand::Rm { name } => {
            let removed = store.remove(&name, &location.in_use()?)?;
            let image::Removal { digest, gone, freed_bytes } = removed;
            let removed = RemovedStoreImage { name, digest, gone, freed_bytes };
            show(json, &removed, |one| {
                format!("{} ({}): {} MiB freed", one.name, one.digest, one.freed_bytes / (1024 * 1024))
            })?;
        }
    }
    Ok(())
}

/// One image of a store, by its name.
fn called(store: &ImageStore, name: &str) -> Result<ImageRow> {
    let digest = store.resolve(name)?;
    let listed = store.list()?;
    let found = listed.iter().find(|image| image.image.digest == digest);
    Ok(ImageRow::from(found.with_context(|| format!("the image {name} was removed just now"))?))
}

/// A store that a node serves is changed by whoever asks that node what it uses.
fn refuse_served(store: &ImageStore) -> Result<()> {
    let servers = store.servers()?;
    let Some(server) = servers.first() else { return Ok(()) };
    bail!(
        "this store is served by hypercore (process {}, {}): name it by --node, or by that node's --config FILE, and not \
         by --store",
        server.process,
        server.socket.display()
    )
}

/// Which store is meant, and who may use its images.
struct StoreLocation {
    images: image::Config,
    /// The socket of the node that serves it; nobody's when only a folder was named.
    node: Option<PathBuf>,
}

impl StoreLocation {
    /// The store that was named; else that of the stack which runs here, to which
    /// `spawn` goes as well; else that of the machine's own configuration. There is no
    /// other: an image in a store that nobody serves cannot be spawned.
    fn find(state: &StateDir, named: &ImageStoreArgs) -> Result<Self> {
        if let Some(dir) = &named.store {
            let store = std::path::absolute(dir).with_context(|| format!("find {}", dir.display()))?;
            return Ok(Self { images: image::Config { store, ..image::Config::default() }, node: None });
        }
        let meant = match &named.config {
            Some(named) => Some(named.clone()),
            None => state.running()?.map(|stack| stack.config),
        };
        let Some(file) = meant.or_else(|| Config::find(None)) else {
            bail!(
                "nothing runs here, and there is no configuration: start it (./dev up), or say which store is meant \
                 with --config FILE or --store DIR"
            )
        };
        let config = Config::load(Some(&file))?;
        Ok(Self { images: config.images, node: Some(config.node.socket) })
    }

    /// The images of the agents that the node has. While it does not answer, nobody
    /// can tell, and nothing is removed.
    fn in_use(&self) -> Result<BTreeSet<ImageDigest>> {
        let Some(socket) = &self.node else { return Ok(BTreeSet::new()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let list = runtime.block_on(NodeClient::new(socket).list());
        let list = list.context("ask the node which images are in use; start hypercore first")?;
        if let Some(held) = list.quarantined.first() {
            bail!("which image the quarantined agent {} uses cannot be told: {}", held.id, held.cause);
        }
        Ok(list.sandboxes.iter().map(|sandbox| sandbox.image).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn named(words: &[&str]) -> ImageStoreArgs {
        let words = ["palatine", "image"].iter().chain(words);
        let Command::Image { store, .. } = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        store
    }

    #[test]
    fn case_image_store_a_store_is_named_before_and_after_the_verb() {
        for words in [["-c", "a.toml", "ls"], ["ls", "-c", "a.toml"]] {
            assert_eq!(named(&words).config, Some(PathBuf::from("a.toml")));
        }
        for words in [["--store", "dir", "ls"], ["ls", "--store", "dir"]] {
            assert_eq!(named(&words).store, Some(PathBuf::from("dir")));
        }
    }

    #[test]
    fn an_image_is_taken_from_a_containerd_by_this_machine_and_by_no_gateway() {
        let parse = |words: &[&str]| {
            let words = ["palatine", "image", "import"].iter().chain(words);
            Cli::try_parse_from(words).map(|cli| match cli.command {
                Command::Image { store, command } => (command.is_for_gateway(&store), command),
                _ => unreachable!(),
            })
        };
        let taken = |words: &[&str]| match parse(words).unwrap() {
            (false, ImageCommand::Import { path, from, .. }) => (path, from.containerd.unwrap(), from.namespace),
            other => panic!("{other:?}"),
        };
        let image = PathBuf::from("docker.io/library/echo:1");
        let words = ["--containerd", "docker.io/library/echo:1", "echo"];
        assert_eq!(taken(&words), (image.clone(), None, "default".to_owned()));
        let words = ["docker.io/library/echo:1", "echo", "--containerd=/run/k3s.sock", "--namespace", "k8s.io"];
        assert_eq!(taken(&words), (image, Some(PathBuf::from("/run/k3s.sock")), "k8s.io".to_owned()));
        assert!(parse(&["./layout", "echo"]).unwrap().0, "as an image of one's own");
        assert!(parse(&["./layout", "echo", "--namespace", "k8s.io"]).is_err());
    }

    #[test]
    fn case_image_store_one_that_is_served_is_told_by_whom_and_is_not_changed_by_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let config = image::Config { store: dir.path().to_owned(), ..image::Config::default() };
        let store = ImageStore::open(&config).unwrap();
        assert!(refuse_served(&store).is_ok());
        let _served = store.serve(std::path::Path::new("/run/it.sock")).unwrap();
        let said = refuse_served(&store).unwrap_err().to_string();
        assert!(said.contains("/run/it.sock") && said.contains(&std::process::id().to_string()), "{said}");
        let state = StateDir::at(Some(&dir.path().join("state"))).unwrap();
        let named = named(&["ls", "--store", dir.path().to_str().unwrap()]);
        let rm = ImageCommand::Rm { name: "echo".to_owned() };
        assert!(run(&state, &named, rm, false).unwrap_err().to_string().contains("served by hypercore"));
        assert!(run(&state, &named, ImageCommand::Ls, false).is_ok());
    }

    #[test]
    fn case_image_store_a_named_store_is_the_one_that_is_meant() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(&dir.path().join("state"))).unwrap();
        let store = |words: &[&str]| StoreLocation::find(&state, &named(words)).unwrap().images.store;
        let folder = dir.path().join("images");
        assert_eq!(store(&["ls", "--store", folder.to_str().unwrap()]), folder);
        let file = dir.path().join("palatine.toml");
        std::fs::write(&file, format!("[images]\nstore = \"{}\"", dir.path().join("other").display())).unwrap();
        assert_eq!(store(&["ls", "-c", file.to_str().unwrap()]), dir.path().join("other"));
    }
}
