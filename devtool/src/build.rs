//! What is built: our programs, the same without a library of the machine, and what runs inside guests.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::assets;
use crate::dev::{Dev, TRIPLE, say};
use crate::paths::{borrowed, option, placeless, replaced};

/// Our programs, as cargo names their packages.
const PROGRAMS: [&str; 5] = ["-p", "palatine-palatine", "-p", "palatine-hypercore", "--bins"];
const NO_LIBRARY: &str = "target-feature=+crt-static";
const REMAP: &str = "--remap-path-prefix";

/// Which of cargo's two usual ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    /// Its folder in cargo's.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds our programs for this machine.
pub(crate) fn programs(dev: &mut Dev, profile: Profile) -> Result<()> {
    say(&format!("Building palatine and hypercore ({})", profile.folder()));
    let mut cargo = dev.command("cargo");
    cargo.args(["build", "--locked"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    dev.succeed(
        cargo.args(PROGRAMS),
        "The build failed. Without a network, cargo needs its crates from an earlier build.",
    )
}

/// Builds what runs inside guests, and lays it among the assets.
pub(crate) fn guests(dev: &mut Dev) -> Result<()> {
    let mut flags = vec![format!("-C{NO_LIBRARY}")];
    flags.extend(borrowed(dev)?.iter().map(|pair| option(REMAP, pair)));
    say("Building what runs inside the guests");
    let mut cargo = dev.command("cargo");
    cargo.args(["build", "--locked", "--profile", "guest", "--target", TRIPLE, "--target-dir"]);
    cargo.arg(assets::guests_target(dev)).args(["-p", "palatine-pod", "-p", "agent-echo"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    dev.succeed(&mut cargo, "The guest programs could not be built.")?;
    assets::lay(dev)
}

/// Builds our programs linked without a library of the machine, and without its paths; the folder that they are in.
pub(crate) fn statics(dev: &mut Dev, profile: &str) -> Result<PathBuf> {
    let pairs = replaced(dev)?;
    let mut flags = vec!["-C".to_owned(), NO_LIBRARY.to_owned()];
    flags.extend(pairs.iter().map(|pair| option(REMAP, pair)));
    let flags: Vec<_> = flags.iter().map(|flag| format!("\"{flag}\"")).collect();
    let words: Vec<_> = pairs.iter().map(|pair| option("-ffile-prefix-map", pair)).collect();
    let target = dev.cache.join("static");
    say(&format!("Building palatine and hypercore, static ({profile})"));
    let mut cargo = dev.command("cargo");
    cargo.args(["build", "--locked", "--profile", profile, "--target", TRIPLE, "--target-dir"]).arg(&target);
    cargo.arg("--config").arg(format!("build.rustflags=[{}]", flags.join(", "))).args(PROGRAMS);
    dev.succeed(cargo.env("CFLAGS", words.join(" ")), "The static programs could not be built.")?;
    let folder = target.join(TRIPLE).join(if profile == "dev" { "debug" } else { profile });
    looked_into(dev, profile, &["palatine", "hypercore"].map(|name| folder.join(name)))?;
    Ok(folder)
}

/// They want no library; and name no folder of this machine, except for a trial's debugger, which stays here.
fn looked_into(dev: &mut Dev, profile: &str, programs: &[PathBuf]) -> Result<()> {
    let mut readelf = dev.command("readelf");
    let wanted = dev.output(readelf.arg("-d").args(programs));
    let wanted = wanted.map_err(|error| error.context("The programs cannot be looked into."))?;
    ensure!(!wanted.contains("NEEDED"), "The programs still want the machine's libraries.");
    if profile == "dev" { Ok(()) } else { placeless(dev, programs) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dev::{fake, mark};

    /// A cargo that says what it was told, with the scripts of `named`, in a cache of its own.
    fn dev(dir: &Path, named: &[(&str, &str)]) -> Dev {
        let says = "echo \"$*\" \"${CARGO_ENCODED_RUSTFLAGS:-}\" \"${CFLAGS:-}\" > \"$CARGO_TARGET_DIR.said\"";
        for (name, does) in [("cargo", says), ("rustc", "echo /its/rust")].iter().chain(named) {
            fake::script(&dir.join("bin").join(name), does);
        }
        fake::dev(dir)
    }

    fn said(dev: &Dev) -> String {
        mark(&dev.cache.join("target.said"))
    }

    /// The folders of the machine, as a compiler's option names them with what stands for each.
    fn borrowed_of(dev: &Dev) -> [String; 3] {
        let cache = format!("{}=/cache", dev.cache.display());
        [cache, "/its/cargo=/cargo".to_owned(), "/its/rust/lib/rustlib=/rust".to_owned()]
    }

    #[test]
    fn fault_3_5_programs_that_cannot_be_looked_into_are_not_static() {
        for (readelf, why) in [
            ("exit 1", "The programs cannot be looked into."),
            ("echo 'NEEDED libc.so.6'", "The programs still want the machine's libraries."),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = statics(&mut dev(dir.path(), &[("readelf", readelf)]), "dev").unwrap_err();
            assert_eq!(error.to_string(), why);
        }
    }

    #[test]
    fn fault_3_5_no_program_of_a_package_is_told_where_it_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = dev(dir.path(), &[("readelf", "true")]);
        let folder = statics(&mut dev, "dev").unwrap();
        assert_eq!(folder, dev.cache.join("static").join(TRIPLE).join("debug"));
        let here = format!("{}=/palatine", crate::root().display());
        let pairs = [vec![here], borrowed_of(&dev).to_vec()].concat();
        let flags: Vec<_> = pairs.iter().map(|pair| format!(", \"--remap-path-prefix={pair}\"")).collect();
        let words: Vec<_> = pairs.iter().map(|pair| format!("-ffile-prefix-map={pair}")).collect();
        let wanted = format!(
            "build --locked --profile dev --target {TRIPLE} --target-dir {} --config \
             build.rustflags=[\"-C\", \"target-feature=+crt-static\"{}] \
             -p palatine-palatine -p palatine-hypercore --bins  {}",
            dev.cache.join("static").display(),
            flags.concat(),
            words.join(" ")
        );
        assert_eq!(said(&dev), wanted);
    }

    #[test]
    fn fault_3_5_the_guests_programs_are_told_the_same_in_every_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = dev(dir.path(), &[]);
        // Nothing was built that could be laid among the assets.
        let error = format!("{:#}", guests(&mut dev).unwrap_err());
        assert!(error.contains("guest/pod"), "{error}");
        let flags: Vec<_> = borrowed_of(&dev).iter().map(|pair| format!("\x1f--remap-path-prefix={pair}")).collect();
        let wanted = format!(
            "build --locked --profile guest --target {TRIPLE} --target-dir {} -p palatine-pod -p agent-echo \
             -Ctarget-feature=+crt-static{}",
            dev.cache.join("guest").display(),
            flags.concat()
        );
        assert_eq!(said(&dev), wanted);
    }
}
