//! The program that checks a guest's volumes before they are mounted: the host's own
//! `e2fsck`, with what it is linked to. It runs in guests alone.

use std::path::PathBuf;
use std::time::Duration;

use super::KernelError;
use super::initramfs::RootFile;
use crate::tool::HostTool;

const NAME: &str = "e2fsck";
/// Where the program is in the first root.
pub(super) const PROGRAM: &str = "sbin/e2fsck";
/// Of it and its libraries.
const MODE: u32 = 0o755;
/// Where it is looked for besides `PATH`, which may lack what administrators use.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// The loader lists what it would load, as `ldd` has it do.
const LOADER: HostTool =
    HostTool { name: "/lib64/ld-linux-x86-64.so.2", package: "libc6", deadline: Duration::from_secs(10) };

/// The program and its libraries, in the order of their paths.
pub(super) fn files() -> Result<Vec<RootFile>, KernelError> {
    let program = find().ok_or(KernelError::NoChecker)?;
    let listed = LOADER.run(|c| c.arg("--list").arg(&program))?;
    let mut found = vec![RootFile::read(&program, PROGRAM.to_owned(), MODE)?];
    let mut paths = libraries(&String::from_utf8_lossy(&listed));
    paths.push(PathBuf::from(LOADER.name));
    paths.sort();
    paths.dedup();
    for path in paths {
        let name = path.to_string_lossy().trim_start_matches('/').to_owned();
        found.push(RootFile::read(&path, name, MODE)?);
    }
    Ok(found)
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    places.map(|dir| dir.join(NAME)).find(|file| file.is_file())
}

/// The files that the loader names: `libc.so.6 => /lib/…/libc.so.6 (0x…)`.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let named = listed.lines().filter_map(|line| line.split_once("=> ")?.1.split_whitespace().next());
    named.filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_comes_with_its_loader_and_all_that_it_is_linked_to() {
        let found = files().unwrap();
        let paths: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths[0], PROGRAM);
        assert!(paths.contains(&"lib64/ld-linux-x86-64.so.2"), "{paths:?}");
        assert!(paths.iter().any(|path| path.ends_with("/libext2fs.so.2")), "{paths:?}");
        assert!(found.iter().all(|file| file.data.starts_with(b"\x7fELF")), "{paths:?}");
    }

    #[test]
    fn what_the_loader_lists_is_read_with_and_without_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        assert_eq!(libraries(listed), [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")]);
    }
}
