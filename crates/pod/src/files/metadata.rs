//! What uploaders say of their files: extended attributes, as E2B keeps them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use http::HeaderMap;
use rustix::fs::{XattrFlags, fsetxattr, getxattr, listxattr, listxattr_query};
use rustix::io::Errno;
use wire::filesystem::METADATA_PREFIX;

/// How the attributes' names begin.
const PREFIX: &str = "user.e2b.";
/// The kernel's bound on a name.
const MAX_NAME: usize = 255;
/// All names and values: what ext4 keeps with a file.
const MAX_BYTES: usize = 4096;
/// The kernel's bound on all names of a file.
const MAX_NAMES: usize = 64 * 1024;

/// Why a file cannot have this said of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataError {
    /// A name or value with other bytes than printable ASCII.
    #[error("metadata {0:?} is not printable ASCII")]
    NotAscii(String),
    /// A name that is too long.
    #[error("metadata key {0:?} has more than {max} bytes", max = MAX_NAME - PREFIX.len())]
    LongName(String),
    /// Too much in all.
    #[error("metadata of {0} bytes, where a file can have {MAX_BYTES}")]
    TooLarge(usize),
}

/// What the headers of an upload say of its files.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, MetadataError> {
    let mut said = BTreeMap::new();
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(METADATA_PREFIX).filter(|key| !key.is_empty()) else { continue };
        let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let value = value.filter(|value| value.bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
        let value = value.ok_or_else(|| MetadataError::NotAscii(key.to_owned()))?;
        if PREFIX.len() + key.len() > MAX_NAME {
            return Err(MetadataError::LongName(key.to_owned()));
        }
        said.insert(key.to_owned(), value);
    }
    let bytes = said.iter().map(|(key, value)| PREFIX.len() + key.len() + value.len()).sum();
    if bytes > MAX_BYTES { Err(MetadataError::TooLarge(bytes)) } else { Ok(said) }
}

/// Says it of a file of which nothing is said yet; whether its filesystem can keep it.
pub(super) fn write(file: impl AsFd, metadata: &BTreeMap<String, String>) -> rustix::io::Result<bool> {
    for (key, value) in metadata {
        match fsetxattr(&file, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty()) {
            // Devices have none, and neither have some filesystems.
            Err(Errno::OPNOTSUPP | Errno::PERM) => return Ok(false),
            done => done?,
        }
    }
    Ok(true)
}

/// What is said of what a path leads to; nothing where that cannot be read.
pub(super) fn read(path: &str) -> BTreeMap<String, String> {
    // Most files have none, which costs one call.
    let Ok(length @ 1..=MAX_NAMES) = listxattr_query(path) else { return BTreeMap::new() };
    let mut names = vec![0; length];
    let length = listxattr(path, &mut names[..]).unwrap_or(0);
    let mut value = [0; MAX_BYTES];
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Some(name) = std::str::from_utf8(name).ok() else { continue };
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        // Programs in the guest may write anything there: what is no text is left out.
        if let Ok(length) = getxattr(path, name, &mut value[..])
            && let Ok(text) = std::str::from_utf8(&value[..length])
        {
            found.insert(key.to_owned(), text.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn said(pairs: &[(&str, &[u8])]) -> Result<BTreeMap<String, String>, MetadataError> {
        let pair = |(name, value): &(&str, &[u8])| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap())
        };
        of_headers(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn the_headers_of_an_upload_are_what_is_said_of_its_files() {
        let two = said(&[("X-Metadata-Author", b"mish"), ("x-metadata-a.b", b"c d"), ("content-type", b"x")]);
        let expected = [("author", "mish"), ("a.b", "c d")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(two, Ok(BTreeMap::from(expected)));
        assert_eq!(said(&[("x-metadata-", b"x")]), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_a_file_cannot_keep_is_refused() {
        assert_eq!(said(&[("x-metadata-a", b"\xff")]), Err(MetadataError::NotAscii("a".to_owned())));
        let long = format!("x-metadata-{}", "a".repeat(247));
        assert!(matches!(said(&[(&long, b"")]), Err(MetadataError::LongName(_))));
        assert!(matches!(said(&[("x-metadata-a", &[b'x'; 4090])]), Err(MetadataError::TooLarge(_))));
    }
}
