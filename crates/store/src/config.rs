//! `[store]`: where the database lies and how much it keeps.

use std::path::PathBuf;

use domain::{OutOfBounds, check_bounds};
use serde::Deserialize;

use crate::sealing::SealingKeyFile;
use crate::url::{Place, StoreUrl};

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the database is: `sqlite:///directory`, or
    /// `postgres://user:password@host/database`. Default: SQLite in `directory`.
    pub url: Option<StoreUrl>,
    /// The directory of the SQLite database, made with mode 0700. Default
    /// `/var/lib/palatine/store`.
    pub directory: PathBuf,
    /// The key that the keys in the database are sealed with; made (mode 0600) at the
    /// first start. All gateways of one database are given the same file, and whoever
    /// backs the database up keeps a copy of it apart: without it, none of those keys
    /// can be had again (`palatine store reseal`, `forget-lost-keys`, `restore-keys`).
    /// Default `sealing.key` in `directory`, with PostgreSQL too; where it is not there
    /// and the database is sealed already, `/var/lib/palatine/gateway/sealing.key`.
    pub sealing_key_file: SealingKeyFile,
    /// Writes that may wait for SQLite's writer; one more waits with its caller.
    /// Default 8192.
    pub queue: usize,
    /// Threads that read from SQLite. Default 2.
    pub readers: usize,
    /// Connections to PostgreSQL at most. Default 16.
    pub connections: u32,
    /// Milliseconds after which a caller is told that the database does not
    /// answer. Default 10000.
    pub timeout_ms: u64,
    /// Days for which ended agents and their events are kept; their usage stays
    /// in the wallet's totals for ever. Default 90, at least 2.
    pub retention_days: u64,
}

impl Default for Config {
    fn default() -> Self {
        let directory = PathBuf::from("/var/lib/palatine/store");
        Self {
            url: None,
            sealing_key_file: SealingKeyFile::within(&directory),
            directory,
            queue: 8192,
            readers: 2,
            connections: 16,
            timeout_ms: 10_000,
            retention_days: 90,
        }
    }
}

impl Config {
    /// Checks the bounds.
    ///
    /// # Errors
    /// Names the first key out of bounds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        check_bounds(
            "store",
            [
                ("queue", count(self.queue), 1..=1 << 20),
                ("readers", count(self.readers), 1..=64),
                // One for the news and one for the lease, besides those that serve.
                ("connections", self.connections.into(), 3..=1000),
                ("timeout_ms", self.timeout_ms, 100..=3_600_000),
                // Idempotency keys live a day and point at their agents.
                ("retention_days", self.retention_days, 2..=36_500),
            ],
        )
    }

    /// Where the database is.
    pub(crate) fn place(&self) -> Place {
        match &self.url {
            None => Place::Sqlite(self.directory.clone()),
            Some(url) => url.place(),
        }
    }

    /// What it is called in errors, without a password.
    pub(crate) fn name(&self) -> String {
        self.url.as_ref().map_or_else(|| self.directory.display().to_string(), ToString::to_string)
    }

    pub(crate) const fn retention_ms(&self) -> u64 {
        self.retention_days.saturating_mul(24 * 60 * 60 * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_values_out_of_bounds_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let said = Config { retention_days: 1, ..Config::default() }.check().unwrap_err().to_string();
        assert_eq!(said, "[store] retention_days must be from 2 to 36500, not 1");
        assert!(Config { readers: 0, ..Config::default() }.check().is_err());
    }
}
