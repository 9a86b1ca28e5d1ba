//! `./dev images`: builds the images of `images/` that are made of packages, into the store of what runs here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{Profile, programs};
use crate::dev::{Dev, make, say};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Starter {
    /// What `spawn --type` takes.
    name: &'static str,
    /// Its folder.
    folder: &'static str,
    /// The one that it builds on.
    below: Option<&'static str>,
}

/// All of them, each after the one that it builds on.
const STARTERS: [Starter; 5] = [
    Starter { name: "nano", folder: "agent-nano", below: None },
    Starter { name: "base", folder: "base", below: None },
    Starter { name: "browser", folder: "agent-browser", below: Some("nano") },
    Starter { name: "chat", folder: "agent-chat", below: None },
    Starter { name: "coding", folder: "agent-coding", below: Some("chat") },
];

/// Which ones, and whether as files too.
#[derive(Debug, Default, Args)]
pub(crate) struct Images {
    /// Their names; all, if none is named
    names: Vec<String>,
    /// Write each as an OCI archive into this folder, too
    #[arg(long, value_name = "DIR")]
    archives: Option<PathBuf>,
}

impl Images {
    pub(crate) fn run(&self, dev: &mut Dev) -> Result<()> {
        let chosen = chosen(&self.names)?;
        programs(dev, Profile::Release)?;
        for (starter, is_asked) in chosen {
            say(&format!("Building the image {}", starter.name));
            let copy = copied(dev, starter.folder)?;
            let mut palatine = dev.command(dev.target().join("release/palatine"));
            palatine.args(["image", "build"]).arg(copy).args([starter.name, "--node"]);
            dev.succeed(&mut palatine, "The image could not be built. It goes to what runs here: ./dev up --detach")?;
            if let Some(folder) = self.archives.as_ref().filter(|_| is_asked) {
                make(folder)?;
                let file = folder.join(format!("{}.oci.tar.gz", starter.folder));
                let mut palatine = dev.command(dev.target().join("release/palatine"));
                palatine.args(["image", "export", starter.name]).arg(&file);
                dev.succeed(&mut palatine, "The archive could not be written.")?;
            }
        }
        Ok(())
    }
}

/// The names of all, as they are told.
pub(crate) fn names() -> String {
    STARTERS.map(|starter| starter.name).join(", ")
}

/// Those of these names, and those that they build on, in the order in which they are built; whether each was asked for.
fn chosen(names: &[String]) -> Result<Vec<(Starter, bool)>> {
    if let Some(odd) = names.iter().find(|name| !STARTERS.iter().any(|starter| starter.name == name.as_str())) {
        bail!("There is no image {odd:?} to build; there are: {}", self::names());
    }
    let asked = |name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let below = |name: &str| STARTERS.iter().any(|one| one.below == Some(name) && asked(one.name));
    let wanted = STARTERS.into_iter().filter(|starter| asked(starter.name) || below(starter.name));
    Ok(wanted.map(|starter| (starter, asked(starter.name))).collect())
}

/// A copy of a recipe's folder, beside which the lock is written: the checkout stays as it is. What the checkout's lock
/// does not say is looked up each time, so that an image has the distribution's latest fixes.
fn copied(dev: &Dev, folder: &str) -> Result<PathBuf> {
    let (from, to) = (crate::root().join("images").join(folder), dev.cache.join("images").join(folder));
    let failed = || format!("copy {} to {}", from.display(), to.display());
    if to.exists() {
        fs::remove_dir_all(&to).with_context(failed)?;
    }
    make(&to)?;
    for entry in fs::read_dir(&from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(failed)?;
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{fake, mark};

    fn words(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn all_are_built_unless_some_are_named_and_an_unknown_one_is_told_those_there_are() {
        let all: Vec<_> = chosen(&[]).unwrap().into_iter().map(|(starter, asked)| (starter.name, asked)).collect();
        assert_eq!(all, ["nano", "base", "browser", "chat", "coding"].map(|name| (name, true)));
        let one: Vec<_> = chosen(&words(&["nano"])).unwrap().into_iter().map(|(starter, _)| starter.name).collect();
        assert_eq!(one, ["nano"]);
        let error = chosen(&words(&["nano", "nanno"])).unwrap_err().to_string();
        assert_eq!(error, "There is no image \"nanno\" to build; there are: nano, base, browser, chat, coding");
    }

    #[test]
    fn what_an_image_builds_on_is_built_before_it_and_that_is_what_its_recipe_says() {
        let both: Vec<_> = chosen(&words(&["coding"])).unwrap();
        let both: Vec<_> = both.into_iter().map(|(starter, asked)| (starter.name, asked)).collect();
        assert_eq!(both, [("chat", false), ("coding", true)]);
        for starter in STARTERS {
            let recipe = fs::read_to_string(crate::root().join("images").join(starter.folder).join("image.toml"));
            let from = format!("from = \"{}\"", starter.below.unwrap_or("scratch"));
            assert!(recipe.unwrap().lines().any(|line| line == from), "{}", starter.folder);
        }
    }

    #[test]
    fn an_image_is_built_of_a_copy_so_that_the_checkout_stays_as_it_is_and_written_as_an_archive_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        fake::script(&dir.path().join("bin/cargo"), "true");
        let mut dev = fake::dev(dir.path());
        let palatine = dev.target().join("release/palatine");
        let lock = "if [ $2 = build ]; then touch \"$3/image.lock\"; fi";
        fake::script(&palatine, &format!("echo \"$*\" >> \"$CARGO_TARGET_DIR.said\"; {lock}"));
        for starter in STARTERS {
            let stale = dev.cache.join("images").join(starter.folder).join("stale");
            make(stale.parent().unwrap()).unwrap();
            fs::write(&stale, "").unwrap();
        }
        let archives = dir.path().join("archives");
        let asked = Images { names: words(&["browser", "base"]), archives: Some(archives.clone()) };
        asked.run(&mut dev).unwrap();
        let of = |folder: &str| dev.cache.join("images").join(folder).display().to_string();
        let file = |folder: &str| archives.join(format!("{folder}.oci.tar.gz")).display().to_string();
        let expected = [
            format!("image build {} nano --node", of("agent-nano")),
            format!("image build {} base --node", of("base")),
            format!("image export base {}", file("base")),
            format!("image build {} browser --node", of("agent-browser")),
            format!("image export browser {}", file("agent-browser")),
        ];
        assert_eq!(mark(&dev.cache.join("target.said")), expected.join("\n"));
        for folder in ["agent-nano", "base", "agent-browser"] {
            let copy = dev.cache.join("images").join(folder);
            assert!(copy.join("image.toml").is_file() && !copy.join("stale").exists());
        }
    }
}
