//! A configuration as it is written: what the operator says in it, and where more is added.

use anyhow::{Context, Result};
use toml::{Table, Value};

/// What the operator says of a key, in the file or in a variable, which goes before it.
pub(super) fn said(config: &Table, section: &str, key: &str) -> Option<Value> {
    let variable = format!("PALATINE__{}__{}", section.to_uppercase(), key.to_uppercase());
    std::env::var(variable).ok().map(Value::from).or_else(|| config.get(section)?.get(key).cloned())
}

/// A section, which is made where there is none.
pub(super) fn section<'a>(config: &'a mut Table, name: &str) -> Result<&'a mut Table> {
    let section = config.entry(name).or_insert_with(|| Table::new().into());
    section.as_table_mut().with_context(|| format!("read the configuration: {name} is no section"))
}
