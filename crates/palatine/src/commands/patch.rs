//! Changes as a patch: what `git apply` reads, and people do. Pure.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest as _, Sha1};
use similar::TextDiff;

use super::changes::Change;
use super::folder::Contents;

/// Bytes of a file whose lines are compared: a larger one is told as one of no lines.
const MAX_COMPARED: usize = 4 * 1024 * 1024;
/// The digits of git's base 85.
const DIGITS: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// Bytes of a line of it.
const LINE: usize = 52;

/// For whom a patch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Who makes the changes by it: all of them are in it.
    Git,
    /// Who looks at it: of what has no lines it says that it differs.
    Person,
}

/// All of these changes. Lines that are not compared by then are told more coarsely.
pub(crate) fn patch(changes: &[Change], reader: Reader, until: Instant) -> String {
    changes.iter().map(|change| one(change, reader, until)).collect()
}

fn one(change: &Change, reader: Reader, until: Instant) -> String {
    let (old, new) = (quoted("a/", &change.path), quoted("b/", &change.path));
    let mut text = format!("diff --git {old} {new}\n");
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    // A text always takes what is written to it.
    let _ = match (before.map(mode), after.map(mode)) {
        (None, Some(mode)) => writeln!(text, "new file mode {mode}"),
        (Some(mode), None) => writeln!(text, "deleted file mode {mode}"),
        (Some(old), Some(new)) if old != new => writeln!(text, "old mode {old}\nnew mode {new}"),
        (Some(_), Some(_)) | (None, None) => Ok(()),
    };
    let bytes = |contents: Option<&Contents>| contents.map(|one| one.bytes.clone()).unwrap_or_default();
    let (was, is) = (bytes(before), bytes(after));
    if was == is {
        return text;
    }
    let absent = || "/dev/null".to_owned();
    let (old, new) = (before.map_or_else(absent, |_| old), after.map_or_else(absent, |_| new));
    match (lines(&was), lines(&is)) {
        (Some(was), Some(is)) => {
            let diff = TextDiff::configure().deadline(until).diff_lines(was, is);
            let _ = write!(text, "{}", diff.unified_diff().header(&old, &new));
        }
        _ if reader == Reader::Person => {
            let _ = writeln!(text, "Binary files {old} and {new} differ");
        }
        _ => {
            let _ = writeln!(text, "index {}..{}", name(before), name(after));
            let _ = write!(text, "GIT binary patch\n{}\n{}\n", literal(&is), literal(&was));
        }
    }
    text
}

/// What git calls a file's bytes.
fn name(contents: Option<&Contents>) -> String {
    let sum: [u8; 20] = contents.map_or([0; 20], |one| {
        let named = Sha1::new().chain_update(format!("blob {}\0", one.bytes.len()));
        named.chain_update(&one.bytes).finalize().into()
    });
    hex::encode(sum)
}

/// Bytes as git's patches have them: packed, and in lines that begin with their lengths.
fn literal(bytes: &[u8]) -> String {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    // What is in memory always takes what is written to it.
    let packed = packed.write_all(bytes).and_then(|()| packed.finish()).unwrap_or_default();
    let mut text = format!("literal {}\n", bytes.len());
    for line in packed.chunks(LINE) {
        let length = u8::try_from(line.len()).unwrap_or_default();
        text.push(char::from(if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 }));
        for four in line.chunks(4) {
            let mut whole = [0; 4];
            whole[..four.len()].copy_from_slice(four);
            let mut rest = u32::from_be_bytes(whole);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[rest as usize % DIGITS.len()];
                rest /= 85;
            }
            text.extend(digits.map(char::from));
        }
        text.push('\n');
    }
    text
}

const fn mode(contents: &Contents) -> &'static str {
    if contents.is_program { "100755" } else { "100644" }
}

/// The bytes, if they are lines that can be compared.
fn lines(bytes: &[u8]) -> Option<&str> {
    (bytes.len() <= MAX_COMPARED && !bytes.contains(&0)).then(|| std::str::from_utf8(bytes).ok())?
}

/// A path as git writes it: in quotes where a character of it could be taken for something else.
fn quoted(prefix: &str, path: &str) -> String {
    if !path.chars().any(|one| one.is_control() || matches!(one, '"' | '\\')) {
        return format!("{prefix}{path}");
    }
    let mut text = format!("\"{prefix}");
    for one in path.bytes() {
        let _ = match one {
            b'"' | b'\\' => write!(text, "\\{}", char::from(one)),
            b' '..=b'~' => write!(text, "{}", char::from(one)),
            _ => write!(text, "\\{one:03o}"),
        };
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn contents(text: &[u8], is_program: bool) -> Option<Contents> {
        Some(Contents { bytes: text.to_vec(), is_program })
    }

    fn change(path: &str, before: Option<Contents>, after: Option<Contents>) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        patch(&[Change { path: path.to_owned(), before, after }], Reader::Person, until)
    }

    #[test]
    fn git_makes_of_a_patch_what_it_was_made_of_whatever_the_bytes_are() {
        let here = tempfile::tempdir().unwrap();
        let noise: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let odd = [&b"\0"[..], b"", b"caf\xe9\n", &noise, &noise[..51], &noise[..53]];
        let (mut changes, mut after) = (Vec::new(), Vec::new());
        for (n, bytes) in odd.into_iter().enumerate() {
            for (what, was, is) in
                [("new", None, Some(bytes)), ("gone", Some(bytes), None), ("other", Some(bytes), Some(&b"\0x"[..]))]
            {
                let path = format!("{what} {n}");
                if let Some(was) = was {
                    std::fs::write(here.path().join(&path), was).unwrap();
                }
                let of = |bytes: Option<&[u8]>| bytes.and_then(|bytes| contents(bytes, false));
                after.push((path.clone(), is.map(<[u8]>::to_vec)));
                changes.push(Change { path, before: of(was), after: of(is) });
            }
        }
        let whole = patch(&changes, Reader::Git, Instant::now() + Duration::from_secs(60));
        std::fs::write(here.path().join("changes.patch"), whole).unwrap();
        let mut git = std::process::Command::new("git");
        git.args(["apply", "changes.patch"]).current_dir(here.path()).env("GIT_CEILING_DIRECTORIES", here.path());
        let applied = git.output().unwrap();
        assert!(applied.status.success(), "{applied:?}");
        for (path, bytes) in after {
            assert_eq!(std::fs::read(here.path().join(&path)).ok(), bytes, "{path}");
        }
    }

    #[test]
    fn a_change_looks_as_git_writes_one() {
        let said = change("sub/a b.txt", contents(b"one\ntwo\n", false), contents(b"one\n2\n", false));
        assert_eq!(
            said,
            "diff --git a/sub/a b.txt b/sub/a b.txt\n--- a/sub/a b.txt\n+++ b/sub/a b.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
        );
        let said = change("run", None, contents(b"#!/bin/sh", true));
        assert_eq!(
            said,
            "diff --git a/run b/run\nnew file mode 100755\n--- /dev/null\n+++ b/run\n@@ -0,0 +1 @@\n+#!/bin/sh\n\\ No newline at end of file\n"
        );
        let said = change("old", contents(b"x\n", false), None);
        assert_eq!(
            said,
            "diff --git a/old b/old\ndeleted file mode 100644\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        );
        let said = change("run", contents(b"x\n", false), contents(b"x\n", true));
        assert_eq!(said, "diff --git a/run b/run\nold mode 100644\nnew mode 100755\n");
        let said = change("pic", contents(b"\0a", false), contents(b"\0b", false));
        assert_eq!(said, "diff --git a/pic b/pic\nBinary files a/pic and b/pic differ\n");
        assert_eq!(change("empty", None, contents(b"", false)), "diff --git a/empty b/empty\nnew file mode 100644\n");
    }

    #[test]
    fn a_name_forges_no_line_of_a_patch() {
        let said = change("a\n+++ b/evil\t\"\u{e9}", None, contents(b"", false));
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains(r#""a/a\012+++ b/evil\011\"\303\251""#), "{said}");
    }
}
