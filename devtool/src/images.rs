//! `./dev images`: builds the images of `images/` that are made of packages, into the store of what runs here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::build::{Profile, programs};
use crate::dev::{Dev, make, say};

/// Their folders, and the names that `spawn --type` takes.
const IMAGES: [(&str, &str); 2] = [("agent-nano", "nano"), ("base", "base")];

/// Builds those of these names; all, if none is named.
pub(crate) fn run(dev: &mut Dev, names: &[String]) -> Result<()> {
    let chosen = chosen(names)?;
    programs(dev, Profile::Release)?;
    for (folder, name) in chosen {
        say(&format!("Building the image {name}"));
        let copy = copied(dev, folder)?;
        let mut palatine = dev.command(dev.target().join("release/palatine"));
        palatine.args(["image", "build"]).arg(copy).arg(name);
        dev.succeed(&mut palatine, "The image could not be built. It goes to what runs here: ./dev up --detach")?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<(&'static str, &'static str)>> {
    let known = IMAGES.map(|(_, name)| name).join(", ");
    if let Some(odd) = names.iter().find(|name| !IMAGES.iter().any(|(_, known)| known == name)) {
        bail!("There is no image {odd:?} to build; there are: {known}");
    }
    Ok(IMAGES.into_iter().filter(|(_, name)| names.is_empty() || names.iter().any(|one| one == name)).collect())
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
        assert_eq!(chosen(&[]).unwrap().len(), IMAGES.len());
        assert_eq!(chosen(&words(&["nano"])).unwrap(), [("agent-nano", "nano")]);
        let error = chosen(&words(&["nano", "nanno"])).unwrap_err().to_string();
        assert_eq!(error, "There is no image \"nanno\" to build; there are: nano, base");
    }

    #[test]
    fn an_image_is_built_of_a_copy_so_that_the_checkout_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fake::script(&dir.path().join("bin/cargo"), "true");
        let mut dev = fake::dev(dir.path());
        let palatine = dev.target().join("release/palatine");
        fake::script(&palatine, "echo \"$*\" >> \"$CARGO_TARGET_DIR.said\"; touch \"$3/image.lock\"");
        for (folder, _) in IMAGES {
            let stale = dev.cache.join("images").join(folder).join("stale");
            make(stale.parent().unwrap()).unwrap();
            fs::write(&stale, "").unwrap();
        }
        run(&mut dev, &[]).unwrap();
        let of = |folder: &str| dev.cache.join("images").join(folder);
        let said = mark(&dev.cache.join("target.said"));
        let expected =
            format!("image build {} nano\nimage build {} base", of("agent-nano").display(), of("base").display());
        assert_eq!(said, expected);
        for (folder, _) in IMAGES {
            assert!(of(folder).join("image.toml").is_file() && !of(folder).join("stale").exists());
        }
    }
}
