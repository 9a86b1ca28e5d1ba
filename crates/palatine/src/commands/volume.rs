//! `palatine volume`: your own disks, which outlive every agent.

use std::process::ExitCode;

use anyhow::{Result, bail};
use client::GatewayClient;
use domain::{VolumeId, VolumeName};
use wire::v1::volumes::VolumeRequest;

use super::client;
use crate::answers::RemovedVolumes;
use crate::cli::{Target, VolumeCommand};
use crate::output::{self, show};
use crate::up::StateDir;

pub(crate) async fn run(target: &Target, state: &StateDir, command: VolumeCommand) -> Result<ExitCode> {
    let client = client(target, state)?;
    let json = target.json;
    match command {
        VolumeCommand::Create { name, size } => {
            let request = VolumeRequest { name: name.to_string(), size_mib: Some(size.mib) };
            show(json, &client.create_volume(&request).await?, output::volume)?;
        }
        VolumeCommand::Ls => show(json, &client.volumes().await?, |volumes| output::volumes(volumes))?,
        VolumeCommand::Show { volume } => {
            let id = find(&client, &volume).await?;
            show(json, &client.volume(id).await?, output::volume)?;
        }
        VolumeCommand::Resize { volume, size } => {
            let id = find(&client, &volume).await?;
            show(json, &client.resize_volume(id, size.mib).await?, output::volume)?;
        }
        VolumeCommand::Rm { volumes } => remove(&client, json, &volumes).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes one after the other, once all of them are known to be there; one that is refused keeps
/// none of the others.
async fn remove(client: &GatewayClient, json: bool, volumes: &[String]) -> Result<()> {
    let mut ids = Vec::new();
    for volume in volumes {
        ids.push(find(client, volume).await?);
    }
    let (mut removed, mut refused) = (Vec::new(), Vec::new());
    for (id, volume) in ids.into_iter().zip(volumes) {
        match client.remove_volume(id).await {
            Ok(()) => removed.push(id),
            Err(error) => refused.push(anyhow::Error::from(error).context(format!("remove {volume}"))),
        }
    }
    if json || !removed.is_empty() {
        show(json, &RemovedVolumes { removed }, output::removed_volumes)?;
    }
    let Some(last) = refused.pop() else { return Ok(()) };
    for error in refused {
        eprintln!("error: {error:#}");
    }
    Err(last)
}

/// The volume that is meant: that of this name, or that with this id.
async fn find(client: &GatewayClient, meant: &str) -> Result<VolumeId> {
    let name: Option<VolumeName> = meant.parse().ok();
    let id: Option<VolumeId> = meant.parse().ok();
    let volumes = client.volumes().await?;
    let found = volumes.iter().find(|volume| Some(&volume.name) == name.as_ref());
    let found = found.or_else(|| volumes.iter().find(|volume| Some(volume.id) == id));
    let Some(volume) = found else { bail!("you have no volume {meant:?}; see `palatine volume ls`") };
    Ok(volume.id)
}
