//! Who runs the agent: an image's `user`, looked up in the image's own files.

use std::fs::File;
use std::io::Read as _;

use rustix::process::{getegid, geteuid};

/// What processes may become, by where this program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// All that the image says. The kernel is the tenant's own, and nothing outside of it
    /// believes anything because of who runs what inside.
    Machine,
    /// Nothing beyond their user: the kernel is the host's. Root only where that is a plain
    /// user outside.
    #[default]
    Container,
}

impl Privileges {
    /// Whether processes may be root's.
    fn allow_root(self) -> bool {
        match self {
            Self::Machine => true,
            Self::Container => std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| root_is_mapped(&map)),
        }
    }
}

/// Whether the root of a user namespace with this map (`inside outside count`, a line each) is
/// another user outside.
fn root_is_mapped(map: &str) -> bool {
    let mapped = |line: &str| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        matches!((fields.next(), fields.next()), (Some(Ok(0)), Some(Ok(1..))))
    };
    map.lines().any(mapped)
}

/// A user of the agent's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// All group ids, the primary one included.
    pub(crate) groups: Vec<u32>,
    /// Its name, where the image has one.
    pub(crate) name: Option<String>,
    /// Its home directory, where the image names one.
    pub(crate) home: Option<String>,
    /// What its processes may become.
    pub(crate) privileges: Privileges,
}

/// Why a user cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    /// Root, by name or number.
    #[error(
        "user {0:?} is root, which the host's root may not be inside a container; give the container a user namespace, or the agent a machine of its own"
    )]
    Root(String),
    /// The number that the kernel reads as "leave it as it is", which is this program's.
    #[error("user {0:?} has an id that is none")]
    NoId(String),
    /// A name that `/etc/passwd` does not have.
    #[error("user {0:?} is not in the image's /etc/passwd")]
    Unknown(String),
    /// This program is not root, and cannot start a process as another user.
    #[error("user {0:?} is not the one this program runs as, and only root starts processes as another")]
    NotOurs(String),
    /// A name that `/etc/group` does not have.
    #[error("group {0:?} is not in the image's /etc/group")]
    Group(String),
}

/// The image's accounts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
    /// The only ids that processes can be started with; `None` for any.
    only: Option<(u32, u32)>,
    privileges: Privileges,
    /// Whether processes may be root's.
    root: bool,
}

/// Whether this program is root, and can start processes as any user.
pub(crate) fn am_root() -> bool {
    geteuid().is_root()
}

/// Whom an image runs as that names nobody.
const DEFAULT_ID: u32 = 1000;
/// `(uid_t) -1`.
const NO_ID: u32 = u32::MAX;
/// An account file larger than this is not read on.
const MAX_FILE: u64 = 1024 * 1024;

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Root, in an image that has no accounts.
const ROOT: Entry<'static> = Entry { name: "root", uid: 0, gid: 0, home: "/root" };

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; an image without them has no names but `root`.
    pub(crate) fn read(privileges: Privileges) -> Self {
        let read = |path: &str| {
            let mut bytes = Vec::new();
            // What cannot be read is as what is not there, and so is what comes after the bound.
            let _ = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let only = (!am_root()).then(|| (geteuid().as_raw(), getegid().as_raw()));
        let root = privileges.allow_root();
        Self { passwd: read("/etc/passwd"), group: read("/etc/group"), only, privileges, root }
    }

    /// Resolves `user`, `uid`, `user:group`, `uid:gid`; empty is 1000:1000.
    ///
    /// # Errors
    /// Names the image does not have, users as whom this program cannot start a process, and
    /// root where that would be the host's.
    pub(crate) fn resolve(&self, text: &str) -> Result<User, UserError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let entry = self.entry(user)?;
        let uid = entry.as_ref().map_or_else(|| user.parse().unwrap_or(DEFAULT_ID), |entry| entry.uid);
        if uid == 0 && !self.root {
            return Err(UserError::Root(text.to_owned()));
        }
        let gid = match (group, &entry) {
            ("", Some(entry)) => entry.gid,
            ("", None) => uid,
            (group, _) => self.gid(group)?,
        };
        if uid == NO_ID || gid == NO_ID {
            return Err(UserError::NoId(text.to_owned()));
        }
        if self.only.is_some_and(|ours| ours != (uid, gid)) {
            return Err(UserError::NotOurs(text.to_owned()));
        }
        let name = entry.as_ref().map(|entry| entry.name.to_owned());
        let mut groups = name.as_deref().map(|name| self.memberships(name)).unwrap_or_default();
        groups.retain(|group| *group != gid && *group != NO_ID);
        groups.insert(0, gid);
        let home = entry.map(|entry| entry.home.to_owned()).filter(|home| home.starts_with('/'));
        Ok(User { uid, gid, groups, name, home, privileges: self.privileges })
    }

    /// The name of a user's number, where the image has one.
    pub(crate) fn user_name(&self, uid: u32) -> Option<String> {
        self.entries().find(|entry| entry.uid == uid).map(|entry| entry.name.to_owned())
    }

    /// The name of a group's number, where the image has one.
    pub(crate) fn group_name(&self, gid: u32) -> Option<String> {
        self.groups().find(|(_, number, _)| *number == gid).map(|(name, ..)| name.to_owned())
    }

    /// The entry of a name or number; `None` for a number without one.
    fn entry(&self, user: &str) -> Result<Option<Entry<'_>>, UserError> {
        let number = if user.is_empty() { Some(DEFAULT_ID) } else { user.parse::<u32>().ok() };
        let found = self.entries().find(|entry| number.map_or(entry.name == user, |uid| entry.uid == uid));
        match (found, number) {
            (None, None) if user == ROOT.name => Ok(Some(ROOT)),
            (None, None) => Err(UserError::Unknown(user.to_owned())),
            (found, _) => Ok(found),
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
            Some(Entry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
        })
    }

    fn gid(&self, group: &str) -> Result<u32, UserError> {
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        let found = self.groups().find(|(name, ..)| *name == group);
        found.map(|(_, gid, _)| gid).ok_or_else(|| UserError::Group(group.to_owned()))
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let member = |members: &str| members.split(',').any(|member| member == user);
        self.groups().filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect()
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields[..] else { return None };
            Some((name, gid.parse().ok()?, members))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts() -> Accounts {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnode:x:1000:1001::/home/node:/bin/sh\nweb:x:33:33:::\n";
        let group = "root:x:0:\nnode:x:1001:\naudio:x:29:node,web\nstaff:x:50:node\n";
        Accounts { passwd: passwd.to_owned(), group: group.to_owned(), ..Accounts::default() }
    }

    fn in_a_machine() -> Accounts {
        Accounts { privileges: Privileges::Machine, root: true, ..accounts() }
    }

    fn ids(text: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        accounts().resolve(text).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn every_way_to_name_a_user_is_understood() {
        assert_eq!(ids("node"), Ok((1000, 1001, vec![1001, 29, 50])));
        assert_eq!(ids("1000"), ids("node"));
        assert_eq!(ids(""), ids("node"));
        assert_eq!(ids("node:staff"), Ok((1000, 50, vec![50, 29])));
        assert_eq!(ids("4000"), Ok((4000, 4000, vec![4000])));
        assert_eq!(ids("4000:7"), Ok((4000, 7, vec![7])));
        assert_eq!(accounts().resolve("node").unwrap().home.as_deref(), Some("/home/node"));
        assert_eq!(accounts().resolve("web").unwrap().home, None);
    }

    #[test]
    fn an_image_without_accounts_runs_as_1000() {
        let user = Accounts::default().resolve("").unwrap();
        assert_eq!((user.uid, user.gid, user.name), (1000, 1000, None));
    }

    #[test]
    fn root_is_a_user_as_any_other_in_a_machine_and_refused_where_it_would_be_the_hosts() {
        for text in ["root", "0", "0:1000", "root:node", "00", "+0"] {
            assert!(matches!(ids(text), Err(UserError::Root(_))), "{text}");
            assert_eq!(in_a_machine().resolve(text).unwrap().uid, 0, "{text}");
        }
        let root = in_a_machine().resolve("root").unwrap();
        assert_eq!((root.gid, root.home.as_deref(), root.privileges), (0, Some("/root"), Privileges::Machine));
        let nameless = Accounts { root: true, ..Accounts::default() };
        assert_eq!(nameless.resolve("root").map(|user| (user.uid, user.gid)), Ok((0, 0)));
        for text in ["4294967295", "1000:4294967295"] {
            assert!(matches!(ids(text), Err(UserError::NoId(_))), "{text}");
        }
        assert_eq!(ids("nobody"), Err(UserError::Unknown("nobody".to_owned())));
        assert_eq!(ids("node:games"), Err(UserError::Group("games".to_owned())));
    }

    #[test]
    fn the_root_of_a_user_namespace_is_another_user_outside() {
        for (map, mapped) in [
            ("         0          0 4294967295\n", false),
            ("         0     100000      65536\n", true),
            ("1000 1000 1\n0 1000 1\n", true),
            ("1000 1000 1\n", false),
            ("", false),
        ] {
            assert_eq!(root_is_mapped(map), mapped, "{map:?}");
        }
    }

    #[test]
    fn who_is_not_root_starts_processes_as_itself_alone() {
        let accounts = Accounts { only: Some((1000, 1001)), ..accounts() };
        assert_eq!(accounts.resolve("node").map(|user| user.uid), Ok(1000));
        for other in ["web", "1000:33", "4000"] {
            assert_eq!(accounts.resolve(other), Err(UserError::NotOurs(other.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn no_text_and_no_files_make_the_hosts_root(text in "[a-z0-9:+-]{0,8}", passwd in "([a-z0]{0,3}:x:[0-9]{1,2}:[0-9]:::\n){0,4}") {
            let accounts = Accounts { passwd, ..Accounts::default() };
            prop_assert!(accounts.resolve(&text).map_or(true, |user| user.uid != 0));
        }
    }
}
