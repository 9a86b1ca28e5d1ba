//! An image as an OCI archive: a packed layout, the same bytes for the same image.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use oci_spec::image::{Descriptor, ImageIndexBuilder, ImageManifest, MediaType, SCHEMA_VERSION};
use serde_json::json;
use tar::{Builder, Header};
use tempfile::NamedTempFile;

use crate::blobs::{BlobStore, settle};
use crate::digest::BlobDigest;
use crate::document::{self, descriptor};
use crate::progress::CountingReader;
use crate::{ImageError, Progress};

/// What says which layout it is.
const LAYOUT: (&str, &str) = ("oci-layout", "1.0.0");
const INDEX: &str = "index.json";

/// Writes the image with this manifest to `path`, whole or not at all.
pub(crate) fn export(
    manifest: BlobDigest,
    name: &str,
    blobs: &BlobStore,
    path: &Path,
    to: &dyn Progress,
) -> Result<(), ImageError> {
    let failed = |source| ImageError::file("write", path, source);
    let bytes = blobs.document(manifest)?;
    let parsed: ImageManifest = document::json("manifest", &bytes)?;
    let parts: Vec<&Descriptor> = std::iter::once(parsed.config()).chain(parsed.layers()).collect();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(dir).map_err(failed)?;
    to.step("write the archive", Some(parts.iter().map(|part| part.size()).sum()));
    let packed = GzBuilder::new().mtime(0).write(BufWriter::new(file.as_file()), Compression::default());
    let mut archive = Builder::new(packed);
    let mut put = |name: &str, size: u64, from: &mut dyn Read| {
        let mut header = Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, from).map_err(failed)
    };
    let layout = json!({"imageLayoutVersion": LAYOUT.1}).to_string();
    put(LAYOUT.0, layout.len() as u64, &mut layout.as_bytes())?;
    let kind = parsed.media_type().clone().unwrap_or(MediaType::ImageManifest);
    let index = index(descriptor(kind, manifest, bytes.len() as u64), name)?;
    put(INDEX, index.len() as u64, &mut &index[..])?;
    put(&blob(manifest), bytes.len() as u64, &mut &bytes[..])?;
    for part in parts {
        let sum = BlobDigest::named(part)?;
        let mut from = CountingReader::new(verified(blobs.open(sum)?, part.size()).map_err(failed)?, to);
        put(&blob(sum), part.size(), &mut from)?;
    }
    let packed = archive.into_inner().and_then(|packed| packed.finish()).map_err(failed)?;
    packed.into_inner().map_err(|error| failed(error.into_error()))?;
    settle(file.as_file()).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// A blob's file, which must have the size that its manifest names: an archive has no place for another.
fn verified(file: File, size: u64) -> io::Result<File> {
    let found = file.metadata()?.len();
    if found == size {
        Ok(file)
    } else {
        Err(io::Error::other(format!("a blob has {found} bytes, and should have {size}")))
    }
}

fn blob(sum: BlobDigest) -> String {
    format!("blobs/sha256/{}", sum.hex())
}

fn index(mut named: Descriptor, name: &str) -> Result<Vec<u8>, ImageError> {
    named.set_annotations(Some([("org.opencontainers.image.ref.name".to_owned(), name.to_owned())].into()));
    let index = ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).media_type(MediaType::ImageIndex);
    let index = index.manifests(vec![named]).build().map_err(|error| ImageError::document("index", error))?;
    serde_json::to_vec(&index).map_err(|error| ImageError::document("index", error))
}
