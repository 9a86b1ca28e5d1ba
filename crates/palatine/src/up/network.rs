//! What a house calls its own on the machine: the name of its links, namespaces,
//! rules and cgroups, a private range, a range of users. Each state folder has its
//! own, so that two houses live side by side; it is chosen once, and kept.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use alloy_primitives::keccak256;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::house::Rooms;

/// Where the houses of this machine tell what each calls its own; until it is booted
/// again.
const CLAIMS: &str = "/run/palatine-up";
/// The range of which each house has a piece, `10.64.0.0/10`: apart from the range that
/// nodes have by themselves.
const RANGE: u32 = 0x0a40_0000;
/// A piece: room for 1,024 guests.
const PREFIX: u32 = 20;
const PIECES: u32 = 1 << (PREFIX - 10);
/// The first user of all houses, and how many each has.
const FIRST_UID: u32 = 1_879_048_192;
const UIDS: u32 = 4096;
/// How many choices are tried before none is found.
const TRIES: u32 = 1000;

/// What is one house's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Corner {
    /// The state folder that it is of: a copy of the folder is another house.
    state: PathBuf,
    /// `[network] name`.
    pub(super) name: String,
    /// `[network] range`.
    pub(super) range: String,
    /// `[node] first_uid`.
    pub(super) first_uid: u32,
}

/// What the operator's configuration says of a house's own: it goes before any choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) range: Option<String>,
    pub(super) first_uid: Option<u32>,
}

impl Wanted {
    /// Whether it is, in part, what another house has.
    fn meets(&self, other: &Corner) -> bool {
        self.name.as_ref() == Some(&other.name)
            || self.range.as_ref() == Some(&other.range)
            || self.first_uid.is_some_and(|first| first.abs_diff(other.first_uid) < UIDS)
    }
}

impl Corner {
    /// The same, as far as the operator says nothing else.
    fn with(self, wanted: &Wanted) -> Self {
        let Wanted { name, range, first_uid } = wanted.clone();
        Self {
            state: self.state,
            name: name.unwrap_or(self.name),
            range: range.unwrap_or(self.range),
            first_uid: first_uid.unwrap_or(self.first_uid),
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
        }
    }

    fn meets(&self, other: &Self) -> bool {
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

/// What is this house's own: what the operator wants, else what was chosen before,
/// else what is chosen now.
pub(super) fn take(rooms: &Rooms, wanted: &Wanted) -> Result<Corner> {
    take_at(Path::new(CLAIMS), rooms, wanted)
}

fn take_at(dir: &Path, rooms: &Rooms, wanted: &Wanted) -> Result<Corner> {
    let state = state(rooms)?;
    let kept = kept(rooms)?;
    let _lock = lock(dir)?;
    let others = claims(dir, &state)?;
    if let Some(other) = others.iter().find(|other| wanted.meets(other)) {
        bail!(
            "[network] name and range and [node] first_uid must be this house's own, and the one in {} has {}, {} and {}",
            other.state.display(),
            other.name,
            other.range,
            other.first_uid
        );
    }
    let free = |corner: &Corner| !others.iter().any(|other| corner.meets(other));
    let before = kept.clone().map(|corner| corner.with(wanted)).filter(free);
    let corner = match before {
        Some(corner) => corner,
        None => choose(&state, free)?.with(wanted),
    };
    if kept.as_ref() != Some(&corner) {
        write("network", &rooms.network(), &corner)?;
    }
    write("claim", &claim(dir, &corner.name), &corner)?;
    Ok(corner)
}

/// The first choice that neither another house nor the machine has.
fn choose(state: &Path, free: impl Fn(&Corner) -> bool) -> Result<Corner> {
    let links = names("/sys/class/net").into_iter().chain(names("/run/netns")).collect();
    let routes = fs::read_to_string("/proc/net/route").context("read the machine's routes")?;
    let mut choices = (0..TRIES).map(|number| Corner::choice(state, number));
    let found = choices.find(|corner| free(corner) && !corner.is_taken(&links, &routes));
    found.context("no private range of 10.64.0.0/10 is free on this machine")
}

/// Whether the operator now wants something else than what this house had last.
pub(super) fn moves(rooms: &Rooms, wanted: &Wanted) -> Result<bool> {
    Ok(kept(rooms)?.is_some_and(|corner| corner.clone().with(wanted) != corner))
}

/// Gives the claim back; the choice stays.
pub(super) fn give_back(rooms: &Rooms) -> Result<()> {
    let Some(corner) = kept(rooms)? else { return Ok(()) };
    let _lock = lock(Path::new(CLAIMS))?;
    match fs::remove_file(claim(Path::new(CLAIMS), &corner.name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("give the name back"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What this house had last. A copy of another one's folder had nothing; one that
/// cannot be read is no word that there is nothing.
pub(super) fn kept(rooms: &Rooms) -> Result<Option<Corner>> {
    let path = rooms.network();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let corner: Corner = serde_json::from_slice(&text).with_context(|| {
        let path = path.display();
        format!("read {path}, which names what this house has on the machine; remove it when none of that is left")
    })?;
    let state = state(rooms)?;
    Ok((corner.state == state).then_some(corner))
}

fn state(rooms: &Rooms) -> Result<PathBuf> {
    fs::canonicalize(rooms.root()).with_context(|| format!("find {}", rooms.root().display()))
}

fn claim(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.json"))
}

/// What the other houses of this machine call their own. A claim of a folder that is
/// gone is dropped.
fn claims(dir: &Path, own: &Path) -> Result<Vec<Corner>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let claim = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Corner>(&text).ok());
        match claim {
            Some(corner) if corner.state == own => {}
            Some(corner) if corner.state.is_dir() => all.push(corner),
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

fn write(what: &str, path: &Path, corner: &Corner) -> Result<()> {
    let text = serde_json::to_vec_pretty(corner)?;
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
    fn fault_1_3_each_state_folder_has_a_name_a_range_and_users_that_a_node_takes() {
        let mut names = BTreeSet::new();
        for folder in 0..200 {
            let corner = Corner::choice(Path::new(&format!("/home/{folder}")), 0);
            assert_eq!(corner, Corner::choice(&corner.state, 0), "it is the same each time");
            let text = format!("name = '{}'\nrange = '{}'", corner.name, corner.range);
            toml::from_str::<hypercore::NetworkConfig>(&text).unwrap().check().unwrap();
            let node = hypercore::Config { first_uid: corner.first_uid, ..hypercore::Config::default() };
            node.check().unwrap();
            let second: u8 = corner.range.split('.').nth(1).unwrap().parse().unwrap();
            assert!((64..128).contains(&second), "{}: a node's own default is 10.201.0.0/16", corner.range);
            names.insert(corner.name);
        }
        assert_eq!(names.len(), 200);
    }

    #[test]
    fn fault_1_3_what_another_house_or_the_machine_has_is_not_taken() {
        let (one, other) = (Corner::choice(Path::new("/a"), 0), Corner::choice(Path::new("/b"), 0));
        assert!(!one.meets(&other) && !one.meets(&one));
        for met in [
            Corner { name: one.name.clone(), ..other.clone() },
            Corner { range: one.range.clone(), ..other.clone() },
            Corner { first_uid: one.first_uid + 1, ..other.clone() },
        ] {
            assert!(one.meets(&met), "{met:?}");
        }
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let free = BTreeSet::new();
        let corner = Corner { range: "10.130.16.0/20".to_owned(), ..one.clone() };
        assert!(!corner.is_taken(&free, &format!("{head}eth0\t00000000\t010200C0\t3\t0\t0\t0\t00000000\n")));
        assert!(corner.is_taken(&free, &format!("{head}wg0\t0010820A\t00000000\t1\t0\t0\t0\t00F0FFFF\n")));
        assert!(corner.is_taken(&free, &format!("{head}vpn0\t0000000A\t00000000\t1\t0\t0\t0\t000000FF\n")));
        assert!(corner.is_taken(&BTreeSet::from([format!("{}-0", corner.name)]), head));
    }

    #[test]
    fn fault_1_5_what_the_operator_named_is_what_is_claimed_and_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let claims_dir = dir.path().join("claims");
        let house = |name: &str| {
            let rooms = Rooms::at(Some(&dir.path().join(name))).unwrap();
            fs::create_dir(rooms.root()).unwrap();
            rooms
        };
        let (one, other) = (house("one"), house("other"));
        let wanted = Wanted { name: Some("mine".to_owned()), range: Some("10.9.0.0/16".to_owned()), first_uid: None };
        let corner = take_at(&claims_dir, &one, &wanted).unwrap();
        assert_eq!((corner.name.as_str(), corner.range.as_str()), ("mine", "10.9.0.0/16"));
        assert_eq!(kept(&one).unwrap(), Some(corner.clone()), "`down` looks for these");
        assert!(claim(&claims_dir, "mine").exists());
        assert_eq!(take_at(&claims_dir, &one, &wanted).unwrap(), corner, "it is its own");
        let error = take_at(&claims_dir, &other, &wanted).unwrap_err().to_string();
        assert!(error.contains(&one.root().display().to_string()), "{error}");
        assert_ne!(take_at(&claims_dir, &other, &Wanted::default()).unwrap().name, "mine");
        assert!(!moves(&one, &wanted).unwrap());
        assert!(moves(&one, &Wanted { name: Some("yours".to_owned()), ..Wanted::default() }).unwrap());
        // What cannot be read is not nothing, and a copy of a folder has nothing.
        fs::copy(one.network(), other.network()).unwrap();
        assert_eq!(kept(&other).unwrap(), None);
        fs::write(one.network(), "{").unwrap();
        let error = kept(&one).unwrap_err().to_string();
        assert!(error.contains("network.json"), "{error}");
    }

    #[test]
    fn fault_1_3_a_claim_lasts_as_long_as_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (claims_dir, house) = (dir.path().join("claims"), dir.path().join("house"));
        fs::create_dir(&house).unwrap();
        let _lock = lock(&claims_dir).unwrap();
        let corner = Corner::choice(&house, 0);
        write("claim", &claim(&claims_dir, &corner.name), &corner).unwrap();
        assert_eq!(claims(&claims_dir, Path::new("/other")).unwrap(), std::slice::from_ref(&corner));
        assert!(claims(&claims_dir, &house).unwrap().is_empty(), "its own is no other's");
        fs::remove_dir(&house).unwrap();
        assert!(claims(&claims_dir, Path::new("/other")).unwrap().is_empty());
        assert!(!claim(&claims_dir, &corner.name).exists());
    }
}
