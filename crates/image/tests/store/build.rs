//! Recipes whose steps run programs: what they leave, and how they are bounded.
//!
//! Their images hold the host's own busybox or shell with its libraries, so that no
//! network is needed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use needs::needs;
use palatine_image::{BuildOptions, Image, ImageError, NoProgress, Progress};

use crate::disk::dump;
use crate::fixture::{Place, extract, inode, story};

/// A recipe's folder with an archive of the host's shell and a few programs.
struct Recipe(tempfile::TempDir);

impl Recipe {
    fn new(steps: &str) -> Self {
        let recipe = Self(tempfile::tempdir().unwrap());
        std::fs::write(recipe.0.path().join("shell.tar"), shell()).unwrap();
        recipe.write(steps);
        recipe
    }

    fn write(&self, steps: &str) {
        let text = format!("from = 'scratch'\nentrypoint = ['/bin/sh']\n[[tar]]\nfrom = 'shell.tar'\n{steps}");
        std::fs::write(self.0.path().join("image.toml"), text).unwrap();
    }

    fn build(&self, place: &Place, to: &dyn Progress) -> Result<Image, ImageError> {
        place.store.build(self.0.path(), &BuildOptions::default(), "built", to)
    }
}

/// The host's shell and some programs, with their libraries.
pub(crate) fn shell() -> Vec<u8> {
    let programs = ["sh", "cat", "chmod", "chown", "id", "ln", "ls", "mkdir", "rm", "sleep", "touch", "setsid"];
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for program in programs.map(|name| Path::new("/usr/bin").join(name)) {
        let said = Command::new("ldd").arg(&program).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let libraries = said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        files.extend(libraries);
        files.insert(program);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    archive.append_data(&mut header, "bin", std::io::empty()).unwrap();
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        let place = match file.strip_prefix("/usr/bin") {
            Ok(program) => Path::new("bin").join(program),
            Err(_) => file.strip_prefix("/").unwrap().to_owned(),
        };
        archive.append_data(&mut header, place, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// What a build says; it can be stopped at a line.
#[derive(Default)]
pub(crate) struct Heard {
    steps: Mutex<Vec<String>>,
    lines: Mutex<Vec<String>>,
    stop_at: Option<&'static str>,
    stopped: AtomicBool,
}

impl Heard {
    pub(crate) fn stopping_at(line: &'static str) -> Self {
        Self { stop_at: Some(line), ..Self::default() }
    }
}

impl Progress for Heard {
    fn step(&self, name: &str, _: Option<u64>) {
        self.steps.lock().unwrap().push(name.to_owned());
    }

    fn advance(&self, _: u64) {}

    fn warn(&self, _: &str) {}

    fn said(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
        if self.stop_at == Some(line) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

const MADE: &str = r#"
[[directory]]
path = "/data"
[[run]]
command = """
echo root:x:0:0::/:/bin/sh > /passwd
mkdir -p /etc /d/kept /var/log /run/gone /tmp/gone
echo 'user:x:1000:1000::/:/bin/sh' > /etc/passwd
echo 'user:x:1000:' > /etc/group
echo host > /etc/hostname
echo log > /var/log/build.log
echo $$ > /tmp/pid
echo program > /d/su && chown 0:0 /d/su && chmod 4755 /d/su
echo mine > /d/mine && chown 1000:1000 /d/mine
ln /d/mine /d/twin
touch /d/removed
"""
[[copy]]
from = "image.toml"
to = "/d/recipe"
owner = "user:user"
[[run]]
command = "rm /d/removed /passwd; echo $PATH > /d/path; echo done"
"#;

#[test]
fn the_same_steps_give_the_same_digest_on_another_store_and_at_another_time() {
    needs!(root, cgroups);
    let recipe = Recipe::new(MADE);
    let built = [0, 1].map(|_| {
        let place = Place::new();
        std::thread::sleep(Duration::from_millis(1100)); // A clock in it would show.
        (recipe.build(&place, &NoProgress).unwrap(), place)
    });
    assert_eq!(built[0].0.digest, built[1].0.digest);
    let root = extract(&built[0].0, built[0].1.dir.path());
    let data = |name: &str| std::fs::symlink_metadata(root.join(name));
    assert_eq!(inode(&built[0].0, "/d/su"), (0o4755, false));
    assert_eq!((data("d/su").unwrap().uid(), data("d/mine").unwrap().uid()), (0, 1000));
    assert!(dump(&built[0].0, "/d/mine").contains("Links: 2"));
    assert_eq!((data("d/recipe").unwrap().uid(), data("d/recipe").unwrap().gid()), (1000, 1000));
    assert_eq!(data("d/kept").unwrap().mtime(), 0);
    for gone in ["d/removed", "passwd", "etc/hostname", "var/log/build.log", "tmp/gone", "tmp/pid", "run/gone"] {
        assert!(data(gone).is_err(), "{gone}");
    }
    assert_eq!(built[0].0.run.user, "0:0", "it names nobody");
}

#[test]
fn a_step_that_was_done_is_not_done_again_until_an_input_changes() {
    needs!(root, cgroups);
    let place = Place::new();
    let recipe = Recipe::new(
        "[[run]]\ncommand = 'echo one > /one; echo first'\n[[run]]\ncommand = 'echo two > /two; echo second'\n",
    );
    let lines = |expected: &[&str]| {
        let heard = Heard::default();
        let image = recipe.build(&place, &heard).unwrap();
        assert_eq!(*heard.lines.lock().unwrap(), expected);
        image.digest
    };
    let first = lines(&["first", "second"]);
    assert_eq!(lines(&[]), first);
    recipe.write("[[run]]\ncommand = 'echo one > /one; echo first'\n[[run]]\ncommand = 'echo 2 > /two; echo other'\n");
    assert_ne!(lines(&["other"]), first);
    recipe.write("[[run]]\ncommand = 'echo 1 > /one; echo first'\n[[run]]\ncommand = 'echo 2 > /two; echo other'\n");
    lines(&["first", "other"]);
}

#[test]
fn a_command_that_fails_is_named_with_its_line_and_what_it_said() {
    needs!(root, cgroups);
    let place = Place::new();
    let recipe = Recipe::new("\n[[run]]\ncommand = 'echo no such luck >&2; exit 7'\n");
    let said = story(&recipe.build(&place, &NoProgress).unwrap_err());
    for part in ["[[run]] in line 6 of", "image.toml", "exit code 7", "no such luck"] {
        assert!(said.contains(part), "{said}");
    }
    place.assert_no_image();
}

/// What is left of steps on this machine.
fn cgroups() -> usize {
    let under = |root: &str| std::fs::read_dir(root).into_iter().flatten().flatten();
    let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"].into_iter().flat_map(under);
    let ours = format!("palatine-build-{}-", std::process::id());
    all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours)).count()
}

#[test]
fn a_step_that_never_ends_forks_eats_memory_or_fills_the_disk_is_ended_and_told() {
    needs!(root, cgroups);
    let place = Place::new();
    let cases = [
        ("timeout_s = 1", "setsid sleep 1000 & while :; do :; done", "had not ended after 1 s"),
        ("processes = 32", "f() { f | f & }; f; sleep 1000", "more than 32 processes at once"),
        ("memory_mib = 32", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", "more than 32 MiB of memory"),
        ("disk_mib = 2", "while :; do cat /bin/* >> /big; done", "wrote more than 2 MiB"),
    ];
    for (limit, command, said) in cases {
        let recipe = Recipe::new(&format!("[[run]]\n{limit}\ncommand = '''echo began\n{command}'''\n"));
        let start = Instant::now();
        let error = story(&recipe.build(&place, &NoProgress).unwrap_err());
        assert!(error.contains(said) && error.contains("[[run]] in line 5"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(60), "{limit}");
        assert_eq!(cgroups(), 0, "{limit}");
        place.assert_no_image();
    }
}

#[test]
fn a_step_sees_nothing_of_the_host_and_has_no_network() {
    needs!(root, cgroups);
    let place = Place::new();
    let canary = tempfile::NamedTempFile::new().unwrap();
    let path = canary.path().display();
    let looks = format!(
        "ls /; id; test ! -e {path} && test ! -e /proc/1/root{path} && test ! -e /mnt/0; cat /proc/net/dev; \
         cat /proc/self/status; echo $(ls -d /proc/[0-9]*)"
    );
    let recipe = Recipe::new(&format!("[[run]]\ncommand = '''{looks}'''\n"));
    let heard = Heard::default();
    recipe.build(&place, &heard).unwrap();
    let lines = heard.lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("uid=0")), "{lines:?}");
    // Below the two lines of its head.
    let head = lines.iter().position(|line| line.contains("|bytes")).unwrap();
    let interfaces: Vec<_> = lines[head + 1..].iter().take_while(|line| !line.starts_with("Name:")).collect();
    assert!(interfaces.len() == 1 && interfaces[0].trim_start().starts_with("lo:"), "{interfaces:?}");
    // No right to mount, to load a module, to trace or to make a device.
    let may = lines.iter().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may = u64::from_str_radix(may.trim(), 16).unwrap();
    for forbidden in [2_u64, 12, 13, 16, 17, 19, 21, 25, 27] {
        assert_eq!(may >> forbidden & 1, 0, "capability {forbidden}");
    }
    let processes = lines.last().unwrap().split(' ').count();
    assert!(processes < 8, "{lines:?}");
}

#[test]
fn a_build_that_is_stopped_leaves_nothing_but_what_was_whole() {
    needs!(root, cgroups);
    let place = Place::new();
    let recipe = Recipe::new("[[run]]\ncommand = 'echo kept > /kept'\n[[run]]\ncommand = 'echo waiting; sleep 1000'\n");
    let stopped = Heard { stop_at: Some("waiting"), ..Heard::default() };
    let start = Instant::now();
    let error = story(&recipe.build(&place, &stopped).unwrap_err());
    assert!(error.contains("the build was stopped") && start.elapsed() < Duration::from_secs(60), "{error}");
    place.assert_no_image();
    assert_eq!(cgroups(), 0);
    recipe.write("[[run]]\ncommand = 'echo kept > /kept'\n[[run]]\ncommand = 'echo through'\n");
    let heard = Heard::default();
    recipe.build(&place, &heard).unwrap();
    assert_eq!(*heard.lines.lock().unwrap(), ["through"]);
}

#[test]
fn an_owner_whom_the_image_does_not_have_is_named() {
    needs!(root, cgroups);
    let place = Place::new();
    let recipe = Recipe::new("[[directory]]\npath = '/x'\nowner = 'nobody:staff'\n");
    let said = story(&recipe.build(&place, &NoProgress).unwrap_err());
    assert!(said.contains("no user \"nobody\" with a group \"staff\" here"), "{said}");
}

#[test]
fn what_a_program_may_do_beyond_its_user_is_kept_in_the_image() {
    needs!(root, cgroups);
    let place = Place::new();
    let mut bytes = vec![1, 0, 0, 2];
    bytes.extend([0_u8, 4, 0, 0].repeat(4));
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &bytes[..])]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o755);
    archive.append_data(&mut header, "bin/ping", &b"x"[..]).unwrap();
    let recipe = Recipe::new("[[tar]]\nfrom = 'ping.tar'\n[[run]]\ncommand = 'ln /bin/ping /bin/ping6'\n");
    std::fs::write(recipe.0.path().join("ping.tar"), archive.into_inner().unwrap()).unwrap();
    let image = recipe.build(&place, &NoProgress).unwrap();
    for name in ["/bin/ping", "/bin/ping6"] {
        assert_eq!(inode(&image, name), (0o755, true));
    }
    assert_eq!(inode(&image, "/bin/sh"), (0o755, false));
    let disk = std::fs::read(&image.disk).unwrap();
    assert!(disk.windows(bytes.len()).any(|window| window == bytes));
}

#[test]
fn an_archive_is_a_file_of_the_context_and_nothing_that_a_link_leads_to() {
    needs!(root, cgroups);
    let place = Place::new();
    let recipe = Recipe::new("[[tar]]\nfrom = 'link.tar'\n");
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), shell()).unwrap();
    for target in [elsewhere.path(), Path::new("/dev/zero")] {
        let link = recipe.0.path().join("link.tar");
        std::fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(target, link).unwrap();
        let said = story(&recipe.build(&place, &NoProgress).unwrap_err());
        assert!(said.contains("link.tar is no file of the context"), "{said}");
    }
    place.assert_no_image();
}

#[test]
fn packages_belong_on_an_empty_root_or_on_one_of_debians() {
    let place = Place::new();
    let recipe = Recipe::new("[[packages]]\nsuite = 'bookworm'\ninclude = ['git']\n");
    let said = story(&recipe.build(&place, &NoProgress).unwrap_err());
    assert!(said.contains("or on an image that has dpkg and apt"), "{said}");
}
