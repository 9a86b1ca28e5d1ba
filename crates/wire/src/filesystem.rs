//! E2B's protocol of files: `filesystem.Filesystem` over the Connect protocol, as JSON or protobuf, and
//! `/files`, plain HTTP.
//!
//! | call | kind | request | answer |
//! |---|---|---|---|
//! | `Stat` | unary | [`PathRequest`] | [`EntryResponse`] |
//! | `MakeDir` | unary | [`PathRequest`] | [`EntryResponse`]; `already_exists` where it is there |
//! | `Move` | unary | [`MoveRequest`] | [`EntryResponse`] |
//! | `ListDir` | unary | [`ListDirRequest`] | [`ListDirResponse`] |
//! | `Remove` | unary | [`PathRequest`] | `{}`, also where nothing was there |
//! | `SetMode` | unary | [`SetModeRequest`] | [`EntryResponse`]; this call is ours |
//! | `WatchDir` | stream | [`WatchRequest`] | [`WatchFrame`]s: `start`, `filesystem`… |
//! | `CreateWatcher` | unary | [`WatchRequest`] | [`Watcher`] |
//! | `GetWatcherEvents` | unary | [`Watcher`] | [`WatcherEvents`]: those since the last call |
//! | `RemoveWatcher` | unary | [`Watcher`] | `{}` |
//!
//! | call | request | answer |
//! |---|---|---|
//! | `GET /files?path=&username=` | | the file's bytes, or a range of them |
//! | `POST /files?path=&username=&mode=` | the bytes, or a form with parts `file` | [`UploadedFile`]s |
//! | `POST /files/compose` | [`ComposeRequest`] | an [`UploadedFile`] |
//!
//! A path is absolute, begins with `~`, or is relative to the user's home; empty is where
//! the agent starts. `mode`, in octal digits, is ours: without it a new file is `0644`, and one
//! that is replaced keeps its own. A failure of `/files` is a status with a [`FilesError`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::process::Keepalive;

/// The paths of a user's files, as a prefix of the calls' names.
pub const SERVICE: &str = "filesystem.Filesystem";
/// The path of the files' bytes.
pub const FILES: &str = "/files";
/// What names a piece of metadata in the headers of an upload.
pub const METADATA_PREFIX: &str = "x-metadata-";

/// `Stat`, `MakeDir`, `Remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathRequest {
    /// Which file or folder.
    pub path: String,
}

/// `SetMode`: the permissions of a file or a folder that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetModeRequest {
    /// Which file or folder.
    pub path: String,
    /// Its permissions: `0` to `777`, in octal digits.
    pub mode: String,
}

/// `Move`: within one filesystem. The destination's folder is made where it is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveRequest {
    /// What is moved.
    pub source: String,
    /// What it is called then.
    pub destination: String,
}

/// `ListDir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirRequest {
    /// Which folder.
    pub path: String,
    /// How many folders deep; 0 is 1.
    pub depth: u32,
}

/// `WatchDir` and `CreateWatcher`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// Which folder.
    pub path: String,
    /// Whether the folders in it are watched too.
    pub recursive: bool,
    /// Whether events say what is there.
    #[serde(alias = "include_entry")]
    pub include_entry: bool,
    /// Whether a filesystem of another machine may be watched: it may say nothing.
    #[serde(alias = "allow_network_mounts")]
    pub allow_network_mounts: bool,
}

/// `GetWatcherEvents`, `RemoveWatcher`, and the answer of `CreateWatcher`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Watcher {
    /// Its name.
    #[serde(alias = "watcher_id")]
    pub watcher_id: String,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileType {
    /// A device, a socket, or the end of a link that leads nowhere.
    #[default]
    #[serde(rename = "FILE_TYPE_UNSPECIFIED")]
    Unspecified,
    /// A file.
    #[serde(rename = "FILE_TYPE_FILE")]
    File,
    /// A folder.
    #[serde(rename = "FILE_TYPE_DIRECTORY")]
    Directory,
    /// A link.
    #[serde(rename = "FILE_TYPE_SYMLINK")]
    Symlink,
}

/// A file or folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryInfo {
    /// The last part of its path.
    pub name: String,
    /// What it is, or what its link leads to.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Its path.
    pub path: String,
    /// Bytes.
    #[serde(with = "decimal")]
    pub size: i64,
    /// Its permissions, as a number: `0o644`.
    pub mode: u32,
    /// Its permissions in letters: `-rw-r--r--`.
    pub permissions: String,
    /// Its owner's name, or number where it has none.
    pub owner: String,
    /// Its group's name, or number where it has none.
    pub group: String,
    /// When it was written last: RFC 3339, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_time: Option<String>,
    /// Where it leads to, where it is a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// What its uploader said of it: its attributes `user.e2b.*`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The answer of `Stat`, `MakeDir`, `Move`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryResponse {
    /// What is there.
    pub entry: EntryInfo,
}

/// The answer of `ListDir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirResponse {
    /// By name, a folder before what is in it.
    pub entries: Vec<EntryInfo>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// It is there.
    #[serde(rename = "EVENT_TYPE_CREATE")]
    Create,
    /// It was written.
    #[serde(rename = "EVENT_TYPE_WRITE")]
    Write,
    /// It was removed.
    #[serde(rename = "EVENT_TYPE_REMOVE")]
    Remove,
    /// It is called otherwise now.
    #[serde(rename = "EVENT_TYPE_RENAME")]
    Rename,
    /// Its owner, permissions or attributes changed.
    #[serde(rename = "EVENT_TYPE_CHMOD")]
    Chmod,
    /// Something newer.
    #[serde(other, rename = "EVENT_TYPE_UNSPECIFIED")]
    Unspecified,
}

/// Something happened in a watched folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemEvent {
    /// To what: a path within the folder.
    pub name: String,
    /// What.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What is there, where that was asked for and something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Box<EntryInfo>>,
}

/// One message of `WatchDir`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WatchFrame {
    /// Always the first: from here on nothing is missed.
    Start(WatchStarted),
    /// What happened.
    Filesystem(FilesystemEvent),
    /// Nothing; the stream is alive.
    Keepalive(Keepalive),
}

/// An empty message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStarted {}

/// The answer of `GetWatcherEvents`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatcherEvents {
    /// In the order in which they happened.
    pub events: Vec<FilesystemEvent>,
}

/// A file that was uploaded or composed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Its absolute path.
    pub path: String,
    /// The last part of it.
    pub name: String,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: UploadedType,
    /// What its uploader said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What can be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadedType {
    /// A file.
    File,
}

/// `POST /files/compose`: one file out of several, which are removed when it is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    /// Its pieces, in their order.
    pub source_paths: Vec<String>,
    /// What it is called.
    pub destination: String,
    /// Whose it is; the agent's own user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its permissions in octal digits, as `?mode=` of an upload has them (not E2B's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Why a call of `/files` failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct FilesError {
    /// The status.
    pub code: u16,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// A 64-bit number is text in protobuf's JSON; both are read.
mod decimal {
    use super::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(number: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        match Form::deserialize(from)? {
            Form::Number(number) => Ok(number),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_look_as_the_sdks_expect_them() {
        let entry = EntryInfo {
            name: "a.txt".to_owned(),
            kind: FileType::File,
            path: "/home/user/a.txt".to_owned(),
            size: 5,
            mode: 0o644,
            permissions: "-rw-r--r--".to_owned(),
            owner: "user".to_owned(),
            group: "user".to_owned(),
            modified_time: Some("2026-01-02T03:04:05.000000006Z".to_owned()),
            ..EntryInfo::default()
        };
        let text = concat!(
            r#"{"name":"a.txt","type":"FILE_TYPE_FILE","path":"/home/user/a.txt","size":"5","mode":420,"#,
            r#""permissions":"-rw-r--r--","owner":"user","group":"user","modifiedTime":"2026-01-02T03:04:05.000000006Z"}"#,
        );
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        assert_eq!(serde_json::from_str::<EntryInfo>(text).unwrap(), entry);
        assert_eq!(serde_json::from_str::<EntryInfo>(r#"{"size":7}"#).unwrap().size, 7);
    }

    #[test]
    fn frames_look_as_the_sdks_expect_them() {
        let event = FilesystemEvent { name: "a".to_owned(), kind: EventType::Create, entry: None };
        let frame = serde_json::to_string(&WatchFrame::Filesystem(event)).unwrap();
        assert_eq!(frame, r#"{"filesystem":{"name":"a","type":"EVENT_TYPE_CREATE"}}"#);
        assert_eq!(serde_json::to_string(&WatchFrame::Start(WatchStarted {})).unwrap(), r#"{"start":{}}"#);
        let newer: FilesystemEvent = serde_json::from_str(r#"{"name":"a","type":"EVENT_TYPE_X"}"#).unwrap();
        assert_eq!(newer.kind, EventType::Unspecified);
    }

    #[test]
    fn both_spellings_of_a_field_are_understood() {
        for text in [r#"{"path":"/x","includeEntry":true}"#, r#"{"path":"/x","include_entry":true,"later":1}"#] {
            assert!(serde_json::from_str::<WatchRequest>(text).unwrap().include_entry, "{text}");
        }
        assert_eq!(serde_json::from_str::<Watcher>(r#"{"watcher_id":"w1"}"#).unwrap().watcher_id, "w1");
    }
}
