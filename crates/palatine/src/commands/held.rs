//! `palatine image`, where the gateway is asked: one's own images and those one may spawn.

use std::process::ExitCode;

use anyhow::{Context, Result};
use client::GatewayClient;
use domain::ImageRef;
use wire::v1::images::ImageChange;

use super::push::push;
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
        ImageCommand::Tag { image, name } => {
            let tagged = change(&client, &name, ImageChange { from: Some(image), published: None }).await?;
            show(json, &tagged, output::held_image)?;
        }
        ImageCommand::Publish { image, undo } => {
            show(json, &change(&client, &image, published(!undo)).await?, output::held_image)?;
        }
        ImageCommand::Ls => show(json, &client.images().await?, output::held_images)?,
        ImageCommand::Rm { name } => {
            let image: ImageRef = name.parse().context("the operator's images are removed with --config or --store")?;
            let removed = client.remove_image(&image).await?;
            show(json, &removed, |removed| format!("{} is removed; what runs from it goes on", removed.image))?;
        }
        ImageCommand::Import { .. }
        | ImageCommand::Pull { .. }
        | ImageCommand::Build { .. }
        | ImageCommand::Export { .. } => {
            unreachable!("these commands work on a store of this machine and are not passed here")
        }
    }
    Ok(ExitCode::SUCCESS)
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
