//! What people read: tables and sentences. Programs get the wire's own JSON.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use domain::{PodId, UnixMillis};
use serde::Serialize;
use time::OffsetDateTime;
use wire::content::{FIRST_USER, ImportedArchive, VolumeEntryStat, VolumeEntryType};
use wire::printable;
use wire::v1::node::GuestReport;
use wire::v1::public::{
    Agent, Reason, SpawnResponse, StateChange, StatusResponse, StopResponse, TiersResponse, TimeoutResponse,
    UsageResponse,
};

use wire::v1::images::{HolderImage, ImagesResponse, UploadState};
use wire::v1::keys::{ApiKey, KeyResponse, KeysResponse};
use wire::v1::vault::{AgentVault, LinkResponse, Prices, TasksResponse, VaultResponse};
use wire::v1::volumes::{AgentVolume, Snapshot, Volume};

use crate::answers::{
    CallOutcome, Copied, DetachedShell, ExportedVolume, Forwards, ImageRow, ImportedVolume, PodKeystore, Removed,
    RemovedAgent, RemovedSnapshots, RemovedVolumes, RevokedKeys, WalletInfo,
};

/// Bytes of a file's name that are shown.
const SHOWN_NAME: usize = 1024;

/// Prints `value` as JSON on one line, or what `people` writes of it.
pub(crate) fn show<T: Serialize>(json: bool, value: &T, people: impl FnOnce(&T) -> String) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, value)?;
        writeln!(out)
    } else {
        writeln!(out, "{}", people(value).trim_end())
    }
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    table
}

pub(crate) fn spawned(answer: &SpawnResponse) -> String {
    let agent = &answer.agent;
    let tier = &answer.tier_config;
    let mut text = format!(
        "{} is {} ({}, {}, {} cores, {} MiB{})\n{}\n",
        agent.id,
        agent.state,
        agent.agent_type,
        agent.tier,
        tier.cores,
        tier.memory,
        agent.runtime.as_deref().map(|runtime| format!(", {runtime}")).unwrap_or_default(),
        agent.url,
    );
    if agent.runtime.as_ref().is_some_and(|runtime| runtime.starts_with("container")) {
        text.push_str("it runs in a container: its kernel is its node's\n");
    }
    if let Some(url) = &agent.path_url {
        text.push_str(&format!("{url} (the same, for clients that do not resolve that host)\n"));
    }
    if let Some(token) = &agent.token {
        text.push_str(&format!("token {} (shown once; kept for `palatine ask`)\n", token.expose()));
    }
    text
}

pub(crate) fn timeout(id: PodId, answer: &TimeoutResponse) -> String {
    match answer.expires_at {
        Some(at) => format!("{id} is stopped at {}", date(at)),
        None => format!("{id} lives until it is stopped"),
    }
}

pub(crate) fn copied(copied: &Copied) -> String {
    let files = if copied.files == 1 { "1 file".to_owned() } else { format!("{} files", copied.files) };
    format!("{files} copied, {}", indicatif::BinaryBytes(copied.bytes))
}

pub(crate) fn detached(left: &DetachedShell) -> String {
    let DetachedShell { agent, shell } = left;
    format!("the shell goes on; attach to it again: palatine shell {agent} --attach {shell}")
}

pub(crate) fn forwards(all: &Forwards) -> String {
    let rows = all.forwards.iter().map(|one| format!("{} leads to the agent's port {}", one.address, one.port));
    rows.chain(["Ctrl-C ends it".to_owned()]).collect::<Vec<_>>().join("\n")
}

pub(crate) fn agents(list: &[Agent], now: UnixMillis) -> String {
    if list.is_empty() {
        return "No agents. Start one: palatine spawn --type echo".to_owned();
    }
    let mut table =
        table(["ID", "TYPE", "TIER", "STATE", "AGE", "ENDS IN", "RESTARTS", "URL", "URL WITHOUT A NAME", "DATA"]);
    for agent in list {
        table.add_row([
            agent.id.to_string(),
            agent.agent_type.clone(),
            agent.tier.to_string(),
            state(agent),
            duration(now.since(agent.spawned_at)),
            agent.expires_at.map_or_else(|| "-".to_owned(), |at| duration(at.since(now))),
            agent.restarts.to_string(),
            if agent.state.is_live() { agent.url.clone() } else { "-".to_owned() },
            agent.path_url.clone().filter(|_| agent.state.is_live()).unwrap_or_else(|| "-".to_owned()),
            kept(agent.data_bytes, agent.data_kept_until).unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

fn state(agent: &Agent) -> String {
    match agent.reason {
        Some(reason) => format!("{} ({})", agent.state, reason_name(reason)),
        None => agent.state.to_string(),
    }
}

/// The reason as the wire writes it.
fn reason_name(reason: Reason) -> String {
    let value = serde_json::to_value(reason).unwrap_or_default();
    value.as_str().unwrap_or_default().replace('_', " ")
}

pub(crate) fn status(answer: &StatusResponse) -> String {
    let agent = &answer.agent;
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("id", agent.id.to_string());
    row("state", state(agent));
    row("url", agent.url.clone());
    if let Some(url) = &agent.path_url {
        row("url without a name", url.clone());
    }
    row("type", agent.agent_type.clone());
    row("tier", agent.tier.to_string());
    row("runtime", agent.runtime.clone().unwrap_or_else(|| "not running yet".to_owned()));
    row("image", agent.image.to_string());
    row("public", if agent.public { "yes" } else { "no" }.to_owned());
    row("restarts", agent.restarts.to_string());
    row("uptime", duration(answer.uptime_ms));
    if let Some(until) = agent.data_kept_until {
        let (id, kept) = (agent.id, kept(agent.data_bytes, Some(until)).unwrap_or_default());
        row("data", format!("{kept}; palatine start {id} goes on with it, palatine rm {id} erases it"));
    }
    if let Some(at) = agent.expires_at {
        row("stopped at", date(at));
    }
    if agent.ephemeral {
        row("when it is stopped", "it is removed".to_owned());
    }
    if let Some(vault) = &answer.vault {
        row("vault", format!("{} ({})", vault.address, vault.state.as_str()));
        row("owner", vault.owner.to_string());
    }
    let mut text = table.to_string();
    if let Some(said) = &answer.guest {
        text.push_str(&format!("\n\n{}", guest(said)));
    }
    text
}

/// What an agent's guest says of it: its own word.
pub(crate) fn guest(said: &GuestReport) -> String {
    let mut text = exits(said).map(|exits| format!("Its guest says: {exits}.\n")).unwrap_or_default();
    if !said.last_lines.is_empty() {
        text.push_str("It wrote last:\n");
        said.last_lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text.trim_end().to_owned()
}

fn exits(said: &GuestReport) -> Option<String> {
    if let Some(percent) = said.checked {
        return Some(format!("its volumes are checked first, and {percent} % of that is done"));
    }
    let times = match said.exits {
        0 => return None,
        1 => "once".to_owned(),
        exits => format!("{exits} times"),
    };
    let last = said.last_exit.as_ref().map(|last| format!(", last at {} ({})", date(last.at), last.how));
    Some(format!("the agent's process ended {times}{}", last.unwrap_or_default()))
}

/// One line on an agent that is starting.
pub(crate) fn starting(agent: &Agent, said: Option<&GuestReport>) -> String {
    let exits = said.and_then(exits).map(|exits| format!("; {exits}")).unwrap_or_default();
    format!("{} is {}{exits}", agent.id, state(agent))
}

/// Rows of a name and a value.
fn key_values<const N: usize>(rows: [(&str, String); N]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    table.to_string()
}

pub(crate) fn wallet(shown: &WalletInfo) -> String {
    key_values([("address", shown.address.clone()), ("keystore", shown.keystore.display().to_string())])
}

pub(crate) fn pod_keystore(shown: &PodKeystore) -> String {
    let PodKeystore { pod, address, keystore } = shown;
    key_values([("agent", pod.to_string()), ("address", address.clone()), ("keystore", keystore.display().to_string())])
}

pub(crate) fn link(link: &LinkResponse) -> String {
    format!("{} and {} are linked. Both have signed:\n\n{}", link.holder, link.owner, link.text)
}

pub(crate) fn agent_vault(vault: &AgentVault) -> String {
    key_values([
        ("vault", vault.address.to_string()),
        ("state", vault.state.as_str().to_owned()),
        ("owner", vault.owner.to_string()),
        ("agent wallet", vault.agent_wallet.to_string()),
        ("transaction", vault.tx.map_or_else(|| "-".to_owned(), |tx| tx.to_string())),
    ])
}

pub(crate) fn vault(vault: &VaultResponse) -> String {
    let credits: Vec<String> = vault.credits.iter().map(|(who, amount)| format!("{amount} to {who}")).collect();
    key_values([
        ("vault", vault.address.to_string()),
        ("agent", vault.pod_id.clone()),
        ("owner", vault.owner.to_string()),
        ("agent wallet", vault.agent_wallet.to_string()),
        ("earned, to withdraw", format!("{} USDC", vault.available_balance)),
        ("earned in all", format!("{} USDC in {} tasks", vault.total_earnings, vault.total_tasks)),
        ("locked in tasks", format!("{} USDC", vault.locked)),
        ("owed back", if credits.is_empty() { "nothing".to_owned() } else { credits.join(", ") }),
        ("new tasks", if vault.paused { "refused" } else { "taken" }.to_owned()),
        ("as of block", vault.block.to_string()),
    ])
}

pub(crate) fn tasks(answer: &TasksResponse) -> String {
    if answer.tasks.is_empty() {
        return "No tasks.".to_owned();
    }
    let mut table = table(["TASK", "STATE", "USDC", "CREATOR", "WHAT"]);
    for task in &answer.tasks {
        let what: String = task.metadata.chars().filter(|c| !c.is_control()).take(60).collect();
        let row = [task.id.to_string(), task.state.clone(), task.amount.to_string(), task.creator.to_string(), what];
        table.add_row(row);
    }
    table.to_string()
}

pub(crate) fn done(done: &CallOutcome) -> String {
    let task = done.task.map(|task| format!(" {task}")).unwrap_or_default();
    let tx = done.tx.map(|tx| format!(" in {tx}")).unwrap_or_default();
    format!("{}{task}{tx}", done.what)
}

pub(crate) fn prices(prices: &Prices) -> String {
    if prices.prices.is_empty() {
        return "Everything is free. Set a price: palatine price <id> /v1/chat/completions=0.01".to_owned();
    }
    let mut table = table(["PATH", "USDC"]);
    for (path, price) in &prices.prices {
        table.add_row([path.clone(), price.to_string()]);
    }
    table.to_string()
}

pub(crate) fn stopped(id: PodId, answer: &StopResponse) -> String {
    let ended = format!("{} after {} of uptime", answer.state, duration(answer.uptime_ms));
    match kept(answer.data_bytes, answer.data_kept_until) {
        Some(kept) => {
            format!("{ended}\nIts data: {kept}\npalatine start {id} goes on with it, palatine rm {id} erases it")
        }
        None if answer.state.is_live() => format!("{ended}; its node cannot be reached just now"),
        None => format!("{ended}; nothing of it is kept"),
    }
}

pub(crate) fn removed(answer: &Removed) -> String {
    let line = |agent: &RemovedAgent| {
        let waits = agent.answer.state.is_live();
        let what = if waits { "is being removed: its node cannot be reached just now" } else { "removed" };
        format!("{} {what}", agent.id)
    };
    answer.removed.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What is kept of an agent that does not run: how much, and until when.
fn kept(bytes: Option<u64>, until: Option<UnixMillis>) -> Option<String> {
    let size = bytes.map(mib);
    match (size, until) {
        (None, None) => None,
        (Some(size), None) => Some(size),
        (None, Some(until)) => Some(format!("kept until {}", date(until))),
        (Some(size), Some(until)) => Some(format!("{size}, kept until {}", date(until))),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

/// A day and a time of it, in UTC.
fn date(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.0 / 1000).ok();
    match seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) {
        Some(at) => format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()),
        None => "the end of time".to_owned(),
    }
}

pub(crate) fn usage(answer: &UsageResponse) -> String {
    let stats = &answer.stats;
    let mut table = table(["UPTIME", "SPAWNS", "CORE-SECONDS", "GIB-SECONDS", "DISK-BYTE-HOURS", "ACTIVE AGENT"]);
    let several: Vec<_> = answer.active_agents.iter().map(|agent| agent.id.to_string()).collect();
    let one = answer.active_agent.as_ref().map_or_else(|| "-".to_owned(), |agent| agent.id.to_string());
    let active = if several.is_empty() { one } else { several.join(" ") };
    table.add_row([
        duration(stats.total_uptime_ms),
        stats.spawns.to_string(),
        stats.core_seconds.to_string(),
        stats.gib_seconds.to_string(),
        stats.disk_byte_hours.to_string(),
        active,
    ]);
    table.to_string()
}

pub(crate) fn tiers(answer: &TiersResponse) -> String {
    let mut rows: Vec<_> = answer.tiers.iter().collect();
    rows.sort_by_key(|(_, tier)| tier.min);
    let mut table = table(["TIER", "TOKENS", "AGENTS", "CORES", "MEMORY", "KEPT DATA"]);
    for (name, tier) in rows {
        let (memory, disk) = (format!("{} MiB", tier.memory), format!("{} MiB", tier.disk));
        let (min, agents, cores) = (tier.min.to_string(), tier.agents.to_string(), tier.cores.to_string());
        table.add_row([name.clone(), min, agents, cores, memory, disk]);
    }
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n\nToken: {}\nAgent types: {}", answer.mint, answer.agent_types.join(", "))
}

pub(crate) fn change(change: &StateChange) -> String {
    let reason = change.reason.map(|reason| format!(" ({})", reason_name(reason))).unwrap_or_default();
    format!("{} {}{reason}", change.at, change.state)
}

pub(crate) fn key(made: &KeyResponse) -> String {
    let ApiKey { id, scope, wallet, expires_at, .. } = &made.info;
    format!(
        "{}\nThis is shown once: keep it, as PALATINE_KEY for example. Its scope is {scope}; it acts for {wallet}\n\
         until {}. palatine key rm {id} revokes it.",
        made.key.expose(),
        date(*expires_at)
    )
}

pub(crate) fn keys(answer: &KeysResponse) -> String {
    if answer.keys.is_empty() {
        return "No API keys. Make one: palatine key create --scope run".to_owned();
    }
    let mut table = table(["ID", "BEGINS WITH", "NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED"]);
    for key in &answer.keys {
        table.add_row([
            key.id.to_string(),
            key.prefix.clone(),
            key.name.clone().unwrap_or_else(|| "-".to_owned()),
            key.scope.to_string(),
            date(key.created_at),
            date(key.expires_at),
            key.last_used_at.map_or_else(|| "never".to_owned(), date),
        ]);
    }
    table.to_string()
}

pub(crate) fn revoked(answer: &RevokedKeys) -> String {
    answer.revoked.iter().map(|id| format!("{id} revoked")).collect::<Vec<_>>().join("\n")
}

/// A volume, in lines.
pub(crate) fn volume(volume: &Volume) -> String {
    let mut lines =
        vec![format!("{} ({}): {} MiB, {}", volume.name, volume.id, volume.size_mib, volume.state.as_str())];
    if let Some(bytes) = volume.bytes {
        lines.push(format!("It takes {} of its node's disk", mib(bytes)));
    }
    match &volume.attached {
        Some(attached) => lines.push(format!("The agent {} has it at {}", attached.agent_id, attached.path)),
        None => lines.push(format!("Attach it: palatine spawn --volume {}:/workspace …", volume.name)),
    }
    lines.join("\n")
}

/// What of a volume was written to an archive.
pub(crate) fn exported(done: &ExportedVolume) -> String {
    let ExportedVolume { entries, written, left_out, file, .. } = done;
    let mut said = format!("{entries} files and folders written to {}, {}", file.display(), mib(*written));
    if *left_out > 0 {
        said.push_str(&format!("\n{left_out} devices, sockets and files of lost+found are not in it"));
    }
    said
}

/// What an archive has filled a volume with.
pub(crate) fn imported(done: &ImportedVolume) -> String {
    let ImportedVolume { volume, archive: ImportedArchive { entries, bytes, attributes_left_out, .. }, .. } = done;
    let mut said = format!("{} has {entries} files and folders of the archive, {}", volume.name, mib(*bytes));
    if *attributes_left_out > 0 {
        said.push_str(&format!("\n{attributes_left_out} extended attributes cannot be kept on a volume"));
    }
    said
}

pub(crate) fn volumes(list: &[Volume]) -> String {
    if list.is_empty() {
        return "No volumes. Make one: palatine volume create work --size 1G".to_owned();
    }
    let mut table = table(["NAME", "SIZE", "STATE", "AGENT", "PATH", "CREATED", "ID"]);
    for volume in list {
        let attached = volume.attached.as_ref();
        table.add_row([
            volume.name.to_string(),
            format!("{} MiB", volume.size_mib),
            volume.state.as_str().to_owned(),
            attached.map_or_else(|| "-".to_owned(), |attached| attached.agent_id.to_string()),
            attached.map_or_else(|| "-".to_owned(), |attached| attached.path.to_string()),
            date(volume.created_at),
            volume.id.to_string(),
        ]);
    }
    table.to_string()
}

/// The files of a folder of a volume. Their names are whoever's wrote them.
pub(crate) fn volume_entries(list: &[VolumeEntryStat]) -> String {
    if list.is_empty() {
        return "Nothing is in it.".to_owned();
    }
    let owner = |number: u32| if number == FIRST_USER { "user".to_owned() } else { number.to_string() };
    let mut table = table(["MODE", "UID", "GID", "SIZE", "WRITTEN", "NAME"]);
    for entry in list {
        let name = printable(&entry.name, SHOWN_NAME);
        let (mark, target) = match (entry.kind, &entry.target) {
            (VolumeEntryType::Directory, _) => ("/", String::new()),
            (_, Some(target)) => ("", format!(" -> {}", printable(target, SHOWN_NAME))),
            (VolumeEntryType::File | VolumeEntryType::Symlink | VolumeEntryType::Unknown, None) => ("", String::new()),
        };
        table.add_row([
            format!("{:04o}", entry.mode),
            owner(entry.uid),
            owner(entry.gid),
            entry.size.to_string(),
            printable(entry.mtime.get(..19).unwrap_or(&entry.mtime), SHOWN_NAME),
            format!("{name}{mark}{target}"),
        ]);
    }
    table.to_string()
}

/// A snapshot, in a line.
pub(crate) fn snapshot(snapshot: &Snapshot) -> String {
    let takes = snapshot.bytes.map_or_else(|| "its size is not known yet".to_owned(), mib);
    format!("{}: {}, {takes}", snapshot.id, snapshot.state.as_str())
}

pub(crate) fn snapshots(volume: &str, list: &[Snapshot]) -> String {
    if list.is_empty() {
        return format!("No snapshots. Make one: palatine volume snapshot {volume}");
    }
    let mut table = table(["ID", "STATE", "TAKES", "CREATED", "ERROR"]);
    for one in list {
        table.add_row([
            one.id.to_string(),
            one.state.as_str().to_owned(),
            one.bytes.map_or_else(|| "-".to_owned(), mib),
            date(one.created_at),
            one.error.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

pub(crate) fn removed_snapshots(answer: &RemovedSnapshots) -> String {
    answer.removed.iter().map(|id| format!("{id} removed")).collect::<Vec<_>>().join("\n")
}

/// The volumes that an agent's next starts have.
pub(crate) fn agent_volumes(agent: PodId, list: &[AgentVolume]) -> String {
    if list.is_empty() {
        return format!("The agent {agent} starts without volumes");
    }
    let mut table = table(["NAME", "PATH", "HAD BY"]);
    for volume in list {
        let had_by = match (volume.volume_id, volume.attached_to) {
            (None, _) => "it was removed: detach it".to_owned(),
            (Some(_), Some(other)) => other.to_string(),
            (Some(_), None) => "-".to_owned(),
        };
        table.add_row([volume.name.to_string(), volume.path.to_string(), had_by]);
    }
    format!("{table}\nStart it: palatine start {agent}")
}

pub(crate) fn removed_volumes(answer: &RemovedVolumes) -> String {
    answer.removed.iter().map(|id| format!("{id} removed")).collect::<Vec<_>>().join("\n")
}

pub(crate) fn held_image(image: &HolderImage) -> String {
    let whose = if image.published { "published" } else { "private" };
    let built = image.built_in.map(|runtime| format!(", built in {}", runtime.as_str())).unwrap_or_default();
    format!(
        "{} {} ({}, {whose}{built})\nspawn it: palatine spawn --type {}",
        image.image,
        image.digest,
        mib(image.bytes),
        image.image
    )
}

pub(crate) fn held_images(all: &ImagesResponse) -> String {
    let mut table = table(["TYPE", "WHOSE", "DISK", "DIGEST"]);
    for image in &all.own {
        let published = if image.published { ", published" } else { "" };
        let built = image.built_in.map(|runtime| format!(", built in {}", runtime.as_str())).unwrap_or_default();
        table.add_row([
            image.image.to_string(),
            format!("yours{published}{built}"),
            mib(image.bytes),
            image.digest.to_string(),
        ]);
    }
    for upload in &all.uploads {
        let how = match &upload.state {
            UploadState::Failed { error, .. } => format!("refused: {error}"),
            UploadState::Receiving { offset } => format!("on its way, {} are there", mib(*offset)),
            UploadState::Importing { step, runtime: None } => format!("on its way: {step}"),
            UploadState::Importing { step, runtime: Some(runtime) } => format!("built in {}: {step}", runtime.as_str()),
            UploadState::Unknown | UploadState::Imported { .. } => "on its way".to_owned(),
        };
        table.add_row([upload.image.to_string(), how, mib(upload.size), "-".to_owned()]);
    }
    for image in &all.published {
        table.add_row([image.agent_type.clone(), "published".to_owned(), mib(image.bytes), image.digest.to_string()]);
    }
    for image in &all.operator {
        table.add_row([image.name.clone(), "the operator's".to_owned(), "-".to_owned(), image.digest.to_string()]);
    }
    let of = all.quota_bytes.map(|quota| format!(" of {}", mib(quota))).unwrap_or_default();
    let more = if all.published_more {
        "\nOthers have published more than are listed here: each is spawned by <its wallet>/<its name> all the same."
    } else {
        ""
    };
    format!("{table}\nYours take {}{of}{more}", mib(all.used_bytes))
}

pub(crate) fn images(list: &[ImageRow]) -> String {
    let mut table = table(["NAME", "DISK", "PORT", "DIGEST"]);
    for image in list {
        let names = if image.names.is_empty() { "-".to_owned() } else { image.names.join(" ") };
        let disk = mib(image.disk_bytes);
        table.add_row([names, disk, image.port.to_string(), image.digest.to_string()]);
    }
    table.to_string()
}

/// The two largest units of a time, such as `3h 12m`.
fn duration(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}.{}s", millis % 1000 / 100),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use domain::StateName;

    use super::*;

    #[test]
    fn a_time_is_told_in_its_two_largest_units() {
        let cases = [(0, "0.0s"), (1_900, "1.9s"), (61_000, "1m 1s"), (3_660_000, "1h 1m"), (90_000_000, "1d 1h")];
        for (millis, told) in cases {
            assert_eq!(duration(millis), told);
        }
    }

    #[test]
    fn what_is_kept_of_a_stopped_agent_is_told_with_its_end_and_what_to_do() {
        let id: PodId = "agent-123".parse().unwrap();
        let answer = |state, data_bytes, data_kept_until| {
            let answer = StopResponse { success: true, uptime_ms: 61_000, state, data_kept_until, data_bytes };
            stopped(id, &answer)
        };
        let told = answer(StateName::Stopped, Some(12 << 20), Some(UnixMillis(1_707_022_560_000)));
        assert!(told.contains("Its data: 12 MiB, kept until 2024-02-04 04:56 UTC\n"), "{told}");
        assert!(told.contains("palatine start agent-123") && told.contains("palatine rm agent-123"), "{told}");
        assert_eq!(answer(StateName::Stopped, None, None), "stopped after 1m 1s of uptime; nothing of it is kept");
        assert!(answer(StateName::Stopping, None, None).contains("cannot be reached"));
    }

    #[test]
    fn a_reason_reads_as_words() {
        assert_eq!(reason_name(Reason::Failed(domain::FailReason::CrashLoop)), "crash loop");
        assert_eq!(reason_name(Reason::Stopped(domain::StopReason::Requested)), "requested");
    }
}
