//! Files that their owner reaches while no agent runs that has them.

use std::fmt;

use crate::{PodId, VolumeId};

/// A disk whose files its owner reads and writes: a volume, or what is kept of an agent's `/data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedDisk {
    /// A volume.
    Volume(VolumeId),
    /// The `/data` of an agent that does not run.
    Data(PodId),
}

impl fmt::Display for OwnedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume:{id}"),
            Self::Data(pod) => write!(f, "data:{pod}"),
        }
    }
}

/// What is asked of the files of a disk: the last part of the paths of E2B's volume-content API, and
/// two of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCall {
    /// What is at a path.
    Path,
    /// A folder.
    Dir,
    /// A file's bytes.
    File,
    /// One file of several.
    Compose,
    /// All files, in one archive.
    Archive,
}

impl ContentCall {
    /// All.
    pub const ALL: [Self; 5] = [Self::Path, Self::Dir, Self::File, Self::Compose, Self::Archive];

    /// As it stands in a path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Dir => "dir",
            Self::File => "file",
            Self::Compose => "compose",
            Self::Archive => "archive",
        }
    }

    /// The call of this name.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_by_its_kind_and_its_id() {
        assert_eq!(OwnedDisk::Volume(VolumeId::from_bits(7)).to_string(), "volume:0000000000000007");
        assert_eq!(OwnedDisk::Data(PodId::chosen("agent-123").unwrap()).to_string(), "data:agent-123");
    }

    #[test]
    fn a_call_is_one_of_five() {
        for call in ContentCall::ALL {
            assert_eq!(ContentCall::of(call.as_str()), Some(call));
        }
        for text in ["", "paths", "../file", "File"] {
            assert_eq!(ContentCall::of(text), None, "{text}");
        }
    }
}
