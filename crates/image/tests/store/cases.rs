//! Images that other tools make and take, and we did not.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use palatine_image::{ImageError, LayerError, NoProgress, Progress};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::fixture::{CreatedInodes, Place, Tar, digest, extract, story};

/// Keeps what it is warned of.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, said: &str) {
        self.0.lock().unwrap().push(said.to_owned());
    }
}

/// The image's root, and what was warned of.
fn unpacked(place: &Place, layers: Vec<Vec<u8>>) -> (std::path::PathBuf, Vec<String>) {
    let (warnings, dir) = (Warnings::default(), tempfile::tempdir().unwrap());
    let image = place.store.import(&CreatedInodes::of(layers).layout(dir.path()), "test", &warnings);
    let image = image.unwrap_or_else(|error| panic!("{}", story(&error)));
    (extract(&image, place.dir.path()), warnings.0.into_inner().unwrap())
}

fn bytes(root: &Path, path: &str) -> Vec<u8> {
    std::fs::read(root.join(path)).unwrap()
}

#[test]
fn case_image_255_byte_name_is_refused_by_that_name_before_the_disk_is_made() {
    let place = Place::new();
    let (long, longest) = ("a".repeat(255), "b".repeat(254));
    let layer = Tar::new().records(&[("path", &format!("d/{long}"))]).file("short", b"x").done();
    let Err(ImageError::Layer { number: 1, source }) = place.layers(vec![layer]) else { panic!("taken") };
    assert!(matches!(&source, LayerError::Name(name) if long.starts_with(name)), "{source}");
    place.assert_no_image();
    let layer = Tar::new().records(&[("path", &longest)]).file("short", b"x").done();
    let (root, _) = unpacked(&place, vec![layer]);
    assert_eq!(bytes(&root, &longest), b"x");
}

#[test]
fn case_image_device_node_is_left_out_with_a_warning() {
    let place = Place::new();
    let lower = Tar::new().file("dev/null", b"not a device").file("dev/kept", b"");
    let upper = Tar::new()
        .raw(b"dev/null", EntryType::Char, b"", 0o666, b"")
        .raw(b"dev/sda", EntryType::Block, b"", 0o660, b"")
        .raw(b"run/queue", EntryType::Fifo, b"", 0o600, b"")
        .hardlink("dev/zero", "dev/null")
        .file("etc/after", b"x");
    let (root, warned) = unpacked(&place, vec![lower.done(), upper.done()]);
    assert_eq!(bytes(&root, "etc/after"), b"x");
    assert!(root.join("dev/kept").exists());
    for gone in ["dev/null", "dev/sda", "run/queue", "dev/zero"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    assert_eq!(warned.len(), 4, "{warned:?}");
    assert!(warned[0].contains("dev/null") && warned[0].contains("character device"), "{warned:?}");
}

#[test]
fn case_image_device_nodes_in_thousands_are_not_warned_of_one_by_one() {
    let many =
        (0..1000).fold(Tar::new(), |tar, at| tar.raw(format!("dev/{at}").as_bytes(), EntryType::Char, b"", 0o666, b""));
    assert!((1..100).contains(&unpacked(&Place::new(), vec![many.done()]).1.len()));
}

/// What a file of ten bytes with a hole of four is, once it is unpacked.
const HOLED: &[u8] = b"abc\0\0\0\0def";

#[test]
fn case_image_sparse_files_are_taken_in_each_of_their_formats() {
    let place = Place::new();
    let pax_0_0 = [
        ("GNU.sparse.size", "10"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "7"),
        ("GNU.sparse.numbytes", "3"),
    ];
    let pax_0_1 = [("GNU.sparse.name", "one"), ("GNU.sparse.size", "10"), ("GNU.sparse.map", "0,3,7,3,10,0")];
    let pax_1_0 = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "two"),
        ("GNU.sparse.realsize", "10"),
    ];
    let mut with_map = b"2\n0\n3\n7\n3\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend_from_slice(b"abcdef");
    let layer = Tar::new()
        .records(&pax_0_0)
        .file("zero", b"abcdef")
        .records(&pax_0_1)
        .file("GNUSparseFile.1/one", b"abcdef")
        .records(&pax_1_0)
        .file("GNUSparseFile.1/two", &with_map)
        .header(&gnu_sparse("old", &[(0, 3), (7, 3)], 10, 6, false), b"abcdef")
        .file("after", b"x");
    let (root, _) = unpacked(&place, vec![layer.done()]);
    for name in ["zero", "one", "two", "old"] {
        assert_eq!(bytes(&root, name), HOLED, "{name}");
    }
    assert_eq!(bytes(&root, "after"), b"x");
}

/// A map of more than the four pieces that the header has room for.
#[test]
fn case_image_sparse_files_with_blocks_of_map_behind_the_header_are_taken() {
    let pieces: Vec<(u64, u64)> = (0..30).map(|at| (at * 10, 1)).collect();
    let header = gnu_sparse("many", &pieces[..4], 300, 30, true);
    let mut behind = Vec::new();
    for (at, block) in pieces[4..].chunks(21).enumerate() {
        let mut more = tar::GnuExtSparseHeader::new();
        for (slot, (offset, length)) in more.sparse_mut().iter_mut().zip(block) {
            write(&mut slot.offset, *offset);
            write(&mut slot.numbytes, *length);
        }
        more.set_is_extended(at == 0);
        behind.extend_from_slice(more.as_bytes());
    }
    behind.extend_from_slice(&[b'y'; 30]);
    let place = Place::new();
    let (root, _) = unpacked(&place, vec![Tar::new().header(&header, &behind).file("after", b"x").done()]);
    let file = bytes(&root, "many");
    assert!(file.len() == 300 && file.iter().enumerate().all(|(at, byte)| (*byte == b'y') == (at % 10 == 0)));
    assert_eq!(bytes(&root, "after"), b"x");
}

/// The header of GNU's own type, whose size is that of its bytes alone.
fn gnu_sparse(name: &str, pieces: &[(u64, u64)], real: u64, stored: u64, extended: bool) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(stored);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_is_extended(extended);
    write(&mut gnu.realsize, real);
    for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
        write(&mut slot.offset, *offset);
        write(&mut slot.numbytes, *length);
    }
    header.set_cksum();
    header
}

fn write(field: &mut [u8; 12], number: u64) {
    field.copy_from_slice(format!("{number:011o}\0").as_bytes());
}

#[test]
fn case_image_pax_size_is_the_entrys_size_whatever_the_plain_header_says() {
    let place = Place::new();
    let mut small = Header::new_gnu();
    small.as_old_mut().name[..1].copy_from_slice(b"s");
    small.set_entry_type(EntryType::Regular);
    small.set_mode(0o644);
    small.set_uid(0);
    small.set_gid(0);
    small.set_mtime(0);
    // What a file of more than 8 GiB has there: nothing that means anything.
    small.set_size(0);
    small.set_cksum();
    let layer = Tar::new().records(&[("size", "5")]).header(&small, b"hello").file("after", b"x").done();
    let (root, _) = unpacked(&place, vec![layer]);
    assert_eq!((bytes(&root, "s"), bytes(&root, "after")), (b"hello".to_vec(), b"x".to_vec()));
    assert_eq!(std::fs::metadata(root.join("s")).unwrap().size(), 5);
}

/// Some tools write the size of what they link to.
#[test]
fn case_image_a_link_has_no_bytes_whatever_its_size_says() {
    let mut link = Header::new_gnu();
    link.as_old_mut().name[..1].copy_from_slice(b"l");
    link.as_old_mut().linkname[..1].copy_from_slice(b"a");
    link.set_entry_type(EntryType::Link);
    link.set_mode(0o644);
    link.set_uid(0);
    link.set_gid(0);
    link.set_mtime(0);
    link.set_size(3);
    link.set_cksum();
    let layer = Tar::new().file("a", b"abc").header(&link, b"").file("after", b"x").done();
    let place = Place::new();
    let (root, _) = unpacked(&place, vec![layer]);
    assert_eq!((bytes(&root, "l"), bytes(&root, "after")), (b"abc".to_vec(), b"x".to_vec()));
}

#[test]
fn case_image_stopsignal_rtmin_is_taken() {
    let layer = Tar::new().file("agent", b"x").done();
    for (said, kept) in [("SIGRTMIN+3", "SIGRTMIN+3"), ("RTMAX-1", "SIGRTMIN+29"), ("37", "SIGRTMIN+3")] {
        let run = json!({"Entrypoint": ["/agent"], "StopSignal": said});
        let image = Place::new().import(&CreatedInodes::with(vec![layer.clone()], &[digest(&layer)], run));
        assert_eq!(image.unwrap_or_else(|error| panic!("{said}: {}", story(&error))).run.stop_signal, kept);
    }
}

#[test]
fn case_image_zstd_docker_type_is_taken() {
    let plain = Tar::new().file("agent", b"x").done();
    let packed = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut made = CreatedInodes::with(vec![packed], &[digest(&plain)], json!({"Entrypoint": ["/agent"]}));
    let manifest = String::from_utf8(made.manifest).unwrap();
    let kind = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    made.manifest = manifest.replace(crate::fixture::LAYER, kind).into_bytes();
    Place::new().import(&made).unwrap_or_else(|error| panic!("{}", story(&error)));
}

/// `docker save <id>` of Docker 25: its index names no image, its `manifest.json` does.
#[test]
fn case_docker_25_archive_is_taken_by_its_manifest_json() {
    let layer = Tar::new().file("agent", b"x").done();
    let made = CreatedInodes::of(vec![layer.clone()]);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)["sha256:".len()..]);
    let saved = json!([{"Config": blob(&made.config), "RepoTags": null, "Layers": [blob(&layer)]}]);
    let empty: [Value; 3] = [
        json!({"schemaVersion": 2, "mediaType": crate::fixture::INDEX, "manifests": null}),
        json!({"schemaVersion": 2, "manifests": []}),
        json!({"schemaVersion": 2}),
    ];
    for index in empty {
        let archive = Tar::new()
            .file(&blob(&layer), &layer)
            .file(&blob(&made.config), &made.config)
            .file("index.json", index.to_string().as_bytes())
            .file("manifest.json", saved.to_string().as_bytes())
            .file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)
            .file("repositories", b"null")
            .done();
        let place = Place::new();
        let path = place.dir.path().join("saved.tar");
        std::fs::write(&path, archive).unwrap();
        let image = place.store.import(&path, "test", &NoProgress);
        let image = image.unwrap_or_else(|error| panic!("{index}: {}", story(&error)));
        assert_eq!(image.run.argv, ["/agent"]);
    }
}
