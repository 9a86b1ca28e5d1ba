//! The program that checks a guest's volumes before they are mounted: the host's own
//! `e2fsck`, with what it is linked to. It runs in guests alone.

use std::path::PathBuf;

use super::KernelError;
use super::initramfs::RootFile;
use crate::linked::linked;

const NAME: &str = "e2fsck";
/// Where the program is in the first root.
pub(super) const PROGRAM: &str = "sbin/e2fsck";
/// Of it and its libraries.
const MODE: u32 = 0o755;
/// Where it is looked for besides `PATH`, which may lack what administrators use.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The program and its libraries, in the order of their paths.
pub(super) fn files() -> Result<Vec<RootFile>, KernelError> {
    let program = find().ok_or(KernelError::NoChecker)?;
    let mut found = vec![RootFile::read(&program, PROGRAM.to_owned(), MODE)?];
    for path in linked(&program)? {
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
}
