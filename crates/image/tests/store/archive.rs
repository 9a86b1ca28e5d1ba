//! Archives as docker, podman and skopeo write them.

use std::io::Write;
use std::path::{Path, PathBuf};

use palatine_image::{Image, ImageError, NoProgress};
use serde_json::json;

use crate::fixture::{CreatedInodes, INDEX, MANIFEST, Place, Tar, descriptor, digest, layout, story};

fn image() -> CreatedInodes {
    CreatedInodes::of(vec![Tar::new().file("a", b"1").done(), Tar::new().file("b", b"2").done()])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("image.tar");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn take(place: &Place, archive: &[u8]) -> Result<Image, ImageError> {
    place.store.import(&write(place.dir.path(), archive), "test", &NoProgress)
}

/// An OCI layout in an archive.
pub(crate) fn oci_archive(made: &CreatedInodes) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = made.layout(dir.path());
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", root).unwrap();
    archive.into_inner().unwrap()
}

/// What `docker save` wrote for years: layers in directories, one of them a link.
pub(crate) fn docker_archive(made: &CreatedInodes, tags: &[&str]) -> Vec<u8> {
    let config = format!("{}.json", &digest(&made.config)["sha256:".len()..]);
    let saved = json!([{"Config": config, "RepoTags": tags, "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    Tar::new()
        .directory("one/")
        .file("one/VERSION", b"1.0")
        .file("one/layer.tar", &made.layers[0])
        .file("shared.tar", &made.layers[1])
        .symlink("two/layer.tar", "../shared.tar")
        .file(&config, &made.config)
        .file("manifest.json", saved.to_string().as_bytes())
        .file("repositories", b"{}")
        .done()
}

#[test]
fn an_oci_archive_is_the_image_of_its_layout() {
    for pack in [|bytes: &[u8]| bytes.to_vec(), gzip, zstd] {
        let place = Place::new();
        let taken = take(&place, &pack(&oci_archive(&image()))).unwrap();
        assert_eq!(taken.digest.to_string(), image().digest());
    }
}

#[test]
fn an_image_that_is_written_as_an_archive_is_taken_in_elsewhere_under_its_digest() {
    let place = Place::new();
    let digest = take(&place, &oci_archive(&image())).unwrap().digest;
    let files = ["one.tar.gz", "two.tar.gz"].map(|name| place.dir.path().join(name));
    for file in &files {
        assert_eq!(place.store.export("test", file, &NoProgress).unwrap(), digest);
    }
    assert_eq!(std::fs::read(&files[0]).unwrap(), std::fs::read(&files[1]).unwrap());
    let other = Place::new();
    assert_eq!(other.store.import(&files[0], "test", &NoProgress).unwrap().digest, digest);
    let error = place.store.export("nobody", &files[0], &NoProgress).unwrap_err();
    assert!(story(&error).contains("nobody"), "{}", story(&error));
    // What was there before an error is there after it.
    assert_eq!(std::fs::read(&files[0]).unwrap(), std::fs::read(&files[1]).unwrap());
}

#[test]
fn an_old_docker_archive_has_the_same_digest_every_time() {
    let digests =
        [Place::new(), Place::new()].map(|place| take(&place, &docker_archive(&image(), &["x:1"])).unwrap().digest);
    assert_eq!(digests[0], digests[1]);
    let place = Place::new();
    let taken = take(&place, &docker_archive(&image(), &[])).unwrap();
    assert_eq!((taken.layers, &taken.run.argv[..]), (2, &["/agent".to_owned()][..]));
    let root = crate::fixture::extract(&taken, place.dir.path());
    assert_eq!(std::fs::read_to_string(root.join("b")).unwrap(), "2");
}

#[test]
fn packed_layers_are_unpacked_by_what_they_are() {
    let plain = Tar::new().file("a", b"1").done();
    for packed in [gzip(&plain), zstd(&plain)] {
        let place = Place::new();
        let made = CreatedInodes::with(vec![packed], &[digest(&plain)], json!({"Cmd": ["/agent"]}));
        let root = crate::fixture::extract(&place.import(&made).unwrap(), place.dir.path());
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "1");
    }
}

#[test]
fn an_index_of_many_platforms_gives_the_one_for_this_machine() {
    let place = Place::new();
    let made = image();
    let mut ours = descriptor(MANIFEST, &made.manifest);
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = descriptor(MANIFEST, b"never read");
    other["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    let mut attested = descriptor(MANIFEST, b"never read either");
    attested["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, attested, ours]}).to_string();
    let blobs: Vec<_> = made.blobs().into_iter().chain([index.as_bytes()]).collect();
    let dir = tempfile::tempdir().unwrap();
    let root = layout(dir.path(), &blobs, &[descriptor(INDEX, index.as_bytes())]);
    let taken = place.store.import(&root, "test", &NoProgress).unwrap();
    assert_eq!(taken.digest.to_string(), made.digest());
}

#[test]
fn of_several_images_the_one_of_the_given_name_is_taken_or_none() {
    let place = Place::new();
    let (one, two) = (image(), CreatedInodes::of(vec![Tar::new().file("other", b"").done()]));
    let named = |made: &CreatedInodes, name: &str| {
        let mut descriptor = descriptor(MANIFEST, &made.manifest);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    };
    let blobs: Vec<_> = one.blobs().into_iter().chain(two.blobs()).collect();
    let dir = tempfile::tempdir().unwrap();
    let root = layout(dir.path(), &blobs, &[named(&one, "example.org/one:latest"), named(&two, "two")]);
    assert_eq!(place.store.import(&root, "one", &NoProgress).unwrap().digest.to_string(), one.digest());
    assert_eq!(place.store.import(&root, "two", &NoProgress).unwrap().digest.to_string(), two.digest());
    let error = place.store.import(&root, "three", &NoProgress).unwrap_err().to_string();
    assert!(error.contains("example.org/one:latest, two"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let odd = [
        b"not an archive at all, but long enough to look like one".repeat(20),
        Tar::new().file("hello", b"world").done(),
        gzip(b"short"),
        Tar::new().file("manifest.json", b"[]").done(),
        Tar::new().file("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#).done(),
        Tar::new().file("../manifest.json", b"[]").done(),
        oci_archive(&image())[..4096].to_vec(),
    ];
    for archive in odd {
        let error = take(&place, &archive).unwrap_err();
        assert!(!story(&error).is_empty());
        place.assert_no_image();
    }
    let missing = place.store.import(Path::new("/nonexistent"), "test", &NoProgress);
    assert!(matches!(missing, Err(ImageError::NotAnImage(_))));
}
