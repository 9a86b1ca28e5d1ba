//! Folders of this machine, and what stands for each in programs that leave it: where they were built changes no byte.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::dev::Dev;

/// A folder, and what stands for it.
type Pair = (PathBuf, &'static str);

/// All of them.
pub(crate) fn replaced(dev: &mut Dev) -> Result<Vec<Pair>> {
    let mut pairs = vec![(crate::root().to_owned(), "/palatine")];
    pairs.extend(borrowed(dev)?);
    Ok(pairs)
}

/// Those that are not the checkout. Cargo names a workspace's own files from its root: what is built with these flags
/// is the same in every checkout, and is not built again in another one.
pub(crate) fn borrowed(dev: &mut Dev) -> Result<Vec<Pair>> {
    let mut rustc = dev.command("rustc");
    let sysroot = PathBuf::from(dev.output(rustc.args(["--print", "sysroot"]))?);
    Ok(vec![(dev.cache.clone(), "/cache"), (dev.cargo_home.clone(), "/cargo"), (sysroot.join("lib/rustlib"), "/rust")])
}

/// A compiler's option to put what stands for a folder in its place.
pub(crate) fn option(name: &str, (folder, stands): &Pair) -> String {
    format!("{name}={}={stands}", folder.display())
}

/// No program that leaves this machine names a folder of it.
pub(crate) fn placeless(dev: &mut Dev, programs: &[PathBuf]) -> Result<()> {
    let folders: Vec<PathBuf> = replaced(dev)?
        .into_iter()
        // A folder that stands for itself is the same wherever it is.
        .filter(|(folder, stands)| folder != Path::new(stands))
        .map(|(folder, _)| folder)
        .collect();
    for program in programs {
        let bytes = fs::read(program).with_context(|| program.display().to_string());
        let bytes = bytes.context("The programs cannot be looked into.")?;
        for folder in &folders {
            ensure!(
                !names(&bytes, folder),
                "A program names {}, a folder of the machine that built it.",
                folder.display()
            );
        }
    }
    Ok(())
}

/// Whether a path in these bytes begins with the folder: another one may go on with the same names.
fn names(bytes: &[u8], folder: &Path) -> bool {
    let wanted = [folder.as_os_str().as_bytes(), b"/"].concat();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let begins = |at: usize| at.checked_sub(1).is_none_or(|before| !goes_on(bytes[before]));
    slashes.filter(|at| bytes[*at..].starts_with(&wanted)).any(begins)
}

/// Whether a path that stands after this byte is only the rest of one.
fn goes_on(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::fake;

    #[test]
    fn fault_3_5_a_program_that_names_a_folder_of_its_builder_is_not_packed() {
        let dir = tempfile::tempdir().unwrap();
        fake::script(&dir.path().join("bin/rustc"), "echo /its/rust");
        let mut dev = fake::dev(dir.path());
        let program = dir.path().join("program");
        let here = crate::root().display();
        for (home, named, good) in [
            ("/its/cargo", "/its/cargo/registry/src/x.rs", false),
            ("/its/cargo", "/cargo/registry/src/x.rs", true),
            ("/cargo", "/cargo/registry/src/x.rs", true),
            ("/src", "/cargo/registry/src/x.rs", true),
            ("/its/cargo", "/usr/lib/libc.so", true),
            ("/its/cargo", "/its/rust/lib/rustlib/src/x.rs", false),
            ("/its/cargo", &format!("{here}/crates/x.rs"), false),
            ("/its/cargo", &format!("/srv{here}/crates/x.rs"), true),
            ("/its/cargo", "/its/cargo", true),
        ] {
            dev.cargo_home = PathBuf::from(home);
            fs::write(&program, format!("x\0{named}\0")).unwrap();
            let judged = placeless(&mut dev, std::slice::from_ref(&program));
            assert_eq!(judged.is_ok(), good, "{home} {named}: {judged:?}");
        }
        let lost = placeless(&mut dev, &[dir.path().join("no-program")]).unwrap_err().to_string();
        assert!(lost.contains("cannot be looked into"), "{lost}");
    }
}
