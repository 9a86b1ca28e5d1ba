//! What a test needs of the machine it runs on: `needs!(root, tun)`.
//!
//! `./dev test` probes the machine before the run and writes what it found to a file of facts. A test that needs what
//! is lacking writes its name to the list of skips and ends; the run counts it as skipped, and fails unless
//! `tests/skips.toml` names it with a reason. Without `./dev` there are no facts: the test runs, and fails where it
//! must.

use std::fs;
use std::io::Write;
use std::path::Path;

/// Names the file of facts: lines of `need`, tab, `yes` or `no`, tab, what was seen.
pub const FACTS: &str = "PALATINE_FACTS";
/// Names the file that skipped tests add their line to: suite, tab, test, tab, need.
pub const SKIPS: &str = "PALATINE_SKIPS";

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The user root
    Root,
    /// Network namespaces, veth pairs and nftables
    Network,
    /// Tap devices
    Tun,
    /// Control groups that can be made
    Cgroups,
    /// KVM under which a guest gets anywhere
    Kvm,
    /// Landlock, which shuts a process off from files and ports
    Landlock,
    /// gVisor's runsc
    Gvisor,
}

impl Need {
    /// All that can be needed.
    pub const ALL: [Self; 7] =
        [Self::Root, Self::Network, Self::Tun, Self::Cgroups, Self::Kvm, Self::Landlock, Self::Gvisor];

    /// As it is written in facts, in `tests/skips.toml` and in `needs!`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Network => "network",
            Self::Tun => "tun",
            Self::Cgroups => "cgroups",
            Self::Kvm => "kvm",
            Self::Landlock => "landlock",
            Self::Gvisor => "gvisor",
        }
    }
}

/// States what this test needs, before it makes anything: `needs!(root, network)`. Where it is lacking, the test ends
/// here and is counted as skipped.
#[macro_export]
macro_rules! needs {
    (@ root) => { $crate::Need::Root };
    (@ network) => { $crate::Need::Network };
    (@ tun) => { $crate::Need::Tun };
    (@ cgroups) => { $crate::Need::Cgroups };
    (@ kvm) => { $crate::Need::Kvm };
    (@ landlock) => { $crate::Need::Landlock };
    (@ gvisor) => { $crate::Need::Gvisor };
    ($($need:ident),+ $(,)?) => { $crate::require(&[$($crate::needs!(@ $need)),+]) };
}

/// What `needs!` does.
///
/// # Panics
/// When a skip cannot be written down: then it would look like a test that passed.
pub fn require(needs: &[Need]) {
    // Each test has a process of its own under nextest alone; elsewhere this would end others too.
    let (Some(facts), Some(skips), Some(suite), Some(test)) =
        (var(FACTS), var(SKIPS), var("NEXTEST_BINARY_ID"), var("NEXTEST_TEST_NAME"))
    else {
        return;
    };
    let facts = fs::read_to_string(&facts).unwrap_or_else(|error| panic!("the facts in {facts}: {error}"));
    if let Some(lacking) = needs.iter().find(|need| !has(&facts, **need)) {
        write_down(Path::new(&skips), &suite, &test, *lacking);
        std::process::exit(0);
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A need that was not probed is a fault of the list, not of the machine: the test runs.
fn has(facts: &str, need: Need) -> bool {
    !facts.lines().any(|line| {
        let mut fields = line.split('\t');
        fields.next() == Some(need.name()) && fields.next() == Some("no")
    })
}

fn write_down(skips: &Path, suite: &str, test: &str, need: Need) {
    let line = format!("{suite}\t{test}\t{}\n", need.name());
    let file = fs::OpenOptions::new().create(true).append(true).open(skips);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("the skip in {}: {error}", skips.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_probed_and_not_found_is_lacking() {
        let facts = "root\tyes\tuid 0\nkvm\tno\tno guest came up in 10 s\n";
        assert!(has(facts, Need::Root) && has(facts, Need::Tun) && !has(facts, Need::Kvm));
    }

    #[test]
    fn the_macro_knows_every_need_by_its_name() {
        let named = [
            needs!(@ root),
            needs!(@ network),
            needs!(@ tun),
            needs!(@ cgroups),
            needs!(@ kvm),
            needs!(@ landlock),
            needs!(@ gvisor),
        ];
        assert_eq!(named, Need::ALL);
        assert_eq!(named.map(Need::name), ["root", "network", "tun", "cgroups", "kvm", "landlock", "gvisor"]);
    }
}
