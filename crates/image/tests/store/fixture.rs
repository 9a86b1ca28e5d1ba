//! Images made for tests, down to single headers of an archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use palatine_image::{Config, Image, ImageError, ImageStore, NoProgress};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer's archive, entry by entry.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Any entry, without the library's own checks of names.
    pub(crate) fn raw(mut self, name: &[u8], kind: EntryType, link: &[u8], mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    /// An extended header of these records.
    pub(crate) fn records(self, records: &[(&str, &str)]) -> Self {
        let line = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n");
            let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits).unwrap();
            format!("{}{rest}", rest.len() + digits)
        };
        let text: String = records.iter().map(line).collect();
        self.raw(b"x", EntryType::XHeader, b"", 0o644, text.as_bytes())
    }

    /// A header as it is, and what stands behind it.
    pub(crate) fn header(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.append(header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, b"", 0o644, data)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Directory, b"", 0o755, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Symlink, target.as_bytes(), 0o777, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Link, target.as_bytes(), 0o644, b"")
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An image: layers (packed or not) and a config.
#[derive(Clone)]
pub(crate) struct CreatedInodes {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl CreatedInodes {
    /// Plain layers, and the usual entrypoint.
    pub(crate) fn of(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        Self::with(layers, &diff_ids, json!({"Entrypoint": ["/agent"], "User": "7:8"}))
    }

    pub(crate) fn with(layers: Vec<Vec<u8>>, diff_ids: &[String], run: Value) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": descriptors,
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    pub(crate) fn blobs(&self) -> Vec<&[u8]> {
        self.layers.iter().map(Vec::as_slice).chain([&self.config[..], &self.manifest[..]]).collect()
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Writes an OCI layout of this image alone.
    pub(crate) fn layout(&self, dir: &Path) -> PathBuf {
        layout(dir, &self.blobs(), &[descriptor(MANIFEST, &self.manifest)])
    }
}

pub(crate) fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

pub(crate) fn layout(dir: &Path, blobs: &[&[u8]], manifests: &[Value]) -> PathBuf {
    let root = dir.join("layout");
    let kept = root.join("blobs/sha256");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    for blob in blobs {
        std::fs::write(kept.join(&digest(blob)["sha256:".len()..]), blob).unwrap();
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    root
}

/// A store in a directory of its own.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) store: ImageStore,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        needs::needs!(root); // Files are unpacked with their owners.
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { store: dir.path().join("store"), ..Config::default() };
        change(&mut config);
        let store = ImageStore::open(&config).unwrap();
        Self { dir, config, store }
    }

    /// Imports plain layers.
    pub(crate) fn layers(&self, layers: Vec<Vec<u8>>) -> Result<Image, ImageError> {
        self.import(&CreatedInodes::of(layers))
    }

    pub(crate) fn import(&self, made: &CreatedInodes) -> Result<Image, ImageError> {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        self.store.import(&made.layout(dir.path()), "test", &NoProgress)
    }

    /// Nothing of an image is in the store, whole or in part (but for blobs, which
    /// are whole and wait for [`ImageStore::prune`]).
    pub(crate) fn assert_no_image(&self) {
        assert_eq!(self.store.list().unwrap(), []);
        assert_eq!(files(&self.config.store.join("disks")), 0);
        assert_eq!(files(&self.config.store.join("names")), 0);
        let left: Vec<_> = std::fs::read_dir(self.config.store.join("tmp")).unwrap().collect();
        let left = left.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| !name.ends_with(".lock")).count(), 0);
    }
}

pub(crate) fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Unpacks an image's disk with the distribution's own tool.
pub(crate) fn extract(image: &Image, into: &Path) -> PathBuf {
    let root = into.join("root");
    let status = Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(&image.disk).output();
    let status = status.expect("the package erofs-utils is installed");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    root
}

/// The mode of a file on an image's disk, and whether it has extended attributes: the
/// distribution's tools of this age show neither, and lose both when they unpack.
pub(crate) fn inode(image: &Image, path: &str) -> (u16, bool) {
    const SUPERBLOCK: usize = 1024;
    let said = Command::new("dump.erofs").arg(format!("--path={path}")).arg(&image.disk).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let mut words = said.split_whitespace().skip_while(|word| *word != "NID:");
    let number: usize = words.nth(1).unwrap().parse().unwrap();
    let disk = std::fs::read(&image.disk).unwrap();
    let block = 1 << disk[SUPERBLOCK + 12];
    let inodes = u32::from_le_bytes(disk[SUPERBLOCK + 40..][..4].try_into().unwrap()) as usize * block;
    let inode = &disk[inodes + 32 * number..];
    let word = |at: usize| u16::from_le_bytes(inode[at..at + 2].try_into().unwrap());
    (word(4) & 0o7777, word(2) > 0)
}

/// The whole story of an error, as the command line prints it.
pub(crate) fn story(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
