//! What `./dev` does beside cargo: needs probed, results counted, shards of the soak, bills of materials and
//! pictures. It links none of the product,
//! so that it is built in seconds.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

#[cfg(test)]
mod cache;
mod declared;
mod facts;
mod figures;
mod fuzz;
#[cfg(test)]
mod fuzz_lock;
mod pack;
#[cfg(test)]
mod package;
mod report;
#[cfg(test)]
mod run;
mod sbom;
mod shards;
mod skips;
mod soak;
mod tally;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// What ./dev does beside cargo.
#[derive(Debug, Parser)]
enum Task {
    /// Find out what this machine has of what tests need
    Probe {
        /// The file of facts to write
        facts: PathBuf,
    },
    /// Count what a run did; its last line says it
    Report(report::Report),
    /// List the shards of the soak, and when they last ran here
    Shards {
        /// Where their last runs are written down
        #[arg(long)]
        record: PathBuf,
    },
    /// Run one shard
    Soak(soak::Soak),
    /// Run the fuzzer's programs
    Fuzz(fuzz::Fuzz),
    /// Write the bill of materials of a package
    Sbom(sbom::Sbom),
    /// Pack built programs as a tarball and a .deb
    Pack(pack::Pack),
    /// Plot the bench's figures and write README's table of them
    Figures(figures::Figures),
    /// Make a picture of a terminal's text
    Terminal(terminal::Terminal),
    /// Name the shard whose files the change touches most
    Touched,
}

fn main() -> Result<ExitCode> {
    match Task::parse() {
        Task::Probe { facts } => facts::probe(&facts)?,
        Task::Report(report) => return Ok(report.run()),
        Task::Shards { record } => shards::list(&record)?,
        Task::Soak(soak) => return soak.run(),
        Task::Fuzz(fuzz) => return fuzz.run(),
        Task::Sbom(sbom) => sbom.run()?,
        Task::Pack(pack) => pack.run()?,
        Task::Figures(figures) => figures.run()?,
        Task::Terminal(terminal) => terminal.run()?,
        Task::Touched => shards::touched()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
