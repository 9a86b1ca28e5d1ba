//! A Containerfile, or a holder's recipe: the distribution's `buildah` builds it, whole and shut in as an
//! operator's recipe's steps are.
//!
//! Its commands have no network, and see of this store the images that it names. What it
//! makes is taken in as any archive is. A holder's context is an archive, which is unpacked
//! behind the walls: nothing of it becomes a file out here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageManifest, MediaType};
use serde_json::json;

use super::BuildError;
use super::confine::{Bind, Confined, Slash, installed};
use super::plan::{MAX_BYTES, NAMES, Plan};
use super::root::SHIFT;
use crate::blobs::BlobStore;
use crate::digest::{BlobDigest, HashingReader};
use crate::document::{self, descriptor};
use crate::erase::erase_folder;
use crate::layer::{LayerError, read_error, unpack, walk};
use crate::recipe::{FILE_NAME, StepLimits};
use crate::{Config, ImageError, Progress};

/// Images that one may build on at most.
const MAX_BASES: usize = 16;
/// For the whole of an operator's: the images below and the archive of the result count as well.
pub(crate) const LIMITS: StepLimits =
    StepLimits { timeout_s: 3_600, memory_mib: 4_096, processes: 1_024, disk_mib: 16_384 };
/// The images below, its own files and the result are each one image's number at most.
const ENTRIES: u64 = 3;
/// Unpacks a context that comes as an archive, and does what is planned, with the words that follow.
const SCRIPT: &str = r#"
if [ -e /context.tar ]; then
  mkdir "$CONTEXT"
  tar --extract --file /context.tar --directory "$CONTEXT" --no-same-owner --delay-directory-restore
fi
exec /bin/sh -eu /etc/plan.sh "$@"
"#;
/// What it makes, in the folder that is theirs to write.
const RESULT: &str = "result.tar";
/// Where the plan lies among the settings.
const PLAN: &str = "plan.sh";
/// What `buildah` is told by its environment wherever it works.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] = [
    ("HOME", "/root"),
    // It is root already, of a user namespace or a machine; each command is only put in a root of its own.
    ("_CONTAINERS_USERNS_CONFIGURED", "1"),
    ("BUILDAH_ISOLATION", "chroot"),
];
/// Where an archive is unpacked.
const UNPACKED: &str = "/work/context";
/// Headers of an archive among which its Containerfile is looked for, at most.
const MAX_ENTRIES: usize = 1_000_000;
/// What it says of an image that was not handed in.
const NOT_KNOWN: &str = "image not known";
/// What `buildah` looks for in `/etc`: the archive's signature is ours to want, and it asks no registry.
pub(crate) const SETTINGS: [(&str, &str); 4] = [
    ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("group", "root:x:0:\n"),
    ("containers/policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#),
    ("containers/registries.conf", "unqualified-search-registries = []\n"),
];

/// How `buildah` stores what it works on, in this folder.
pub(crate) fn storage(work: &str) -> String {
    format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{work}/graph\"\nrunroot = \"{work}/run\"\n")
}

/// Where a build's files are.
#[derive(Clone, Copy)]
pub(crate) enum BuildFiles<'a> {
    /// In folders of the operator's.
    Folder {
        /// The Containerfile, by its whole path.
        file: &'a Path,
        /// Where what it copies is.
        context: &'a Path,
    },
    /// In an archive of a stranger's.
    Archive {
        /// The archive: tar, packed or not.
        path: &'a Path,
    },
}

/// A Containerfile, or a holder's recipe, that is to be built.
pub(crate) struct ContainerfileBuild<'a> {
    pub(crate) files: BuildFiles<'a>,
    /// What is done with them.
    pub(crate) plan: &'a Plan,
    /// Nothing in the image is younger: seconds since 1970.
    pub(crate) epoch: i64,
    /// The store's images by their names.
    pub(crate) known: &'a dyn Fn(&str) -> Option<BlobDigest>,
    /// For the whole of it.
    pub(crate) limits: StepLimits,
}

/// What stands in a Containerfile of a folder.
pub(crate) fn read(file: &Path) -> Result<String, ImageError> {
    let failed = |source| ImageError::file("read", file, source);
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(BuildError::LargeRecipe { bytes, most: MAX_BYTES }.into());
    }
    Ok(String::from_utf8_lossy(&fs::read(file).map_err(failed)?).into_owned())
}

/// What stands in the Containerfile of an archive, and its name there: the one that is named, or
/// else the first of the usual ones. Unpacked, the archive has `most` bytes at most.
pub(crate) fn read_packed(archive: &Path, named: Option<&str>, most: u64) -> Result<(String, String), ImageError> {
    let names = looked_for(named);
    let file = fs::File::open(archive).map_err(|source| ImageError::file("read", archive, source))?;
    let plain = HashingReader::new(unpack(file).map_err(|_| BuildError::NoContext)?, most);
    let found = files_called(&names, plain).map_err(|error| match error {
        Unread::Archive(LayerError::TooLarge) => BuildError::LargeContext { mib: most >> 20 },
        Unread::Archive(_) => BuildError::NoContext,
        Unread::Large(bytes) => BuildError::LargeRecipe { bytes, most: MAX_BYTES },
    })?;
    let there = names.iter().zip(found).filter_map(|(name, text)| Some((*name, text?))).collect();
    chosen(&names, there)
}

/// What is looked for in a context: the one file that is named, or else those that are called as usual.
pub(crate) fn looked_for(named: Option<&str>) -> Vec<&str> {
    named.map_or(NAMES.to_vec(), |named| vec![named])
}

/// The text and the name of the file that is meant, of those that are there, in the order in which they are looked
/// for. A recipe beside a Containerfile leaves open which is meant.
pub(crate) fn chosen(names: &[&str], there: Vec<(&str, String)>) -> Result<(String, String), ImageError> {
    if there.len() > 1 && there.iter().any(|(name, _)| *name == FILE_NAME) {
        return Err(BuildError::TwoPacked.into());
    }
    let first = there.into_iter().next();
    let (name, text) = first.ok_or_else(|| BuildError::NoContainerfile(names.join(" or ")))?;
    Ok((text, name.to_owned()))
}

/// Why the files of an archive are not read.
enum Unread {
    Archive(LayerError),
    /// One has so many bytes.
    Large(u64),
}

impl From<LayerError> for Unread {
    fn from(error: LayerError) -> Self {
        Self::Archive(error)
    }
}

/// What stands in the files of these names, of which there are as many as of [`NAMES`] at most.
fn files_called(names: &[&str], archive: impl Read) -> Result<[Option<String>; NAMES.len()], Unread> {
    let mut found: [Option<String>; NAMES.len()] = Default::default();
    walk(archive, MAX_ENTRIES, |path, bytes, content| {
        let path = Path::new(OsStr::from_bytes(path));
        let path = path.strip_prefix(".").unwrap_or(path);
        let Some(at) = names.iter().position(|name| path == Path::new(name)) else { return Ok(()) };
        if bytes > MAX_BYTES {
            return Err(Unread::Large(bytes));
        }
        let mut text = Vec::new();
        content.read_to_end(&mut text).map_err(|error| read_error(&error))?;
        found[at] = Some(String::from_utf8_lossy(&text).into_owned());
        Ok(())
    })?;
    Ok(found)
}

/// The Containerfile that `path` means: itself, or the one in that folder. None where a recipe is meant.
///
/// # Errors
/// When the folder has both.
pub fn find(path: &Path) -> Result<Option<PathBuf>, BuildError> {
    if !path.is_dir() {
        return Ok(path.extension().is_none_or(|kind| kind != "toml").then(|| path.to_owned()));
    }
    let names = NAMES.iter().filter(|name| **name != FILE_NAME);
    let Some(file) = names.map(|name| path.join(name)).find(|file| file.is_file()) else { return Ok(None) };
    if path.join(FILE_NAME).is_file() {
        return Err(BuildError::TwoRecipes { folder: path.to_owned(), other: file });
    }
    Ok(Some(file))
}

/// Builds it, and returns the archive of the image, which lies in `scratch`.
pub(crate) fn build(
    request: &ContainerfileBuild<'_>,
    blobs: &BlobStore,
    scratch: &Path,
    bounds: &Config,
    to: &dyn Progress,
) -> Result<PathBuf, ImageError> {
    installed("buildah", "buildah")?;
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    let folders = Folders::create(scratch, &request.plan.script)?;
    let own = [
        (&*folders.bases, "/bases", false),
        (&folders.settings, "/etc", false),
        // Its own way to shut in wants one to be there.
        (&folders.empty, "/sys", false),
        (&folders.work, "/work", true),
    ];
    let (files, recipe, context) = match request.files {
        BuildFiles::Folder { file, context } => {
            let recipe = file.parent().unwrap_or(context);
            (vec![(context, "/context", false), (recipe, "/recipe", false)], "/recipe", "/context")
        }
        BuildFiles::Archive { path } => {
            give_away(path)?;
            (vec![(path, "/context.tar", false)], UNPACKED, UNPACKED)
        }
    };
    let bases = bases(request.plan, request.known)?;
    let images = bases.images();
    must_fit(&images, blobs, request.limits.disk_mib)?;
    for manifest in images {
        to.step("hand in what it builds on", None);
        Layout::of(manifest, blobs)?.write(blobs, &folders.bases.join(manifest.hex()))?;
    }
    let words: Vec<_> = bases.words().collect();
    // Whatever this process's umask is: root in there reads what is its own.
    [&folders.bases, &folders.settings, &folders.empty].into_iter().try_for_each(|folder| give_away(folder))?;
    to.step("build the image", None);
    let env = [
        ("SOURCE_DATE_EPOCH", request.epoch.to_string()),
        ("RECIPE", recipe.to_owned()),
        ("CONTEXT", context.to_owned()),
        ("BASES", "/bases".to_owned()),
        ("WORK", "/work".to_owned()),
        ("TMPDIR", "/work/tmp".to_owned()),
    ];
    let env = env.into_iter().chain(ENVIRONMENT.map(|(name, value)| (name, value.to_owned())));
    let confined = Confined {
        slash: Slash::HostPrograms,
        binds: files.into_iter().chain(own).map(|(from, at, writable)| Bind { from, at, writable }).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value)).collect(),
        mounts: true,
        limits: request.limits,
        watched: (&folders.work, bounds.max_entries.saturating_mul(ENTRIES)),
    };
    let words: Vec<&str> =
        ["/bin/sh", "-euc", SCRIPT, "build"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let ran = confined.run(&words, to).map_err(|error| explained(error, &bases.unknown));
    let result = ran.and_then(|()| folders.result(scratch));
    // Before more is written: it is as large as the build may be, and as deep as it likes.
    folders.forget()?;
    result
}

pub(crate) fn file_name(file: &Path) -> Result<String, ImageError> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "its name is no UTF-8");
        ImageError::file("read", file, source)
    })
}

/// What is built on.
#[derive(Debug, Default)]
pub(crate) struct Bases {
    /// The store's images.
    pub(crate) known: Vec<(String, BlobDigest)>,
    /// Stages, and what is not there.
    pub(crate) unknown: Vec<String>,
}

impl Bases {
    /// The store's images, each once: one may have several names.
    pub(crate) fn images(&self) -> BTreeSet<BlobDigest> {
        self.known.iter().map(|(_, manifest)| *manifest).collect()
    }

    /// What a plan's script is told of them: where each is, and its name.
    pub(crate) fn words(&self) -> impl Iterator<Item = String> {
        self.known.iter().flat_map(|(name, manifest)| [manifest.hex(), name.clone()])
    }
}

/// What a plan names: the store's images, and what is none. Whether a name is a stage's, `buildah` judges: what
/// is not handed in is not known to it.
pub(crate) fn bases(plan: &Plan, known: &dyn Fn(&str) -> Option<BlobDigest>) -> Result<Bases, ImageError> {
    let mut bases = Bases::default();
    for name in &plan.names {
        match known(name) {
            Some(manifest) => bases.known.push((name.clone(), manifest)),
            None if plan.images_alone => {
                return Err(BuildError::UnknownBase { names: name.clone(), said: String::new() }.into());
            }
            None => bases.unknown.push(name.clone()),
        }
    }
    if bases.known.len() > MAX_BASES {
        return Err(BuildError::Bases { found: bases.known.len(), most: MAX_BASES }.into());
    }
    Ok(bases)
}

/// `buildah` says only that an image is not known to it.
pub(crate) fn explained(error: ImageError, unknown: &[String]) -> ImageError {
    match error {
        ImageError::Build(BuildError::Ended { said, .. }) if said.contains(NOT_KNOWN) => {
            BuildError::UnknownBase { names: unknown.join(", "), said }.into()
        }
        other => other,
    }
}

/// Refuses images that are larger together than what a build may write: they are written out here, before anybody
/// looks at what the build takes.
pub(crate) fn must_fit(images: &BTreeSet<BlobDigest>, blobs: &BlobStore, mib: u64) -> Result<(), ImageError> {
    let mut bytes = 0_u64;
    for manifest in images {
        let image: ImageManifest = document::json("manifest", &blobs.document(*manifest)?)?;
        bytes = bytes.saturating_add(document::bytes_of(image.layers()));
    }
    let found_mib = bytes.div_ceil(1 << 20);
    if found_mib > mib { Err(BuildError::LargeBases { found_mib, mib }.into()) } else { Ok(()) }
}

/// An OCI layout of one image of the store: its documents, and the blobs that belong to it.
pub(crate) struct Layout {
    /// By their paths in it.
    documents: Vec<(String, Vec<u8>)>,
    blobs: Vec<BlobDigest>,
}

impl Layout {
    pub(crate) fn of(manifest: BlobDigest, blobs: &BlobStore) -> Result<Self, ImageError> {
        let bytes = blobs.document(manifest)?;
        let image: ImageManifest = document::json("manifest", &bytes)?;
        let parts = std::iter::once(image.config()).chain(image.layers());
        let parts = parts.map(|part| Ok(BlobDigest::named(part)?)).collect::<Result<_, ImageError>>()?;
        let kind = image.media_type().clone().unwrap_or(MediaType::ImageManifest);
        let mut named = descriptor(kind, manifest, bytes.len() as u64);
        named.set_annotations(Some([("org.opencontainers.image.ref.name".to_owned(), "base".to_owned())].into()));
        let documents = vec![
            (format!("blobs/sha256/{}", manifest.hex()), bytes),
            ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
            ("index.json".to_owned(), json!({"schemaVersion": 2, "manifests": [named]}).to_string().into_bytes()),
        ];
        Ok(Self { documents, blobs: parts })
    }

    /// As a folder: copies, since the walls' root owns nothing here.
    fn write(&self, blobs: &BlobStore, at: &Path) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("write", at, source);
        fs::create_dir_all(at.join("blobs/sha256")).map_err(failed)?;
        for blob in &self.blobs {
            let mut file = fs::File::create(at.join("blobs/sha256").join(blob.hex())).map_err(failed)?;
            std::io::copy(&mut blobs.open(*blob)?, &mut file).map_err(failed)?;
        }
        self.documents.iter().try_for_each(|(path, bytes)| fs::write(at.join(path), bytes)).map_err(failed)
    }

    /// In an archive, below this folder.
    pub(crate) fn append(
        &self,
        blobs: &BlobStore,
        at: &str,
        archive: &mut tar::Builder<fs::File>,
        file: &Path,
    ) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("write", file, source);
        for blob in &self.blobs {
            let mut open = blobs.open(*blob)?;
            archive.append_file(format!("{at}/blobs/sha256/{}", blob.hex()), &mut open).map_err(failed)?;
        }
        for (path, bytes) in &self.documents {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{at}/{path}"), bytes.as_slice()).map_err(failed)?;
        }
        Ok(())
    }
}

/// Makes root of the walls the owner of what is in a folder of ours.
fn give_away(path: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::file("give away", path, source);
    chown(path, Some(SHIFT), Some(SHIFT)).map_err(failed)?;
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            give_away(&entry.map_err(failed)?.path())?;
        }
    }
    Ok(())
}

/// What it works with, each made anew.
struct Folders {
    settings: PathBuf,
    bases: PathBuf,
    empty: PathBuf,
    /// Theirs to write, and so nothing in it is believed.
    work: PathBuf,
}

impl Folders {
    fn create(scratch: &Path, plan: &str) -> Result<Self, ImageError> {
        let made = |name: &str| {
            let path = scratch.join(name);
            let created = fs::create_dir_all(&path).map(|()| path.clone());
            created.map_err(|source| ImageError::file("create", &path, source))
        };
        let folders =
            Self { settings: made("settings")?, bases: made("bases")?, empty: made("empty")?, work: made("work")? };
        made("settings/containers")?;
        let storage = storage("/work");
        let own = [("containers/storage.conf", storage.as_str()), (PLAN, plan)];
        for (name, text) in SETTINGS.into_iter().chain(own) {
            let path = folders.settings.join(name);
            fs::write(&path, text).map_err(|source| ImageError::file("write", &path, source))?;
        }
        for path in [folders.work.clone(), made("work/tmp")?] {
            give_away(&path)?;
        }
        Ok(folders)
    }

    /// The archive: a file of its own, and no other name for one of ours.
    fn result(&self, scratch: &Path) -> Result<PathBuf, ImageError> {
        let path = self.work.join(RESULT);
        let failed = |source| ImageError::file("read", &path, source);
        if !fs::symlink_metadata(&path).map_err(failed)?.is_file() {
            return Err(ImageError::NotAnImage(path));
        }
        let out = scratch.join(RESULT);
        fs::rename(&path, &out).map_err(failed)?;
        Ok(out)
    }

    fn forget(&self) -> Result<(), ImageError> {
        let folders = [&self.work, &self.bases, &self.settings, &self.empty];
        folders
            .into_iter()
            .try_for_each(|path| erase_folder(path).map_err(|source| ImageError::file("remove", path, source)))
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;

    use super::*;

    /// A header of 400 MiB of one letter takes 2 MB to send, and all of them to read.
    #[test]
    fn a_header_without_a_bound_is_not_read_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context");
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let mut packed = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(400 << 20);
            header.set_cksum();
            std::io::Write::write_all(&mut packed, header.as_bytes()).unwrap();
            std::io::copy(&mut std::io::repeat(b'x').take(2 << 20), &mut packed).unwrap();
            packed.finish().unwrap();
            // It is refused at its head, and not where it ends too early.
            let read = files_called(&NAMES, unpack(fs::File::open(&path).unwrap()).unwrap());
            let why = read.err().map(|error| match error {
                Unread::Archive(error) => error.to_string(),
                Unread::Large(bytes) => bytes.to_string(),
            });
            assert!(why.as_ref().is_some_and(|why| why.contains("more than 1 MiB")), "{why:?}");
            assert!(matches!(read_packed(&path, None, 1 << 30), Err(ImageError::Build(BuildError::NoContext))));
        }
    }

    #[test]
    fn what_is_built_on_is_no_larger_than_what_a_build_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned(), dir.path().to_owned());
        let image = |mib: u64| {
            let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": mib << 20,
                "digest": BlobDigest::of(b"layer").to_string()});
            let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                "digest": BlobDigest::of(b"{}").to_string()});
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            blobs.keep(manifest.to_string().as_bytes()).unwrap()
        };
        let images: BTreeSet<_> = [image(10), image(20)].into();
        must_fit(&images, &blobs, 30).unwrap();
        let refused = must_fit(&images, &blobs, 29).unwrap_err();
        assert!(matches!(refused, ImageError::Build(BuildError::LargeBases { found_mib: 30, mib: 29 })), "{refused}");
    }

    #[test]
    fn a_folder_with_two_recipes_means_neither() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
        let file = dir.path().join("Dockerfile");
        fs::write(&file, "FROM scratch").unwrap();
        assert_eq!(find(dir.path()).unwrap(), Some(file.clone()));
        assert_eq!(find(&file).unwrap(), Some(file.clone()));
        let recipe = dir.path().join(FILE_NAME);
        fs::write(&recipe, "").unwrap();
        assert!(matches!(find(dir.path()), Err(BuildError::TwoRecipes { .. })));
        assert_eq!(find(&recipe).unwrap(), None);
    }
}
