//! `tests/shards.toml`: the shards of the soak, what each covers, and which files it guards.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;
use time::OffsetDateTime;
use time::macros::format_description;

/// No shard takes longer.
const LONGEST_MINUTES: u64 = 35;
/// Which commits are the change where no other branch tells.
const RECENT: &str = "24 hours ago";
/// Git's name for a tree without files.
const NOTHING: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    shard: Vec<Shard>,
}

/// One shard.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shard {
    pub(crate) name: String,
    /// After this long it is ended, and has failed
    pub(crate) minutes: u64,
    pub(crate) covers: String,
    /// The files that it guards, as globs
    files: Vec<String>,
    #[serde(flatten)]
    pub(crate) work: Work,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// What a shard runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// The tests of a nextest filter, under the profile `soak`
    Tests(String),
    /// A command, from the repository's folder
    Command(Vec<String>),
}

impl Shard {
    fn guards(&self) -> Result<GlobSet> {
        let mut set = GlobSetBuilder::new();
        for glob in &self.files {
            set.add(Glob::new(glob).with_context(|| format!("shard {}: {glob:?}", self.name))?);
        }
        set.build().with_context(|| format!("shard {}", self.name))
    }
}

pub(crate) fn read() -> Result<Vec<Shard>> {
    let path = crate::root().join("tests/shards.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("read {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Shard>> {
    let table: Table = toml::from_str(text)?;
    for shard in &table.shard {
        anyhow::ensure!(
            (1..=LONGEST_MINUTES).contains(&shard.minutes),
            "shard {}: minutes: 1 to {LONGEST_MINUTES}",
            shard.name
        );
        shard.guards()?;
    }
    Ok(table.shard)
}

pub(crate) fn named(name: &str) -> Result<Shard> {
    let shards = read()?;
    let names: Vec<_> = shards.iter().map(|shard| shard.name.clone()).collect();
    let found = shards.into_iter().find(|shard| shard.name == name);
    found.with_context(|| format!("there is no shard {name:?}; there are {}", names.join(", ")))
}

/// Says which there are, and when they last ran here.
pub(crate) fn list(record: &Path) -> Result<()> {
    println!("{:<10} {:>7}  {:<38} covers", "shard", "at most", "last time here");
    for shard in read()? {
        let last = fs::read_to_string(record.join(&shard.name));
        let last = last.map_or_else(|_| "never".to_owned(), |line| line.trim().to_owned());
        println!("{:<10} {:>3} min  {last:<38} {}", shard.name, shard.minutes, shard.covers);
    }
    Ok(())
}

/// Writes down how a shard's run went.
pub(crate) fn remember(record: &Path, name: &str, passed: bool, took: Duration) -> Result<()> {
    let now = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"))?;
    let how = if passed { "passed" } else { "failed" };
    fs::create_dir_all(record).with_context(|| format!("make {}", record.display()))?;
    let seconds = took.as_secs();
    fs::write(record.join(name), format!("{now}, {how}, {} min {} s\n", seconds / 60, seconds % 60))
        .with_context(|| format!("write down the run of {name}"))
}

/// Prints the shard whose files the change touches most; nothing when it touches none's.
pub(crate) fn touched() -> Result<()> {
    let base = base()?;
    let files = git(&["diff", "--name-only", &base, "HEAD"])?;
    let files: Vec<&str> = files.lines().collect();
    match most_touched(&read()?, &files)? {
        Some((shard, count)) => {
            eprintln!("{count} of the {} files changed since {base} are of shard {}", files.len(), shard.name);
            println!("{}", shard.name);
        }
        None => eprintln!("none of the {} files changed since {base} is of a shard", files.len()),
    }
    Ok(())
}

/// The shard that guards most of these files; of several the first.
fn most_touched<'a>(shards: &'a [Shard], files: &[&str]) -> Result<Option<(&'a Shard, usize)>> {
    let mut most: Option<(&Shard, usize)> = None;
    for shard in shards {
        let guards = shard.guards()?;
        let count = files.iter().filter(|file| guards.is_match(file)).count();
        if count > most.map_or(0, |(_, count)| count) {
            most = Some((shard, count));
        }
    }
    Ok(most)
}

/// What the change is measured from: where it left `origin/main`, else the day before it.
fn base() -> Result<String> {
    let head = git(&["rev-parse", "HEAD"])?;
    if let Ok(fork) = git(&["merge-base", "HEAD", "origin/main"])
        && fork != head
    {
        return Ok(fork);
    }
    let before = git(&["rev-list", "-1", "--before", RECENT, "HEAD"])?;
    if before.is_empty() {
        return Ok(NOTHING.to_owned());
    }
    if before == head { git(&["rev-parse", "HEAD~1"]).or(Ok(NOTHING.to_owned())) } else { Ok(before) }
}

fn git(words: &[&str]) -> Result<String> {
    let output = Command::new("git").args(words).current_dir(crate::root()).output().context("run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "git {}: {}", words.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        [[shard]]
        name = "kills"
        minutes = 30
        covers = "kills"
        files = ["crates/store/**", "crates/{relay,chain}/**"]
        tests = "test(kill)"
        [[shard]]
        name = "fuzz"
        minutes = 35
        covers = "parsers"
        files = ["fuzz/**", "crates/image/src/**"]
        command = ["true"]
    "#;

    #[test]
    fn the_shard_that_guards_most_of_the_change_is_chosen() {
        let shards = parse(TWO).unwrap();
        let chosen = |files: &[&str]| most_touched(&shards, files).unwrap().map(|(shard, _)| shard.name.clone());
        assert_eq!(chosen(&["crates/image/src/lib.rs", "fuzz/a.rs", "crates/store/src/lib.rs"]).unwrap(), "fuzz");
        assert_eq!(chosen(&["crates/relay/src/lib.rs", "fuzz/a.rs"]).unwrap(), "kills");
        assert_eq!(chosen(&["README.md"]), None);
    }

    #[test]
    fn a_shard_over_the_bound_is_refused() {
        let error = parse(&TWO.replace("minutes = 35", "minutes = 36")).unwrap_err();
        assert!(error.to_string().contains("fuzz: minutes"), "{error}");
    }

    #[test]
    fn the_shards_of_the_repository_can_be_read_and_guard_files_that_exist() {
        let files = git(&["ls-files"]).unwrap();
        for shard in read().unwrap() {
            let guards = shard.guards().unwrap();
            assert!(files.lines().any(|file| guards.is_match(file)), "{} guards no file", shard.name);
        }
    }
}
