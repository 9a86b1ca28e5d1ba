//! The images of `images/`, built from the distribution and the registries. Needs a network.

#![expect(clippy::print_stdout, reason = "says what goes on, for who waits")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use needs::needs;
use palatine_image::{BuildOptions, Image, Progress};

use crate::disk::dump;
use crate::fixture::{Place, inode};

/// Says what goes on, for who waits.
struct Told(&'static str);

impl Progress for Told {
    fn step(&self, name: &str, _: Option<u64>) {
        println!("{}: {name}", self.0);
    }

    fn advance(&self, _: u64) {}

    fn warn(&self, said: &str) {
        println!("{}: warning: {said}", self.0);
    }
}

/// A copy of a recipe's folder: the lock is written beside the recipe.
fn recipe(name: &str, into: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images").join(name);
    let to = into.join(name);
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

fn built(place: &Place, name: &'static str, recipe: &Path) -> Image {
    let start = Instant::now();
    let image = place.store.build(recipe, &BuildOptions::default(), name, &Told(name)).unwrap();
    println!("{name}: {} in {:.0} s, {} MiB", image.digest, start.elapsed().as_secs_f32(), image.disk_bytes >> 20);
    image
}

/// Builds it on two stores, the second by the lock of the first.
fn built_twice(name: &'static str) -> (Image, Place) {
    needs!(root, cgroups);
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(name, folder.path());
    let (first, second) = (Place::new(), Place::new());
    let (one, two) = (built(&first, name, &recipe), built(&second, name, &recipe));
    assert_eq!(one.digest, two.digest);
    (one, first)
}

#[test]
fn soak_images_base_is_the_same_twice_and_has_a_user_with_sudo_python_node_git_and_curl() {
    let (image, _place) = built_twice("base");
    assert_eq!(inode(&image, "/usr/bin/sudo"), (0o4755, false));
    assert_eq!(inode(&image, "/etc/sudoers.d/user").0, 0o440);
    assert!(dump(&image, "/home/user").contains("Uid: 1000"));
    for program in ["/usr/bin/python3", "/usr/local/bin/node", "/usr/local/bin/npm", "/usr/bin/git", "/usr/bin/curl"] {
        assert!(dump(&image, program).contains("NID:"), "{program}");
    }
    assert_eq!((image.run.user.as_str(), image.run.cwd.as_str()), ("1000:1000", "/home/user"));
}

#[test]
fn soak_images_agent_nano_is_the_same_twice_and_has_its_tools() {
    let (image, _place) = built_twice("agent-nano");
    for program in ["/opt/nanobot/bin/python3", "/usr/bin/git", "/usr/bin/rg"] {
        assert!(dump(&image, program).contains("NID:"), "{program}");
    }
    assert_eq!((image.run.user.as_str(), image.run.port), ("1000:1000", 8080));
}
