//! Permissions that callers may give.

use std::str::FromStr;

use super::error::FileError;

/// What of a file's mode is its permissions: nothing that gives more rights than its user's.
pub(super) const PERMISSIONS: u32 = 0o777;

/// The permissions of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMode(u32);

impl FileMode {
    /// Those of these bits.
    pub(crate) fn of(bits: u32) -> Result<Self, FileError> {
        let given = || FileError::Malformed(format!("mode {bits} is not 0 to {PERMISSIONS} (octal 777)"));
        (bits <= PERMISSIONS).then_some(Self(bits)).ok_or_else(given)
    }

    /// As the kernel takes them.
    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= PERMISSIONS && text.len() <= 4);
        let mode = mode.filter(|_| text.bytes().all(|digit| digit.is_ascii_digit()));
        mode.map(Self).ok_or_else(|| FileError::Malformed(format!("mode {text:?} is not 0 to 777 in octal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_digits_that_give_no_more_rights() {
        assert_eq!("755".parse::<FileMode>().ok(), Some(FileMode(0o755)));
        assert_eq!("0600".parse::<FileMode>().ok(), Some(FileMode(0o600)));
        for text in ["", "4755", "888", "+7", "rwx", "00755"] {
            assert!(text.parse::<FileMode>().is_err(), "{text}");
        }
    }
}
