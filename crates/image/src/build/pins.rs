//! `image.lock`: what a recipe's packages meant when they were looked up.
//!
//! An entry belongs to the step that asks for the same; an entry that no step asks for
//! goes when another is written.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::ImageError;

/// The file's name.
const FILE_NAME: &str = "image.lock";
const FORMAT: u32 = 1;
/// Bytes of it at most.
const MAX_BYTES: u64 = 16 << 20;
const HEAD: &str =
    "# What the packages of image.toml are, looked up once; `palatine image build --update` does it anew.\n";

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockFile {
    format: u32,
    #[serde(default)]
    packages: Vec<PinnedPackages>,
    #[serde(default)]
    pip: Vec<PinnedWheels>,
    #[serde(default)]
    npm: Vec<PinnedModules>,
}

/// What a `[[packages]]` means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinnedPackages {
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    pub(super) include: Vec<String>,
    /// All that is installed, as `name=version sha256`, sorted.
    pub(super) installed: Vec<String>,
}

/// What a `[[pip]]` means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinnedWheels {
    pub(super) python: String,
    pub(super) requirements: Vec<String>,
    /// All that is installed, as `file sha256`, sorted.
    pub(super) wheels: Vec<String>,
}

/// What a `[[npm]]` means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinnedModules {
    pub(super) packages: Vec<String>,
    /// npm's own lock file, which says what lies where with which integrity.
    pub(super) package_lock: String,
}

/// An entry of the file.
pub(super) trait Pinned: Clone {
    /// Whether another entry answers the same question.
    fn answers(&self, other: &Self) -> bool;
    /// Where these entries lie.
    fn of(pins: &mut Pins) -> (&mut Vec<Self>, &mut Vec<Self>);
}

macro_rules! pinned {
    ($kind:ty, $list:ident, $($question:ident),+) => {
        impl Pinned for $kind {
            fn answers(&self, other: &Self) -> bool {
                $(self.$question == other.$question)&&+
            }

            fn of(pins: &mut Pins) -> (&mut Vec<Self>, &mut Vec<Self>) {
                (&mut pins.known.$list, &mut pins.used.$list)
            }
        }
    };
}

pinned!(PinnedPackages, packages, suite, components, include);
pinned!(PinnedWheels, pip, python, requirements);
pinned!(PinnedModules, npm, packages);

/// The lock of one build.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    known: LockFile,
    used: LockFile,
    /// What the file holds now.
    written: Option<LockFile>,
}

impl Pins {
    /// Reads the lock beside a recipe. With `update` nothing that it says counts.
    pub(super) fn read(recipe: &Path, update: bool) -> Result<Self, BuildError> {
        let path = recipe.with_file_name(FILE_NAME);
        let wrong = |why: String| BuildError::Lock { path: path.clone(), why };
        let written: Option<LockFile> = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(error.to_string())),
            Ok(data) if data.len() > MAX_BYTES => return Err(wrong("it is too large".to_owned())),
            Ok(_) => {
                let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
                Some(toml::from_str(&text).map_err(|error| wrong(error.to_string()))?)
            }
        };
        if let Some(other) = written.as_ref().map(|file| file.format).filter(|format| *format != FORMAT) {
            return Err(wrong(format!("its format is {other}, this palatine knows {FORMAT}")));
        }
        let known = written.clone().filter(|_| !update).unwrap_or_default();
        Ok(Self { path, known, used: LockFile { format: FORMAT, ..LockFile::default() }, written })
    }

    /// The entry that answers this question, if the lock has one.
    pub(super) fn find<P: Pinned>(&mut self, question: &P) -> Option<P> {
        let (known, used) = P::of(self);
        let found = used.iter().chain(known.iter()).find(|entry| entry.answers(question))?.clone();
        if !used.iter().any(|entry| entry.answers(question)) {
            used.push(found.clone());
        }
        Some(found)
    }

    /// The entries of npm's packages.
    #[cfg(test)]
    pub(super) fn all_modules(&mut self) -> Vec<PinnedModules> {
        self.known.npm.clone()
    }

    /// Takes a new entry, and writes it down: a build that fails later has it the next time.
    pub(super) fn keep<P: Pinned>(&mut self, entry: P) -> Result<(), ImageError> {
        let (known, used) = P::of(self);
        known.retain(|other| !other.answers(&entry));
        used.push(entry);
        let mut all = self.used.clone();
        all.packages.extend(unanswered(&self.known.packages, &self.used.packages));
        all.pip.extend(unanswered(&self.known.pip, &self.used.pip));
        all.npm.extend(unanswered(&self.known.npm, &self.used.npm));
        self.write(all)
    }

    /// All steps were asked for: what none asked for goes.
    pub(super) fn finish(&mut self) -> Result<(), ImageError> {
        let used = self.used.clone();
        let is_empty = used.packages.is_empty() && used.pip.is_empty() && used.npm.is_empty();
        if is_empty && self.written.is_none() { Ok(()) } else { self.write(used) }
    }

    fn write(&mut self, file: LockFile) -> Result<(), ImageError> {
        if self.written.as_ref() == Some(&file) {
            return Ok(());
        }
        let text = toml::to_string_pretty(&file).map_err(|error| ImageError::document("lock file", error))?;
        let written = durable::replace("image.lock", &self.path, format!("{HEAD}{text}").as_bytes());
        // It belongs to the recipe, and whoever may read that may read this.
        let written = written.and_then(|()| fs::set_permissions(&self.path, fs::Permissions::from_mode(0o644)));
        written.map_err(|source| ImageError::file("write", &self.path, source))?;
        self.written = Some(file);
        Ok(())
    }
}

fn unanswered<P: Pinned>(known: &[P], used: &[P]) -> Vec<P> {
    known.iter().filter(|entry| !used.iter().any(|one| one.answers(entry))).cloned().collect()
}

/// The two words of an entry's line: what is to be had, and its sum. Whoever wrote the recipe wrote
/// them, and programs of the host's get them: the first is no option, no path and one word.
pub(super) fn words(line: &str) -> Result<(&str, &str), BuildError> {
    let odd = || odd_lock(format!("{line:?} is no entry of it"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~:=!".contains(c);
    let is_name = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain);
    let is_sum = |sum: &str| sum.len() == 64 && sum.bytes().all(|digit| digit.is_ascii_hexdigit());
    line.split_once(' ').filter(|(name, sum)| is_name(name) && is_sum(sum)).ok_or_else(odd)
}

/// What is wrong with an entry.
pub(super) fn odd_lock(why: String) -> BuildError {
    BuildError::Lock { path: FILE_NAME.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheels(requirement: &str, wheel: &str) -> PinnedWheels {
        let wheels = if wheel.is_empty() { Vec::new() } else { vec![wheel.to_owned()] };
        PinnedWheels { python: "3.11".into(), requirements: vec![requirement.to_owned()], wheels }
    }

    #[test]
    fn what_was_looked_up_is_found_again_until_it_is_to_be_looked_up_anew() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("image.toml");
        let mut pins = Pins::read(&recipe, false).unwrap();
        assert!(pins.find(&wheels("a==1", "")).is_none());
        pins.keep(wheels("a==1", "a.whl 1")).unwrap();
        pins.keep(wheels("b==1", "b.whl 1")).unwrap();
        pins.finish().unwrap();
        let mut again = Pins::read(&recipe, false).unwrap();
        assert_eq!(again.find(&wheels("a==1", "")), Some(wheels("a==1", "a.whl 1")));
        assert!(again.find(&wheels("c==1", "")).is_none());
        // What this build does not ask for is kept until it is over.
        again.keep(wheels("c==1", "c.whl 1")).unwrap();
        assert!(Pins::read(&recipe, false).unwrap().find(&wheels("b==1", "")).is_some());
        again.finish().unwrap();
        assert!(Pins::read(&recipe, false).unwrap().find(&wheels("b==1", "")).is_none());
        assert!(Pins::read(&recipe, true).unwrap().find(&wheels("a==1", "")).is_none());
    }

    #[test]
    fn an_entry_gives_no_option_path_or_second_line_to_a_program_of_the_hosts() {
        let sum = "0f".repeat(32);
        for name in ["git=1:2.39.5-0+deb12u2", "libc6=2.36-9+deb12u10~x", "nanobot_ai-0.3.5-py3-none-any.whl"] {
            assert_eq!(words(&format!("{name} {sum}")).unwrap(), (name, &*sum));
        }
        for name in ["-oDir::Bin::Methods=x", "/tmp/x.deb", "a/b", "a\n--index-url=x", "a\tb", "", "a*", "a,b"] {
            assert!(words(&format!("{name} {sum}")).is_err(), "{name:?}");
        }
        let line = format!("a=1 {}\n-r x{}", "0".repeat(30), "0".repeat(29));
        assert!(words(&line).is_err());
    }

    #[test]
    fn a_recipe_that_asks_for_nothing_gets_no_lock_and_a_damaged_lock_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("image.toml");
        Pins::read(&recipe, false).unwrap().finish().unwrap();
        assert!(!dir.path().join(FILE_NAME).exists());
        for text in ["format = 2", "no toml", "format = 1\nodd = 1"] {
            fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let error = Pins::read(&recipe, false).unwrap_err().to_string();
            assert!(error.contains("image.lock cannot be used"), "{error}");
        }
    }
}
