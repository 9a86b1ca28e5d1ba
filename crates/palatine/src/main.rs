//! The command line of Palatine: the gateway, the stack on one machine, and the
//! client.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to people")]

mod answers;
mod cli;
mod clock;
mod commands;
mod config;
mod failure;
mod keypair;
mod output;
mod serve;
mod signals;
mod signer;
mod starters;
mod terminal;
mod tokens;
mod up;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, ConfigCommand, PodCommand};
use failure::Exit;

/// Thousands of small pieces a second come and go with the requests.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider is installed in this process");
        return Exit::Other.into();
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { target, command } = cli;
    let state = || up::StateDir::at(target.state.as_deref());
    match command {
        Command::Up(options) => up::up(&state()?, &options, target.json)?,
        Command::Down => up::down(&state()?)?,
        Command::Status { id: None } => return up::status(&state()?, target.json),
        Command::Serve(file) => serve::serve(&config::Config::load(file.config.as_deref())?)?,
        Command::Keygen { outfile } => {
            println!("{}", keypair::make(&outfile)?.wallet());
        }
        Command::Config { config, command: ConfigCommand::Check } => {
            let read = config::Config::load(config.config.as_deref())?;
            let tiers = read.tiers()?;
            println!("The configuration can be used ({} tiers).", tiers.iter().len());
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "palatine", &mut script);
            std::io::stdout().write_all(&script)?;
        }
        Command::Image { store, command } if command.is_for_gateway(&store) => {
            return block_on(commands::held::run(&target, &state()?, command));
        }
        Command::Image { store, command } => commands::image::run(&state()?, &store, command, target.json)?,
        Command::Pod { command: PodCommand::Identity { config, command } } => {
            commands::pod::identity(config.config.as_deref(), command, target.json)?;
        }
        Command::Store { command } => commands::store::run(command, target.json)?,
        Command::Sign(request) => commands::sign::run(&target, &request)?,
        Command::Volume { command } => return block_on(commands::volume::run(&target, &state()?, command)),
        Command::Key { command } => return block_on(commands::key::run(&target, &state()?, command)),
        Command::Wallet { signer, command } => {
            return block_on(commands::wallet::run(&target, &state()?, &signer, command));
        }
        Command::Vault { signer, command } => {
            return block_on(commands::vault::run(&target, &state()?, &signer, command));
        }
        remote @ (Command::Tiers
        | Command::Spawn(_)
        | Command::Start(_)
        | Command::Ls
        | Command::Status { id: Some(_) }
        | Command::Wait { .. }
        | Command::Logs(_)
        | Command::Events { .. }
        | Command::Exec(_)
        | Command::Shell(_)
        | Command::PortForward(_)
        | Command::Cp(_)
        | Command::Ask(_)
        | Command::Chat(_)
        | Command::Run(_)
        | Command::Timeout(_)
        | Command::Stop { .. }
        | Command::Rm { .. }
        | Command::Price(_)
        | Command::Usage) => return block_on(commands::remote::run(&target, &state()?, remote)),
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(work);
    // A read of our standard input that is still under way is not waited for.
    runtime.shutdown_background();
    outcome
}
