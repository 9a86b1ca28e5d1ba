//! `tests/skips.toml`: which tests may be skipped, and why.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Skips {
    /// What the reference machine has: nothing is skipped for want of it
    reference: BTreeSet<String>,
    /// Tests that may be skipped (`suite test`), by the reason
    #[serde(default)]
    skips: BTreeMap<String, String>,
}

/// What the file says of one skip.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// It is named, with this reason
    Named(&'a str),
    /// It is not
    Unnamed,
    /// It was skipped for want of something that must be there
    Reference,
}

impl Skips {
    pub(crate) fn read() -> Result<Self> {
        let path = crate::root().join("tests/skips.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let skips: Self = toml::from_str(text)?;
        let known = needs::Need::ALL.map(needs::Need::name);
        for need in &skips.reference {
            anyhow::ensure!(known.contains(&need.as_str()), "reference: {need:?} is none of {known:?}");
        }
        for (test, reason) in &skips.skips {
            anyhow::ensure!(!reason.trim().is_empty(), "skips: {test:?} has no reason");
        }
        Ok(skips)
    }

    /// What to think of a skip; `need` is what it was for want of, if it was.
    pub(crate) fn judge(&self, test: &str, need: Option<&str>) -> Verdict<'_> {
        match (need, self.skips.get(test)) {
            (Some(need), _) if self.reference.contains(need) => Verdict::Reference,
            (_, Some(reason)) => Verdict::Named(reason),
            (_, None) => Verdict::Unnamed,
        }
    }

    /// Tests that are named and do not exist.
    pub(crate) fn stale<'a>(&'a self, tests: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
        self.skips.keys().filter(|name| !tests.contains(*name)).map(String::as_str)
    }
}
