//! What holders send to be built: their archive is a stranger's, and so is all that it starts.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use domain::{ArchiveSum, ImageDigest, ImageId};
use needs::needs;
use palatine_image::recipe::StepLimits;
use palatine_image::{BuildError, HeldBuild, Image, ImageError, NoProgress, Progress};
use sha2::{Digest, Sha256};
use wire::v1::images::BuildRuntime;

use crate::build::{Heard, shell};
use crate::fixture::{Place, Tar, extract, files, inode};

const LIMITS: StepLimits = StepLimits { timeout_s: 120, memory_mib: 512, processes: 200, disk_mib: 512 };

/// A context whose Containerfile comes after a root with a shell.
fn context(lines: &str) -> Tar {
    let text = format!("FROM scratch\nADD shell.tar /\nCMD [\"/bin/sh\"]\n{lines}");
    Tar::new().file("Containerfile", text.as_bytes()).file("shell.tar", &shell())
}

fn build(place: &Place, archive: &[u8], pin: u64, limits: StepLimits) -> Result<Image, ImageError> {
    build_on(place, archive, &BTreeMap::new(), pin, limits, &NoProgress)
}

fn build_on(
    place: &Place,
    archive: &[u8],
    bases: &BTreeMap<String, ImageDigest>,
    pin: u64,
    limits: StepLimits,
    to: &dyn Progress,
) -> Result<Image, ImageError> {
    let path = place.dir.path().join(format!("part-{pin}"));
    std::fs::write(&path, archive).unwrap();
    let sum = ArchiveSum(Sha256::digest(archive).into());
    let build = HeldBuild { archive: &path, sum, containerfile: None, epoch: 0, bases, limits };
    place.store.build_held(&build, "work", ImageId::from_bits(pin), 512, to)
}

/// Nothing of a build that failed is left, but for what it built on.
fn assert_nothing_left(place: &Place) {
    let at = |name: &str| place.config.store.join(name);
    assert!(!at("pins").exists() || files(&at("pins")) == 0);
    let work = std::fs::read_dir(at("tmp")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(work.count(), 0);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(place.dir.path().to_str().unwrap()));
}

#[test]
fn a_context_gives_the_same_image_twice_under_its_pin_alone() {
    needs!(root, cgroups);
    let lines = "COPY note.txt run.sh /d/\nRUN ls -l /d > /listed && chown 7:8 /d/note.txt\nUSER 7\n";
    let archive = context(lines).file("note.txt", b"a note").file("./run.sh", b"#!/bin/sh").done();
    let built = [0, 1].map(|_| {
        let place = Place::new();
        std::thread::sleep(Duration::from_millis(1100)); // A clock in it would show.
        (build(&place, &archive, 1, LIMITS).unwrap(), place)
    });
    assert_eq!(built[0].0.digest, built[1].0.digest);
    let (image, place) = &built[0];
    assert!(place.store.names().unwrap().is_empty());
    assert_eq!(place.store.pinned(ImageId::from_bits(1)), Some(image.digest));
    let root = extract(image, place.dir.path());
    let note = std::fs::symlink_metadata(root.join("d/note.txt")).unwrap();
    assert_eq!((note.uid(), note.gid(), image.run.user.as_str()), (7, 8, "7:7"));
}

#[test]
fn what_forks_fills_the_disk_the_memory_or_never_ends_is_ended_and_told_and_leaves_nothing() {
    needs!(root, cgroups);
    let place = Place::new();
    for (run, limits, said) in [
        ("bomb() { bomb | bomb & }; bomb; sleep 600", LIMITS, "more than 200 processes"),
        ("while cat /bin/ls >> /big; do :; done", StepLimits { disk_mib: 128, ..LIMITS }, "more than 128 MiB"),
        ("a=x; while a=$a$a; do :; done", LIMITS, "512 MiB of memory"),
        (
            "d=dddddddd; d=$d$d$d$d$d; d=$d$d$d$d$d$d; n=0; while [ $n -lt 20 ]; do mkdir $d; cd -P $d; n=$((n+1)); done; \
             while cat /bin/ls >> big; do :; done",
            LIMITS,
            "deeper",
        ),
        ("echo for ever; while :; do sleep 1; done", StepLimits { timeout_s: 20, ..LIMITS }, "after 20 s"),
        ("setsid sleep 600 & echo so it is; exit 7", LIMITS, "so it is"),
    ] {
        let begun = Instant::now();
        let error = build(&place, &context(&format!("RUN {run}\n")).done(), 1, limits).unwrap_err().to_string();
        assert!(error.contains(said), "{run}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(110), "{run}: {:?}", begun.elapsed());
        assert_nothing_left(&place);
    }
    assert!(place.store.list().unwrap().is_empty());
}

#[test]
fn a_build_reaches_nothing_of_the_host_by_its_commands_or_by_links_in_its_context() {
    needs!(root, cgroups);
    let place = Place::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "canary").unwrap();
    let path = secret.path().to_str().unwrap().to_owned();
    let lines = format!(
        "RUN cat /proc/net/dev > /net; cat /proc/1/root{path} {path} > /seen 2> /said; \
         ls -d /context.tar /bases /work /etc/shadow >> /said 2>&1; id > /id\n"
    );
    let image = build(&place, &context(&lines).done(), 1, LIMITS).unwrap();
    let root = extract(&image, place.dir.path());
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert_eq!((read("seen").as_str(), read("said").lines().count()), ("", 6), "{}", read("said"));
    let links: Vec<_> = read("net").lines().skip(2).map(|line| line.trim().to_owned()).collect();
    assert!(links.iter().all(|link| link.starts_with("lo:")), "{links:?}");
    assert!(read("id").starts_with("uid=0"));
    // Links of the context that would lead out of it are copied as links, or not at all.
    let linked = context("COPY in /from/\n").symlink("in/link", &path).symlink("in/up", &format!("../../../..{path}"));
    if let Ok(image) = build(&place, &linked.done(), 2, LIMITS) {
        let into = tempfile::tempdir().unwrap();
        let root = extract(&image, into.path());
        for name in ["from/link", "from/up"] {
            assert!(!std::fs::symlink_metadata(root.join(name)).is_ok_and(|found| found.is_file()), "{name}");
        }
    }
    assert_eq!(std::fs::read_to_string(secret.path()).unwrap(), "canary");
    // Files of the archive that would lie elsewhere.
    for archive in [
        context("").file("../../../../../tmp/palatine-escape", b"x").done(),
        context("").symlink("out", "/tmp").file("out/palatine-escape", b"x").done(),
    ] {
        drop(build(&place, &archive, 3, LIMITS));
        assert!(!std::path::Path::new("/tmp/palatine-escape").exists());
    }
}

/// Looks, when a build is under way, whether it has a copy of a mount of the host.
struct LooksAtMounts<'a> {
    at: &'a str,
    /// Processes of the build in other namespaces of mounts than ours, and those that have a copy.
    seen: Mutex<Option<(usize, usize)>>,
}

impl Progress for LooksAtMounts<'_> {
    fn step(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, _: u64) {}

    fn warn(&self, _: &str) {}

    fn said(&self, line: &str) {
        if line == "going" {
            let others = descendants().into_iter().filter_map(mounts_elsewhere).collect::<Vec<_>>();
            let copies = others.iter().filter(|mounts| mounts.contains(self.at)).count();
            *self.seen.lock().unwrap() = Some((others.len(), copies));
        }
    }

    fn stopped(&self) -> bool {
        self.seen.lock().unwrap().is_some()
    }
}

/// The processes that this one has begun, and they.
fn descendants() -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let below = |pid: &u32| {
        let above = std::iter::successors(parent_of(*pid), |pid| parent_of(*pid));
        above.take(64).any(|pid| pid == std::process::id())
    };
    pids.filter(below).collect()
}

/// The mounts of a process that has its own.
fn mounts_elsewhere(pid: u32) -> Option<String> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (theirs, ours) = (namespace(&pid.to_string())?, namespace("self")?);
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    (theirs != ours).then_some(mounts)
}

/// A disk of a container is let go only when nobody has it mounted any more.
#[test]
fn a_build_keeps_no_mount_of_the_host_from_being_let_go() {
    needs!(root, cgroups);
    let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
    let at = dir.path().to_str().unwrap();
    let mounted = |words: &[&str]| Command::new(words[0]).args(&words[1..]).arg(at).status().unwrap().success();
    assert!(mounted(&["mount", "-t", "tmpfs", "palatine-test"]));
    let to = LooksAtMounts { at, seen: Mutex::default() };
    let archive = context("RUN echo going; sleep 600\n").done();
    let ended = build_on(&place, &archive, &BTreeMap::new(), 1, LIMITS, &to);
    assert!(mounted(&["umount"]));
    assert!(matches!(ended, Err(ImageError::Build(BuildError::Stopped))), "{:?}", ended.err());
    let (others, copies) = to.seen.lock().unwrap().unwrap();
    assert!(others > 0 && copies == 0, "{copies} of {others} processes have a copy");
}

#[test]
fn a_build_is_on_operators_images_and_ones_own_by_name_and_on_nobody_elses_by_digest() {
    needs!(root, cgroups);
    let place = Place::new();
    let own = build(&place, &context("RUN echo own > /own\n").done(), 1, LIMITS).unwrap().digest;
    let on = |name: &str, bases: &BTreeMap<String, ImageDigest>, pin| {
        let text = format!("FROM {name}\nRUN cat /own > /again\n");
        build_on(&place, &Tar::new().file("Dockerfile", text.as_bytes()).done(), bases, pin, LIMITS, &NoProgress)
    };
    let bases: BTreeMap<_, _> = ["mine", "mine:latest"].map(|name| (name.to_owned(), own)).into();
    for (pin, name) in [(2, "mine"), (3, "mine:latest")] {
        let image = on(name, &bases, pin).unwrap();
        let into = tempfile::tempdir().unwrap();
        assert_eq!(std::fs::read_to_string(extract(&image, into.path()).join("again")).unwrap(), "own\n");
    }
    for name in [own.to_string(), format!("work@{own}"), "mine".to_owned()] {
        let error = on(&name, &BTreeMap::new(), 4).unwrap_err();
        assert!(
            matches!(error, ImageError::Build(BuildError::UnknownBase { .. } | BuildError::Ended { .. })),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_context_is_told_and_a_build_is_stopped_or_refused_where_signatures_are_required() {
    needs!(root, cgroups);
    let place = Place::new();
    let none = build(&place, b"no archive at all", 1, LIMITS).unwrap_err();
    assert!(matches!(none, ImageError::Build(BuildError::NoContext | BuildError::NoContainerfile(_))), "{none}");
    let empty = build(&place, &Tar::new().file("other", b"x").done(), 1, LIMITS).unwrap_err().to_string();
    assert!(empty.contains("no Containerfile or Dockerfile"), "{empty}");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut bomb, &Tar::new().file("zeros", &vec![0; 40 << 20]).done()).unwrap();
    let small = StepLimits { disk_mib: 16, ..LIMITS };
    let large = build(&place, &bomb.finish().unwrap(), 1, small).unwrap_err();
    assert!(matches!(large, ImageError::Build(BuildError::LargeContext { mib: 16 })), "{large}");
    let to = Heard::stopping_at("going");
    let archive = context("RUN echo going; sleep 600\n").done();
    let stopped = build_on(&place, &archive, &BTreeMap::new(), 1, LIMITS, &to).unwrap_err();
    assert!(matches!(stopped, ImageError::Build(BuildError::Stopped)), "{stopped}");
    assert_nothing_left(&place);
    let signed_alone = HeldBuild {
        archive: &place.dir.path().join("part-1"),
        sum: ArchiveSum(Sha256::digest(&archive).into()),
        containerfile: None,
        epoch: 0,
        bases: &BTreeMap::new(),
        limits: LIMITS,
    };
    let store = crate::signature::guarded(&place);
    let refused = store.build_held(&signed_alone, "work", ImageId::from_bits(1), 64, &NoProgress).unwrap_err();
    assert!(matches!(refused, ImageError::Build(BuildError::Unsigned)), "{refused}");
}

#[test]
fn a_recipe_is_built_behind_the_walls_too_and_what_would_fetch_is_refused_by_its_line() {
    needs!(root, cgroups);
    let place = Place::new();
    let text = "from = 'scratch'\nentrypoint = ['/bin/sh']\ncmd = ['-c', \"it's cmd\"]\nuser = '7:8'\nstop_signal = 'SIGINT'\n\
                [env]\nA = 'b c'\n[[tar]]\nfrom = 'shell.tar'\n[[copy]]\nfrom = 'in'\nto = '/out'\nowner = '5:6'\n\
                [[copy]]\nfrom = 'in/run'\nto = '/run.sh'\nmode = '4711'\n[[write]]\nto = '/w'\ntext = \"a'b\"\n\
                [[directory]]\npath = '/deep/er'\nmode = '0700'\nowner = '9:10'\n[[run]]\ncommand = 'id > /id; echo $A > /a'\n";
    let context = |text: &str| {
        let tar = Tar::new().file("image.toml", text.as_bytes()).file("shell.tar", &shell());
        tar.file("in/note", b"a note").file("in/run", b"#!/bin/sh").done()
    };
    let image = build(&place, &context(text), 1, LIMITS).unwrap();
    let root = extract(&image, place.dir.path());
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let data = |name: &str| {
        let data = std::fs::symlink_metadata(root.join(name)).unwrap();
        (data.uid(), data.gid(), data.mode() & 0o7777)
    };
    assert_eq!((read("w").as_str(), read("a").as_str(), read("out/note").as_str()), ("a'b", "b c\n", "a note"));
    assert!(read("id").starts_with("uid=0"));
    assert_eq!((data("out/note"), data("w"), inode(&image, "/run.sh").0), ((5, 6, 0o644), (0, 0, 0o644), 0o4711));
    assert_eq!((data("deep"), data("deep/er")), ((0, 0, 0o755), (9, 10, 0o700)));
    assert_eq!(image.run.argv, ["/bin/sh", "-c", "it's cmd"]);
    assert_eq!(
        (image.run.user.as_str(), image.run.env["A"].as_str(), image.run.stop_signal.as_str()),
        ("7:8", "b c", "SIGINT")
    );
    assert_eq!(place.store.built_in(ImageId::from_bits(1)), Some(BuildRuntime::ContainerBubblewrap));
    assert_eq!(build(&place, &context(text), 2, LIMITS).unwrap().digest, image.digest, "the same gives the same");

    let fetches = "from = 'scratch'\n\n[[packages]]\nsuite = 'bookworm'\ninclude = ['git']\n";
    let refused = build(&place, &context(fetches), 3, LIMITS).unwrap_err().to_string();
    assert!(refused.contains("line 3: [[packages]]") && refused.contains("no network"), "{refused}");
    let unknown = build(&place, &context("from = 'nowhere'\n"), 3, LIMITS).unwrap_err().to_string();
    assert!(unknown.contains("does not have (of: nowhere)"), "{unknown}");
    let both = Tar::new().file("image.toml", text.as_bytes()).file("Containerfile", b"FROM scratch").done();
    let open = build(&place, &both, 3, LIMITS).unwrap_err();
    assert!(matches!(open, ImageError::Build(BuildError::TwoPacked)), "{open}");
    for pin in [1, 2] {
        place.store.unpin(ImageId::from_bits(pin)).unwrap();
        assert_eq!(place.store.built_in(ImageId::from_bits(pin)), None, "it goes with its pin");
    }
}
