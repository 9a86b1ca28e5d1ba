//! A terminal's text as a picture.

use std::path::Path;

use anyhow::Result;

use crate::dev;

/// Draws what a terminal said.
pub(crate) fn draw(text: &str, picture: &Path) -> Result<()> {
    anyhow::ensure!(!text.trim().is_empty(), "the terminal said nothing");
    dev::write(picture, anstyle_svg::Term::new().render_svg(text))
}
