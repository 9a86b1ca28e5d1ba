//! Writing, making and wiping files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::draft::TempFile;
use crate::failpoint;
use crate::folder::sync_parent;

/// Broken files of one name that are kept at most.
const MOST_ASIDE: usize = 100;

/// Writes a file that only its owner can read, over whatever is there: a reader
/// finds the old one or the new one, and after the return the new one for ever.
///
/// # Errors
/// When the disk or the folder will not; the old file is there then.
pub fn replace(what: &str, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    write(what, &draft, bytes)?;
    move_to(what, &draft, path)
}

/// Makes a file that only its owner can read, where there is none: an existing one
/// is never replaced, and nobody ever finds half of one. Any number of makers may try
/// at once. One that is killed leaves nothing, where the file system knows files
/// without a name; elsewhere what it leaves is in nobody's way.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] when the file is there: another maker was faster.
/// Others when the disk or the folder will not.
pub fn create(what: &str, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let mut draft = TempFile::beside(path)?;
    let filled = fill(what, draft.file(), |file| file.write_all(bytes));
    let made = filled.and_then(|()| draft.publish(path));
    failpoint(what, "linked");
    let tidied = draft.tidy();
    made.and(tidied)?;
    failpoint(what, "tidied");
    sync_parent(path)
}

/// Gives a finished and synced file its name, over whatever has it.
///
/// # Errors
/// When the folder will not.
pub fn move_to(what: &str, draft: &Path, path: &Path) -> io::Result<()> {
    fs::rename(draft, path)?;
    failpoint(what, "renamed");
    sync_parent(path)
}

/// Gives a file that cannot be read another name beside its own, under which nothing is
/// kept yet: `<name>.broken`, or that with a number behind it.
///
/// # Errors
/// When so many are kept already that there is no such name, or the folder will not.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = name_aside(path)?;
    fs::rename(path, &aside)?;
    sync_parent(path)?;
    Ok(aside)
}

/// The name that [`set_aside`] would give, for who keeps a copy.
///
/// # Errors
/// When so many are kept already that there is none.
pub fn name_aside(path: &Path) -> io::Result<PathBuf> {
    let ends = std::iter::once(".broken".to_owned()).chain((1..MOST_ASIDE).map(|more| format!(".broken.{more}")));
    let mut names = ends.map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    });
    let free = names.find(|name| name.symlink_metadata().is_err());
    free.ok_or_else(|| io::Error::other(format!("{MOST_ASIDE} broken ones of {} are kept already", path.display())))
}

/// Makes a folder, and those above it, that only its owner can enter.
///
/// # Errors
/// When the disk or the folder above will not.
pub fn make_dir(what: &str, path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    failpoint(what, "made");
    missing.into_iter().try_for_each(sync_parent)
}

/// Overwrites a file with zeros, then removes it. One that is not there is wiped.
///
/// # Errors
/// When the disk or the folder will not; call it again.
pub fn wipe(what: &str, path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    file.write_all(&vec![0; length])?;
    failpoint(what, "zeroed");
    file.sync_all()?;
    fs::remove_file(path)?;
    failpoint(what, "unlinked");
    sync_parent(path)
}

/// Where a file is written before it has its name. One writer has the right to the
/// file, so one draft is enough, and what a killed writer left is written over.
fn draft(path: &Path) -> PathBuf {
    path.with_extension("half")
}

fn write(what: &str, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    fill(what, &mut file, |file| {
        // In two halves, so that a test finds one of them.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        failpoint(what, "torn");
        file.write_all(second)
    })
}

fn fill(what: &str, file: &mut File, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    failpoint(what, "opened");
    fill(file)?;
    failpoint(what, "written");
    file.sync_all()?;
    failpoint(what, "synced");
    Ok(())
}
