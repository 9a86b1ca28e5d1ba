//! Benchmarks and generators: `./dev bench`, `./dev openapi`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

mod bench;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;

/// Benchmarks and generators.
#[derive(Debug, Parser)]
enum Task {
    /// Measure, print the figures and write them to bench/results/
    Bench {
        /// Only the figures whose name holds this
        only: Option<String>,
    },
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

/// Thousands of small pieces a second come and go with the requests.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;
    match Task::parse() {
        Task::Bench { only } => bench::run(only.as_deref()),
        Task::Openapi => openapi(),
        Task::BenchGateway { dir, store } => bench::server::run(&dir, store),
        Task::BenchBare(bare) => bench::bare::run(&bare),
    }
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
