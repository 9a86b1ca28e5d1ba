//! Containerfiles: what the real `buildah` makes of them, and that it is shut in.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use needs::needs;
use palatine_image::{BuildOptions, Image, ImageError, NoProgress, Progress};

use crate::build::{Heard, shell};
use crate::fixture::{Place, extract, inode};

/// A folder with a Containerfile and an archive of the host's shell.
struct Context(tempfile::TempDir);

impl Context {
    /// The lines come after a root with a shell.
    fn new(lines: &str) -> Self {
        let context = Self(tempfile::tempdir().unwrap());
        std::fs::write(context.0.path().join("shell.tar"), shell()).unwrap();
        context.write(&format!("FROM scratch\nADD shell.tar /\nCMD [\"/bin/sh\"]\n{lines}"));
        context
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.path().join("Containerfile"), text).unwrap();
    }

    fn build(&self, place: &Place, name: &str, to: &dyn Progress) -> Result<Image, ImageError> {
        place.store.build(self.0.path(), &BuildOptions::default(), name, to)
    }
}

const MADE: &str = "\
ENV WHO=me
COPY note.txt /d/
RUN echo program > /d/su && chmod 4755 /d/su
RUN echo $WHO > /d/mine && chown 1000:1001 /d/mine && rm -f /d/note.txt
LABEL ai.palatine.port=8099 ai.palatine.ready=/alive
USER 1000:1001
WORKDIR /d
";

#[test]
fn a_containerfile_gives_the_same_image_twice_with_its_modes_owners_user_and_labels() {
    needs!(root, cgroups);
    let context = Context::new(MADE);
    std::fs::write(context.0.path().join("note.txt"), "a note").unwrap();
    let built = [0, 1].map(|_| {
        let place = Place::new();
        std::thread::sleep(std::time::Duration::from_millis(1100)); // A clock in it would show.
        (context.build(&place, "built", &NoProgress).unwrap(), place)
    });
    assert_eq!(built[0].0.digest, built[1].0.digest);
    let (image, place) = &built[0];
    assert_eq!(inode(image, "/d/su"), (0o4755, false));
    let root = extract(image, place.dir.path());
    let mine = std::fs::symlink_metadata(root.join("d/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (1000, 1001));
    assert_eq!(std::fs::read_to_string(root.join("d/mine")).unwrap(), "me\n");
    assert!(!root.join("d/note.txt").exists());
    assert_eq!((image.run.port, image.run.user.as_str(), image.run.cwd.as_str()), (8099, "1000:1001", "/d"));
    assert!(folders_in_work(place).is_empty());
}

#[test]
fn a_containerfile_builds_on_images_of_the_store_and_on_no_others() {
    needs!(root, cgroups);
    let place = Place::new();
    let below = Context::new("RUN echo below > /below\n").build(&place, "below", &NoProgress).unwrap();
    let context = Context::new("");
    context.write(
        "ARG LATER\nFROM below AS one\nRUN echo one > /one\nFROM below\nCOPY --from=one /one /two\nRUN rm /below\n",
    );
    let image = context.build(&place, "above", &NoProgress).unwrap();
    let root = extract(&image, place.dir.path());
    assert_eq!(std::fs::read_to_string(root.join("two")).unwrap(), "one\n");
    assert!(!root.join("below").exists() && root.join("bin/sh").exists() && image.layers > below.layers);

    context.write("FROM debian:12\nRUN true\n");
    let error = context.build(&place, "other", &NoProgress).unwrap_err().to_string();
    assert!(error.contains("debian:12") && error.contains("palatine image pull"), "{error}");
    assert!(place.store.resolve("other").is_err());
}

#[test]
fn a_containerfiles_commands_have_no_network_no_host_and_no_more_processes_than_they_may() {
    needs!(root, cgroups);
    let place = Place::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    let lines = format!(
        "RUN cat /proc/net/dev > /net; ls -d /context /bases /work {0} /proc/1/root{0} /etc/shadow > /seen 2>&1; id > /id\n",
        secret.path().display()
    );
    let image = Context::new(&lines).build(&place, "seen", &NoProgress).unwrap();
    let root = extract(&image, place.dir.path());
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let links: Vec<_> = read("net").lines().skip(2).map(|line| line.trim().to_owned()).collect();
    assert!(links.iter().all(|link| link.starts_with("lo:")), "{links:?}");
    assert!(read("seen").lines().all(|line| line.contains("cannot access")), "{}", read("seen"));
    assert!(read("id").starts_with("uid=0"));

    let bomb = Context::new("RUN bomb() { bomb | bomb & }; bomb; sleep 600\n");
    let error = bomb.build(&place, "bomb", &NoProgress).unwrap_err().to_string();
    assert!(error.contains("processes"), "{error}");
}

#[test]
fn a_containerfile_that_is_stopped_or_fails_leaves_nothing_and_says_what_it_said() {
    needs!(root, cgroups);
    let place = Place::new();
    let to = Heard::stopping_at("going");
    let error = Context::new("RUN echo going; sleep 600\n").build(&place, "long", &to).unwrap_err();
    assert_eq!(error.to_string(), "the build was stopped");
    let error = Context::new("RUN echo so it is; exit 7\n").build(&place, "bad", &NoProgress).unwrap_err().to_string();
    assert!(error.contains("so it is") && error.contains('7'), "{error}");
    let update = BuildOptions { update: true, ..BuildOptions::default() };
    let error = place.store.build(Context::new("").0.path(), &update, "locked", &NoProgress).unwrap_err();
    assert!(error.to_string().contains("--update"), "{error}");
    assert!(folders_in_work(&place).is_empty());
    assert!(place.store.list().unwrap().is_empty());
    assert!(!mounted(place.dir.path()), "an overlay is left");
}

/// What unfinished work lies in.
fn folders_in_work(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.dir.path().join("store/tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

fn mounted(below: &Path) -> bool {
    std::fs::read_to_string("/proc/mounts").unwrap().contains(below.to_str().unwrap())
}
