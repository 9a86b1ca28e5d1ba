//! `palatine volume`: your own disks, which outlive every agent.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::GatewayClient;
use domain::{SnapshotId, SnapshotState, VolumeId, VolumeName};
use wire::v1::volumes::{Snapshot, VolumeRequest};

use super::asked::ShownPieces;
use super::export::{self, STANDARD};
use super::files::RemoteFiles;
use super::import::Import;
use super::{client, download, upload};
use crate::answers::{Copied, RemovedSnapshots, RemovedVolumes};
use crate::cli::{Target, VolumeCommand, VolumeCopyPath, VolumePath};
use crate::output::{self, show};
use crate::signals::{Heard, TerminalSignals};
use crate::up::StateDir;

/// How often it is asked how a copy is.
const COPY_POLL: Duration = Duration::from_secs(1);

pub(crate) async fn run(target: &Target, state: &StateDir, command: VolumeCommand) -> Result<ExitCode> {
    let client = client(target, state)?;
    let json = target.json;
    match command {
        VolumeCommand::Create { name, size } => {
            let request = VolumeRequest { name: name.to_string(), size_mib: Some(size.mib) };
            show(json, &client.create_volume(&request).await?, output::volume)?;
        }
        VolumeCommand::Ls { folder: None } => {
            show(json, &client.volumes().await?, |volumes| output::volumes(volumes))?;
        }
        VolumeCommand::Ls { folder: Some(VolumePath { volume, path }) } => {
            let files = client.volume_files(find(&client, &volume).await?).await?;
            show(json, &files.list(&path).await?, |entries| output::volume_entries(entries))?;
        }
        VolumeCommand::Cat { file } => cat(&client, &file).await?,
        VolumeCommand::Cp { source, destination } => {
            show(json, &copied(&client, source, destination).await?, output::copied)?;
        }
        VolumeCommand::Export { volume, file } => export(&client, json, &volume, &file).await?,
        VolumeCommand::Import { name, file, size, replace } => {
            let import = Import { name, file, size_mib: size.map(|size| size.mib), replace };
            let interrupted = ended()?;
            show(json, &import.run(&client, interrupted).await?, output::imported)?;
        }
        VolumeCommand::Show { volume } => {
            let id = find(&client, &volume).await?;
            show(json, &client.volume(id).await?, output::volume)?;
        }
        VolumeCommand::Resize { volume, size } => {
            let id = find(&client, &volume).await?;
            show(json, &client.resize_volume(id, size.mib).await?, output::volume)?;
        }
        VolumeCommand::Attach { mount, agent } => {
            show(json, &client.attach_volume(agent, &mount).await?, |has| output::agent_volumes(agent, has))?;
        }
        VolumeCommand::Detach { name, agent } => {
            show(json, &client.detach_volume(agent, &name).await?, |has| output::agent_volumes(agent, has))?;
        }
        VolumeCommand::Snapshot { volume } => {
            let id = find(&client, &volume).await?;
            let made = client.create_snapshot(id).await?;
            let said = "the snapshot was not made, and the volume is as it was: try again";
            let made = settled(&client, made).await?.context(said)?;
            if made.state == SnapshotState::Failed {
                let why = made.error.unwrap_or_default();
                bail!("the snapshot {} was not made, and the volume is as it was: {why}", made.id);
            }
            show(json, &made, output::snapshot)?;
        }
        VolumeCommand::Snapshots { volume } => {
            let id = find(&client, &volume).await?;
            show(json, &client.snapshots(id).await?, |snapshots| output::snapshots(&volume, snapshots))?;
        }
        VolumeCommand::Restore { volume, snapshot } => restore(&client, json, &volume, snapshot).await?,
        VolumeCommand::RmSnapshot { volume, snapshots } => {
            remove_snapshots(&client, json, &volume, &snapshots).await?;
        }
        VolumeCommand::Rm { volumes } => remove(&client, json, &volumes).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// We were asked to end before it was done.
#[derive(Debug)]
pub(crate) struct VolumeInterrupted;

impl fmt::Display for VolumeInterrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; nothing half is left")
    }
}

impl std::error::Error for VolumeInterrupted {}

/// Comes when we are asked to end.
fn ended() -> Result<impl Future<Output = anyhow::Error>> {
    let mut signals = TerminalSignals::listen().context("listen for signals")?;
    Ok(async move {
        loop {
            if let Heard::End(_) = signals.next().await {
                return VolumeInterrupted.into();
            }
        }
    })
}

async fn export(client: &GatewayClient, json: bool, volume: &str, file: &Path) -> Result<()> {
    if let Some((name, snapshot)) = volume.split_once('@') {
        bail!("a snapshot is exported once its volume is put back to it: palatine volume restore {name} {snapshot}");
    }
    let interrupted = ended()?;
    let id = find(client, volume).await?;
    let files = client.volume_files(id).await?;
    let done = export::export(&files, id, file, interrupted).await?;
    if file == Path::new(STANDARD) {
        // The archive is what is on the standard output.
        eprintln!("{}", output::exported(&done));
        return Ok(());
    }
    Ok(show(json, &done, output::exported)?)
}

async fn cat(client: &GatewayClient, file: &VolumePath) -> Result<()> {
    let files = client.volume_files(find(client, &file.volume).await?).await?;
    let (mut read, mut out) = (files.read(&file.path, None).await?, std::io::stdout());
    // In a pipe they are as they are on the disk; a terminal obeys nothing that an agent has written there.
    let mut pieces = out.is_terminal().then(ShownPieces::default);
    while let Some(bytes) = read.chunk().await? {
        match &mut pieces {
            Some(pieces) => out.write_all(pieces.take(&bytes).as_bytes())?,
            None => out.write_all(&bytes)?,
        }
    }
    Ok(out.flush()?)
}

/// Copies into a volume, or out of one.
async fn copied(client: &GatewayClient, source: VolumeCopyPath, destination: VolumeCopyPath) -> Result<Copied> {
    match (source, destination) {
        (VolumeCopyPath::Here(source), VolumeCopyPath::Volume(VolumePath { volume, path })) => {
            let files = client.volume_files(find(client, &volume).await?).await?;
            upload::upload(RemoteFiles::Disk(files), &source, &path).await
        }
        (VolumeCopyPath::Volume(VolumePath { volume, path }), VolumeCopyPath::Here(target)) => {
            let files = client.volume_files(find(client, &volume).await?).await?;
            download::download(RemoteFiles::Disk(files), &path, &target).await
        }
        (VolumeCopyPath::Here(_), VolumeCopyPath::Here(_)) | (VolumeCopyPath::Volume(_), VolumeCopyPath::Volume(_)) => {
            bail!("one of the two is in a volume, as NAME:PATH, and the other one is here")
        }
    }
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
    all_told(refused)
}

/// The same of snapshots.
async fn remove_snapshots(client: &GatewayClient, json: bool, volume: &str, snapshots: &[SnapshotId]) -> Result<()> {
    let id = find(client, volume).await?;
    let (mut removed, mut refused) = (Vec::new(), Vec::new());
    for snapshot in snapshots {
        match client.remove_snapshot(id, *snapshot).await {
            Ok(()) => removed.push(*snapshot),
            Err(error) => refused.push(anyhow::Error::from(error).context(format!("remove {snapshot}"))),
        }
    }
    if json || !removed.is_empty() {
        show(json, &RemovedSnapshots { removed }, output::removed_snapshots)?;
    }
    all_told(refused)
}

/// Fails by the last of these, once the others are told.
fn all_told(mut refused: Vec<anyhow::Error>) -> Result<()> {
    let Some(last) = refused.pop() else { return Ok(()) };
    for error in refused {
        eprintln!("error: {error:#}");
    }
    Err(last)
}

async fn restore(client: &GatewayClient, json: bool, volume: &str, snapshot: SnapshotId) -> Result<()> {
    let id = find(client, volume).await?;
    let restored = client.restore_volume(id, snapshot).await?;
    let restored = settled(client, restored).await?.context("the snapshot is there no more")?;
    if let Some(why) = &restored.error {
        bail!("the volume was not put back, and is as it was: {why}");
    }
    Ok(show(json, &restored, |_| format!("{volume} is what it was when {snapshot} was made"))?)
}

/// A snapshot once its node is done with it; none, if there is none any more. Copying takes as
/// long as the disk is large: who does not wait finds it in the list.
async fn settled(client: &GatewayClient, mut snapshot: Snapshot) -> Result<Option<Snapshot>> {
    while matches!(snapshot.state, SnapshotState::Creating | SnapshotState::Restoring) {
        tokio::time::sleep(COPY_POLL).await;
        let all = client.snapshots(snapshot.volume_id).await?;
        match all.into_iter().find(|one| one.id == snapshot.id) {
            Some(now) => snapshot = now,
            None => return Ok(None),
        }
    }
    Ok(Some(snapshot))
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
