//! `palatine store`: the gateway's database.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use store::{Copied, CopiedTable, LostKeys, ResealError, Resealed, RestoredKeys, RestoredTokens, StoreUrl, TriedKey};

use crate::cli::StoreCommand;
use crate::clock;
use crate::config::Config;
use crate::output::show;

/// A table that was copied, as `--json` shows it.
#[derive(Serialize)]
struct Shown<'a> {
    table: &'a str,
    rows: u64,
    digest: &'a str,
}

/// What was sealed anew, as `--json` shows it.
#[derive(Serialize)]
struct ShownResealed<'a> {
    keys: usize,
    sealing_key_file: &'a Path,
    /// Whether they were sealed with it before: nothing was changed.
    already: bool,
}

/// What is lost, as `--json` shows it.
#[derive(Serialize)]
struct ShownLost<'a> {
    /// What is not the sealing key.
    tried: Vec<ShownTried<'a>>,
    /// The text that the sealing key is known by.
    check: bool,
    tokens: bool,
    pods: Vec<ShownPod>,
    /// Where it was written, once it is forgotten.
    set_aside: Option<&'a Path>,
}

/// What was put back, as `--json` shows it.
#[derive(Serialize)]
struct ShownRestored {
    restored: usize,
    has_key: usize,
    removed: usize,
    closed: usize,
    tokens: Option<&'static str>,
}

/// A file that was tried as the sealing key: `absent`, or `foreign`.
#[derive(Serialize)]
struct ShownTried<'a> {
    file: &'a Path,
    is: &'static str,
}

/// A POD whose key is lost.
#[derive(Serialize)]
struct ShownPod {
    pod: String,
    address: String,
}

pub(crate) fn run(command: StoreCommand, json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        match command {
            StoreCommand::Copy { from, to } => copy(&from, &to, json).await,
            StoreCommand::Reseal { config, new_key } => {
                reseal(&Config::load(config.config.as_deref())?.store, &new_key, json).await
            }
            StoreCommand::RestoreKeys { config, file, sealing_key, tokens } => {
                let config = Config::load(config.config.as_deref())?.store;
                restore(&config, &file, sealing_key.as_deref(), tokens, json).await
            }
            StoreCommand::ForgetLostKeys { config, aside, yes } => {
                forget(&Config::load(config.config.as_deref())?.store, aside, yes, json).await
            }
        }
    })
}

async fn copy(from: &StoreUrl, to: &StoreUrl, json: bool) -> Result<()> {
    let copied = store::copy(from, to).await.with_context(|| format!("copy {from} to {to}"))?;
    let shown: Vec<_> = copied.tables.iter().map(of).collect();
    show(json, &shown, |tables| tables.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    if let Some(needs) = needs(&copied) {
        // Not among the tables, which programs read.
        eprintln!("{needs}");
    }
    Ok(())
}

/// What the gateways of a copy need besides it.
fn needs(copied: &Copied) -> Option<String> {
    if !copied.is_sealed {
        return None;
    }
    let of_before = "its gateways need the file that [store] sealing_key_file of those before names";
    Some(match &copied.default_key {
        Some(key) => format!(
            "The keys in the copy stay sealed with the same sealing key, which is not copied: {of_before}, or by default \
             {}. Keep that file.",
            key.display()
        ),
        None => {
            format!("The keys in the copy stay sealed with the same sealing key, which is not copied: {of_before}.")
        }
    })
}

fn of(copied: &CopiedTable) -> Shown<'_> {
    Shown { table: &copied.table, rows: copied.rows, digest: &copied.digest }
}

fn line(table: &Shown<'_>) -> String {
    let Shown { table, rows, digest } = table;
    format!("{table:<16} {rows:>10} rows  {}", &digest[..16])
}

async fn reseal(config: &store::Config, new_key: &Path, json: bool) -> Result<()> {
    // As the gateway is to find it, wherever it runs.
    let new_key = std::path::absolute(new_key).context("find the new sealing key")?;
    let done = store::reseal(config, &new_key).await.map_err(|error| failed("seal the keys anew", error))?;
    let shown = ShownResealed { keys: done.keys, sealing_key_file: &new_key, already: done.already };
    Ok(show(json, &shown, |_| resealed(done, &new_key, config.sealing_key_file.path()))?)
}

fn tried(ShownTried { file, is }: &ShownTried<'_>) -> String {
    let is =
        if *is == "absent" { "is not there" } else { "is another key, or the text that it is known by is damaged" };
    format!("{} {is}.", file.display())
}

/// The keys are as they were, unless that is what nobody knows.
fn failed(what: &str, error: ResealError) -> anyhow::Error {
    let as_before = if matches!(error, ResealError::Unknown(_)) { "" } else { "; the keys are as they were" };
    anyhow::Error::new(error).context(format!("{what}{as_before}"))
}

fn resealed(done: Resealed, new_key: &Path, before: &Path) -> String {
    let (new_key, before, keys) = (new_key.display(), before.display(), done.keys);
    let already = if done.already { " already" } else { "" };
    format!(
        "{keys} keys are sealed with {new_key}{already}.\nBefore the gateways start: set sealing_key_file = \
         \"{new_key}\" under [store] of each. Where `palatine up` writes the configuration, copy {new_key} over \
         {before} instead, once that one is kept elsewhere.\nKeep the key of before as long as backups of the database that \
         need it."
    )
}

async fn forget(config: &store::Config, aside: Option<PathBuf>, yes: bool, json: bool) -> Result<()> {
    if !yes {
        let lost = store::find_lost_keys(config).await.context("look for lost keys")?;
        show(json, &shown_lost(&lost, None), people)?;
        if lost.is_empty() {
            return Ok(());
        }
        bail!("nothing was changed: with --yes these keys are set aside and forgotten");
    }
    let now = clock::now()?;
    let beside = || config.sealing_key_file.path().with_file_name(format!("lost-keys-{}.json", now.0));
    let aside = aside.unwrap_or_else(beside);
    let lost = store::forget_lost_keys(config, &aside, now).await;
    let lost = lost.map_err(|error| failed("forget the lost keys", error))?;
    let aside = (!lost.is_empty()).then_some(aside.as_path());
    Ok(show(json, &shown_lost(&lost, aside), people)?)
}

async fn restore(
    config: &store::Config,
    file: &Path,
    sealing_key: Option<&Path>,
    tokens: bool,
    json: bool,
) -> Result<()> {
    let done = store::restore_keys(config, file, sealing_key, tokens, clock::now()?).await;
    let RestoredKeys { restored, has_key, removed, closed, tokens } =
        done.map_err(|error| failed("put keys back", error))?;
    let shown = ShownRestored { restored, has_key, removed, closed, tokens: tokens.map(word) };
    show(json, &shown, |_| {
        format!(
            "{restored} keys are their agents' again.\nNot put back: {has_key} of agents that have a key, {removed} of \
             agents that were removed, {closed} that the sealing key does not open (--sealing-key).\n{}",
            tokens.map_or("", sentence)
        )
    })?;
    if closed > 0 && restored + has_key + removed == 0 && tokens.is_none() {
        bail!("no key was put back: the sealing key opens none of them; give the one of before by --sealing-key");
    }
    Ok(())
}

const fn word(tokens: RestoredTokens) -> &'static str {
    match tokens {
        RestoredTokens::Restored => "restored",
        RestoredTokens::Same => "same",
        RestoredTokens::Left => "left",
    }
}

const fn sentence(tokens: RestoredTokens) -> &'static str {
    match tokens {
        RestoredTokens::Restored => {
            "The key of the agents' tokens is that of before again: tokens of before are good, those given since are not."
        }
        RestoredTokens::Same => "The key of the agents' tokens is that of before already.",
        RestoredTokens::Left => {
            "The key of the agents' tokens stays the one that was made since; with --tokens the one of before takes its \
             place: its tokens are good again, and those given since are not."
        }
    }
}

fn shown_lost<'a>(lost: &'a LostKeys, set_aside: Option<&'a Path>) -> ShownLost<'a> {
    let pods = lost.pods.iter().map(|(pod, address)| ShownPod { pod: pod.to_string(), address: address.to_string() });
    let tried = lost.tried.iter().map(|TriedKey { file, is_foreign }| {
        let is = if *is_foreign { "foreign" } else { "absent" };
        ShownTried { file, is }
    });
    ShownLost { tried: tried.collect(), check: lost.check, tokens: lost.tokens, pods: pods.collect(), set_aside }
}

fn people(lost: &ShownLost<'_>) -> String {
    if !lost.check && !lost.tokens && lost.pods.is_empty() {
        return "The sealing key opens every key: none is lost.".to_owned();
    }
    let mut lines: Vec<_> = lost.tried.iter().map(tried).collect();
    if !lost.tried.is_empty() {
        lines.push(
            "Is that the file of the gateway (--config, [store] sealing_key_file)? Does a backup have it, or another \
             gateway of this store? Only without it these are lost:"
                .to_owned(),
        );
    }
    if lost.check {
        lines.push("the text that the sealing key is known by: without it no gateway starts".to_owned());
    }
    if lost.tokens {
        lines.push(
            "the key of the agents' tokens: those of agents that run are good no more, and a start gives another"
                .to_owned(),
        );
    }
    lines.extend(lost.pods.iter().map(|ShownPod { pod, address }| format!("the key of {pod}, {address}")));
    if let Some(aside) = lost.set_aside {
        let aside = aside.display();
        lines.push(format!(
            "They are forgotten. Sealed as they were, they are in {aside}: keep it. If their sealing key is found, \
             `palatine store restore-keys {aside} --sealing-key FILE` puts the agents' keys back, and with --tokens \
             that of their tokens too. Remove it once nobody looks for that key any more: it keeps the keys of agents that \
             are removed later, as a backup does."
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use store::StoreError;

    use super::*;

    #[test]
    fn keys_are_said_to_be_as_they_were_only_where_that_is_known() {
        let known = failed("seal", StoreError::Closed.into()).to_string();
        let unknown = failed("seal", ResealError::Unknown(StoreError::Timeout { operation: "commit" }));
        assert!(known.contains("the keys are as they were"), "{known}");
        let told = format!("{unknown:#}");
        assert!(!told.contains("as they were") && told.contains("not known"), "{told}");
    }
}
