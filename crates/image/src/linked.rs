//! What a program of the host is linked to: where it runs alone, that comes with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::tool::{HostTool, ToolError};

/// The loader lists what it would load, as `ldd` has it do.
const LOADER: HostTool =
    HostTool { name: "/lib64/ld-linux-x86-64.so.2", package: "libc6", deadline: Duration::from_secs(10) };

/// The libraries of a program and what loads them, in the order of their paths; none where it is linked to none.
pub(crate) fn linked(program: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let listed = match LOADER.run(|c| c.arg("--list").arg(program)) {
        // What the loader is not for.
        Err(ToolError::Failed { said, .. }) if said.contains("statically linked") => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut paths = libraries(&String::from_utf8_lossy(&listed));
    paths.push(PathBuf::from(LOADER.name));
    paths.sort();
    paths.dedup();
    Ok(paths)
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
    fn what_the_loader_lists_is_read_with_and_without_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        assert_eq!(libraries(listed), [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")]);
    }
}
