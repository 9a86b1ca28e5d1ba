//! The right of a node to its name, its range and its users, on this machine, alone.
//!
//! What a node makes outside of its state folder is called after its name, so two
//! nodes of one name would take each other's guests for leftovers. A name is free
//! when no daemon holds its lock and nothing runs under it: guests outlive their
//! daemon, and with them lives its claim.

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::Config;
use super::peer::NodeResources;
use super::shared::{self, HostChanges, SharedHost};
use crate::{DriverFailure, files};

/// A daemon that was killed in the middle of starting a program leaves a copy of its
/// locks in the half of the fork that has not yet become the program.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
/// What a node is recognised by, in its state folder.
const MARK: &str = "node.mark";

/// A name and a range that are held until this is dropped.
#[derive(Debug)]
pub(crate) struct NetworkReservation {
    #[expect(dead_code, reason = "holding it open holds the lock")]
    lock: File,
    path: PathBuf,
    mark: String,
    /// The name was another node's, of which nothing runs any more.
    pub(crate) inherited: bool,
}

impl NetworkReservation {
    /// Claims what the section says, the users from this one on and those of containers, for
    /// the node with this state folder. `running` tells how many processes run under a name.
    pub(crate) fn take(
        config: &Config,
        state: &Path,
        first_uid: u32,
        container_uids: Option<RangeInclusive<u32>>,
        running: impl Fn(&str) -> io::Result<usize>,
    ) -> Result<Self, DriverFailure> {
        let (mark, state) = (mark(state)?, state.to_owned());
        let node = NodeResources { mark, state, range: config.range, first_uid, container_uids };
        let until = Instant::now() + PATIENCE;
        loop {
            match SharedHost::this().claim(config.name.as_str(), &node, &running)? {
                Ok(claim) => return Ok(claim),
                Err(_) if Instant::now() < until => thread::sleep(PAUSE),
                Err(taken) => return Err(DriverFailure::Taken(taken)),
            }
        }
    }

    /// What is this node's bears this.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Leaves no file behind. The lock holds until the claim is dropped.
    pub(crate) fn forget(&self) -> io::Result<()> {
        files::remove(&self.path)
    }
}

impl SharedHost {
    /// The inner error is a sentence that says who has it.
    fn claim(
        &self,
        name: &str,
        node: &NodeResources,
        running: &impl Fn(&str) -> io::Result<usize>,
    ) -> Result<Result<NetworkReservation, String>, DriverFailure> {
        let mut file = self.lock()?;
        let mut record = shared::read(&mut file)?;
        let node = &with_those_that_run(node, record.nodes.get(name), || running(name))?;
        if let Some(taken) = self.overlap(&record, name, node, running)? {
            return Ok(Err(taken));
        }
        let before = record.nodes.get(name);
        let path = self.claim_path(name);
        let lock = shared::open_named(&path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if !files::same(&lock, &path)? => return Ok(Err(format!("{} is being removed", path.display()))),
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(taken(name, before))),
            Err(error) => return Err(error.into()),
        }
        let inherited = before.is_some_and(|before| before.mark != node.mark);
        if inherited && running(name)? > 0 {
            return Ok(Err(taken(name, before)));
        }
        record.nodes.insert(name.to_owned(), node.clone());
        self.write(&mut file, &record)?;
        Ok(Ok(NetworkReservation { lock, path, mark: node.mark.clone(), inherited }))
    }

    fn overlap(
        &self,
        record: &HostChanges,
        name: &str,
        node: &NodeResources,
        running: &impl Fn(&str) -> io::Result<usize>,
    ) -> Result<Option<String>, DriverFailure> {
        for (other, their) in record.nodes.iter().filter(|(other, _)| *other != name) {
            let whose = || format!("of the node {other} with its state in {}", their.state.display());
            let met = if their.range.overlaps(node.range) {
                let (ours, theirs) = (node.range, their.range);
                format!("network.range: {ours} meets {theirs}, the range {}; give this node another range", whose())
            } else if let Some((key, ours, theirs)) = node.meets(their) {
                let whose = whose();
                format!("{key}: the users from {ours} on meet those from {theirs} on, {whose}; give this node others")
            } else {
                continue;
            };
            if self.is_held(other)? || running(other)? > 0 {
                return Ok(Some(met));
            }
        }
        Ok(None)
    }

    fn is_held(&self, name: &str) -> io::Result<bool> {
        let lock = match File::open(self.claim_path(name)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// A node that is to have containers no more has their users for as long as some run.
fn with_those_that_run(
    node: &NodeResources,
    before: Option<&NodeResources>,
    running: impl Fn() -> io::Result<usize>,
) -> io::Result<NodeResources> {
    let kept = before.filter(|before| before.mark == node.mark).and_then(|before| before.container_uids.clone());
    let mut node = node.clone();
    if node.container_uids.is_none() && kept.is_some() && running()? > 0 {
        node.container_uids = kept;
    }
    Ok(node)
}

fn taken(name: &str, holder: Option<&NodeResources>) -> String {
    let whose = holder.map_or_else(
        || "another node".to_owned(),
        |node| format!("the node with its state in {}", node.state.display()),
    );
    format!(
        "network.name: {name} is in use on this machine by {whose}, which runs or has left guests running; \
         give this node another name and another range"
    )
}

/// The node's mark, made on first use.
fn mark(state: &Path) -> io::Result<String> {
    let path = state.join(MARK);
    match fs::read_to_string(&path) {
        Ok(mark) if !mark.trim().is_empty() => return Ok(mark.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mark = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    durable::replace(MARK, &path, mark.as_bytes())?;
    Ok(mark.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::AddressRange;
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn node(&self, state: &str, range: &str) -> NodeResources {
            let state = self.dir.path().join(state);
            fs::create_dir_all(&state).unwrap();
            let range: AddressRange = range.parse().unwrap();
            // More users than any range has slots.
            let first_uid = 100_000 + u32::from(range.ends(0).0.octets()[1]) * 20_000;
            NodeResources { mark: mark(&state).unwrap(), state, range, first_uid, container_uids: None }
        }

        fn claim(&self, name: &str, node: &NodeResources, running: usize) -> Result<NetworkReservation, String> {
            SharedHost::of_test(self.dir.path()).claim(name, node, &|_: &str| Ok(running)).unwrap()
        }
    }

    #[test]
    fn fault_1_3_a_name_belongs_to_one_daemon_at_a_time() {
        let place = Place::new();
        let (one, two) = (place.node("one", "10.1.0.0/16"), place.node("two", "10.2.0.0/16"));
        let held = place.claim("a", &one, 0).unwrap();
        let refused = place.claim("a", &two, 0).unwrap_err();
        assert!(refused.starts_with("network.name: a is in use") && refused.contains("/one,"), "{refused}");
        place.claim("b", &two, 0).unwrap();
        drop(held);
        assert!(place.claim("a", &two, 0).unwrap().inherited);
    }

    #[test]
    fn fault_1_3_guests_keep_the_name_of_a_daemon_that_died() {
        let place = Place::new();
        let (one, two) = (place.node("one", "10.1.0.0/16"), place.node("two", "10.2.0.0/16"));
        drop(place.claim("a", &one, 1).unwrap());
        assert!(place.claim("a", &two, 1).unwrap_err().contains("left guests running"));
        // Its own daemon comes back, also with its folder under another path.
        let moved = NodeResources { state: "/elsewhere".into(), ..one };
        assert!(!place.claim("a", &moved, 1).unwrap().inherited);
    }

    #[test]
    fn fault_1_3_ranges_of_two_nodes_that_live_never_meet() {
        let place = Place::new();
        let (one, two) = (place.node("one", "10.1.0.0/16"), place.node("two", "10.1.7.0/24"));
        let held = place.claim("a", &one, 0).unwrap();
        let refused = place.claim("b", &two, 0).unwrap_err();
        assert!(refused.starts_with("network.range: 10.1.7.0/24 meets 10.1.0.0/16"), "{refused}");
        drop(held);
        assert!(place.claim("b", &two, 1).is_err(), "its guests still use it");
        place.claim("b", &two, 0).unwrap();
    }

    #[test]
    fn fault_1_3_no_user_runs_the_guests_of_two_nodes() {
        let place = Place::new();
        let one = place.node("one", "10.1.0.0/24");
        let two = NodeResources { first_uid: one.first_uid + 64, ..place.node("two", "10.2.0.0/24") };
        let _held = place.claim("a", &one, 0).unwrap();
        let refused = place.claim("b", &two, 0).unwrap_err();
        assert!(refused.starts_with("node.first_uid: the users from 120064 on meet those from 120000 on"), "{refused}");
        place.claim("b", &NodeResources { first_uid: two.first_uid + 1, ..two }, 0).unwrap();
    }

    #[test]
    fn no_user_runs_the_containers_of_two_nodes_or_a_container_and_a_machine() {
        let place = Place::new();
        let with =
            |node: NodeResources, uids: RangeInclusive<u32>| NodeResources { container_uids: Some(uids), ..node };
        let one = with(place.node("one", "10.1.0.0/24"), 0x2000_0000..=0x203f_ffff);
        let two = place.node("two", "10.2.0.0/24");
        let held = place.claim("a", &one, 0).unwrap();
        let refused = place.claim("b", &with(two.clone(), 0x203f_0000..=0x207f_ffff), 0).unwrap_err();
        let said = "node.first_container_uid: the users from 540999680 on meet those from 536870912 on, of the node a";
        assert!(refused.starts_with(said), "{refused}");
        let refused = place.claim("b", &NodeResources { first_uid: 0x2000_0007, ..two.clone() }, 0).unwrap_err();
        assert!(refused.starts_with("node.first_uid: the users from 536870919 on meet"), "{refused}");
        let refused = place.claim("b", &with(two.clone(), one.first_uid..=one.first_uid), 0).unwrap_err();
        assert!(refused.starts_with("node.first_container_uid: "), "{refused}");
        place.claim("b", &with(two.clone(), 0x2040_0000..=0x207f_ffff), 0).unwrap();
        place.claim("b", &two, 0).unwrap();
        drop(held);

        // It is to have none any more, and some run still.
        let without = NodeResources { container_uids: None, ..one.clone() };
        let held = place.claim("a", &without, 1).unwrap();
        assert!(place.claim("b", &with(two.clone(), 0x2000_0000..=0x2000_ffff), 1).is_err());
        drop(held);
        let _held = place.claim("a", &without, 0).unwrap();
        place.claim("b", &with(two, 0x2000_0000..=0x2000_ffff), 0).unwrap();
    }

    #[test]
    fn a_claim_that_was_forgotten_leaves_nothing_and_still_holds() {
        let place = Place::new();
        let one = place.node("one", "10.1.0.0/16");
        let held = place.claim("a", &one, 0).unwrap();
        held.forget().unwrap();
        assert!(!held.path.exists());
        // Whatever a node is called, its lock is not the record.
        place.claim("json", &place.node("two", "10.2.0.0/16"), 0).unwrap();
        assert_eq!(held.mark(), one.mark);
    }
}
