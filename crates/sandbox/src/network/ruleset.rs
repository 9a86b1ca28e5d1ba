//! The rules on the host as the kernel has them, to see whether others have changed them.

use std::path::Path;

use super::netlink::Netfilter;
use super::rules::{GuardedUplinks, UPLINKS};
use crate::{DriverFailure, command};

/// Rules, as they were when the machine's had this number.
#[derive(Debug)]
pub(super) struct Ruleset {
    generation: u32,
    guarded: GuardedUplinks,
    /// The node's own table.
    own: String,
    /// That of all nodes; empty where nothing is guarded.
    shared: String,
}

impl Ruleset {
    /// The number that all rules of the machine have together.
    pub(super) fn generation() -> Result<u32, DriverFailure> {
        Ok(Netfilter::open()?.generation()?)
    }

    /// Reads the tables. The number was asked for before: what is changed meanwhile is
    /// seen the next time.
    pub(super) fn read(name: &str, guarded: &GuardedUplinks, generation: u32) -> Result<Self, DriverFailure> {
        let shared = if guarded.is_empty() { String::new() } else { list(UPLINKS)? };
        Ok(Self { generation, guarded: guarded.clone(), own: list(name)?, shared })
    }

    /// Whether nobody has changed any rule of the machine since. Costs one question to
    /// the kernel: it is asked at every guest's start.
    pub(super) fn is_untouched(&self) -> Result<bool, DriverFailure> {
        Ok(Self::generation()? == self.generation)
    }

    /// Whether these are those rules.
    pub(super) fn is_as(&self, known: &Self) -> bool {
        (&self.guarded, &self.own, &self.shared) == (&known.guarded, &known.own, &known.shared)
    }

    /// Whether they differ only by the nodes that have come or gone.
    pub(super) fn is_of_other_nodes(&self, known: &Self) -> bool {
        self.guarded != known.guarded && self.own == known.own
    }
}

/// A table as `nft` tells it: the same words for the same rules.
fn list(table: &str) -> Result<String, DriverFailure> {
    let path = std::env::var("PATH").unwrap_or_default();
    command::read(Path::new("nft"), &["-s", "-n", "list", "table", "inet", table], &[("PATH", &path)])
}
