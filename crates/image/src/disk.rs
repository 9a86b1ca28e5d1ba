//! A root directory to a disk that guests mount read-only.

use std::path::Path;
use std::time::Duration;

use crate::digest::Sum;
use crate::tool::{Tool, ToolError};

/// An image of many gigabytes on a slow disk.
const DEADLINE: Duration = Duration::from_secs(3600);
const MKFS: Tool = Tool { name: "mkfs.erofs", package: "erofs-utils", deadline: DEADLINE };

/// Writes the file system of `root` into `disk`: the same for the same content
/// and name. Not compressed: an emulated processor unpacks slower than it reads,
/// and the host's page cache holds each block once for all guests. No extended
/// attributes: none may come from an image.
pub(crate) fn make(root: &Path, disk: &Path, image: Sum) -> Result<(), ToolError> {
    let uuid = format!("-U{}", uuid(image));
    MKFS.run(|c| c.args(["-T0", "--preserve-mtime", "-x-1", &uuid]).arg(disk).arg(root)).map(|_| ())
}

/// A UUID that says which image it is (version 8: made of other things).
fn uuid(image: Sum) -> String {
    let hex = image.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_one_and_depends_on_the_image() {
        let one = uuid(Sum::of(b"a"));
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_ne!(one, uuid(Sum::of(b"b")));
    }
}
