//! What an archive holds, one entry after the other, with nothing applied.

use std::io::Read;

use super::LayerError;
use super::archive::TarReader;
use super::entry::ExtendedHeaders;

/// Shows each entry of an archive: its path, how many bytes the archive holds of it, and these. At
/// most so many headers are read; what comes after them is not looked at.
pub(crate) fn walk<E: From<LayerError>>(
    archive: impl Read,
    at_most: usize,
    mut see: impl FnMut(&[u8], u64, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut extended = ExtendedHeaders::default();
    let mut archive = TarReader::new(archive);
    for _ in 0..at_most {
        let Some(header) = archive.next().map_err(|error| super::error::read(&error))? else { break };
        if let Some(head) = extended.take(&header, &mut archive)? {
            see(&head.path, archive.left(), &mut archive)?;
        }
    }
    Ok(())
}
