//! `./dev bench`: every figure as measured in one run, printed and written down
//! with the machine, the commit and the date.

mod admission;
pub(crate) mod bare;
mod boot;
mod containers;
mod figures;
mod hands;
mod images;
mod indexing;
mod local;
mod machine;
mod memory;
mod payments;
mod relaying;
pub(crate) mod server;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use figures::Figure;
use machine::Machine;

/// A group of figures that are measured together.
type Group = (&'static str, fn() -> Result<Vec<Figure>>);

const GROUPS: [Group; 8] = [
    ("admission", admission::run),
    ("admission-postgres", admission::run_on_postgres),
    ("boot", boot::run),
    ("containers", containers::run),
    ("hands", hands::run),
    ("payments", payments::run),
    ("indexing", indexing::run),
    ("relaying", relaying::run),
];

#[derive(Serialize)]
struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

/// Measures the images of packages alone.
pub(crate) fn images() -> Result<()> {
    images::run()
}

/// Runs the groups whose name holds `only`.
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let machine = Machine::read()?;
    let mut figures = Vec::new();
    for (name, measure) in GROUPS {
        if only.is_some_and(|only| !name.contains(only)) {
            continue;
        }
        eprintln!("measuring: {name}");
        let measured = measure().with_context(|| format!("measure {name}"))?;
        machine::unpin()?;
        for figure in &measured {
            println!("{figure}");
        }
        figures.extend(measured);
    }
    let report = Report { machine, figures };
    write_down(only.unwrap_or("latest"), &report)?;
    let missed: Vec<&str> =
        report.figures.iter().filter(|figure| figure.missed()).map(|figure| &*figure.name).collect();
    anyhow::ensure!(missed.is_empty(), "{} bars are missed: {}", missed.len(), missed.join("; "));
    Ok(())
}

/// Writes what was measured to `bench/results/<name>.json`.
fn write_down(name: &str, report: &impl Serialize) -> Result<()> {
    let dir = crate::root().join("bench/results");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

/// Where databases and disks of a benchmark lie: on a real disk, never in memory.
pub(crate) fn scratch() -> PathBuf {
    if let Some(folder) = std::env::var_os(crate::guard::SCRATCH) {
        return PathBuf::from(folder);
    }
    let cache = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from);
    cache.parent().map_or(cache.clone(), PathBuf::from)
}

/// What `./dev` put together for the guests and the local Solana.
fn assets() -> Result<PathBuf> {
    std::env::var_os("PALATINE_ASSETS").map(PathBuf::from).context("PALATINE_ASSETS is not set: run ./dev bench")
}

/// The folder of the programs under test.
fn programs() -> Result<PathBuf> {
    std::env::var_os("PALATINE_BIN").map(PathBuf::from).context("PALATINE_BIN is not set: run ./dev bench")
}
