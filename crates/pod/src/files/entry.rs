//! What is at a path, as the protocol tells it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire::filesystem::{EntryInfo, FileType};

use super::error::FileError;
use super::metadata;
use super::mode::PERMISSIONS;
use super::paths::name_of;
use crate::process::{Accounts, Privileges};

/// Who they are for, and in which order they are written.
const LETTERS: [char; 3] = ['r', 'w', 'x'];

/// Makes entries; it reads the image's accounts once.
pub(super) struct EntryReader {
    accounts: Accounts,
    owners: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl EntryReader {
    /// One with the accounts as they are now.
    pub(super) fn new() -> Self {
        // Only names are asked for: nothing is started.
        Self { accounts: Accounts::read(Privileges::Container), owners: HashMap::new(), groups: HashMap::new() }
    }

    /// What is at this path. A link is told with what it leads to, as far as that is there.
    pub(super) fn read(&mut self, path: &str) -> Result<EntryInfo, FileError> {
        let found = fs::symlink_metadata(path).map_err(FileError::at(path))?;
        let target = found.is_symlink().then(|| Target::of(path));
        let (kind, mode) = match &target {
            None => (kind(&found), found.mode() & PERMISSIONS),
            Some(Target { found: Some(found), .. }) => (kind(found), found.mode() & PERMISSIONS),
            Some(Target { found: None, .. }) => (FileType::Unspecified, 0),
        };
        Ok(EntryInfo {
            name: name_of(path),
            kind,
            path: path.to_owned(),
            size: i64::try_from(found.size()).unwrap_or(i64::MAX),
            mode,
            permissions: letters(&found),
            owner: self.owner(found.uid()),
            group: self.group(found.gid()),
            modified_time: modified(&found),
            symlink_target: target.map(|target| target.path),
            metadata: metadata::read(path),
        })
    }

    fn owner(&mut self, uid: u32) -> String {
        let accounts = &self.accounts;
        self.owners.entry(uid).or_insert_with(|| accounts.user_name(uid).unwrap_or_else(|| uid.to_string())).clone()
    }

    fn group(&mut self, gid: u32) -> String {
        let accounts = &self.accounts;
        self.groups.entry(gid).or_insert_with(|| accounts.group_name(gid).unwrap_or_else(|| gid.to_string())).clone()
    }
}

/// Where a link leads to.
struct Target {
    /// The path behind all links; the link's own where it leads nowhere.
    path: String,
    found: Option<Metadata>,
}

impl Target {
    fn of(path: &str) -> Self {
        let Ok(target) = fs::canonicalize(path) else { return Self { path: path.to_owned(), found: None } };
        Self { found: fs::metadata(&target).ok(), path: target.to_string_lossy().into_owned() }
    }
}

fn kind(found: &Metadata) -> FileType {
    match found.file_type() {
        kind if kind.is_file() => FileType::File,
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        _ => FileType::Unspecified,
    }
}

fn modified(found: &Metadata) -> Option<String> {
    let nanoseconds = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?.format(&Rfc3339).ok()
}

/// Kind and permissions in the letters of Go's `FileMode`, which E2B's are.
fn letters(found: &Metadata) -> String {
    let (kind, mode) = (found.file_type(), found.mode());
    let bits = [
        ('d', kind.is_dir()),
        ('L', kind.is_symlink()),
        ('D', kind.is_block_device() || kind.is_char_device()),
        ('p', kind.is_fifo()),
        ('S', kind.is_socket()),
        ('u', mode & 0o4000 != 0),
        ('g', mode & 0o2000 != 0),
        ('c', kind.is_char_device()),
        ('t', mode & 0o1000 != 0),
    ];
    let mut text: String = bits.iter().filter(|(_, is)| *is).map(|(letter, _)| *letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    let permission = |at: usize| if mode & (0o400 >> at) != 0 { LETTERS[at % LETTERS.len()] } else { '-' };
    text.extend((0..9).map(permission));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_file_a_folder_and_a_link_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("a"), "hello").unwrap();
        fs::set_permissions(path("a"), Permissions::from_mode(0o4640)).unwrap();
        fs::create_dir(path("d")).unwrap();
        fs::set_permissions(path("d"), Permissions::from_mode(0o1777)).unwrap();
        symlink("a", path("link")).unwrap();
        symlink("nowhere", path("lost")).unwrap();
        let mut reader = EntryReader::new();
        let mut seen = |name: &str| reader.read(&path(name)).unwrap();
        let file = seen("a");
        assert_eq!((file.kind, file.size, file.mode, &*file.permissions), (FileType::File, 5, 0o640, "urw-r-----"));
        assert!(file.modified_time.as_deref().is_some_and(|time| time.ends_with('Z')), "{file:?}");
        let folder = seen("d");
        assert_eq!((folder.kind, folder.mode, &*folder.permissions), (FileType::Directory, 0o777, "dtrwxrwxrwx"));
        let link = seen("link");
        assert_eq!((link.kind, link.mode, &*link.permissions), (FileType::File, 0o640, "Lrwxrwxrwx"));
        let target = fs::canonicalize(path("a")).unwrap();
        assert_eq!(link.symlink_target.as_deref(), target.to_str());
        let lost = seen("lost");
        assert_eq!((lost.kind, lost.symlink_target), (FileType::Unspecified, Some(path("lost"))));
        assert!(reader.read(&path("absent")).is_err());
    }
}
