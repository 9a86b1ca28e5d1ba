//! What is on the disk in the end.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use palatine_image::Image;
use tar::EntryType;

use crate::fixture::{Place, Tar, extract, inode};

fn text(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// What the distribution's own tool says of a path on the disk.
pub(crate) fn dump(image: &Image, path: &str) -> String {
    let output = Command::new("dump.erofs").env("TZ", "UTC").arg(format!("--path={path}")).arg(&image.disk).output();
    String::from_utf8(output.expect("the package erofs-utils is installed").stdout).unwrap()
}

/// Imports the layers and unpacks the disk again.
fn root_of(place: &Place, layers: Vec<Vec<u8>>) -> std::path::PathBuf {
    let image = place.layers(layers).unwrap();
    extract(&image, place.dir.path())
}

#[test]
fn a_file_keeps_its_bytes_owner_mode_and_time() {
    let place = Place::new();
    let layer = Tar::new().directory("bin/").raw(b"bin/agent", EntryType::Regular, b"", 0o751, b"program").done();
    let image = place.layers(vec![layer, Tar::new().file("bin/later", b"").done()]).unwrap();
    let root = extract(&image, place.dir.path());
    let data = std::fs::metadata(root.join("bin/agent")).unwrap();
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (1234, 5678, 0o751));
    assert_eq!(text(&root, "bin/agent").unwrap(), "program");
    for path in ["/bin/agent", "/bin"] {
        assert!(dump(&image, path).contains("2017-07-14 02:40:00"), "{}", dump(&image, path));
    }
    assert!(dump(&image, "/").contains("1970-01-01 00:00:00"), "{}", dump(&image, "/"));
}

#[test]
fn modes_are_kept_with_the_bits_that_make_a_user_another() {
    let place = Place::new();
    let layer = Tar::new()
        .raw(b"su", EntryType::Regular, b"", 0o6755, b"x")
        .raw(b"tmp/", EntryType::Directory, b"", 0o1777, b"")
        .done();
    let image = place.layers(vec![layer]).unwrap();
    assert_eq!(inode(&image, "/su"), (0o6755, false));
    assert_eq!(inode(&image, "/tmp"), (0o1777, false));
}

#[test]
fn a_whiteout_hides_what_lower_layers_have_and_nothing_else() {
    let place = Place::new();
    let lower = Tar::new().directory("d/").file("d/gone", b"1").file("d/kept", b"2").directory("t/").file("t/x", b"3");
    let upper = Tar::new().file("d/.wh.gone", b"").file(".wh.t", b"").file("d/.wh.never-there", b"");
    let root = root_of(&place, vec![lower.done(), upper.done()]);
    assert_eq!((text(&root, "d/gone"), text(&root, "d/kept").as_deref()), (None, Some("2")));
    assert!(!root.join("t").exists());
}

#[test]
fn a_whiteout_does_not_hide_what_its_own_layer_has() {
    let place = Place::new();
    let lower = Tar::new().directory("d/").file("d/a", b"old");
    let upper = Tar::new().file("d/a", b"new").file("d/.wh.a", b"");
    let root = root_of(&place, vec![lower.done(), upper.done()]);
    assert_eq!(text(&root, "d/a").as_deref(), Some("new"));
}

#[test]
fn an_opaque_directory_hides_all_below_but_what_its_own_layer_has() {
    for first in [true, false] {
        let place = Place::new();
        let lower = Tar::new().directory("d/").file("d/old", b"1").directory("d/sub/").file("d/sub/old", b"2");
        let upper = Tar::new().directory("d/");
        let upper = if first { upper.file("d/.wh..wh..opq", b"") } else { upper };
        let upper = upper.file("d/sub/new", b"3").file("d/new", b"4");
        let upper = if first { upper } else { upper.file("d/.wh..wh..opq", b"") };
        let root = root_of(&place, vec![lower.done(), upper.done()]);
        assert_eq!((text(&root, "d/old"), text(&root, "d/sub/old")), (None, None));
        assert_eq!((text(&root, "d/new").as_deref(), text(&root, "d/sub/new").as_deref()), (Some("4"), Some("3")));
    }
}

#[test]
fn later_layers_replace_files_by_directories_and_the_other_way() {
    let place = Place::new();
    let lower = Tar::new().file("a", b"1").directory("b/").file("b/x", b"2").symlink("c", "b");
    let upper = Tar::new().directory("a/").file("a/x", b"3").file("b", b"4").directory("c/").file("c/y", b"5");
    let root = root_of(&place, vec![lower.done(), upper.done()]);
    assert_eq!((text(&root, "a/x").as_deref(), text(&root, "b").as_deref()), (Some("3"), Some("4")));
    assert!(!root.join("c").is_symlink());
    assert_eq!(text(&root, "c/y").as_deref(), Some("5"));
}

#[test]
fn a_layer_writes_through_a_merged_usr() {
    let place = Place::new();
    let lower =
        Tar::new().directory("usr/").directory("usr/lib/").symlink("lib", "usr/lib").symlink("lib64", "/usr/lib");
    let upper = Tar::new().file("lib/a.so", b"1").file("lib64/b.so", b"2");
    let root = root_of(&place, vec![lower.done(), upper.done()]);
    assert!(root.join("lib").is_symlink());
    assert_eq!(
        (text(&root, "usr/lib/a.so").as_deref(), text(&root, "usr/lib/b.so").as_deref()),
        (Some("1"), Some("2"))
    );
}

#[test]
fn hard_links_share_one_file_and_replacing_one_name_leaves_the_other() {
    let place = Place::new();
    let lower = Tar::new().file("a", b"1").hardlink("b", "a").hardlink("c", "./a");
    let upper = Tar::new().file("a", b"2");
    let image = place.layers(vec![lower.done(), upper.done()]).unwrap();
    let root = extract(&image, place.dir.path());
    assert_eq!((text(&root, "a").as_deref(), text(&root, "b").as_deref()), (Some("2"), Some("1")));
    assert!(dump(&image, "/c").contains("Links: 2"), "{}", dump(&image, "/c"));
}

#[test]
fn missing_directories_are_made_and_long_names_are_read() {
    let place = Place::new();
    let long = format!("deep/{}/{}", "a".repeat(120), "b".repeat(200));
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    archive.append_data(&mut header, &long, &b"long"[..]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o600);
    archive
        .append_pax_extensions([("path", "from/pax"[..].as_bytes()), ("uid", b"70000"), ("mtime", b"12.5")])
        .unwrap();
    archive.append_data(&mut header, "short", &b"pax"[..]).unwrap();
    let root = root_of(&place, vec![archive.into_inner().unwrap()]);
    assert_eq!(text(&root, &long).as_deref(), Some("long"));
    assert_eq!(text(&root, "from/pax").as_deref(), Some("pax"));
    assert_eq!(std::fs::metadata(root.join("from/pax")).unwrap().uid(), 70_000);
}

#[test]
fn the_same_image_makes_the_same_disk() {
    let layer = Tar::new().directory("d/").file("d/a", b"1").symlink("l", "d/a").hardlink("h", "d/a").done();
    let one = || {
        let (place, start) = (Place::new(), std::time::SystemTime::now());
        let image = place.layers(vec![layer.clone()]).unwrap();
        (std::fs::read(image.disk).unwrap(), start)
    };
    let (first, start) = one();
    // The next second: a disk that held the time would be another.
    let deadline = start + std::time::Duration::from_millis(1100);
    while let Ok(left) = deadline.duration_since(std::time::SystemTime::now()) {
        std::thread::sleep(left);
    }
    assert!(first == one().0);
}

#[test]
fn the_accounts_of_the_image_say_who_runs_it() {
    let place = Place::new();
    // A symlink out of the image must not make it read ours.
    let layer = Tar::new()
        .directory("etc/")
        .file("etc/real", b"me:x:4242:4343::/:/bin/sh\n")
        .symlink("etc/passwd", "/etc/real");
    let layer = layer.done();
    let run = serde_json::json!({"Cmd": ["/agent"], "User": "me"});
    let made = crate::fixture::CreatedInodes::with(vec![layer.clone()], &[crate::fixture::digest(&layer)], run);
    assert_eq!(place.import(&made).unwrap().run.user, "4242:4343");
}
