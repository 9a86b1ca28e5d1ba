//! What the commands of `./dev` do, once the machine has what they need: what is built, checked, packed, measured and
//! drawn. It links none of the product, so that it is built in seconds.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

mod assets;
mod build;
mod checks;
mod child;
mod declared;
mod dev;
mod facts;
mod figures;
mod fuzz;
#[cfg(test)]
mod fuzz_lock;
mod images;
mod last;
mod measured;
mod pack;
mod package;
mod paths;
mod pictures;
mod readme;
mod report;
mod run;
mod sbom;
#[cfg(test)]
mod setup;
mod shards;
mod signals;
mod skips;
mod soak;
mod stack;
mod tally;
mod terminal;
mod up;

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use build::{Profile, guests, programs};
use dev::Dev;

/// Commands whose last line is a count, also when they do not understand what they are told.
const COUNTED: [&str; 3] = ["test", "soak", "lint"];

/// What the commands of ./dev do, which starts this and has a help for people.
#[derive(Debug, Parser)]
struct Cli {
    /// The folder of all that is built or fetched
    #[arg(long, global = true)]
    cache: Option<PathBuf>,
    /// Seconds that the command has run for already
    #[arg(long, global = true, default_value_t = 0)]
    after: u64,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run everything on this machine
    #[command(disable_help_flag = true)]
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// All checks and all tests; or the tests of these words
    #[command(disable_help_flag = true)]
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Build the images that are made of packages
    Images(images::Images),
    /// Run one shard of what takes long; without one, list them
    Soak(soak::Soak),
    /// Name the shard whose files the change touches most
    Touched,
    /// Fuzz what reads strangers' bytes
    Fuzz(fuzz::Fuzz),
    /// Measure
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// A static tarball and a .deb
    Package(package::Package),
    /// Draw anew what README shows
    Pictures,
    /// Formatting, clippy, licences
    Lint,
    /// Build our programs and the guests', as a later version's tests start them
    Programs,
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let status = do_it(cli).unwrap_or_else(|error| dev::failed(&error));
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// Says what is wrong with the words, or the help that they ask for.
fn refuse(error: &clap::Error) -> ! {
    let _ = error.print();
    let command = std::env::args().nth(1).unwrap_or_default();
    if error.use_stderr() && COUNTED.contains(&command.as_str()) {
        println!("{}", run::UNCOUNTED);
    }
    std::process::exit(error.exit_code())
}

/// Does it; the exit status.
fn do_it(cli: Cli) -> Result<i32> {
    let cache = cli.cache.context("--cache says where things lie: ./dev does")?;
    let mut dev = Dev::new(cache, Duration::from_secs(cli.after))?;
    let done = task(&mut dev, cli.task);
    dev.ended(done)
}

fn task(dev: &mut Dev, task: Task) -> Result<i32> {
    match task {
        Task::Up { words } => match up::run(dev, &words)? {},
        Task::Test { words } => return Ok(checks::test(dev, &words)),
        Task::Soak(soak) => match &soak.shard {
            Some(name) => return Ok(checks::soak(dev, &soak, name)),
            None => shards::list(&dev.cache.join("shards"))?,
        },
        Task::Images(images) => images.run(dev)?,
        Task::Touched => shards::touched()?,
        Task::Fuzz(fuzz) => return fuzz.run(dev).map(|good| i32::from(!good)),
        Task::Bench { words } => match bench(dev, &words)? {},
        Task::Package(package) => package.run(dev)?,
        Task::Pictures => pictures::draw(dev)?,
        Task::Lint => return Ok(checks::lint(dev)),
        Task::Programs => {
            programs(dev, Profile::Debug)?;
            guests(dev)?;
        }
    }
    Ok(0)
}

/// Becomes the benchmark, of what is shipped.
fn bench(dev: &mut Dev, words: &[OsString]) -> Result<Infallible> {
    programs(dev, Profile::Release)?;
    guests(dev)?;
    let mut cargo = dev.command("cargo");
    cargo.args(["run", "--locked", "--release", "-p", "xtask", "--", "bench"]).args(words);
    cargo.env("PALATINE_ASSETS", dev.assets()).env("PALATINE_BIN", dev.target().join("release"));
    dev.become_it(&mut cargo)
}

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
