//! Images made to do harm.

use std::path::Path;

use palatine_image::{ImageError, LayerError};
use serde_json::json;
use tar::EntryType;

use crate::fixture::{CreatedInodes, Place, Tar, descriptor, digest, extract, story};

fn refused(place: &Place, layer: Vec<u8>) -> LayerError {
    let error = place.layers(vec![layer]).unwrap_err();
    place.assert_no_image();
    match error {
        ImageError::Layer { source, .. } => source,
        other => panic!("refused for another reason: {}", story(&other)),
    }
}

#[test]
fn paths_that_lead_upwards_are_refused() {
    for path in ["../escape", "a/../../escape", "/../escape", "./a/.."] {
        let place = Place::new();
        let error = refused(&place, Tar::new().raw(path.as_bytes(), EntryType::Regular, b"", 0o644, b"x").done());
        assert!(matches!(error, LayerError::Traversal(_)), "{path}: {error}");
    }
    for whiteout in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let place = Place::new();
        let error = refused(&place, Tar::new().directory("a/").file(whiteout, b"").done());
        assert!(matches!(error, LayerError::Traversal(_)), "{whiteout}: {error}");
    }
}

#[test]
fn entries_of_a_type_that_nobody_knows_are_refused() {
    let place = Place::new();
    let error = refused(&place, Tar::new().raw(b"dev/x", EntryType::new(b'Z'), b"", 0o666, b"").done());
    assert!(matches!(error, LayerError::Unknown { kind: 'Z', .. }), "{error}");
}

#[test]
fn maps_of_holes_that_do_not_fit_their_file_are_refused() {
    let place = Place::new();
    for map in ["0,5", "0,3,2,1", "9,4", "0,4,18446744073709551615,1", "0", "x,4", "4,0,0,4"] {
        let layer = Tar::new().records(&[("GNU.sparse.size", "10"), ("GNU.sparse.map", map)]).file("a", b"1234");
        assert!(matches!(refused(&place, layer.done()), LayerError::Malformed(_)), "{map}");
    }
    let endless = Tar::new().records(&[("GNU.sparse.major", "1"), ("GNU.sparse.size", "1")]).file("a", b"99999999\n");
    assert!(matches!(refused(&place, endless.done()), LayerError::Malformed(_)));
    let place = Place::with(|config| config.max_image_mib = 1);
    let huge =
        Tar::new().records(&[("GNU.sparse.size", "1099511627776"), ("GNU.sparse.map", "0,4")]).file("a", b"1234");
    assert!(matches!(place.layers(vec![huge.done()]), Err(ImageError::TooLarge(1))));
    place.assert_no_image();
}

#[test]
fn nothing_is_written_or_removed_through_a_symlink_out_of_the_image() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let target = outside.path().to_str().unwrap();
    let up = format!("../../../../../../../../../..{target}");
    for link in [target, up.as_str()] {
        let layers = [
            Tar::new().symlink("out", link).file("out/victim", b"owned"),
            Tar::new().symlink("out", link).file("out/.wh.victim", b""),
            Tar::new().symlink("out", link).file("out/.wh..wh..opq", b""),
            Tar::new().symlink("out", link).hardlink("stolen", "out/victim"),
            Tar::new().symlink("victim", &format!("{link}/victim")).file("victim", b"owned"),
            Tar::new().symlink("a", ".").symlink("a/b", link).file("a/b/victim", b"owned"),
        ];
        for layer in layers {
            let place = Place::new();
            let image = place.layers(vec![layer.done()]);
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe");
            if let Ok(image) = image {
                let root = extract(&image, place.dir.path());
                assert!(!Path::new(&root).join("stolen").exists());
            }
        }
    }
    assert_eq!(crate::fixture::files(outside.path()), 1);
}

#[test]
fn a_hard_link_to_what_is_not_in_the_image_is_refused() {
    for target in ["etc/shadow", "/etc/shadow", "d"] {
        let place = Place::new();
        let error = refused(&place, Tar::new().directory("d/").hardlink("mine", target).done());
        assert!(matches!(error, LayerError::Link { .. }), "{target}: {error}");
    }
    let place = Place::new();
    let error = refused(&place, Tar::new().hardlink("mine", "../../etc/shadow").done());
    assert!(matches!(error, LayerError::Traversal(_)), "{error}");
}

#[test]
fn a_loop_of_symlinks_ends() {
    let place = Place::new();
    let error = refused(&place, Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"1").done());
    assert!(matches!(error, LayerError::Io { .. }), "{error}");
}

#[test]
fn more_files_or_bytes_than_allowed_are_refused() {
    let place = Place::with(|config| config.max_entries = 3);
    let many = Tar::new().file("a", b"").file("b", b"").file("c", b"").file("d", b"");
    assert!(matches!(refused(&place, many.done()), LayerError::TooMany(3)));
    let place = Place::with(|config| config.max_image_mib = 1);
    let large = Tar::new().file("a", &[0; 600 << 10]).file("b", &[0; 600 << 10]).done();
    assert!(matches!(place.layers(vec![large]), Err(ImageError::TooLarge(1))));
    place.assert_no_image();
}

#[test]
fn a_small_layer_that_unpacks_to_a_huge_one_is_refused() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &Tar::new().file("zeros", &vec![0; 16 << 20]).done()).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 64 << 10);
    let place = Place::with(|config| config.max_image_mib = 4);
    let made = CreatedInodes::with(vec![packed], &[digest(b"whatever")], json!({"Cmd": ["/agent"]}));
    assert!(matches!(place.import(&made), Err(ImageError::TooLarge(4))));
    place.assert_no_image();
}

#[test]
fn extended_headers_that_eat_memory_or_shift_the_archive_are_refused() {
    let place = Place::new();
    let eater = Tar::new().raw(b"x", EntryType::GNULongName, b"", 0o644, &vec![b'a'; 2 << 20]);
    assert!(matches!(refused(&place, eater.done()), LayerError::Malformed(_)));
    let place = Place::new();
    let cut = Tar::new().records(&[("size", "99999")]).file("a", b"x");
    assert!(matches!(refused(&place, cut.done()), LayerError::Malformed(_)));
    let over = Tar::new().records(&[("size", "18446744073709551615")]).file("a", b"x");
    assert!(matches!(place.layers(vec![over.done()]), Err(ImageError::TooLarge(_) | ImageError::Layer { .. })));
    place.assert_no_image();
}

#[test]
fn bytes_that_are_not_those_the_documents_name_are_refused() {
    let layer = Tar::new().file("a", b"1").done();
    let other = Tar::new().file("a", b"2").done();
    // The layer's blob, then its unpacked content, then the config, is another.
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let made = CreatedInodes::of(vec![layer.clone()]);
    let root = made.layout(dir.path());
    let blob = |bytes: &[u8]| root.join("blobs/sha256").join(&digest(bytes)["sha256:".len()..]);
    std::fs::write(blob(&layer), &other).unwrap();
    let error = place.store.import(&root, "test", &palatine_image::NoProgress).unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{}", story(&error));
    std::fs::write(blob(&layer), [&layer[..], b"more"].concat()).unwrap();
    let error = place.store.import(&root, "test", &palatine_image::NoProgress).unwrap_err();
    assert!(matches!(error, ImageError::Size { .. }), "{}", story(&error));
    std::fs::remove_file(blob(&layer)).unwrap();
    let error = place.store.import(&root, "test", &palatine_image::NoProgress).unwrap_err();
    assert!(matches!(error, ImageError::Missing(_)), "{}", story(&error));
    place.assert_no_image();
    let place = Place::new();
    let lying = CreatedInodes::with(vec![layer], &[digest(&other)], json!({"Cmd": ["/agent"]}));
    let Err(ImageError::Layer { source, .. }) = place.import(&lying) else { panic!("taken in") };
    assert!(matches!(source, LayerError::DiffId { .. }));
    place.assert_no_image();
}

#[test]
fn documents_that_do_not_fit_each_other_or_this_machine_are_refused() {
    let layer = Tar::new().file("a", b"1").done();
    let place = Place::new();
    let short = CreatedInodes::with(vec![layer.clone()], &[], json!({"Cmd": ["/agent"]}));
    assert!(matches!(place.import(&short), Err(ImageError::Document { .. })));
    let mut arm = CreatedInodes::of(vec![layer.clone()]);
    arm.config = String::from_utf8(arm.config).unwrap().replace("amd64", "arm64").into_bytes();
    let manifest: serde_json::Value = serde_json::from_slice(&arm.manifest).unwrap();
    let mut manifest = manifest;
    manifest["config"] = descriptor(crate::fixture::CONFIG, &arm.config);
    arm.manifest = manifest.to_string().into_bytes();
    assert!(matches!(place.import(&arm), Err(ImageError::Platform(had)) if had == "linux/arm64"));
    let mut odd = CreatedInodes::of(vec![layer]);
    odd.manifest =
        String::from_utf8(odd.manifest).unwrap().replace(crate::fixture::LAYER, "application/odd").into_bytes();
    assert!(matches!(place.import(&odd), Err(ImageError::MediaType(kind)) if kind == "application/odd"));
    place.assert_no_image();
}

#[test]
fn an_image_that_cannot_be_run_is_refused_with_the_reason() {
    let place = Place::new();
    let layer = Tar::new().file("a", b"1").done();
    let made = CreatedInodes::with(vec![layer.clone()], &[digest(&layer)], json!({}));
    let error = place.import(&made).unwrap_err().to_string();
    assert!(error.contains("no entrypoint"), "{error}");
    place.assert_no_image();
}
