//! `./dev up`: builds what runs here, and becomes `palatine up`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result};

use crate::build::{Profile, guests, programs};
use crate::dev::{Dev, say};

/// How it goes; the first is over when `./dev` has what it needs to start us.
const STAGES: [&str; 4] = [
    "what this machine needs and our tools",
    "our programs",
    "what runs inside guests, and the local chains",
    "starting it",
];

/// Everything on this machine, with these words for `palatine up`.
pub(crate) fn run(dev: &mut Dev, words: &[OsString]) -> Result<Infallible> {
    stage(dev, 1);
    programs(dev, Profile::Release)?;
    stage(dev, 2);
    guests(dev)?;
    offer(dev)?;
    stage(dev, 3);
    say(&format!(
        "More agents: {}. A spawn builds what it wants, --images NAME,… builds it first.",
        crate::images::names()
    ));
    let program = dev.target().join("release/palatine");
    dev.become_it(dev.command(program).args(["up", "--assets"]).arg(dev.assets()).args(words))
}

fn stage(dev: &Dev, now: usize) {
    say(&line(now, dev.elapsed().as_secs()));
}

/// How far it is, for how long it has run, and what is left.
fn line(now: usize, seconds: u64) -> String {
    let left = STAGES[now + 1..].join(", ");
    let left = if left.is_empty() { left } else { format!("; then: {left}") };
    format!("[{}/{}] {} ({seconds} s so far{left})", now + 1, STAGES.len(), STAGES[now])
}

/// Puts palatine where the shell finds it, unless another one is there.
fn offer(dev: &Dev) -> Result<()> {
    let bin = dev.cargo_home.join("bin");
    let link = bin.join("palatine");
    let place = fs::symlink_metadata(&link);
    let is_free = place.as_ref().map_or(true, fs::Metadata::is_symlink);
    if !bin.is_dir() || !is_free {
        return Ok(());
    }
    let offered = || format!("make {}", link.display());
    if place.is_ok() {
        fs::remove_file(&link).with_context(offered)?;
    }
    symlink(dev.target().join("release/palatine"), &link).with_context(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{fake, make};

    #[test]
    fn a_stage_says_how_far_it_is_and_what_is_left() {
        let second =
            "[2/4] our programs (7 s so far; then: what runs inside guests, and the local chains, starting it)";
        assert_eq!(line(1, 7), second);
        assert_eq!(line(3, 90), "[4/4] starting it (90 s so far)");
        // `./dev` says the first before there is a devtool.
        let dev = fs::read_to_string(crate::root().join("dev")).unwrap();
        assert!(dev.contains(&format!("say \"{}\"", line(0, 0))));
    }

    #[test]
    fn palatine_is_offered_where_cargo_puts_programs_unless_another_one_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = fake::dev(dir.path());
        dev.cargo_home = dir.path().join("cargo");
        let link = dev.cargo_home.join("bin/palatine");
        offer(&dev).unwrap();
        make(link.parent().unwrap()).unwrap();
        symlink("/another/checkouts", &link).unwrap();
        offer(&dev).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), dev.target().join("release/palatine"));
        fs::remove_file(&link).unwrap();
        fs::write(&link, "installed by hand").unwrap();
        offer(&dev).unwrap();
        assert!(!link.is_symlink());
    }
}
