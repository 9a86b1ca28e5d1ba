//! `palatine store`: the gateway's database.

use anyhow::{Context, Result};
use serde::Serialize;
use store::CopiedTable;

use crate::cli::StoreCommand;
use crate::output::show;

/// A table that was copied, as `--json` shows it.
#[derive(Serialize)]
struct Shown<'a> {
    table: &'a str,
    rows: u64,
    digest: &'a str,
}

pub(crate) fn run(command: &StoreCommand, json: bool) -> Result<()> {
    let StoreCommand::Copy { from, to } = command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let copied = runtime.block_on(store::copy(from, to)).with_context(|| format!("copy {from} to {to}"))?;
    let shown: Vec<_> = copied.iter().map(of).collect();
    show(json, &shown, |tables| tables.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

fn of(copied: &CopiedTable) -> Shown<'_> {
    Shown { table: &copied.table, rows: copied.rows, digest: &copied.digest }
}

fn line(table: &Shown<'_>) -> String {
    let Shown { table, rows, digest } = table;
    format!("{table:<16} {rows:>10} rows  {}", &digest[..16])
}
