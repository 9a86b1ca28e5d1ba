//! `palatine image`, where the gateway is asked: one's own images and those one may spawn.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use client::GatewayClient;
use domain::ImageRef;
use image::recipe::{FILE_NAME, Recipe};
use wire::v1::images::{ContextBuild, ImageChange};

use super::push::{build, push};
use crate::cli::{ImageCommand, Target};
use crate::output::{self, show};
use crate::up::StateDir;

pub(crate) async fn run(target: &Target, state: &StateDir, command: ImageCommand) -> Result<ExitCode> {
    let (client, json) = (super::client(target, state)?, target.json);
    match command {
        ImageCommand::Push(options) => {
            let mut image = push(&client, &options.path, &options.image).await?;
            if options.publish {
                image = change(&client, &options.image, published(true)).await?;
            }
            show(json, &image, output::held_image)?;
        }
        ImageCommand::Import { path, name, .. } => {
            let image: ImageRef = name.parse().context("name the image")?;
            show(json, &push(&client, &path, &image).await?, output::held_image)?;
        }
        ImageCommand::Build { dir, name, context, update, date } => {
            let image: ImageRef = name.parse().context("name the image")?;
            let (folder, containerfile) = build_files(&dir, context.as_deref(), update)?;
            let how = ContextBuild { containerfile: Some(containerfile), date: u64::try_from(date)? };
            show(json, &build(&client, &folder, how, &image).await?, |built| output::held_image(&built.image))?;
        }
        ImageCommand::Tag { image, name } => {
            let tagged = change(&client, &name, ImageChange { from: Some(image), published: None }).await?;
            show(json, &tagged, output::held_image)?;
        }
        ImageCommand::Publish { image, undo } => {
            show(json, &change(&client, &image, published(!undo)).await?, output::held_image)?;
        }
        ImageCommand::Ls => show(json, &client.images().await?, output::held_images)?,
        ImageCommand::Show { name } => {
            let named = "the operator's images are shown with --node, --config or --store";
            let image: ImageRef = name.parse().context(named)?;
            show(json, &client.image(&image).await?.image, output::held_image)?;
        }
        ImageCommand::Rm { name } => {
            let image: ImageRef =
                name.parse().context("the operator's images are removed with --node, --config or --store")?;
            let removed = client.remove_image(&image).await?;
            show(json, &removed, |removed| format!("{} is removed; what runs from it goes on", removed.image))?;
        }
        ImageCommand::Pull { .. } | ImageCommand::Export { .. } => {
            unreachable!("these commands work on a store of this machine and are not passed here")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder that is sent as the context, and the path of the Containerfile or the recipe in it.
fn build_files(path: &Path, context: Option<&Path>, update: bool) -> Result<(PathBuf, String)> {
    if update {
        bail!(
            "what is built for a holder fetches nothing, so that there is nothing to look up anew: leave --update away, \
             or, as the operator, name the store with --node, --config or --store"
        )
    }
    let file = image::containerfile(path)?.unwrap_or_else(|| Recipe::file(path));
    if !file.is_file() {
        bail!("{}: there is no Containerfile, Dockerfile or {FILE_NAME}", path.display())
    }
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let folder = match context {
        Some(context) => context.canonicalize().with_context(|| context.display().to_string())?,
        None => file.parent().context("find the folder of what is built")?.to_owned(),
    };
    let inner = file.strip_prefix(&folder).ok().and_then(Path::to_str);
    let inner =
        inner.with_context(|| format!("{} does not lie in the context {}", file.display(), folder.display()))?;
    Ok((folder, inner.to_owned()))
}

fn published(published: bool) -> ImageChange {
    ImageChange { from: None, published: Some(published) }
}

async fn change(
    client: &GatewayClient,
    image: &ImageRef,
    change: ImageChange,
) -> Result<wire::v1::images::HolderImage> {
    Ok(client.change_image(image, &change).await?.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_sends_the_containerfiles_folder_or_the_context_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("app")).unwrap();
        std::fs::write(root.join("app/Dockerfile"), "FROM scratch").unwrap();
        let app = root.join("app");
        assert_eq!(build_files(&app, None, false).unwrap(), (app.clone(), "Dockerfile".to_owned()));
        let named = build_files(&app.join("Dockerfile"), Some(&root), false).unwrap();
        assert_eq!(named, (root.clone(), "app/Dockerfile".to_owned()));
        std::fs::create_dir(root.join("other")).unwrap();
        let apart = build_files(&app, Some(&root.join("other")), false).unwrap_err();
        assert!(apart.to_string().contains("does not lie in the context"), "{apart}");
        let recipe = root.join("other/image.toml");
        for path in [root.join("other"), recipe.clone(), root.join("nowhere")] {
            let refused = build_files(&path, None, false).unwrap_err().to_string();
            assert!(refused.contains("there is no Containerfile"), "{refused}");
        }
        std::fs::write(&recipe, "from = 'scratch'").unwrap();
        let of_recipe = build_files(&root.join("other"), None, false).unwrap();
        assert_eq!(of_recipe, (root.join("other"), "image.toml".to_owned()));
        assert!(build_files(&app, None, true).unwrap_err().to_string().contains("--update"));
    }
}
