//! What a file grants to whoever runs it: the attribute `security.capability`
//! (`linux/capability.h`, `struct vfs_cap_data`).

use std::fs::File;
use std::io;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use super::LayerError;

const ATTRIBUTE: &str = "security.capability";
/// The versions, in the first word's high byte; 3 also says whose user namespace it holds in.
const VERSION_2: u8 = 2;
const VERSION_3: u8 = 3;
const BYTES_2: usize = 20;
const BYTES_3: usize = 24;
/// Where the version stands.
const VERSION_AT: usize = 3;

/// The attribute's value in version 2, which holds in whatever namespace the image's root is root of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileCapabilities([u8; BYTES_2]);

impl FileCapabilities {
    /// The extended header's record that holds it.
    pub(crate) const RECORD: &'static [u8] = b"SCHILY.xattr.security.capability";

    /// Takes the attribute's value; the namespace that version 3 names is the builder's and forgotten.
    pub(super) fn parse(value: &[u8]) -> Result<Self, LayerError> {
        let known = match value.get(VERSION_AT) {
            Some(&VERSION_2) => value.len() == BYTES_2,
            Some(&VERSION_3) => value.len() == BYTES_3,
            _ => false,
        };
        let kept = value.first_chunk::<BYTES_2>().filter(|_| known);
        let odd = || LayerError::Malformed("the capabilities of a file are of no known version".to_owned());
        let mut kept = *kept.ok_or_else(odd)?;
        kept[VERSION_AT] = VERSION_2;
        Ok(Self(kept))
    }

    /// What an open file grants, if anything.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let mut value = [0; BYTES_3 + 1];
        match fgetxattr(file, ATTRIBUTE, &mut value) {
            Ok(length) => Self::parse(&value[..length]).map(Some).map_err(io::Error::other),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The record's value.
    pub(crate) fn value(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn grant(&self, file: &File) -> io::Result<()> {
        Ok(fsetxattr(file, ATTRIBUTE, &self.0, XattrFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_mean_the_same_capabilities_and_nothing_else_is_one() {
        let mut second = vec![1, 0, 0, VERSION_2];
        second.extend([0, 4, 0, 0].repeat(4));
        let mut third = [&second[..], &[9, 9, 9, 9]].concat();
        third[VERSION_AT] = VERSION_3;
        assert_eq!(FileCapabilities::parse(&second).unwrap(), FileCapabilities::parse(&third).unwrap());
        for odd in [&[][..], &second[..19], &third[..23], &[&second[..], &[0]].concat(), &[0; 20]] {
            assert!(FileCapabilities::parse(odd).is_err(), "{odd:?}");
        }
    }
}
