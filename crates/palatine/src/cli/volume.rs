//! The words of `palatine volume`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Subcommand;
use domain::{MountPath, PodId, SnapshotId, VolumeMount, VolumeName};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume: a disk of yours that outlives every agent
    Create {
        /// What you call it
        name: VolumeName,
        /// How large it is: 512M, 10G, 1T
        #[arg(long, value_name = "SIZE", default_value = "1G")]
        size: Size,
    },
    /// List your volumes, or the files of one
    ///
    /// Whose a file is that no agent had yet is shown as `user`: it becomes the first agent's user's. With --json its
    /// number is 4294967040 until then.
    Ls {
        /// Whose files: NAME, or a folder of it as NAME:PATH
        #[arg(value_name = "NAME[:PATH]")]
        folder: Option<VolumePath>,
    },
    /// Write a file of a volume to the standard output
    Cat {
        /// Which, as NAME:PATH
        #[arg(value_name = "NAME:PATH")]
        file: VolumePath,
    },
    /// Copy files and folders into a volume or out of it, whether an agent has it or not
    Cp {
        /// What: a path here, or NAME:PATH
        source: VolumeCopyPath,
        /// Where to: the other one of these. In a folder that is there, the copy is called like what is copied
        destination: VolumeCopyPath,
    },
    /// Write all files of a volume that no agent has to a tar archive
    Export {
        /// Its name, or its id
        volume: String,
        /// Where to: packed with zstd, unless it ends in .tar; - is the standard output
        file: PathBuf,
    },
    /// Fill a volume from a tar archive: a new one, or one that is empty. All of it is there then, or nothing
    Import {
        /// Its name; if you have none of this name it is made
        name: VolumeName,
        /// The archive: plain, or packed with zstd or gzip; - is the standard input
        file: PathBuf,
        /// How large a new volume is: 512M, 10G, 1T; as large as the one that the archive is of, if it tells that
        #[arg(long, value_name = "SIZE")]
        size: Option<Size>,
        /// Have what is on the volume give way to the archive, once all of that is there
        #[arg(long, conflicts_with = "size")]
        replace: bool,
    },
    /// Show one volume, and what it takes of its node's disk
    Show {
        /// Its name, or its id
        volume: String,
    },
    /// Make a volume larger while no agent has it
    Resize {
        /// Its name, or its id
        volume: String,
        /// How large it is to be: 512M, 10G, 1T
        #[arg(long, value_name = "SIZE")]
        size: Size,
    },
    /// Have an agent that does not run find a volume at each of its next starts
    Attach {
        /// The volume's name, and where it is mounted
        #[arg(value_name = "NAME:PATH", value_parser = mount)]
        mount: VolumeMount,
        /// The agent
        agent: PodId,
    },
    /// Have an agent that does not run start without a volume, which stays
    Detach {
        /// The volume's name
        name: VolumeName,
        /// The agent
        agent: PodId,
    },
    /// Copy a volume that no agent has, as it is now
    Snapshot {
        /// Its name, or its id
        volume: String,
    },
    /// List the snapshots of a volume
    Snapshots {
        /// Its name, or its id
        volume: String,
    },
    /// Put a volume that no agent has back to a snapshot: what is on it now is gone
    Restore {
        /// Its name, or its id
        volume: String,
        /// The snapshot
        snapshot: SnapshotId,
    },
    /// Remove snapshots of a volume
    RmSnapshot {
        /// Its name, or its id
        volume: String,
        /// The snapshots
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<SnapshotId>,
    },
    /// Remove volumes that no agent has, with all that is on them
    Rm {
        /// Their names, or their ids
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
}

/// A path in a volume, which is named by its name or its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumePath {
    pub(crate) volume: String,
    pub(crate) path: String,
}

impl FromStr for VolumePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (volume, path) = text.split_once(':').unwrap_or((text, "/"));
        // An id is a name, too.
        let name: VolumeName = volume.parse().map_err(|error: domain::VolumeNameError| error.to_string())?;
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { volume: name.to_string(), path: path.to_owned() })
    }
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeCopyPath {
    /// A path here.
    Here(PathBuf),
    /// A path in a volume.
    Volume(VolumePath),
}

impl FromStr for VolumeCopyPath {
    type Err = Infallible;

    /// A path here with a colon in it is written `./…`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let volume = text.contains(':').then(|| text.parse().ok()).flatten();
        Ok(volume.map_or_else(|| Self::Here(text.into()), Self::Volume))
    }
}

/// A size in whole MiB: a number and M, G or T, as in 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) mib: u64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a whole number and M, G or T, such as 10G".to_owned();
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let factor = match unit.to_ascii_uppercase() {
            'M' => 1,
            'G' => 1024,
            'T' => 1024 * 1024,
            _ => return Err(wrong()),
        };
        let digits = &text[..text.len() - unit.len_utf8()];
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        count.checked_mul(factor).map(|mib| Self { mib }).ok_or_else(wrong)
    }
}

/// `NAME:PATH` of a volume that a new agent is to have.
pub(crate) fn mount(text: &str) -> Result<VolumeMount, String> {
    let (name, path) = text.split_once(':').ok_or("expected NAME:PATH, such as work:/workspace")?;
    let name: VolumeName = name.parse().map_err(|error: domain::VolumeNameError| error.to_string())?;
    let path: MountPath = path.parse().map_err(|error: domain::MountPathError| error.to_string())?;
    Ok(VolumeMount { name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_its_unit() {
        let mib = |text: &str| text.parse::<Size>().map(|size| size.mib);
        assert_eq!([mib("512M"), mib("10G"), mib("2t")], [Ok(512), Ok(10_240), Ok(2 * 1024 * 1024)]);
        for text in ["", "10", "G", "-1G", "+1G", "1.5G", "1 G", "10GB", "99999999999999999T", "1é"] {
            assert!(mib(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_in_a_volume_is_told_from_one_here() {
        let path = |text: &str| text.parse::<VolumePath>().unwrap();
        assert_eq!((path("work").volume, path("work").path), ("work".to_owned(), "/".to_owned()));
        assert_eq!((path("work:a/b:c").path, path("work:").path), ("a/b:c".to_owned(), "/".to_owned()));
        assert!("a/b:c".parse::<VolumePath>().is_err() && "".parse::<VolumePath>().is_err());
        for (text, here) in [("work:/a", false), ("work:", false), ("work", true), ("./a:b", true), ("/a:b", true)] {
            let parsed: VolumeCopyPath = text.parse().unwrap();
            assert_eq!(matches!(parsed, VolumeCopyPath::Here(_)), here, "{text}");
        }
    }

    #[test]
    fn a_mount_is_a_name_and_a_path_that_may_be_one() {
        let work = mount("work:/workspace").unwrap();
        assert_eq!((work.name.as_str(), work.path.as_str()), ("work", "/workspace"));
        for text in ["work", "work:", ":/a", "work:workspace", "work:/etc", "a b:/a", "work:/a/../b"] {
            assert!(mount(text).is_err(), "{text}");
        }
    }
}
