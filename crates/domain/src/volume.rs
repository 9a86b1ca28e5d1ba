//! Volumes: disks of a wallet that outlive every agent, by name and by where they are mounted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::text_on_the_wire;

/// Volumes that one agent has at once, at most: each is a device of its guest.
pub const MAX_MOUNTS: usize = 8;
/// Volumes of one wallet, at most.
pub const MAX_VOLUMES: u32 = 100;
/// The size of a volume where nobody says another, in MiB.
pub const DEFAULT_VOLUME_MIB: u64 = 1024;
/// The least size of a volume, in MiB: a journal and some files.
pub const MIN_VOLUME_MIB: u64 = 64;
/// The greatest size of a volume, in MiB: 16 TiB.
pub const MAX_VOLUME_MIB: u64 = 16 * 1024 * 1024;

/// Not the id of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a volume is 16 lower-case hex digits, such as 5d1e2f3a4b6c7890")]
pub struct VolumeIdError;

/// What a volume is called by its node: 16 hex digits. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(u64);

impl VolumeId {
    /// The digits of an id.
    pub const DIGITS: usize = 16;

    /// The id of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, for a database that stores integers.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

impl FromStr for VolumeId {
    type Err = VolumeIdError;

    fn from_str(text: &str) -> Result<Self, VolumeIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != Self::DIGITS || !text.bytes().all(is_digit) {
            return Err(VolumeIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| VolumeIdError)
    }
}

text_on_the_wire!(VolumeId, "^[0-9a-f]{16}$", "5d1e2f3a4b6c7890");

/// Not the name of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a volume is 1 to {most} letters, digits, dashes and underscores, such as work", most = VolumeName::MAX_TEXT)]
pub struct VolumeNameError;

/// What its owner calls a volume: E2B's form of names. One wallet has no two of one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// The longest name, in bytes.
    pub const MAX_TEXT: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeName {
    type Err = VolumeNameError;

    fn from_str(text: &str) -> Result<Self, VolumeNameError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let shaped = (1..=Self::MAX_TEXT).contains(&text.len()) && text.bytes().all(is_allowed);
        if shaped { Ok(Self(text.to_owned())) } else { Err(VolumeNameError) }
    }
}

text_on_the_wire!(VolumeName, "^[a-zA-Z0-9_-]{1,63}$", "work");

/// Why a volume cannot be mounted at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountPathError {
    /// No absolute, plain path.
    #[error(
        "a volume is mounted at an absolute path of at most {most} printable bytes without . and .., such as /workspace",
        most = MountPath::MAX_TEXT
    )]
    Shape,
    /// Something else is there.
    #[error("a volume is not mounted over what the agent's system is made of; choose another path, such as /workspace")]
    System,
}

/// Where a volume is mounted in a guest: absolute, plain, and over nothing that the guest's
/// system is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountPath(String);

impl MountPath {
    /// The longest path, in bytes.
    pub const MAX_TEXT: usize = 255;
    /// Nothing is mounted over these, and nothing in them.
    const SYSTEM: [&str; 13] = [
        "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys",
        "/usr",
    ];
    /// Nothing is mounted over these; in them there may be.
    const SHARED: [&str; 8] = ["/data", "/home", "/media", "/mnt", "/opt", "/srv", "/tmp", "/var"];

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of two is the other, or in it.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        is_in(&self.0, &other.0) || is_in(&other.0, &self.0)
    }
}

/// Whether a path is that folder, or in it.
fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MountPath {
    type Err = MountPathError;

    fn from_str(text: &str) -> Result<Self, MountPathError> {
        let text = if text.len() > 1 { text.strip_suffix('/').unwrap_or(text) } else { text };
        let rest = text.strip_prefix('/').ok_or(MountPathError::Shape)?;
        if rest.is_empty() {
            return Err(MountPathError::System);
        }
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if text.len() > Self::MAX_TEXT || text.chars().any(char::is_control) || !rest.split('/').all(is_plain) {
            return Err(MountPathError::Shape);
        }
        if Self::SYSTEM.iter().any(|folder| is_in(text, folder)) || Self::SHARED.contains(&text) {
            return Err(MountPathError::System);
        }
        Ok(Self(text.to_owned()))
    }
}

text_on_the_wire!(MountPath, "^/.{1,254}$", "/workspace");

/// A volume that an agent is to have, by its name, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Its name.
    pub name: VolumeName,
    /// Where it is mounted.
    pub path: MountPath,
}

/// Why an agent cannot have these volumes together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountsError {
    /// Too many.
    #[error("an agent has at most {MAX_MOUNTS} volumes, not {0}")]
    TooMany(usize),
    /// One of them twice.
    #[error("the volume {0} is named twice")]
    Twice(VolumeName),
    /// Two in one place.
    #[error("{0} and {1} are one path, or one is in the other; give each volume a folder of its own")]
    Overlap(MountPath, MountPath),
}

/// Whether one agent can have these volumes.
///
/// # Errors
/// [`MountsError`] names the first two that are in each other's way.
pub fn check_mounts(mounts: &[VolumeMount]) -> Result<(), MountsError> {
    if mounts.len() > MAX_MOUNTS {
        return Err(MountsError::TooMany(mounts.len()));
    }
    for (at, mount) in mounts.iter().enumerate() {
        for other in &mounts[..at] {
            if other.name == mount.name {
                return Err(MountsError::Twice(mount.name.clone()));
            }
            if other.path.overlaps(&mount.path) {
                return Err(MountsError::Overlap(other.path.clone(), mount.path.clone()));
            }
        }
    }
    Ok(())
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Its node may not have it yet.
    Creating,
    /// It can be attached.
    Ready,
    /// It is copied to a snapshot, or put back to one.
    Copying,
    /// Its owner has removed it; its node may have it still.
    Removing,
}

impl VolumeState {
    /// The name as the wire and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Copying => "copying",
            Self::Removing => "removing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(name: &str, path: &str) -> VolumeMount {
        VolumeMount { name: name.parse().unwrap(), path: path.parse().unwrap() }
    }

    #[test]
    fn a_name_and_an_id_are_what_they_are_written_as_and_nothing_else() {
        for name in ["work", "Work_2", "-", &"x".repeat(63)] {
            assert_eq!(name.parse::<VolumeName>().unwrap().as_str(), name);
        }
        for name in ["", "a b", "a/b", "..", "é", "a\n", &"x".repeat(64)] {
            assert_eq!(name.parse::<VolumeName>(), Err(VolumeNameError), "{name}");
        }
        let id = VolumeId::from_bits(0x0a2b_3c4d_5e6f_7890);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "a2b3c4d5e6f7890", "0A2b3c4d5e6f7890", "+a2b3c4d5e6f7890", "../../etc/passwd"] {
            assert_eq!(text.parse::<VolumeId>(), Err(VolumeIdError), "{text}");
        }
    }

    #[test]
    fn a_volume_is_mounted_at_a_plain_path_and_over_nothing_of_the_system() {
        for (path, is) in
            [("/workspace", "/workspace"), ("/home/user/x", "/home/user/x"), ("/var/lib/docker/", "/var/lib/docker")]
        {
            assert_eq!(path.parse::<MountPath>().unwrap().as_str(), is);
        }
        for path in ["", "workspace", "/a/../etc", "/a/./b", "/a//b", "//a", "/a\nb", &format!("/{}", "x".repeat(255))]
        {
            assert_eq!(path.parse::<MountPath>(), Err(MountPathError::Shape), "{path}");
        }
        for path in ["/", "/etc", "/etc/ssh", "/usr/local", "/dev", "/proc/1", "/data", "/tmp/", "/home", "/lib64/x"] {
            assert_eq!(path.parse::<MountPath>(), Err(MountPathError::System), "{path}");
        }
        assert!("/etcetera".parse::<MountPath>().is_ok() && "/data/x".parse::<MountPath>().is_ok());
    }

    #[test]
    fn two_volumes_are_not_in_each_others_way() {
        assert_eq!(check_mounts(&[mount("a", "/a"), mount("b", "/ab"), mount("c", "/c/a")]), Ok(()));
        assert_eq!(check_mounts(&[mount("a", "/a"), mount("a", "/b")]), Err(MountsError::Twice("a".parse().unwrap())));
        for (one, other) in [("/a", "/a"), ("/a/b", "/a"), ("/a", "/a/b/c")] {
            assert!(matches!(check_mounts(&[mount("a", one), mount("b", other)]), Err(MountsError::Overlap(..))));
        }
        let many: Vec<_> = (0..=MAX_MOUNTS).map(|n| mount(&format!("v{n}"), &format!("/v{n}"))).collect();
        assert_eq!(check_mounts(&many), Err(MountsError::TooMany(MAX_MOUNTS + 1)));
    }
}
