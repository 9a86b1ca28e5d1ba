//! Benchmarks and generators: `./dev bench`, `./dev openapi`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

mod bench;
mod guard;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser};

/// Benchmarks and generators.
#[derive(Debug, Parser)]
enum Task {
    /// Measure, print the figures and write them to bench/results/
    Bench(Choice),
    /// The same, while somebody else ends what it leaves
    #[command(hide = true)]
    Measure(Choice),
    /// Write openapi/*.json anew
    Openapi,
    /// The gateway under test of the benchmark
    #[command(hide = true)]
    BenchGateway {
        /// Where its files lie
        dir: PathBuf,
        /// A database elsewhere
        #[arg(long)]
        store: Option<store::StoreUrl>,
    },
    /// A guest started by hand, for the benchmark
    #[command(hide = true)]
    BenchBare(bench::bare::Bare),
}

/// What is measured.
#[derive(Debug, Args)]
struct Choice {
    /// Only the figures of groups whose name holds this
    only: Option<String>,
    /// What the images of packages take, in machines and in containers, and nothing else
    #[arg(long, conflicts_with = "only")]
    images: bool,
}

impl Choice {
    /// The words by which it is measured in a process of its own.
    fn words(self) -> Vec<String> {
        let images = self.images.then(|| "--images".to_owned());
        ["measure".to_owned()].into_iter().chain(self.only).chain(images).collect()
    }
}

/// Thousands of small pieces a second come and go with the requests.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<ExitCode> {
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;
    let done = match Task::parse() {
        Task::Bench(choice) => return guard::run(choice.words(), &bench::scratch()),
        Task::Measure(Choice { images: true, .. }) => bench::images(),
        Task::Measure(Choice { only, .. }) => bench::run(only.as_deref()),
        Task::Openapi => openapi(),
        Task::BenchGateway { dir, store } => bench::server::run(&dir, store),
        Task::BenchBare(bare) => bench::bare::run(&bare),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn openapi() -> Result<()> {
    for (name, document) in [("public", gateway::openapi()), ("node", hypercore::openapi())] {
        let path = root().join("openapi").join(format!("{name}.json"));
        fs::write(&path, document.trim_end().to_owned() + "\n").with_context(|| format!("write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
