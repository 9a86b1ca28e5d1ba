//! Paths as callers write them. Pure.

use std::path::Path;

/// The kernel's own bound on a path, its last byte included.
const MAX_PATH: usize = 4096;
/// How the temporary file of an upload begins.
const UPLOAD: &str = ".pod-upload.";

/// What the paths of a user's calls are relative to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathBase<'a> {
    /// The user's home.
    pub(crate) home: &'a str,
    /// What is meant where a call names no path: the agent's working directory.
    pub(crate) workdir: &'a str,
}

/// Why a path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// The kernel would read it up to there.
    #[error("a path has no NUL byte in it")]
    Nul,
    /// Longer than the kernel takes.
    #[error("a path is shorter than {MAX_PATH} bytes")]
    TooLong,
    /// Only the user's own home has a short name.
    #[error("{0:?}: another user's home is named by its whole path")]
    OtherHome(String),
}

impl PathBase<'_> {
    /// The absolute path that is meant: `~` is the home, and what does not begin with a
    /// slash is within it. In those `..` goes up by the text, as everywhere in E2B; in an
    /// absolute path it is left to the kernel, which follows links first.
    pub(crate) fn resolve(&self, text: &str) -> Result<String, PathError> {
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let text = if text.is_empty() { self.workdir } else { text };
        let path = match text.strip_prefix('~') {
            Some("") => cleaned(self.home, ""),
            Some(rest) if rest.starts_with('/') => cleaned(self.home, rest),
            Some(_) => return Err(PathError::OtherHome(text.to_owned())),
            None if text.starts_with('/') => joined(text.split('/').filter(|part| !matches!(*part, "" | "."))),
            None => cleaned(self.home, text),
        };
        if path.len() >= MAX_PATH { Err(PathError::TooLong) } else { Ok(path) }
    }
}

/// A path below a folder, without `.` and `..`.
fn cleaned(base: &str, rest: &str) -> String {
    let mut parts = Vec::new();
    for part in base.split('/').chain(rest.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    joined(parts.into_iter())
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let path: String = parts.flat_map(|part| ["/", part]).collect();
    if path.is_empty() { "/".to_owned() } else { path }
}

/// The last part of a path; the path itself where it has none.
pub(crate) fn name_of(path: &str) -> String {
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| path.to_owned())
}

/// What an upload is to its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadKind {
    /// Its file was not there.
    New,
    /// It replaces a file.
    Replacement,
}

impl UploadKind {
    /// The name of its temporary file, beside the one that it becomes.
    pub(crate) fn temporary_name(self, number: u64) -> String {
        let kind = match self {
            Self::New => "new",
            Self::Replacement => "over",
        };
        format!("{UPLOAD}{kind}.{number:016x}")
    }

    /// The upload whose temporary file is called so.
    pub(crate) fn of_temporary(name: &str) -> Option<Self> {
        let (kind, number) = name.strip_prefix(UPLOAD)?.split_once('.')?;
        let shaped = number.len() == 16 && number.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        match kind {
            "new" if shaped => Some(Self::New),
            "over" if shaped => Some(Self::Replacement),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: PathBase<'_> = PathBase { home: "/home/user", workdir: "/work" };

    #[test]
    fn every_way_to_name_a_file_is_understood() {
        for (text, path) in [
            ("", "/work"),
            ("~", "/home/user"),
            ("~/", "/home/user"),
            ("~/a", "/home/user/a"),
            ("a.txt", "/home/user/a.txt"),
            ("./a//b/", "/home/user/a/b"),
            ("../other/a", "/home/other/a"),
            ("../../../..", "/"),
            ("/", "/"),
            ("//etc/./passwd/", "/etc/passwd"),
            ("/a/../b", "/a/../b"),
            ("a b\n", "/home/user/a b\n"),
        ] {
            assert_eq!(BASE.resolve(text).as_deref(), Ok(path), "{text:?}");
        }
        assert_eq!(BASE.resolve("~root/x"), Err(PathError::OtherHome("~root/x".to_owned())));
        assert_eq!(BASE.resolve("a\0b"), Err(PathError::Nul));
        assert_eq!(BASE.resolve(&"a/".repeat(3000)), Err(PathError::TooLong));
    }

    #[test]
    fn a_temporary_name_says_what_its_upload_is() {
        for kind in [UploadKind::New, UploadKind::Replacement] {
            assert_eq!(UploadKind::of_temporary(&kind.temporary_name(u64::MAX)), Some(kind));
        }
        for name in [".pod-upload.new.1", ".pod-upload.x.0000000000000000", ".pod-upload.", "a", ".pod-upload.new"] {
            assert_eq!(UploadKind::of_temporary(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_absolute_whatever_was_written(text in any::<String>(), home in "(/[a-z.]{0,3}){0,3}") {
            let base = PathBase { home: &home, workdir: "/work" };
            if let Ok(path) = base.resolve(&text) {
                prop_assert!(path.starts_with('/') && !path.contains('\0') && path.len() < MAX_PATH);
                prop_assert!(path == "/" || path[1..].split('/').all(|part| !part.is_empty() && part != "."));
                prop_assert_eq!(base.resolve(&path), Ok(path.clone()), "what is resolved stays as it is");
                if !text.starts_with('/') { prop_assert!(path.split('/').all(|part| part != "..")); }
            }
        }
    }
}
