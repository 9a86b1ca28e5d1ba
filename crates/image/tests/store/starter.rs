//! The images of `images/`, built from the distribution and the registries. Needs a network.

#![expect(clippy::print_stdout, reason = "says what goes on, for who waits")]

use std::path::{Path, PathBuf};
use std::process::Command;
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

/// Builds it under this name on two stores, the second by the lock of the first.
fn built_twice(folder: &str, name: &'static str, places: &[Place; 2]) -> Image {
    needs!(root, cgroups);
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(folder, dir.path());
    let [one, two] = places.each_ref().map(|place| built(place, name, &recipe));
    assert_eq!(one.digest, two.digest);
    one
}

/// Whether the image has all of these.
fn has(image: &Image, files: &[&str]) {
    for file in files {
        assert!(dump(image, file).contains("NID:"), "{file}");
    }
}

#[test]
fn soak_images_base_is_the_same_twice_and_has_a_user_with_sudo_python_node_git_and_curl() {
    let image = built_twice("base", "base", &[Place::new(), Place::new()]);
    assert_eq!(inode(&image, "/usr/bin/sudo"), (0o4755, false));
    assert_eq!(inode(&image, "/etc/sudoers.d/user").0, 0o440);
    assert!(dump(&image, "/home/user").contains("Uid: 1000"));
    has(&image, &["/usr/bin/python3", "/usr/local/bin/node", "/usr/local/bin/npm", "/usr/bin/git", "/usr/bin/curl"]);
    assert_eq!((image.run.user.as_str(), image.run.cwd.as_str()), ("1000:1000", "/home/user"));
}

#[test]
fn soak_images_agent_nano_is_the_same_twice_and_so_is_agent_browser_on_it() {
    let places = [Place::new(), Place::new()];
    let nano = built_twice("agent-nano", "nano", &places);
    has(&nano, &["/opt/nanobot/bin/python3", "/usr/bin/git", "/usr/bin/rg"]);
    let browser = built_twice("agent-browser", "browser", &places);
    has(&browser, &["/opt/nanobot/agent_nano.py", "/usr/bin/chromium-headless-shell", "/usr/local/bin/node"]);
    has(&browser, &["/opt/browser/node_modules/@playwright/mcp/cli.js"]);
    for image in [nano, browser] {
        assert_eq!((image.run.user.as_str(), image.run.port), ("1000:1000", 8080));
        assert!(image.needs.runtimes.is_empty());
    }
}

#[test]
fn soak_images_agent_coding_is_agent_chat_with_its_tools() {
    needs!(root, cgroups);
    let (dir, place) = (tempfile::tempdir().unwrap(), Place::new());
    let [chat, coding] = [("agent-chat", "chat"), ("agent-coding", "coding")]
        .map(|(folder, name)| built(&place, name, &recipe(folder, dir.path())));
    for image in [&chat, &coding] {
        has(image, &["/usr/local/bin/node", "/usr/local/bin/openclaw", "/opt/agent/agent.mjs"]);
        // What npm leaves out in silence on a machine whose own Node is older.
        has(image, &["/opt/agent/node_modules/@openclaw/fs-safe-linux-x64-gnu/package.json"]);
        assert_eq!((image.run.user.as_str(), image.run.port), ("1000:1000", 8080));
        assert_eq!(image.needs.min_memory_mib, Some(2048));
        assert!(!image.needs.allow("qemu-tcg") && image.needs.allow("qemu-kvm") && image.needs.allow("container-runc"));
    }
    has(&coding, &["/usr/bin/git", "/usr/bin/python3", "/usr/bin/rg", "/usr/bin/cc", "/usr/local/bin/tsc"]);
    has(
        &coding,
        &["/usr/sbin/dockerd", "/usr/bin/docker", "/usr/sbin/runc", "/usr/sbin/iptables", "/usr/sbin/modprobe"],
    );
    assert_eq!(inode(&coding, "/usr/bin/sudo"), (0o4755, false));
    for program in ["/usr/local/bin/docker", "/usr/local/sbin/docker-on-demand", "/usr/local/sbin/with-docker"] {
        assert_eq!(inode(&coding, program).0, 0o755, "{program}");
    }
}

#[test]
fn what_callers_reach_of_openclaw_is_tried_by_nodes_own_test_runner() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/agent-chat");
    let run = Command::new("node").args(["--test", "--test-reporter=tap"]).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    // A run that finds no test ends well, too.
    let passed = said.lines().find_map(|line| line.strip_prefix("# pass ")?.parse::<u32>().ok());
    assert!(passed >= Some(18), "{said}");
}
