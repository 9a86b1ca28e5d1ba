//! Images that holders bring: without a name, under pins, gone when nobody has them any more.

use std::collections::BTreeSet;
use std::path::Path;

use domain::{ArchiveSum, ImageDigest, ImageId};
use palatine_image::{Image, ImageError, NoProgress};
use sha2::{Digest, Sha256};

use crate::archive::oci_archive;
use crate::fixture::{CreatedInodes, Place, Tar, files};

fn pin(n: u64) -> ImageId {
    ImageId::from_bits(n)
}

fn sum(archive: &[u8]) -> ArchiveSum {
    ArchiveSum(Sha256::digest(archive).into())
}

fn image(word: &[u8]) -> CreatedInodes {
    CreatedInodes::of(vec![Tar::new().file("a", word).done()])
}

fn take(place: &Place, archive: &[u8], n: u64) -> Result<Image, ImageError> {
    take_as(place, archive, sum(archive), n, 64)
}

fn take_as(place: &Place, archive: &[u8], sum: ArchiveSum, n: u64, max_mib: u64) -> Result<Image, ImageError> {
    let path = place.dir.path().join("part");
    std::fs::write(&path, archive).unwrap();
    place.store.import_held(&path, sum, "work", pin(n), max_mib, &NoProgress)
}

fn in_use(images: &[ImageDigest]) -> BTreeSet<ImageDigest> {
    images.iter().copied().collect()
}

fn swept(place: &Place, in_use: &BTreeSet<ImageDigest>) -> u64 {
    place.store.sweep(in_use).unwrap().finish().unwrap()
}

/// Nothing of any image is there: no blob either.
fn assert_empty(place: &Place) {
    place.assert_no_image();
    let has = |name: &str| Path::new(&place.config.store).join(name).read_dir().map_or(0, Iterator::count);
    assert_eq!((has("blobs/sha256"), has("images"), has("pins"), has("going")), (0, 0, 0, 0));
}

#[test]
fn a_held_image_has_no_name_and_is_kept_while_a_pin_means_it() {
    let place = Place::new();
    let archive = oci_archive(&image(b"1"));
    let taken = take(&place, &archive, 1).unwrap();
    assert_eq!(take(&place, &archive, 2).unwrap().digest, taken.digest);
    assert!(place.store.names().unwrap().is_empty());
    assert_eq!(place.store.pinned(pin(1)), Some(taken.digest));
    assert!(place.store.bytes_of(&taken.digest).unwrap() > taken.disk_bytes);
    assert_eq!(place.store.prune(&in_use(&[])).unwrap(), 0, "it is no loose image");
    place.store.unpin(pin(1)).unwrap();
    assert_eq!(swept(&place, &in_use(&[])), 0, "another holder has it");
    place.store.unpin(pin(2)).unwrap();
    assert_eq!(swept(&place, &in_use(&[taken.digest])), 0, "something runs from it");
    assert!(place.store.get(&taken.digest).is_ok());
    assert!(swept(&place, &in_use(&[])) > 0);
    assert_empty(&place);
    place.store.unpin(pin(2)).unwrap();
}

#[test]
fn what_is_large_of_an_image_that_goes_goes_although_others_never_stop_working() {
    let place = Place::new();
    let archive = oci_archive(&image(b"1"));
    let (taken, other) = (take(&place, &archive, 1).unwrap(), take(&place, &oci_archive(&image(b"2")), 2).unwrap());
    place.store.unpacked(&taken.digest).unwrap();
    for pin in [pin(1), pin(2)] {
        place.store.unpin(pin).unwrap();
    }
    // As who imports or builds holds it, for as long as that takes.
    let works = std::fs::File::open(place.config.store.join("lock")).unwrap();
    works.lock_shared().unwrap();
    let has = |name: &str| place.config.store.join(name).read_dir().unwrap().count();
    assert!(swept(&place, &in_use(&[other.digest])) > 0);
    assert_eq!((has("disks"), has("roots"), has("images")), (1, 0, 1), "one is in use");
    assert!(place.store.get(&other.digest).is_ok());
    // Whoever brings it again has it again.
    take(&place, &archive, 3).unwrap();
    assert_eq!(swept(&place, &in_use(&[other.digest])), 0);
    assert!(place.store.get(&taken.digest).is_ok());
    place.store.unpin(pin(3)).unwrap();
    assert!(swept(&place, &in_use(&[])) > 0);
    assert_eq!((has("disks"), has("images")), (0, 0));
    assert!(has("blobs/sha256") > 0, "somebody may build on them");
    drop(works);
    assert!(swept(&place, &in_use(&[])) > 0);
    assert_empty(&place);
}

#[test]
fn what_is_no_image_leaves_nothing_and_says_what_is_wrong() {
    let place = Place::new();
    let good = oci_archive(&image(b"1"));
    let lies = CreatedInodes { config: b"{}".to_vec(), ..image(b"1") };
    let mut missing = image(b"1");
    missing.layers.clear();
    for (archive, said) in [
        (b"no archive".to_vec(), "neither an OCI layout nor an archive"),
        (good[..good.len() / 2].to_vec(), ""),
        (oci_archive(&lies), ""),
        (oci_archive(&missing), "is not in it"),
        (oci_archive(&CreatedInodes::of(vec![Tar::new().symlink("a", "..").file("a/../../x", b"").done()])), ""),
    ] {
        let error = take(&place, &archive, 1).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_empty(&place);
    }
    let other = take_as(&place, &good, sum(b"other"), 1, 64).unwrap_err();
    assert!(matches!(other, ImageError::Mismatch { .. }), "{other}");
    let zeros = oci_archive(&CreatedInodes::of(vec![Tar::new().file("zeros", &vec![0; 3 << 20]).done()]));
    let large = take_as(&place, &zeros, sum(&zeros), 1, 2).unwrap_err();
    assert!(matches!(large, ImageError::TooLarge(2)), "{large}");
    assert_empty(&place);
    assert!(take(&place, &good, 1).is_ok());
}

#[test]
fn an_operators_image_and_a_holders_of_the_same_content_go_apart() {
    let place = Place::new();
    let made = image(b"1");
    let named = place.import(&made).unwrap();
    assert_eq!(take(&place, &oci_archive(&made), 1).unwrap().digest, named.digest);
    place.store.unpin(pin(1)).unwrap();
    assert_eq!(swept(&place, &in_use(&[])), 0);
    assert!(place.store.get(&named.digest).is_ok(), "its name means it");
    take(&place, &oci_archive(&made), 2).unwrap();
    let removed = place.store.remove("test", &in_use(&[])).unwrap();
    assert_eq!((removed.gone, removed.freed_bytes), (false, 0));
    assert_eq!(place.store.pinned(pin(2)), Some(named.digest));
    assert!(place.store.get(&named.digest).is_ok());
}

#[test]
fn an_image_that_comes_back_before_it_was_swept_stays() {
    let place = Place::new();
    let archive = oci_archive(&image(b"1"));
    let taken = take(&place, &archive, 1).unwrap();
    place.store.unpin(pin(1)).unwrap();
    take(&place, &archive, 2).unwrap();
    assert_eq!(swept(&place, &in_use(&[])), 0);
    assert!(place.store.get(&taken.digest).is_ok());
    assert_eq!(files(&place.config.store.join("going")), 0);
}
