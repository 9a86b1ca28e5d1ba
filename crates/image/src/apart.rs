//! Holders' images that are built in a machine of their own: what the machine is handed, and what is asked of it.
//!
//! The context is unpacked in there, and its recipe is read in there: out here it is a file that nobody opens but to
//! hand it in. What comes back is a recipe's text, of which the names that it builds on are taken; lines for its
//! holder; and an archive, which is taken in as any stranger's is.
//!
//! ```text
//! /data/context.tar   the context, as it came
//! /data/context       unpacked
//! /data/bases.tar     what it builds on: a layout each, in folders by their sums
//! /data/plan.sh       what is done with it
//! /data/work          where that works; result.tar is what it leaves
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use domain::{ArchiveSum, ImageDigest};

use crate::build::{self, BuildError, ENVIRONMENT, Layout, MAX_RECIPE_BYTES, Plan, chosen, explained, looked_for};
use crate::held::{known, verify};
use crate::recipe::StepLimits;
use crate::{ImageError, ImageStore, Progress};

/// Unpacks the context, says which of the names that are its words are there, by their numbers, and what stands in
/// the first of them.
const LOOK: &str = r#"
mkdir -p "$WORK/tmp" "$CONTEXT"
if ! tar --extract --file /data/context.tar --directory "$CONTEXT" --no-same-owner --delay-directory-restore; then
  [ "$(stat -f -c %a /data)" -lt "$LEAST_BLOCKS" ] && exit 203
  exit 210
fi
: > /data/context.tar
cd "$CONTEXT"
at=0
for name; do
  if [ -f "$name" ]; then echo "$at"; fi
  at=$((at + 1))
done
echo
for name; do
  if [ -f "$name" ]; then exec head -c "$MOST" "$name"; fi
done
"#;
/// Does what is planned in a group of its own, and ends it when it wants more than it may have. What watches is not
/// in the group.
const BUILD: &str = r#"
mkdir -p /data/bases
tar --extract --file /data/bases.tar --directory /data/bases
: > /data/bases.tar
groups=/sys/fs/cgroup
echo '+pids +memory' > "$groups/cgroup.subtree_control"
group=$groups/build
mkdir "$group"
echo "$PROCESSES" > "$group/pids.max"
echo "$MEMORY" > "$group/memory.max"
excess() {
  while read -r what times; do
    if [ "$what" = max ] && [ "$times" != 0 ]; then echo 201; return; fi
  done < "$group/pids.events"
  while read -r what times; do
    if [ "$what" = oom_kill ] && [ "$times" != 0 ]; then echo 202; return; fi
  done < "$group/memory.events"
  if [ "$(stat -f -c %a /data)" -lt "$LEAST_BLOCKS" ]; then echo 203; fi
}
watch() {
  while :; do
    found=$(excess)
    if [ -n "$found" ]; then
      echo "$found" > /run/excess
      echo 1 > "$group/cgroup.kill"
      return
    fi
    sleep 0.5
  done
}
watch &
code=0
( echo 0 > "$group/cgroup.procs" && exec /bin/sh -eu /data/plan.sh "$@" ) || code=$?
if [ "$code" != 0 ]; then
  found=$(excess)
  if [ -e /run/excess ]; then found=$(cat /run/excess); fi
  if [ -n "$found" ]; then exit "$found"; fi
  if [ "$code" -ge 200 ]; then code=1; fi
fi
exit "$code"
"#;
/// What the two say by their exit codes: the first three, that more was wanted than there is.
const PROCESSES: i32 = 201;
const MEMORY: i32 = 202;
const DISK: i32 = 203;
const NO_CONTEXT: i32 = 210;
/// Blocks of 4 KiB of which so few are left that the disk counts as full.
const LEAST_BLOCKS: u64 = 2_048;
/// What the machine keeps of its memory for itself, in MiB.
const KEPT_MIB: u64 = 96;
/// The least that a build has of it.
const LEAST_MIB: u64 = 32;

/// A context that a holder has sent, and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct ContextLook<'a> {
    /// The name of its Containerfile, or of its recipe; by default whichever is called as usual.
    pub file: Option<&'a str>,
    /// No file of the image is younger: seconds since 1970.
    pub epoch: i64,
    /// What it may build on beside the images that have names: by what the holder calls it.
    pub bases: &'a BTreeMap<String, ImageDigest>,
    /// What it may use.
    pub limits: StepLimits,
}

/// A build that is planned.
#[derive(Debug)]
pub struct ApartBuild {
    /// What is done: `/data/plan.sh`.
    pub script: String,
    bases: build::Bases,
}

impl ContextLook<'_> {
    /// Where the context is handed in.
    pub const CONTEXT: &'static str = "/data/context.tar";
    /// Where what it builds on is handed in.
    pub const BASES: &'static str = "/data/bases.tar";
    /// Where what is done is handed in.
    pub const PLAN: &'static str = "/data/plan.sh";
    /// Where the archive of the result is.
    pub const RESULT: &'static str = "/data/work/result.tar";
    /// Bytes that a look answers at most.
    pub const MAX_LOOK: usize = (1 << 20) + 64;

    /// What unpacks the context and tells its recipe: words of a command, and its variables.
    #[must_use]
    pub fn look(&self) -> (Vec<String>, BTreeMap<String, String>) {
        (words(LOOK, looked_for(self.file).into_iter().map(str::to_owned)), self.environment())
    }

    /// What builds, once it is planned.
    #[must_use]
    pub fn build(&self, planned: &ApartBuild) -> (Vec<String>, BTreeMap<String, String>) {
        (words(BUILD, planned.bases.words()), self.environment())
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let memory_mib = self.limits.memory_mib.saturating_sub(KEPT_MIB).max(LEAST_MIB);
        let own = [
            ("SOURCE_DATE_EPOCH", self.epoch.to_string()),
            ("CONTEXT", "/data/context".to_owned()),
            ("RECIPE", "/data/context".to_owned()),
            ("BASES", "/data/bases".to_owned()),
            ("WORK", "/data/work".to_owned()),
            ("TMPDIR", "/data/work/tmp".to_owned()),
            ("PATH", "/usr/bin".to_owned()),
            ("LC_ALL", "C".to_owned()),
            ("MOST", (MAX_RECIPE_BYTES + 1).to_string()),
            ("LEAST_BLOCKS", LEAST_BLOCKS.to_string()),
            ("PROCESSES", self.limits.processes.to_string()),
            ("MEMORY", (memory_mib << 20).to_string()),
        ];
        let own = own.into_iter().chain(ENVIRONMENT.map(|(name, value)| (name, value.to_owned())));
        own.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What it means that a command has ended so, in these words, having said this last. `None` where all is well.
    #[must_use]
    pub fn judge(&self, code: Option<i32>, how: &str, said: &str) -> Option<BuildError> {
        let StepLimits { memory_mib, processes, disk_mib, .. } = self.limits;
        let said = said.to_owned();
        match code {
            Some(0) => None,
            Some(PROCESSES) => Some(BuildError::Processes { most: processes, said }),
            Some(MEMORY) => Some(BuildError::Memory { mib: memory_mib, said }),
            Some(DISK) => Some(BuildError::Disk { mib: disk_mib, said }),
            Some(NO_CONTEXT) => Some(BuildError::NoContext),
            Some(code) => Some(BuildError::Ended { how: format!("exit code {code}"), said }),
            None => Some(BuildError::Ended { how: how.to_owned(), said }),
        }
    }
}

impl ApartBuild {
    /// What went wrong, as its holder is told.
    #[must_use]
    pub fn explain(&self, error: BuildError) -> ImageError {
        explained(error.into(), &self.bases.unknown)
    }
}

impl ImageStore {
    /// Whether these are the bytes that were to come. Blocks.
    ///
    /// # Errors
    /// When they are not, or signatures are required of all images: what is built has none.
    pub fn check_context(&self, archive: &Path, sum: ArchiveSum, to: &dyn Progress) -> Result<(), ImageError> {
        if self.config().require_signature {
            return Err(BuildError::Unsigned.into());
        }
        verify(archive, sum, to)
    }

    /// What is to be done with a context, by what a look has answered.
    ///
    /// # Errors
    /// Says what is wrong with it: for its holder to read.
    pub fn plan(&self, look: &ContextLook<'_>, answered: &[u8]) -> Result<ApartBuild, ImageError> {
        let names = looked_for(look.file);
        let (text, file) = chosen(&names, told(&names, answered))?;
        if text.len() as u64 > MAX_RECIPE_BYTES {
            return Err(BuildError::LargeRecipe { bytes: text.len() as u64, most: MAX_RECIPE_BYTES }.into());
        }
        let plan = Plan::of(&file, &text)?;
        let there = self.names()?;
        let bases = build::bases(&plan, &|name| known(&there, look.bases, name))?;
        build::must_fit(&bases.images(), &self.blobs(), look.limits.disk_mib)?;
        Ok(ApartBuild { script: plan.script, bases })
    }

    /// Writes what a build is on as an archive. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or not be written.
    pub fn pack_bases(&self, planned: &ApartBuild, into: &Path, to: &dyn Progress) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("write", into, source);
        // Until it is read nobody removes it.
        let _lock = self.shared()?;
        let mut archive = tar::Builder::new(File::create(into).map_err(failed)?);
        for manifest in planned.bases.images() {
            to.step("hand in what it builds on", None);
            Layout::of(manifest, &self.blobs())?.append(&self.blobs(), &manifest.hex(), &mut archive, into)?;
        }
        archive.finish().map_err(failed)
    }
}

fn words(script: &str, more: impl Iterator<Item = String>) -> Vec<String> {
    ["/bin/sh", "-euc", script, "build"].into_iter().map(str::to_owned).chain(more).collect()
}

/// The files that a look found, of which the first alone has its text.
fn told<'a>(names: &[&'a str], answered: &[u8]) -> Vec<(&'a str, String)> {
    let Some(end) = answered.windows(2).position(|two| two == b"\n\n") else { return Vec::new() };
    let (numbers, text) = (String::from_utf8_lossy(&answered[..end]), String::from_utf8_lossy(&answered[end + 2..]));
    let there = numbers.lines().filter_map(|number| names.get(number.parse::<usize>().ok()?).copied());
    let mut text = Some(text.into_owned());
    there.map(|name| (name, text.take().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bases: &BTreeMap<String, ImageDigest>) -> ContextLook<'_> {
        let limits = StepLimits { timeout_s: 60, memory_mib: 512, processes: 200, disk_mib: 1_024 };
        ContextLook { file: None, epoch: 7, bases, limits }
    }

    #[test]
    fn what_a_look_has_found_is_read_whatever_it_says() {
        let names = ["Containerfile", "Dockerfile", "image.toml"];
        let one = told(&names, b"1\n\nFROM a\n\nb\n");
        assert_eq!(one, [("Dockerfile", "FROM a\n\nb\n".to_owned())]);
        let two = told(&names, b"0\n2\n\ntext");
        assert_eq!(two, [("Containerfile", "text".to_owned()), ("image.toml", String::new())]);
        for odd in [&b""[..], b"\n", b"7\n\nx", b"\xff\n\nx", b"no end"] {
            assert!(told(&names, odd).is_empty(), "{odd:?}");
        }
    }

    #[test]
    fn how_a_command_ends_says_which_bound_it_has_met() {
        let none = BTreeMap::new();
        let said = |code| look(&none).judge(code, "signal: killed", "its words").map(|error| error.to_string());
        assert_eq!(said(Some(0)), None);
        for (code, words) in [
            (Some(201), "more than 200 processes"),
            (Some(202), "512 MiB of memory"),
            (Some(203), "more than 1024 MiB"),
            (Some(210), "no tar archive"),
            (Some(7), "exit code 7"),
            (None, "signal: killed"),
        ] {
            assert!(said(code).unwrap().contains(words), "{code:?}: {:?}", said(code));
        }
    }

    #[test]
    fn what_a_machine_is_told_holds_the_bounds_and_the_names_that_are_looked_for() {
        let none = BTreeMap::new();
        let (words, env) = look(&none).look();
        assert_eq!(words[3..], ["build", "Containerfile", "Dockerfile", "image.toml"]);
        assert_eq!((env["PROCESSES"].as_str(), env["MEMORY"].as_str()), ("200", "436207616"));
        let named = ContextLook { file: Some("it.toml"), ..look(&none) };
        assert_eq!(named.look().0[4..], ["it.toml"]);
    }
}
