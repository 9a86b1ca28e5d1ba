//! E2B's volume-content API (`spec/openapi-volumecontent.yml` of e2b-dev/E2B): the files of a disk,
//! as a tree of their own whose root is the disk's. What a path leads over, links too, ends at
//! that root.
//!
//! | call | query | does |
//! |---|---|---|
//! | `GET path` | | 200 [`VolumeEntryStat`] of what is there; a link is told, not followed |
//! | `PATCH path` [`VolumeEntryChange`] | | 200 [`VolumeEntryStat`] |
//! | `DELETE path` | | 204; a folder goes with all in it |
//! | `GET dir` | `depth` | 200, an array of [`VolumeEntryStat`] |
//! | `POST dir` | `uid`, `gid`, `mode`, `force` | 201 [`VolumeEntryStat`]; with `force` it may be there, and its parents are made |
//! | `GET file` | | 200 the bytes, or 206 those of a `Range` |
//! | `PUT file` | `uid`, `gid`, `mode`, `force` | 201 [`VolumeEntryStat`] once all of it is on disk; with `force` in place of another |
//!
//! All have `path` in their query; numbers are decimal. Whose a new entry is goes by the folder it
//! is made in, where the query does not say. Two more are ours:
//!
//! | call | query | does |
//! |---|---|---|
//! | `POST compose` [`ComposeFile`] | | 201 [`VolumeEntryStat`] of one file made of several, which are gone then |
//! | `GET archive` | | 200 all files as a tar archive, or 206 those of its bytes from a `Range` on; its length and tag are told before |
//! | `PUT archive` | [`ArchiveQuery`] | 201 [`ImportedArchive`] once all that a tar archive holds is on the disk, which was empty |

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The header by which a gateway tells its node for whom it reads and writes a disk's files: of
/// one holder's helpers few run at once.
pub const HOLDER: &str = "palatine-holder";

/// Whose files are, by number, that were put on a disk before any agent had it: the user of the
/// first agent that gets it has them then. No image has a user of this number.
pub const FIRST_USER: u32 = 0xffff_ff00;

/// The header of an archive that tells what is not in it: how many devices, sockets and files of
/// `lost+found`.
pub const LEFT_OUT: &str = "palatine-left-out";
/// The header of an archive that tells how many files, folders and links are in it.
pub const ENTRIES: &str = "palatine-entries";

/// How the comment at an archive's head begins that tells the size of the disk it was made of.
const ARCHIVE_COMMENT: &str = "palatine volume, MiB: ";

/// The comment at the head of an archive, in the record `comment` of a global extended header.
#[must_use]
pub fn archive_comment(size_mib: u64) -> String {
    format!("{ARCHIVE_COMMENT}{size_mib}")
}

/// The size, in MiB, that a comment tells.
#[must_use]
pub fn archive_size(comment: &str) -> Option<u64> {
    comment.strip_prefix(ARCHIVE_COMMENT)?.parse().ok()
}

/// What kind of entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeEntryType {
    /// A device, a pipe, a socket.
    Unknown,
    /// A file.
    File,
    /// A folder.
    Directory,
    /// A link.
    Symlink,
}

/// An entry of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeEntryStat {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: VolumeEntryType,
    /// Its path from the disk's root.
    pub path: String,
    /// Its size, in bytes.
    pub size: i64,
    /// Its permissions.
    pub mode: u32,
    /// Whose it is, by number. 4294967040 is the user of the first agent that gets the disk, and
    /// the user's own number from then on.
    pub uid: u32,
    /// Of which group, by number; likewise.
    pub gid: u32,
    /// When it was read last.
    #[schema(format = DateTime)]
    pub atime: String,
    /// When it was written last.
    #[schema(format = DateTime)]
    pub mtime: String,
    /// When it was changed last.
    #[schema(format = DateTime)]
    pub ctime: String,
    /// Of a link: what stands in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What of an entry is changed; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeEntryChange {
    /// Whose it is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Of which group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its permissions, 0 to 511 (octal 777).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The query of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ContentQuery {
    /// The path, from the disk's root
    pub path: String,
    /// Levels of folders that are listed, from 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Whose a new entry is; that of the folder it is in where this is absent
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Of which group; likewise
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its permissions, 0 to 511 (octal 777)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// A folder's parents are made too, and it may be there; a file is written over
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// One file of several, in their order. They are gone when it is there, in place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ComposeFile {
    /// The files, 1 to 10000 of them.
    pub sources: Vec<String>,
    /// What they become.
    pub path: String,
    /// Its permissions, 0 to 511 (octal 777); those of the one before where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The query of an archive that is taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ArchiveQuery {
    /// What is on the disk gives way to it, once all of it is there
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// A name for this upload, 1 to 64 letters and digits: sent once more under it, it is found done
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
}

/// What an archive held. All zero where the same upload was done before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedArchive {
    /// Files, folders and links.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Extended attributes that the disk's file system cannot keep.
    #[serde(default)]
    pub attributes_left_out: u64,
}

/// The body of every answer of this API that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ContentError {
    /// A stable name: of [`crate::fault::Code`], or one of `already_exists`, `no_space`.
    pub code: String,
    /// One sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_archive_tells_the_size_of_its_disk() {
        assert_eq!(archive_size(&archive_comment(1024)), Some(1024));
        for comment in ["", "1024", "palatine volume, MiB: ", "palatine volume, MiB: x"] {
            assert_eq!(archive_size(comment), None, "{comment}");
        }
    }

    #[test]
    fn an_entry_has_the_names_of_e2bs_spec() {
        let entry = VolumeEntryStat {
            name: "a".to_owned(),
            kind: VolumeEntryType::Symlink,
            path: "/a".to_owned(),
            size: 1,
            mode: 0o777,
            uid: 1000,
            gid: 1000,
            atime: "2026-01-01T00:00:00Z".to_owned(),
            mtime: "2026-01-01T00:00:00Z".to_owned(),
            ctime: "2026-01-01T00:00:00Z".to_owned(),
            target: Some("b".to_owned()),
        };
        let said = json!({
            "name": "a", "type": "symlink", "path": "/a", "size": 1, "mode": 511, "uid": 1000, "gid": 1000,
            "atime": "2026-01-01T00:00:00Z", "mtime": "2026-01-01T00:00:00Z", "ctime": "2026-01-01T00:00:00Z",
            "target": "b",
        });
        assert_eq!(serde_json::to_value(&entry).unwrap(), said);
        assert_eq!(serde_json::from_value::<VolumeEntryStat>(said).unwrap(), entry);
        assert!(serde_json::from_value::<VolumeEntryChange>(json!({"owner": 1})).is_err());
    }
}
