//! What a stack calls its own on the machine: the name of its links, namespaces,
//! rules and cgroups, a private range, a range of users. Each state folder has its
//! own, so that two stacks live side by side; it is chosen once, and kept.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use alloy_primitives::keccak256;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sandbox::drivers::container::ContainerSettings;
use serde::{Deserialize, Serialize};

use super::state::StateDir;

/// Where the stacks of this machine tell what each calls its own; until it is booted
/// again.
const CLAIMS: &str = "/run/palatine-up";
/// The range of which each stack has a piece, `10.64.0.0/10`: apart from the range that
/// nodes have by themselves.
const RANGE: u32 = 0x0a40_0000;
/// A piece: room for 1,024 guests.
const PREFIX: u32 = 20;
const PIECES: u32 = 1 << (PREFIX - 10);
/// The first user of all stacks, and how many each has.
const FIRST_UID: u32 = 1_879_048_192;
const UIDS: u32 = 4096;
/// The first of the users of containers, before nodes' own default: so many pieces of 65,536 for each guest. Where there
/// are more stacks than that some share one, and two of those run containers one after the other.
const CONTAINER_UID: u32 = 0x2000_0000;
const CONTAINER_UIDS: u32 = (1 << (32 - PREFIX - 2)) * ContainerSettings::USERS;
const CONTAINER_PIECES: u32 = 16;
/// All of which a node may use, whatever its range.
const ALL_CONTAINER_UIDS: u32 = 4 * CONTAINER_UIDS;
/// Where stacks of before have them.
const CONTAINER_UIDS_BEFORE: [u32; 6] = [0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000, 0x5000_0000, 0x6000_0000];
/// How many choices are tried before none is found.
const TRIES: u32 = 1000;

/// What one stack has of the machine for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StackResources {
    /// The state folder that it is of: a copy of the folder is another stack.
    state: PathBuf,
    /// `[network] name`.
    pub(super) name: String,
    /// `[network] range`.
    pub(super) range: String,
    /// `[node] first_uid`.
    pub(super) first_uid: u32,
    /// `[node] first_container_uid`, where the operator says nothing else; of a stack of before it follows from the
    /// machines' users.
    #[serde(default)]
    first_container_uid: Option<u32>,
}

/// What the operator's configuration says of a stack's own: it goes before any choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OperatorSettings {
    pub(super) name: Option<String>,
    pub(super) range: Option<String>,
    pub(super) first_uid: Option<u32>,
}

impl OperatorSettings {
    /// Whether it is, in part, what another stack has.
    fn conflicts_with(&self, other: &StackResources) -> bool {
        self.name.as_ref() == Some(&other.name)
            || self.range.as_ref() == Some(&other.range)
            || self.first_uid.is_some_and(|first| first.abs_diff(other.first_uid) < UIDS)
    }
}

impl StackResources {
    /// The same, as far as the operator says nothing else.
    fn with(self, wanted: &OperatorSettings) -> Self {
        let OperatorSettings { name, range, first_uid } = wanted.clone();
        Self {
            state: self.state,
            name: name.unwrap_or(self.name),
            range: range.unwrap_or(self.range),
            first_uid: first_uid.unwrap_or(self.first_uid),
            first_container_uid: self.first_container_uid,
        }
    }

    /// The choice of this number for a folder.
    fn choice(state: &Path, number: u32) -> Self {
        let mut text = state.as_os_str().as_encoded_bytes().to_vec();
        text.extend_from_slice(&number.to_be_bytes());
        let hash = keccak256(text);
        let digit = |byte: &u8| char::from_digit(u32::from(byte % 36), 36).unwrap_or('0');
        let piece = u32::from_be_bytes([hash[8], hash[9], hash[10], hash[11]]) % PIECES;
        let base = std::net::Ipv4Addr::from_bits(RANGE | (piece << (32 - PREFIX)));
        Self {
            state: state.to_owned(),
            name: format!("up{}", hash[..7].iter().map(digit).collect::<String>()),
            range: format!("{base}/{PREFIX}"),
            // Behind the range of a node that was set up by hand.
            first_uid: FIRST_UID + (piece + 1) * UIDS,
            first_container_uid: Some(CONTAINER_UID + (piece % CONTAINER_PIECES) * CONTAINER_UIDS),
        }
    }

    /// `[node] first_container_uid`, where the operator says nothing else: always the same for a stack.
    pub(super) fn first_container_uid(&self) -> u32 {
        // The operator may have put the machines' users there.
        let is_apart = |first: u32| {
            self.first_uid.checked_add(u32::from(u16::MAX)).is_none_or(|last| last < first)
                || self.first_uid >= first.saturating_add(ALL_CONTAINER_UIDS)
        };
        if let Some(first) = self.first_container_uid.filter(|first| is_apart(*first)) {
            return first;
        }
        let before = CONTAINER_UIDS_BEFORE;
        let mut ranges = before.into_iter().cycle().skip((self.first_uid / UIDS) as usize % before.len());
        ranges.by_ref().take(before.len()).find(|first| is_apart(*first)).unwrap_or(before[0])
    }

    /// Whether another stack has some of the users of its containers.
    fn shares_containers_with(&self, other: &Self) -> bool {
        self.state != other.state && self.first_container_uid().abs_diff(other.first_container_uid()) < CONTAINER_UIDS
    }

    fn conflicts_with(&self, other: &Self) -> bool {
        let apart = self.first_uid.abs_diff(other.first_uid) >= UIDS;
        self.state != other.state && (self.name == other.name || self.range == other.range || !apart)
    }

    /// Whether the machine uses the name or the range already. `routes` is
    /// `/proc/net/route`.
    fn is_taken(&self, links: &BTreeSet<String>, routes: &str) -> bool {
        let prefix = format!("{}-", self.name);
        let network = self.range.split('/').next().and_then(|base| base.parse::<std::net::Ipv4Addr>().ok());
        let base = network.map_or(0, std::net::Ipv4Addr::to_bits);
        let hex = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::swap_bytes);
        let met = routes.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            let route = fields.get(1).and_then(|to| hex(to)).zip(fields.get(7).and_then(|mask| hex(mask)));
            let ours = fields.first().is_some_and(|link| link.starts_with(&prefix));
            let common = |mask: u32| mask & (u32::MAX << (32 - PREFIX));
            !ours && route.is_some_and(|(to, mask)| mask != 0 && (to ^ base) & common(mask) == 0)
        });
        met || links.iter().any(|link| link.starts_with(&prefix))
    }
}

/// What is this stack's own: what the operator wants, else what was chosen before,
/// else what is chosen now.
pub(super) fn allocate(state: &StateDir, wanted: &OperatorSettings) -> Result<StackResources> {
    allocate_in(Path::new(CLAIMS), state, wanted)
}

fn allocate_in(dir: &Path, state: &StateDir, wanted: &OperatorSettings) -> Result<StackResources> {
    let root = canonical_root(state)?;
    let last = allocated(state)?;
    let _lock = lock(dir)?;
    let others = claims(dir, &root)?;
    if let Some(other) = others.iter().find(|other| wanted.conflicts_with(other)) {
        bail!(
            "[network] name and range and [node] first_uid must be this stack's own, and the one in {} has {}, {} and {}",
            other.state.display(),
            other.name,
            other.range,
            other.first_uid
        );
    }
    let free = |allocation: &StackResources| !others.iter().any(|other| allocation.conflicts_with(other));
    let apart = |allocation: &StackResources| !others.iter().any(|other| allocation.shares_containers_with(other));
    let allocation = match last.clone().map(|allocation| allocation.with(wanted)).filter(free) {
        Some(allocation) => allocation,
        None => match choose(&root, |allocation| free(allocation) && apart(allocation))? {
            Some(allocation) => allocation.with(wanted),
            None => {
                choose(&root, free)?.context("no private range of 10.64.0.0/10 is free on this machine")?.with(wanted)
            }
        },
    };
    if last.as_ref() != Some(&allocation) {
        write("network", &state.network(), &allocation)?;
    }
    write("claim", &claim(dir, &allocation.name), &allocation)?;
    Ok(allocation)
}

/// The first choice that neither another stack nor the machine has.
fn choose(state: &Path, free: impl Fn(&StackResources) -> bool) -> Result<Option<StackResources>> {
    let links = names("/sys/class/net").into_iter().chain(names("/run/netns")).collect();
    let routes = fs::read_to_string("/proc/net/route").context("read the machine's routes")?;
    let mut choices = (0..TRIES).map(|number| StackResources::choice(state, number));
    Ok(choices.find(|allocation| free(allocation) && !allocation.is_taken(&links, &routes)))
}

/// Whether the operator now wants something else than what this stack had last.
pub(super) fn is_moved(state: &StateDir, wanted: &OperatorSettings) -> Result<bool> {
    Ok(allocated(state)?.is_some_and(|allocation| allocation.clone().with(wanted) != allocation))
}

/// Gives the claim back; the choice stays.
pub(super) fn release(state: &StateDir) -> Result<()> {
    let Some(allocation) = allocated(state)? else { return Ok(()) };
    let _lock = lock(Path::new(CLAIMS))?;
    match fs::remove_file(claim(Path::new(CLAIMS), &allocation.name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("give the name back"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What this stack had last. A copy of another one's folder had nothing; one that
/// cannot be read is no word that there is nothing.
pub(super) fn allocated(state: &StateDir) -> Result<Option<StackResources>> {
    let path = state.network();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let allocation: StackResources = serde_json::from_slice(&text).with_context(|| {
        let path = path.display();
        format!("read {path}, which names what this stack has on the machine; remove it when none of that is left")
    })?;
    Ok((allocation.state == canonical_root(state)?).then_some(allocation))
}

fn canonical_root(state: &StateDir) -> Result<PathBuf> {
    fs::canonicalize(state.root()).with_context(|| format!("find {}", state.root().display()))
}

fn claim(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.json"))
}

/// What the other stacks of this machine call their own. A claim of a folder that is
/// gone is dropped.
fn claims(dir: &Path, own: &Path) -> Result<Vec<StackResources>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let claim = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<StackResources>(&text).ok());
        match claim {
            Some(allocation) if allocation.state == own => {}
            Some(allocation) if allocation.state.is_dir() => all.push(allocation),
            Some(_) => fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?,
            None => {}
        }
    }
    Ok(all)
}

fn lock(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join("lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.with_context(|| format!("open {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn write(what: &str, path: &Path, allocation: &StackResources) -> Result<()> {
    let text = serde_json::to_vec_pretty(allocation)?;
    durable::replace(what, path, &text).with_context(|| format!("write {}", path.display()))
}

/// The names in a folder; none if there is no such folder.
pub(super) fn names(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_have_users_apart_from_the_machines_whatever_the_operator_says_of_those() {
        let of = |first_uid| StackResources { first_uid, ..StackResources::choice(Path::new("/a"), 0) };
        for number in 0..64 {
            let stack = StackResources::choice(Path::new("/a"), number);
            let first = stack.first_container_uid();
            assert_eq!(Some(first), stack.first_container_uid);
            assert!(first >= CONTAINER_UID && first + ALL_CONTAINER_UIDS <= stack.first_uid, "{first}");
            // Nodes' own default begins there.
            assert!(first + CONTAINER_UIDS <= hypercore::Config::default().first_container_uid);
        }
        for first in CONTAINER_UIDS_BEFORE.into_iter().flat_map(|first| [first, first + 7 * UIDS, first - 5]) {
            let containers = of(first).first_container_uid();
            let machines = first..=first + u32::from(u16::MAX);
            assert!(!machines.contains(&containers) && !(containers..containers + ALL_CONTAINER_UIDS).contains(&first));
        }
    }

    #[test]
    fn stacks_have_users_of_containers_of_their_own_as_long_as_there_are_some_and_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        let claims_dir = dir.path().join("claims");
        let stacks = 0..CONTAINER_PIECES + 2;
        let states = stacks.map(|number| {
            let state = StateDir::at(Some(&dir.path().join(number.to_string()))).unwrap();
            fs::create_dir(state.root()).unwrap();
            state
        });
        let states: Vec<_> = states.collect();
        let none = OperatorSettings::default();
        let allocate = |state| allocate_in(&claims_dir, state, &none).unwrap();
        let first: Vec<_> = states.iter().map(|state| allocate(state).first_container_uid()).collect();
        let apart: BTreeSet<_> = first.iter().take(CONTAINER_PIECES as usize).collect();
        assert_eq!(apart.len(), CONTAINER_PIECES as usize, "{first:x?}");
        let again: Vec<_> = states.iter().map(|state| allocate(state).first_container_uid()).collect();
        assert_eq!(again, first);

        // One of before says nothing of them, and has what it had.
        let text = fs::read_to_string(states[0].network()).unwrap();
        let mut before: serde_json::Value = serde_json::from_str(&text).unwrap();
        before.as_object_mut().unwrap().remove("first_container_uid").unwrap();
        fs::write(states[0].network(), before.to_string()).unwrap();
        let kept = allocate(&states[0]).first_container_uid();
        assert!(CONTAINER_UIDS_BEFORE.contains(&kept), "{kept:x}");
        assert_eq!(allocate(&states[0]).first_container_uid(), kept);
    }

    #[test]
    fn fault_1_3_each_state_folder_has_a_name_a_range_and_users_that_a_node_takes() {
        let mut names = BTreeSet::new();
        for folder in 0..200 {
            let allocation = StackResources::choice(Path::new(&format!("/home/{folder}")), 0);
            assert_eq!(allocation, StackResources::choice(&allocation.state, 0), "it is the same each time");
            let text = format!("name = '{}'\nrange = '{}'", allocation.name, allocation.range);
            toml::from_str::<hypercore::NetworkConfig>(&text).unwrap().check().unwrap();
            let node = hypercore::Config { first_uid: allocation.first_uid, ..hypercore::Config::default() };
            node.check().unwrap();
            let second: u8 = allocation.range.split('.').nth(1).unwrap().parse().unwrap();
            assert!((64..128).contains(&second), "{}: a node's own default is 10.201.0.0/16", allocation.range);
            names.insert(allocation.name);
        }
        assert_eq!(names.len(), 200);
    }

    #[test]
    fn fault_1_3_what_another_stack_or_the_machine_has_is_not_taken() {
        let (one, other) = (StackResources::choice(Path::new("/a"), 0), StackResources::choice(Path::new("/b"), 0));
        assert!(!one.conflicts_with(&other) && !one.conflicts_with(&one));
        for met in [
            StackResources { name: one.name.clone(), ..other.clone() },
            StackResources { range: one.range.clone(), ..other.clone() },
            StackResources { first_uid: one.first_uid + 1, ..other.clone() },
        ] {
            assert!(one.conflicts_with(&met), "{met:?}");
        }
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let free = BTreeSet::new();
        let allocation = StackResources { range: "10.130.16.0/20".to_owned(), ..one.clone() };
        assert!(!allocation.is_taken(&free, &format!("{head}eth0\t00000000\t010200C0\t3\t0\t0\t0\t00000000\n")));
        assert!(allocation.is_taken(&free, &format!("{head}wg0\t0010820A\t00000000\t1\t0\t0\t0\t00F0FFFF\n")));
        assert!(allocation.is_taken(&free, &format!("{head}vpn0\t0000000A\t00000000\t1\t0\t0\t0\t000000FF\n")));
        assert!(allocation.is_taken(&BTreeSet::from([format!("{}-0", allocation.name)]), head));
    }

    #[test]
    fn fault_1_5_what_the_operator_named_is_what_is_claimed_and_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let claims_dir = dir.path().join("claims");
        let stack = |name: &str| {
            let state = StateDir::at(Some(&dir.path().join(name))).unwrap();
            fs::create_dir(state.root()).unwrap();
            state
        };
        let (one, other) = (stack("one"), stack("other"));
        let wanted =
            OperatorSettings { name: Some("mine".to_owned()), range: Some("10.9.0.0/16".to_owned()), first_uid: None };
        let allocation = allocate_in(&claims_dir, &one, &wanted).unwrap();
        assert_eq!((allocation.name.as_str(), allocation.range.as_str()), ("mine", "10.9.0.0/16"));
        assert_eq!(allocated(&one).unwrap(), Some(allocation.clone()), "`down` looks for these");
        assert!(claim(&claims_dir, "mine").exists());
        assert_eq!(allocate_in(&claims_dir, &one, &wanted).unwrap(), allocation, "it is its own");
        let error = allocate_in(&claims_dir, &other, &wanted).unwrap_err().to_string();
        assert!(error.contains(&one.root().display().to_string()), "{error}");
        assert_ne!(allocate_in(&claims_dir, &other, &OperatorSettings::default()).unwrap().name, "mine");
        assert!(!is_moved(&one, &wanted).unwrap());
        assert!(
            is_moved(&one, &OperatorSettings { name: Some("yours".to_owned()), ..OperatorSettings::default() })
                .unwrap()
        );
        // What cannot be read is not nothing, and a copy of a folder has nothing.
        fs::copy(one.network(), other.network()).unwrap();
        assert_eq!(allocated(&other).unwrap(), None);
        fs::write(one.network(), "{").unwrap();
        let error = allocated(&one).unwrap_err().to_string();
        assert!(error.contains("network.json"), "{error}");
    }

    #[test]
    fn fault_1_3_a_claim_lasts_as_long_as_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (claims_dir, stack) = (dir.path().join("claims"), dir.path().join("stack"));
        fs::create_dir(&stack).unwrap();
        let _lock = lock(&claims_dir).unwrap();
        let allocation = StackResources::choice(&stack, 0);
        write("claim", &claim(&claims_dir, &allocation.name), &allocation).unwrap();
        assert_eq!(claims(&claims_dir, Path::new("/other")).unwrap(), std::slice::from_ref(&allocation));
        assert!(claims(&claims_dir, &stack).unwrap().is_empty(), "its own is no other's");
        fs::remove_dir(&stack).unwrap();
        assert!(claims(&claims_dir, Path::new("/other")).unwrap().is_empty());
        assert!(!claim(&claims_dir, &allocation.name).exists());
    }
}
