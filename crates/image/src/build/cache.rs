//! Which layer a step left, by all that went into it.
//!
//! `<store>/cache/<key>.json` names a blob. It is written when the blob is whole; one
//! whose blob is gone (its images were removed) is no entry. So nothing here has to be
//! mended after a death at any instruction.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::ImageDigest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::documents::BuiltLayer;
use crate::ImageError;
use crate::blobs::BlobStore;
use crate::digest::BlobDigest;

/// What is done in a step is another thing when this is another number.
const BUILDER: u32 = 2;
/// Entries that are kept; the oldest go first.
const MAX_ENTRIES: usize = 256;
/// Bytes of an entry at most.
const MAX_BYTES: u64 = 4096;

/// The folder of the entries.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache(PathBuf);

/// What a step left; no layer when it changed nothing.
#[derive(Serialize, Deserialize)]
struct Entry {
    layer: Option<ImageDigest>,
    bytes: u64,
}

impl LayerCache {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// What the step with this key left, if it was done before and its layer is still here.
    pub(super) fn find(&self, key: BlobDigest, blobs: &BlobStore) -> Option<Option<BuiltLayer>> {
        let path = self.path(key);
        let data = fs::metadata(&path).ok().filter(|data| data.len() <= MAX_BYTES)?;
        let entry: Entry = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        // What is used stays.
        if let Ok(file) = fs::File::options().append(true).open(&path)
            && data.is_file()
        {
            drop(file.set_modified(SystemTime::now()));
        }
        let Some(sum) = entry.layer.map(BlobDigest::from) else { return Some(None) };
        blobs.has(sum).then(|| Some(BuiltLayer::plain(sum, entry.bytes)))
    }

    /// Remembers what the step with this key left.
    pub(super) fn keep(&self, key: BlobDigest, layer: Option<&BuiltLayer>) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("write in", &self.0, source);
        fs::create_dir_all(&self.0).map_err(failed)?;
        let entry = Entry {
            layer: layer.map(|layer| layer.diff_id.into()),
            bytes: layer.map_or(0, |layer| layer.descriptor.size()),
        };
        let text = serde_json::to_vec(&entry).map_err(|error| ImageError::document("cache entry", error))?;
        durable::replace("layer cache", &self.path(key), &text).map_err(failed)?;
        self.bound().map_err(failed)
    }

    fn bound(&self) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            entries.push((entry.metadata()?.modified()?, entry.path()));
        }
        entries.sort();
        let over = entries.len().saturating_sub(MAX_ENTRIES);
        entries.drain(..over).try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn path(&self, key: BlobDigest) -> PathBuf {
        self.0.join(format!("{}.json", key.hex()))
    }
}

/// The key of a step: of the layers below it, of its inputs, and of the time that its
/// files get at most.
pub(super) fn key(below: &[BuiltLayer], inputs: &Value, epoch: i64) -> BlobDigest {
    let below: Vec<_> = below.iter().map(|layer| layer.diff_id.to_string()).collect();
    // Maps of values are sorted.
    let all = json!({"builder": BUILDER, "below": below, "inputs": inputs, "epoch": epoch});
    BlobDigest::of(all.to_string().as_bytes())
}

/// The sum of a file, as an input.
pub(super) fn sum_of(path: &Path) -> Result<String, ImageError> {
    let failed = |source| ImageError::file("read", path, source);
    let file = fs::File::open(path).map_err(failed)?;
    let (sum, _) = crate::digest::HashingReader::new(file, u64::MAX).finish().map_err(failed)?;
    Ok(sum.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &[u8]) -> BuiltLayer {
        BuiltLayer::plain(BlobDigest::of(text), text.len() as u64)
    }

    #[test]
    fn a_key_follows_from_all_that_goes_into_a_step_and_from_nothing_else() {
        let inputs = json!({"b": 1, "a": [1, 2]});
        let one = key(&[layer(b"x")], &inputs, 0);
        assert_eq!(one, key(&[layer(b"x")], &json!({"a": [1, 2], "b": 1}), 0));
        let others = [
            key(&[layer(b"y")], &inputs, 0),
            key(&[layer(b"x"), layer(b"x")], &inputs, 0),
            key(&[layer(b"x")], &json!({"a": [2, 1], "b": 1}), 0),
            key(&[layer(b"x")], &inputs, 1),
        ];
        assert!(!others.contains(&one));
    }

    #[test]
    fn an_entry_is_found_while_its_layer_is_here_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, scratch) = (dir.path().join("blobs"), dir.path().join("scratch"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&scratch).unwrap();
        let (blobs, cache) = (BlobStore::new(blobs, scratch), LayerCache::new(dir.path().join("cache")));
        let (kept, none, gone) = (BlobDigest::of(b"1"), BlobDigest::of(b"2"), BlobDigest::of(b"3"));
        assert!(cache.find(kept, &blobs).is_none());
        blobs.keep(b"text").unwrap();
        cache.keep(kept, Some(&layer(b"text"))).unwrap();
        cache.keep(none, None).unwrap();
        cache.keep(gone, Some(&layer(b"never kept"))).unwrap();
        assert_eq!(cache.find(kept, &blobs).unwrap().unwrap().diff_id, BlobDigest::of(b"text"));
        assert!(cache.find(none, &blobs).unwrap().is_none());
        assert!(cache.find(gone, &blobs).is_none());
        fs::write(cache.path(kept), "no entry").unwrap();
        assert!(cache.find(kept, &blobs).is_none());
        for at in 0..MAX_ENTRIES {
            cache.keep(BlobDigest::of(at.to_string().as_bytes()), None).unwrap();
        }
        assert_eq!(fs::read_dir(&cache.0).unwrap().count(), MAX_ENTRIES);
    }
}
