//! The host's side: one table of rules, and forwarding for the links that need it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::guest::NAMESPACES;
use super::netlink::link_alias;
use super::rules::{self, GuardedUplinks};
use super::ruleset::Ruleset;
use super::shared::SharedHost;
use super::{Config, Egress};
use crate::{DriverFailure, command, files};

/// Between two words on rules that had to be laid again.
const TELL_PERIOD: Duration = Duration::from_secs(60);

/// What the guests' networks need of the host.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    config: Config,
    machine: SharedHost,
    /// The rules as they were laid; nothing where none are to be there.
    ruleset: Mutex<Option<Ruleset>>,
    /// When it was last told that they were laid again.
    told: Mutex<Option<Instant>>,
}

impl HostNetwork {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, machine: SharedHost::this(), ruleset: Mutex::default(), told: Mutex::default() }
    }

    /// Lays the rules and switches forwarding on. Repeats itself without harm.
    pub(crate) fn open(&self) -> Result<(), DriverFailure> {
        let name = self.config.name.as_str();
        if self.config.egress == Egress::None {
            let alone = |guarded: &GuardedUplinks| nft(&[rules::no_host(&self.config), rules::uplinks(guarded)]);
            return self.machine.open(name, &[], alone);
        }
        let routes = fs::read_to_string("/proc/net/route")?;
        self.refuse_overlap(&routes)?;
        let uplinks =
            if self.config.uplinks.is_empty() { default_uplinks(&routes) } else { self.config.uplinks.clone() };
        let mut ruleset = self.ruleset.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.open(name, &uplinks, |guarded| {
            *ruleset = Some(self.lay(guarded)?);
            Ok(())
        })
    }

    /// Lays the rules again if they are not as they were laid: an operator who loads
    /// rules of his own begins with `flush ruleset`. Guests and what they have open
    /// go on.
    pub(crate) fn reconcile_network(&self) -> Result<(), DriverFailure> {
        let mut ruleset = self.ruleset.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = ruleset.as_mut() else { return Ok(()) };
        if known.is_untouched()? {
            return Ok(());
        }
        self.machine.guarding(|guarded| {
            let (name, generation) = (self.config.name.as_str(), Ruleset::generation()?);
            let found = Ruleset::read(name, guarded, generation);
            match found {
                Ok(found) if found.is_as(known) => *known = found,
                Ok(found) if found.is_of_other_nodes(known) => *known = self.lay(guarded)?,
                Ok(_) => {
                    *known = self.lay(guarded)?;
                    self.tell_mended("they were changed or removed by others");
                }
                Err(error) => {
                    *known = self.lay(guarded)?;
                    self.tell_mended(&error.to_string());
                }
            }
            Ok(())
        })
    }

    /// A program that removes them again and again is told of now and then.
    fn tell_mended(&self, why: &str) {
        metrics::counter!("hypercore_rules_mended_total").increment(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_PERIOD) {
            *told = Some(Instant::now());
            tracing::warn!(
                table = self.config.name.as_str(),
                why,
                "the node's packet filter rules were missing or changed; they are set again"
            );
        }
    }

    /// Replaces what is there of the rules in one transaction.
    fn lay(&self, guarded: &GuardedUplinks) -> Result<Ruleset, DriverFailure> {
        nft(&[rules::host(&self.config), rules::uplinks(guarded)])?;
        Ruleset::read(self.config.name.as_str(), guarded, Ruleset::generation()?)
    }

    /// Gives back what `open` took.
    pub(crate) fn close(&self) -> Result<(), DriverFailure> {
        let mut ruleset = self.ruleset.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = |guarded: &GuardedUplinks| nft(&[rules::no_host(&self.config), rules::uplinks(guarded)]);
        *ruleset = None;
        self.machine.close(self.config.name.as_str(), guard)
    }

    /// The sandboxes that have a namespace here.
    pub(crate) fn namespaces(&self) -> io::Result<Vec<String>> {
        Ok(self.ours(&files::names(Path::new(NAMESPACES))?))
    }

    /// The slots that have a link with this mark here.
    pub(crate) fn slots(&self, mark: &str) -> io::Result<Vec<u16>> {
        let mut slots = Vec::new();
        for slot in self.links()? {
            let bears = link_alias(&format!("{}-{slot}", self.config.name))?.as_deref() == Some(mark);
            slots.extend(slot.parse::<u16>().ok().filter(|_| bears));
        }
        Ok(slots)
    }

    /// All slots that have a link here.
    pub(crate) fn links(&self) -> io::Result<Vec<String>> {
        let table = fs::read_to_string("/proc/net/dev")?;
        let names: Vec<String> =
            table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
        Ok(self.ours(&names))
    }

    /// Removes the link of a slot.
    pub(crate) fn remove_link(&self, slot: &str) -> Result<(), DriverFailure> {
        let link = format!("{}-{slot}", self.config.name);
        command::run("ip", &["link", "del", &link], "")
    }

    /// Removes the name of a namespace.
    pub(crate) fn remove_namespace(&self, id: &str) -> Result<(), DriverFailure> {
        let namespace = format!("{}-{id}", self.config.name);
        command::run("ip", &["netns", "del", &namespace], "")
    }

    fn ours(&self, names: &[String]) -> Vec<String> {
        let prefix = format!("{}-", self.config.name);
        names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    fn refuse_overlap(&self, routes: &str) -> Result<(), DriverFailure> {
        let prefix = format!("{}-", self.config.name);
        let foreign = |route: &&Route| !route.link.starts_with(&prefix) && route.mask != 0;
        match parse(routes).iter().filter(foreign).find(|route| self.config.range.meets(route.to, route.mask)) {
            None => Ok(()),
            Some(route) => Err(DriverFailure::Missing(format!(
                "network.range: {} is in use at {} ({}); choose another private range",
                self.config.range, route.link, route.to
            ))),
        }
    }
}

/// Lays rules in one transaction.
fn nft(rules: &[String]) -> Result<(), DriverFailure> {
    command::run("nft", &["-f", "-"], &rules.concat())
}

#[derive(Debug, PartialEq, Eq)]
struct Route {
    link: String,
    to: Ipv4Addr,
    mask: u32,
}

/// Reads `/proc/net/route`, whose addresses are hexadecimal and little-endian.
fn parse(routes: &str) -> Vec<Route> {
    let hex = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::swap_bytes);
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            let (link, to, mask) = (*fields.first()?, hex(fields.get(1)?)?, hex(fields.get(7)?)?);
            Some(Route { link: link.to_owned(), to: to.into(), mask })
        })
        .collect()
}

fn default_uplinks(routes: &str) -> Vec<String> {
    let mut links: Vec<String> =
        parse(routes).into_iter().filter(|route| route.mask == 0).map(|route| route.link).collect();
    links.sort();
    links.dedup();
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        wg0\t0005C90A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_uplinks_are_the_links_with_a_default_route() {
        assert_eq!(default_uplinks(ROUTES), ["eth0"]);
    }

    #[test]
    fn a_range_that_is_in_use_is_refused_with_the_links_name() {
        let host = HostNetwork::new(Config::default());
        let error = host.refuse_overlap(ROUTES).unwrap_err();
        assert!(error.to_string().contains("wg0 (10.201.5.0)"), "{error}");
        let other = Config { range: "172.30.0.0/16".parse().unwrap(), ..Config::default() };
        assert!(HostNetwork::new(other).refuse_overlap(ROUTES).is_ok());
    }

    /// Runs this in a network of its own, where all rules are its.
    #[expect(unsafe_code, reason = "unsharing files could surprise other code; a network surprises nobody")]
    fn alone(act: impl FnOnce() + Send) {
        let life = || {
            // SAFETY: touches no file descriptor; the thread ends here.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            act();
        };
        std::thread::scope(|scope| scope.spawn(life).join()).unwrap();
    }

    /// A node of this name in such a network, with an interface that is guarded.
    fn host(dir: &Path, name: &str, range: &str) -> HostNetwork {
        let setting = dir.join("lo");
        fs::create_dir_all(&setting).unwrap();
        fs::write(setting.join("forwarding"), "0").unwrap();
        let (name, range) = (name.to_owned().try_into().unwrap(), range.parse().unwrap());
        let config = Config { name, range, uplinks: vec!["lo".to_owned()], ..Config::default() };
        HostNetwork { config, machine: SharedHost::of_test(dir), ruleset: Mutex::default(), told: Mutex::default() }
    }

    fn change(rules: &str) {
        nft(&[rules.to_owned()]).unwrap();
    }

    fn all() -> String {
        let path = std::env::var("PATH").unwrap();
        command::read(Path::new("nft"), &["-s", "list", "ruleset"], &[("PATH", &path)]).unwrap()
    }

    #[test]
    fn fault_1_5_rules_that_others_remove_or_change_are_laid_again() {
        needs::needs!(root, network);
        let dir = tempfile::tempdir().unwrap();
        alone(|| {
            let host = host(dir.path(), "plsu", "10.222.9.0/24");
            host.open().unwrap();
            let laid = all();
            assert!(laid.contains("masquerade") && laid.contains("node_uplinks"), "{laid}");
            for harm in [
                "flush ruleset",
                "delete table inet plsu",
                "delete table inet node_uplinks",
                "flush chain inet plsu input",
                "insert rule inet plsu forward accept",
                "delete element inet plsu closed { 10.0.0.0/8 }",
            ] {
                change(harm);
                assert_ne!(all(), laid, "{harm}");
                host.reconcile_network().unwrap();
                assert_eq!(all(), laid, "{harm}");
            }
        });
    }

    #[test]
    fn fault_1_5_what_is_none_of_the_nodes_rules_is_left_alone() {
        needs::needs!(root, network);
        let dir = tempfile::tempdir().unwrap();
        alone(|| {
            let host = host(dir.path(), "plsw", "10.222.10.0/24");
            host.reconcile_network().unwrap();
            assert_eq!(all(), "", "a node that has not opened its network has no rules");
            host.open().unwrap();
            change("table inet theirs {\n chain input {\n type filter hook input priority 0\n }\n }");
            let generation = Ruleset::generation().unwrap();
            host.reconcile_network().unwrap();
            assert_eq!(Ruleset::generation().unwrap(), generation, "nothing was laid");
            host.close().unwrap();
            host.reconcile_network().unwrap();
            let left = all();
            assert!(left.contains("theirs") && !left.contains("plsw"), "{left}");
        });
    }

    #[test]
    fn fault_1_5_a_node_lays_no_others_rules_of_before() {
        needs::needs!(root, network);
        let dir = tempfile::tempdir().unwrap();
        alone(|| {
            let (one, two) = (host(dir.path(), "plsx", "10.222.11.0/24"), host(dir.path(), "plsy", "10.222.12.0/24"));
            one.open().unwrap();
            two.open().unwrap();
            let both = all();
            one.reconcile_network().unwrap();
            two.reconcile_network().unwrap();
            assert_eq!(all().len(), both.len());
            two.close().unwrap();
            one.reconcile_network().unwrap();
            change("flush ruleset");
            one.reconcile_network().unwrap();
            let left = all();
            assert!(left.contains("oifname \"plsx-*\" accept") && !left.contains("plsy"), "{left}");
        });
    }
}
