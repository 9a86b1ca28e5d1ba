//! A terminal's text as a picture.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

/// More than a picture for people holds.
const MAX_BYTES: u64 = 64 * 1024;

/// Where the picture goes; the text comes on standard input.
#[derive(Debug, Args)]
pub(crate) struct Terminal {
    /// The picture to write
    picture: PathBuf,
}

impl Terminal {
    pub(crate) fn run(&self) -> Result<()> {
        let mut text = String::new();
        std::io::stdin().take(MAX_BYTES).read_to_string(&mut text).context("read the terminal's text")?;
        anyhow::ensure!(!text.trim().is_empty(), "the terminal said nothing");
        let picture = anstyle_svg::Term::new().render_svg(&text);
        fs::write(&self.picture, picture).with_context(|| format!("write {}", self.picture.display()))
    }
}
