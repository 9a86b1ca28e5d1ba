//! What an agent has made of a copied folder. Pure.
//!
//! It comes as an archive that the agent's guest has written, who may write what it likes: no path leads out of the
//! folder or into git's own, nothing but plain files is taken, no file comes twice, and all of it has bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Bound;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use tar::{Archive, Entry, EntryType};

use super::folder::{Bounds, Contents, Skipped, is_gits};

/// Folders below each other.
const MAX_DEPTH: usize = 128;
/// What makes a repository of a folder that has the rest of one, and what git obeys in it.
const OBEYED: [&str; 3] = ["HEAD", "config", "config.worktree"];

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its path in the folder, `/` between the parts.
    pub(crate) path: String,
    /// As it was copied; `None`: it was not there.
    pub(crate) before: Option<Contents>,
    /// As the agent has it; `None`: it has it no more.
    pub(crate) after: Option<Contents>,
}

/// What became of a folder.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// By their paths.
    pub(crate) changes: Vec<Change>,
    /// What the agent has and is not taken, and why.
    pub(crate) skipped: Vec<Skipped>,
}

impl Changes {
    /// Compares what was copied with what an archive holds.
    ///
    /// # Errors
    /// The archive cannot be read to its end, or is larger than its bounds.
    pub(crate) fn of(before: &BTreeMap<String, Contents>, archive: impl Read, bounds: Bounds) -> Result<Self> {
        let (seen, files, found) = Default::default();
        let mut reading = Reading { before, bounds, bytes: 0, seen, files, found };
        let mut archive = Archive::new(archive);
        for (number, entry) in archive.entries().context("read what the agent has")?.enumerate() {
            if number == bounds.entries {
                bail!("the agent has more than {} files", bounds.entries);
            }
            reading.entry(entry.context("read what the agent has")?)?;
        }
        Ok(reading.finish())
    }
}

struct Reading<'a> {
    before: &'a BTreeMap<String, Contents>,
    bounds: Bounds,
    bytes: u64,
    /// All that was named.
    seen: BTreeSet<String>,
    /// What of it is a file.
    files: BTreeSet<String>,
    found: Changes,
}

impl Reading<'_> {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<()> {
        let named = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            self.skip(String::from_utf8_lossy(&named).into_owned(), "it is a folder, of which nothing came");
            return Ok(());
        }
        let path = match plain(&named, self.bounds.path) {
            Ok(path) => path,
            Err(why) => {
                self.skip(String::from_utf8_lossy(&named).into_owned(), why);
                return Ok(());
            }
        };
        if !self.seen.insert(path.clone()) {
            self.skip(path, "it came before");
            return Ok(());
        }
        if kind != EntryType::Regular {
            self.skip(path, if kind == EntryType::Symlink { "it is a link" } else { "it is no file" });
            return Ok(());
        }
        let is_program = entry.header().mode().context("read what the agent has")? & 0o100 != 0;
        let mut bytes = Vec::new();
        (&mut entry).take(self.bounds.file + 1).read_to_end(&mut bytes).with_context(|| format!("{path:?}"))?;
        if bytes.len() as u64 > self.bounds.file {
            bail!("{path:?} has more than {} bytes", self.bounds.file);
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bounds.bytes {
            bail!("the agent's files have more than {} bytes", self.bounds.bytes);
        }
        self.files.insert(path.clone());
        let after = Contents { bytes, is_program };
        let before = self.before.get(&path);
        if before != Some(&after) {
            self.found.changes.push(Change { path, before: before.cloned(), after: Some(after) });
        }
        Ok(())
    }

    fn skip(&mut self, path: String, why: &'static str) {
        self.found.skipped.push(Skipped { path, why });
    }

    /// What was there and is not seen again is gone. A path that is another one's folder is none.
    fn finish(mut self) -> Changes {
        let gone = self.before.iter().filter(|(path, _)| !self.seen.contains(*path));
        let gone = gone.map(|(path, was)| Change { path: path.clone(), before: Some(was.clone()), after: None });
        self.found.changes.extend(gone);
        let (files, before) = (&self.files, self.before);
        let here = |folder: &str| {
            let from = || (Bound::Included(folder), Bound::Unbounded);
            let first = [files.range::<str, _>(from()).next(), before.range::<str, _>(from()).next().map(|one| one.0)];
            first.into_iter().flatten().any(|path| path.starts_with(folder))
        };
        let lies_in_a_file = |path: &str| path.match_indices('/').any(|(end, _)| self.files.contains(&path[..end]));
        let (taken, odd): (Vec<_>, Vec<_>) =
            self.found.changes.into_iter().partition(|one| one.after.is_none() || !lies_in_a_file(&one.path));
        self.found.changes = taken;
        self.found.changes.sort_by(|one, other| one.path.cmp(&other.path));
        for one in odd {
            self.found.skipped.push(Skipped { path: one.path, why: "it lies in a file" });
        }
        let (taken, obeyed): (Vec<_>, Vec<_>) = self
            .found
            .changes
            .into_iter()
            .partition(|one| one.after.is_none() || !makes_a_repository(&one.path, &here));
        self.found.changes = taken;
        for one in obeyed {
            self.found.skipped.push(Skipped { path: one.path, why: "git would take its folder for a repository" });
        }
        self.found
    }
}

/// Whether this is what makes a repository, without any `.git`, of a folder that has the rest of one, or what git obeys in
/// it: as soon as somebody, or a prompt, asks it anything in there.
fn makes_a_repository(path: &str, has_below: &impl Fn(&str) -> bool) -> bool {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (&path[..=folder.len()], name));
    let is_obeyed = OBEYED.iter().any(|own| name.eq_ignore_ascii_case(own));
    is_obeyed && ["objects/", "refs/"].iter().all(|part| has_below(&format!("{folder}{part}")))
}

/// A path that stays in the folder and out of git's own, as this program writes it; else what is wrong with it.
fn plain(named: &[u8], most: usize) -> Result<String, &'static str> {
    let text = std::str::from_utf8(named).map_err(|_| "its name is not UTF-8")?;
    if text.len() > most || text.contains('\0') {
        return Err("its name is none");
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str().ok_or("its name is not UTF-8")?),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err("it leads out of the folder");
            }
        }
    }
    if parts.is_empty() || parts.len() > MAX_DEPTH || text.ends_with('/') {
        return Err("its name is none");
    }
    if parts.iter().any(|part| is_gits(part)) {
        return Err("it is git's own");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    const BOUNDS: Bounds = Bounds { entries: 30, file: 1000, bytes: 2000, path: 200 };

    fn contents(text: &str) -> Contents {
        Contents { bytes: text.as_bytes().to_vec(), is_program: false }
    }

    fn before() -> BTreeMap<String, Contents> {
        [("a", "1"), ("gone", "2"), ("sub/b", "3")].map(|(path, text)| (path.to_owned(), contents(text))).into()
    }

    /// An archive of entries by their kinds, raw names, and bytes: what no well-meant tar would write.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, text) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            if *kind == EntryType::Symlink {
                header.set_link_name_literal("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn file<'a>(name: &'a str, text: &'a str) -> (EntryType, &'a str, &'a str) {
        (EntryType::Regular, name, text)
    }

    fn changes(entries: &[(EntryType, &str, &str)]) -> Changes {
        Changes::of(&before(), archive(entries).as_slice(), BOUNDS).unwrap()
    }

    #[test]
    fn what_was_changed_made_and_removed_is_told_and_nothing_else() {
        let found = changes(&[file("./a", "1"), file("./sub/b", "33"), file("new/c", "4")]);
        let told: Vec<_> =
            found.changes.iter().map(|one| (&*one.path, one.before.is_some(), one.after.clone())).collect();
        let expected =
            [("gone", true, None), ("new/c", false, Some(contents("4"))), ("sub/b", true, Some(contents("33")))];
        assert_eq!(told, expected);
        assert!(found.skipped.is_empty());
    }

    #[test]
    fn no_path_leads_out_of_the_folder_or_into_gits_own() {
        let odd = [
            "../x",
            "/etc/passwd",
            "sub/../../x",
            "..",
            ".git/hooks/pre-commit",
            "sub/.GIT/config",
            ".git./x",
            "a/.git",
            "d/",
            "git~1/config",
        ];
        let entries: Vec<_> = odd.iter().map(|name| file(name, "evil")).collect();
        let found = changes(&entries);
        assert_eq!(found.skipped.len(), odd.len(), "{found:?}");
        assert!(found.changes.iter().all(|one| one.after.is_none()), "{found:?}");
    }

    #[test]
    fn no_folder_becomes_a_repository_whose_configuration_git_obeys() {
        for folder in ["", "sub/", "new/deep/"] {
            let names = ["HEAD", "config", "objects/x", "refs/x", "hooks/x"].map(|name| format!("{folder}{name}"));
            let kept = [file("a", "1"), file("gone", "2"), file("sub/b", "3"), file("x/config", "mine")];
            let entries = [names.each_ref().map(|name| file(name, "evil")).as_slice(), &kept].concat();
            let found = changes(&entries);
            let skipped: Vec<_> = found.skipped.iter().map(|one| one.path.as_str()).collect();
            assert_eq!(skipped, [&names[0], &names[1]], "{found:?}");
            assert_eq!(found.changes.len(), 4, "{found:?}");
        }
    }

    #[test]
    fn links_devices_and_what_comes_twice_are_not_taken() {
        let kinds = [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block];
        for kind in kinds {
            let found = changes(&[(kind, "a", ""), file("gone", "2"), file("sub/b", "3")]);
            assert_eq!((found.changes.len(), found.skipped.len()), (0, 1), "{kind:?} {found:?}");
        }
        let found =
            changes(&[(EntryType::Directory, "new/", ""), file("a", "1"), file("gone", "2"), file("sub/b", "3")]);
        assert_eq!((found.changes.len(), found.skipped.len()), (0, 1), "work that is not brought back is named");
        let found = changes(&[file("a", "1"), file("./a", "other"), file("gone", "2"), file("sub/b", "3")]);
        assert_eq!((found.changes.len(), found.skipped[0].why), (0, "it came before"));
        let found = changes(&[file("a", "1"), file("x", "1"), file("x/y", "2"), file("gone", "2"), file("sub/b", "3")]);
        assert_eq!((found.changes.len(), found.skipped[0].why), (1, "it lies in a file"));
    }

    #[test]
    fn what_has_no_end_is_refused_whole() {
        let refused = |entries: &[(EntryType, &str, &str)]| {
            format!("{:#}", Changes::of(&before(), archive(entries).as_slice(), BOUNDS).unwrap_err())
        };
        assert!(refused(&[file("x", &"x".repeat(1001))]).contains("more than 1000 bytes"));
        let long = "x".repeat(900);
        assert!(refused(&[file("x", &long), file("y", &long), file("z", &long)]).contains("more than 2000 bytes"));
        let many: Vec<String> = (0..31).map(|n| format!("f{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| file(name, "")).collect();
        assert!(refused(&many).contains("more than 30 files"));
        let mut cut = archive(&[file("x", "hello")]);
        cut.truncate(515);
        assert!(Changes::of(&before(), cut.as_slice(), BOUNDS).is_err(), "half a file is none");
        // Who has nothing has removed all: what shows it is the change, not a failure.
        assert_eq!(changes(&[]).changes.len(), 3);
    }

    proptest! {
        #[test]
        fn no_name_makes_a_path_that_is_not_in_the_folder(name in "[a./ ~gGit\\\\]{0,40}") {
            if let Ok(path) = plain(name.as_bytes(), 64) {
                prop_assert!(!path.is_empty() && !path.starts_with('/'));
                for part in path.split('/') {
                    prop_assert!(!matches!(part, "" | "." | "..") && !is_gits(part), "{:?}", path);
                }
            }
        }

        #[test]
        fn strangers_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Changes::of(&before(), bytes.as_slice(), BOUNDS);
        }
    }
}
