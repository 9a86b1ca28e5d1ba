//! Paths in archives: bytes without trust.

use super::LayerError;
use super::error::{MAX_NAME, shown};

/// Bytes of a path at most.
const MAX_PATH: usize = 4095;
/// Directories below each other at most.
pub(super) const MAX_DEPTH: usize = 128;

/// A path below the root, in its parts; empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelativePath {
    parts: Vec<Vec<u8>>,
}

impl RelativePath {
    /// Takes an archive's path. A leading `/` or `./` means the root, as it does
    /// to every other tool.
    pub(super) fn parse(path: &[u8]) -> Result<Self, LayerError> {
        let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            return Err(LayerError::Traversal(shown(path)));
        }
        let odd = path.len() > MAX_PATH || path.contains(&0) || parts.len() > MAX_DEPTH;
        if odd {
            return Err(LayerError::Path(shown(path)));
        }
        if let Some(name) = parts.iter().find(|part| part.len() > MAX_NAME) {
            return Err(LayerError::Name(shown(name)));
        }
        Ok(Self { parts: parts.into_iter().map(<[u8]>::to_vec).collect() })
    }

    /// The directory and the name in it; nothing for the root.
    pub(super) fn split(&self) -> Option<(Self, &[u8])> {
        let (name, parent) = self.parts.split_last()?;
        Some((Self { parts: parent.to_vec() }, name))
    }

    /// The directories from the root down to this one.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Self> + '_ {
        (1..=self.parts.len()).map(|n| Self { parts: self.parts[..n].to_vec() })
    }

    /// The path as the kernel takes it, relative to the root.
    pub(super) fn bytes(&self) -> Vec<u8> {
        if self.parts.is_empty() { b".".to_vec() } else { self.parts.join(&b'/') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leading_slashes_and_dots_mean_the_root() {
        for path in ["a/b", "/a/b", "./a/b", "./a//b/", "a/./b"] {
            assert_eq!(RelativePath::parse(path.as_bytes()).unwrap().bytes(), b"a/b", "{path}");
        }
        assert!(RelativePath::parse(b"./").unwrap().split().is_none());
    }

    #[test]
    fn whatever_leads_upwards_is_refused() {
        for path in ["..", "../etc/passwd", "a/../../b", "/..", "a/.."] {
            assert!(matches!(RelativePath::parse(path.as_bytes()), Err(LayerError::Traversal(_))), "{path}");
        }
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_refused() {
        for path in ["a/".repeat(200), "a/".repeat(3000), "a\0b".to_owned()] {
            assert!(matches!(RelativePath::parse(path.as_bytes()), Err(LayerError::Path(_))));
        }
        assert!(RelativePath::parse(&[b'a'; 254]).is_ok());
        assert!(matches!(RelativePath::parse(&[b'a'; 255]), Err(LayerError::Name(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_path_that_leaves_the_root(path in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(below) = RelativePath::parse(&path) {
                let bytes = below.bytes();
                prop_assert!(!bytes.starts_with(b"/"));
                prop_assert!(bytes.split(|b| *b == b'/').all(|part| part != b".."));
            }
        }
    }
}
