//! README's tables of what was measured.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What was measured on, and when.
#[derive(Debug, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: u32,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    /// The line under a table.
    pub(crate) fn line(&self) -> String {
        let Self { processor, processors, commit, date } = self;
        let day = date.split('T').next().unwrap_or_default();
        format!("\nMeasured on {day} at `{commit}`, on {processors} cores ({processor}).\n")
    }
}

/// What a benchmark wrote.
pub(crate) fn results<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read what was measured in {}", path.display()))
}

/// Writes README's table of this name anew.
pub(crate) fn write_table(name: &str, table: &str) -> Result<()> {
    let readme = crate::root().join("README.md");
    let old = fs::read_to_string(&readme).context("read README.md")?;
    fs::write(&readme, with_table(&old, name, table)?).context("write README.md")
}

/// A README with this table in the place of the one of that name.
pub(crate) fn with_table(readme: &str, name: &str, table: &str) -> Result<String> {
    let begin = format!("<!-- {name}: written by ./dev pictures -->\n");
    let end = format!("<!-- end of {name} -->\n");
    let (before, rest) = readme.split_once(&begin).ok_or_else(|| anyhow!("README.md has no line {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| anyhow!("README.md has no line {end}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stands_between_its_lines_and_is_not_written_without_them() {
        let readme = "before\n<!-- a: written by ./dev pictures -->\nold\n<!-- end of a -->\nafter\n";
        let new = with_table(readme, "a", "new\n").unwrap();
        assert_eq!(new, readme.replace("old", "new"));
        for odd in [readme.replace("<!-- end of a -->", ""), readme.replace("written", "drawn")] {
            assert!(with_table(&odd, "a", "new\n").is_err());
        }
    }
}
