//! Names, lists, removal.

use std::collections::BTreeSet;

use palatine_image::{ImageError, ImageStore, NoProgress};

use crate::fixture::{CreatedInodes, Place, Tar, files};

fn image(content: &[u8]) -> CreatedInodes {
    CreatedInodes::of(vec![Tar::new().file("a", content).done()])
}

#[test]
fn an_image_is_found_by_name_and_by_digest_also_by_another_process() {
    let place = Place::new();
    let taken = place.import(&image(b"1")).unwrap();
    assert_eq!(taken.digest.to_string(), image(b"1").digest());
    let other = ImageStore::open(&place.config).unwrap();
    assert_eq!(other.resolve("test").unwrap(), taken.digest);
    assert_eq!(other.resolve(&taken.digest.to_string()).unwrap(), taken.digest);
    assert_eq!(other.get(&taken.digest).unwrap(), taken);
    assert_eq!((taken.run.argv.clone(), taken.run.user.as_str()), (vec!["/agent".to_owned()], "7:8"));
    let listed = other.list().unwrap();
    assert_eq!((listed.len(), &listed[0].names[..]), (1, &["test".to_owned()][..]));
}

#[test]
fn taking_in_an_image_twice_makes_its_disk_once() {
    let place = Place::new();
    let first = place.import(&image(b"1")).unwrap();
    let made = std::fs::metadata(&first.disk).unwrap().modified().unwrap();
    assert_eq!(place.import(&image(b"1")).unwrap(), first);
    assert_eq!(std::fs::metadata(&first.disk).unwrap().modified().unwrap(), made);
}

#[test]
fn a_name_moves_to_the_image_it_was_last_given_to() {
    let place = Place::new();
    let old = place.import(&image(b"1")).unwrap();
    let new = place.import(&image(b"2")).unwrap();
    assert_eq!(place.store.resolve("test").unwrap(), new.digest);
    assert_eq!(place.store.get(&old.digest).unwrap(), old);
    // The old image has no name now: nobody can spawn it, so it may go.
    let kept = BTreeSet::from([old.digest]);
    assert_eq!(place.store.prune(&kept).unwrap(), 0);
    assert!(place.store.prune(&BTreeSet::new()).unwrap() > 0);
    assert!(place.store.get(&old.digest).is_err());
    assert!(place.store.get(&new.digest).is_ok());
}

#[test]
fn fault_1_2_nothing_is_removed_beside_what_cannot_be_read() {
    let place = Place::new();
    let (one, two) = (place.import(&image(b"1")).unwrap(), place.import(&image(b"2")).unwrap());
    let record = place.config.store.join("images").join(format!("{}.json", two.digest.hex()));
    for damaged in [record, place.config.store.join("names/test")] {
        let whole = std::fs::read(&damaged).unwrap();
        std::fs::write(&damaged, "{").unwrap();
        let refused = place.store.prune(&BTreeSet::new());
        assert!(matches!(&refused, Err(ImageError::Unreadable(path)) if *path == damaged), "{refused:?}");
        assert!(place.store.remove(&one.digest.to_string(), &BTreeSet::new()).is_err());
        std::fs::write(&damaged, whole).unwrap();
        assert!(place.store.get(&one.digest).is_ok() && place.store.get(&two.digest).is_ok());
    }
    assert!(place.store.prune(&BTreeSet::new()).unwrap() > 0);
}

#[test]
fn removal_takes_the_disk_and_the_blobs_that_nobody_else_needs() {
    let place = Place::new();
    let shared = Tar::new().file("shared", b"1").done();
    let one = CreatedInodes::of(vec![shared.clone(), Tar::new().file("one", b"1").done()]);
    let two = CreatedInodes::of(vec![shared, Tar::new().file("two", b"1").done()]);
    for (made, name) in [(&one, "one"), (&two, "two")] {
        let dir = tempfile::tempdir().unwrap();
        place.store.import(&made.layout(dir.path()), name, &NoProgress).unwrap();
    }
    let blobs = place.config.store.join("blobs/sha256");
    assert_eq!(files(&blobs), 7);
    let removed = place.store.remove("one", &BTreeSet::new()).unwrap();
    assert!(removed.gone && removed.freed_bytes > 0);
    assert_eq!((files(&blobs), files(&place.config.store.join("disks"))), (4, 1));
    place.store.remove("two", &BTreeSet::new()).unwrap();
    assert_eq!(files(&blobs), 0);
    place.assert_no_image();
}

#[test]
fn an_image_in_use_or_with_another_name_stays() {
    let place = Place::new();
    let taken = place.import(&image(b"1")).unwrap();
    let used = BTreeSet::from([taken.digest]);
    assert!(matches!(place.store.remove("test", &used), Err(ImageError::InUse(_))));
    assert_eq!(place.store.resolve("test").unwrap(), taken.digest);
    let dir = tempfile::tempdir().unwrap();
    place.store.import(&image(b"1").layout(dir.path()), "other", &NoProgress).unwrap();
    let removed = place.store.remove("test", &used).unwrap();
    assert!(!removed.gone);
    assert_eq!(place.store.resolve("other").unwrap(), taken.digest);
    assert!(matches!(place.store.resolve("test"), Err(ImageError::UnknownName(_))));
}

#[test]
fn names_that_could_be_paths_are_refused() {
    let place = Place::new();
    for name in ["", "../x", "a/b", ".hidden", "A", "a b", &"a".repeat(65)] {
        assert!(matches!(place.store.resolve(name), Err(ImageError::Name(_))), "{name}");
        let dir = tempfile::tempdir().unwrap();
        let taken = place.store.import(&image(b"1").layout(dir.path()), name, &NoProgress);
        assert!(matches!(taken, Err(ImageError::Name(_))), "{name}");
    }
}

#[test]
fn many_at_once_take_in_one_image_and_there_is_one() {
    let place = Place::new();
    let made = image(&vec![7; 1 << 20]);
    let dir = tempfile::tempdir().unwrap();
    let layout = made.layout(dir.path());
    std::thread::scope(|scope| {
        let work = (0..8).map(|_| {
            let (config, layout) = (&place.config, &layout);
            scope.spawn(move || ImageStore::open(config).unwrap().import(layout, "test", &NoProgress).unwrap())
        });
        let images: Vec<_> = work.collect::<Vec<_>>().into_iter().map(|one| one.join().unwrap()).collect();
        assert!(images.iter().all(|image| *image == images[0]));
    });
    assert_eq!((files(&place.config.store.join("disks")), files(&place.config.store.join("images"))), (1, 1));
}

/// A file system of a few megabytes; dropped, it is unmounted.
struct Small(tempfile::TempDir);

impl Small {
    fn of(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={mib}m")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("palatine-test", dir.path(), "tmpfs", flags, options.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_a_sentence_that_says_what_to_do_and_leaves_nothing() {
    // Full at the blob, at the unpacked file, and at the disk.
    for mib in [3, 7, 11] {
        let small = Small::of(mib);
        let place = Place::with(|config| config.store = small.0.path().join("store"));
        let error = place.import(&image(&vec![9; 4 << 20])).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace(_)), "{mib} MiB: {}", crate::fixture::story(&error));
        assert!(error.to_string().contains("images.store"));
        place.assert_no_image();
    }
}

#[test]
fn progress_tells_the_steps_and_counts_every_byte_that_it_announced() {
    #[derive(Default)]
    struct Heard(std::sync::Mutex<Vec<(String, Option<u64>, u64)>>);
    impl palatine_image::Progress for Heard {
        fn step(&self, name: &str, total: Option<u64>) {
            self.0.lock().unwrap().push((name.to_owned(), total, 0));
        }
        fn advance(&self, bytes: u64) {
            self.0.lock().unwrap().last_mut().unwrap().2 += bytes;
        }
        fn warn(&self, said: &str) {
            panic!("{said}");
        }
    }
    let (place, heard, dir) = (Place::new(), Heard::default(), tempfile::tempdir().unwrap());
    place.store.import(&image(&vec![9; 1 << 20]).layout(dir.path()), "test", &heard).unwrap();
    let heard = heard.0.into_inner().unwrap();
    let names: Vec<_> = heard.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(names, ["copy the layers", "unpack the layers", "make the disk"]);
    assert!(heard.iter().all(|(_, total, done)| total.is_none_or(|total| total == *done)), "{heard:?}");
}

#[test]
fn the_files_of_an_image_are_unpacked_once_and_go_with_it() {
    use std::os::unix::fs::MetadataExt;

    let place = Place::new();
    let taken = place.import(&image(b"what it says")).unwrap();
    let root = place.store.unpacked(&taken.digest).unwrap();
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"what it says");
    let made = std::fs::metadata(&root).unwrap().ino();
    assert_eq!(place.store.unpacked(&taken.digest).unwrap(), root);
    assert_eq!(std::fs::metadata(&root).unwrap().ino(), made);
    // Its owners are the image's own: nobody else may look in there.
    assert_eq!(std::fs::metadata(root.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    place.store.remove("test", &BTreeSet::new()).unwrap();
    assert!(!root.exists());
    let gone = place.store.unpacked(&taken.digest).unwrap_err();
    assert!(matches!(gone, ImageError::UnknownDigest(_)), "{gone}");
}
