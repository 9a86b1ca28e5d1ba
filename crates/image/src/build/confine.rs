//! Runs what belongs to an image, shut in.
//!
//! Three programs of the distribution make the walls, one in the other:
//!
//! - `unshare` a mount namespace, in which what the step may see gets a place that it
//!   can reach (the store is root's alone), and the step's cgroup is entered; of the host's
//!   mounts it has its programs, processes and devices, since what it has a copy of nobody
//!   else can let go;
//! - `nsenter` a user namespace whose root is nobody on the host;
//! - `bwrap` namespaces for processes, network, IPC, host name and mounts: the image (or
//!   the host's `/usr`, read-only) as `/`, nothing else of the host, of root's
//!   capabilities those that installing software takes, and a list of system calls that are
//!   not there (`filter`).
//!
//! The namespace of processes ends with its first process, whatever was started in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::BuildError;
use super::cgroup::{Excess, StepCgroup};
use super::filter;
use super::root::SHIFT;
use crate::layer::SHIFTED_IDS;
use crate::recipe::StepLimits;
use crate::{ImageError, Progress};

/// Where everything below is found, on the host and inside.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// An empty directory of every host, hidden in the step's mount namespace alone: the root of that, and
/// in it again, what is bound.
const STAGE: &str = "/mnt";
/// Enters the cgroups, lays out what is bound, leaves the host's mounts and becomes what follows.
const LAY_OUT: &str = r#"
exec 9< "$FILTER_OF_STEP"
unset FILTER_OF_STEP
for group in $GROUPS_OF_STEP; do echo 0 > "$group"; done
unset GROUPS_OF_STEP
mount -t tmpfs -o mode=755,size=1m palatine /mnt
mkdir /mnt/mnt /mnt/host /mnt/tmp
place=0
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir "/mnt/mnt/$place"; else : > "/mnt/mnt/$place"; fi
  mount --bind "$1" "/mnt/mnt/$place"
  place=$((place + 1))
  shift
done
shift
for name in usr proc dev bin sbin lib lib64; do
  if [ -L "/$name" ]; then
    ln -s "usr/$name" "/mnt/$name"
  elif [ -d "/$name" ]; then
    mkdir "/mnt/$name"
    mount --rbind "/$name" "/mnt/$name"
  fi
done
cd /mnt
pivot_root . host
cd /
umount -l /host
exec "$@"
"#;
/// What root of an image may do: what containers' root may, without raw sockets and devices.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SETFCAP",
    "CAP_SYS_CHROOT",
    "CAP_NET_BIND_SERVICE",
];
/// What makes the walls, and the packages that bring it.
const PROGRAMS: [(&str, &str); 9] = [
    ("bwrap", "bubblewrap"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("pivot_root", "util-linux"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("ln", "coreutils"),
    ("mkdir", "coreutils"),
    ("sh", "dash"),
];
/// How long the user namespace may take to be there.
const NAMESPACE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
/// How long the last words of a step that has ended are waited for, should somebody else hold its pipe.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often limits are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the files are counted, at most: this share of the time goes into counting.
const COUNTING_SHARE: u32 = 10;
/// Lines that a reader may be behind.
const LINES: usize = 256;
/// Bytes of one line, and of the last ones that are kept.
const MAX_LINE: u64 = 4096;
const MAX_SAID: usize = 4096;
const MIB: u64 = 1 << 20;
/// Parts of a path that is told.
const SHOWN_PARTS: usize = 8;
/// The unit of a file's blocks, whatever the file system.
const BLOCK: u64 = 512;
/// What is left on the disk, whatever a step does: files that are open and have no name are not
/// counted, and others write there too.
const LEFT_MIB: u64 = 256;

/// What a step sees as `/`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slash<'a> {
    /// The image's root.
    Image(&'a Path),
    /// The host's programs and libraries, and nothing else.
    HostPrograms,
}

/// What is bound where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bind<'a> {
    pub(super) from: &'a Path,
    pub(super) at: &'a str,
    pub(super) writable: bool,
}

/// A command that is shut in.
#[derive(Debug)]
pub(super) struct Confined<'a> {
    pub(super) slash: Slash<'a>,
    pub(super) binds: Vec<Bind<'a>>,
    pub(super) env: BTreeMap<String, String>,
    /// Whether it may mount, within its own namespace.
    pub(super) mounts: bool,
    pub(super) limits: StepLimits,
    /// The folder whose growth is bounded, and the files there may be in it.
    pub(super) watched: (&'a Path, u64),
}

impl Confined<'_> {
    /// Runs the words to their end.
    pub(super) fn run(&self, words: &[&str], to: &dyn Progress) -> Result<(), ImageError> {
        check_programs()?;
        let before = disk_bytes(self.watched)?;
        let namespace = UserNamespace::create()?;
        let group = StepCgroup::create(self.limits)
            .map_err(|error| BuildError::Confinement(format!("a step needs a cgroup: {error}")))?;
        let filter = filter_file()?;
        let (read, write) = std::io::pipe().map_err(BuildError::io("make a pipe"))?;
        let mut command = self.command(&namespace, &group, words);
        command.env("FILTER_OF_STEP", filter.path());
        let said = write.try_clone().map_err(BuildError::io("make a pipe"))?;
        let mut child = command.stdout(said).stderr(write).spawn().map_err(|error| missing("unshare", &error))?;
        // The pipe's other end is now in the child alone.
        drop(command);
        let (sender, lines) = sync_channel(LINES);
        let reader = thread::spawn(move || {
            let mut lines = BufReader::new(read);
            while let Some(line) = one_line(&mut lines) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let ended = Watch { step: self, before, group: &group, to, said: String::new() }.until_end(&mut child, &lines);
        drop(child.kill());
        drop(child.wait());
        // Ends all that is left, so that the pipe ends; and nobody is at work in the root any more.
        group.end().map_err(|error| BuildError::Confinement(format!("what a step began does not end: {error}")))?;
        drop(lines);
        drop(reader.join());
        ended
    }

    fn command(&self, namespace: &UserNamespace, group: &StepCgroup, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", LAY_OUT, "sh"]);
        let image = match self.slash {
            Slash::Image(root) => Some(root),
            Slash::HostPrograms => None,
        };
        command.args(image.into_iter().chain(self.binds.iter().map(|bind| bind.from)));
        command.arg("--").arg("nsenter").arg(namespace.option()).args(["-S0", "-G0", "--", "bwrap"]);
        command.args(self.walls()).arg("--").args(words);
        // Ours have no blanks.
        let groups: Vec<_> = group.entries().map(|path| path.to_string_lossy().into_owned()).collect();
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("GROUPS_OF_STEP", groups.join(" "));
        command.stdin(Stdio::null()).current_dir("/").process_group(0);
        command
    }

    fn walls(&self) -> Vec<OsString> {
        let mut walls: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| walls.extend(words.iter().map(OsString::from));
        add(&["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
        add(&["--hostname", "localhost", "--die-with-parent", "--new-session", "--seccomp", "9", "--cap-drop", "ALL"]);
        CAPABILITIES.iter().for_each(|one| add(&["--cap-add", one]));
        if self.mounts {
            add(&["--cap-add", "CAP_SYS_ADMIN"]);
        }
        let places = match self.slash {
            Slash::Image(_) => {
                add(&["--bind", &format!("{STAGE}/0"), "/"]);
                1
            }
            Slash::HostPrograms => {
                add(&["--ro-bind", "/usr", "/usr", "--dir", "/etc", "--dir", "/var/lib/dpkg"]);
                for name in ["bin", "sbin", "lib", "lib64"] {
                    add(&["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
                }
                0
            }
        };
        add(&["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run", "--chdir", "/", "--clearenv"]);
        for (at, bind) in self.binds.iter().enumerate() {
            let how = if bind.writable { "--bind" } else { "--ro-bind" };
            add(&[how, &format!("{STAGE}/{}", places + at), bind.at]);
        }
        for (name, value) in &self.env {
            add(&["--setenv", name, value]);
        }
        if !self.env.contains_key("PATH") {
            add(&["--setenv", "PATH", PATH]);
        }
        walls
    }
}

/// The list of system calls, where `bwrap` is told to read it.
fn filter_file() -> Result<NamedTempFile, BuildError> {
    let program = filter::program()
        .map_err(|error| BuildError::Confinement(format!("the list of system calls cannot be compiled: {error}")))?;
    let file = NamedTempFile::new().and_then(|mut file| file.write_all(&program).map(|()| file));
    file.map_err(BuildError::io("write the list of system calls"))
}

/// Looks at a step while it runs.
struct Watch<'a> {
    step: &'a Confined<'a>,
    before: u64,
    group: &'a StepCgroup,
    to: &'a dyn Progress,
    /// Its last lines.
    said: String,
}

impl Watch<'_> {
    fn until_end(mut self, child: &mut Child, lines: &Receiver<String>) -> Result<(), ImageError> {
        let start = Instant::now();
        let mut count_at = start + LOOK;
        loop {
            let silent =
                matches!(lines.recv_timeout(LOOK).map(|line| self.hear(&line)), Err(RecvTimeoutError::Disconnected));
            if silent {
                // Whoever closed the pipe may still run.
                sleep(LOOK);
            }
            let ended = child.try_wait().map_err(BuildError::io("wait for a step"))?;
            if let Some(status) = ended {
                // What it said last may not be read yet.
                let until = Instant::now() + LAST_WORDS;
                while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    self.hear(&line);
                }
                return self.judge(status);
            }
            self.to.waiting(start.elapsed());
            self.look(start.elapsed())?;
            // Before many files are counted others' room may be gone.
            self.check_room()?;
            if Instant::now() >= count_at {
                let counting = Instant::now();
                self.check_disk()?;
                count_at = Instant::now() + LOOK.max(counting.elapsed() * COUNTING_SHARE);
            }
        }
    }

    fn hear(&mut self, line: &str) {
        self.to.said(line);
        self.said.push_str(line);
        self.said.push('\n');
        if self.said.len() > 2 * MAX_SAID {
            self.said = last(&self.said).to_owned();
        }
    }

    fn look(&self, elapsed: Duration) -> Result<(), BuildError> {
        if self.to.stopped() {
            return Err(BuildError::Stopped);
        }
        let limits = self.step.limits;
        if elapsed > Duration::from_secs(limits.timeout_s) {
            return Err(BuildError::Slow { seconds: limits.timeout_s, said: self.last() });
        }
        match self.group.excess() {
            Some(Excess::Memory) => Err(BuildError::Memory { mib: limits.memory_mib, said: self.last() }),
            Some(Excess::Processes) => Err(BuildError::Processes { most: limits.processes, said: self.last() }),
            None => Ok(()),
        }
    }

    fn check_disk(&self) -> Result<(), ImageError> {
        let grown = disk_bytes(self.step.watched)?.saturating_sub(self.before);
        let mib = self.step.limits.disk_mib;
        if grown > mib.saturating_mul(MIB) {
            return Err(BuildError::Disk { mib, said: self.last() }.into());
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), ImageError> {
        let disk = rustix::fs::statvfs(self.step.watched.0)
            .map_err(|errno| BuildError::io("look at the disk")(errno.into()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < LEFT_MIB * MIB {
            return Err(BuildError::Full { mib: LEFT_MIB, said: self.last() }.into());
        }
        Ok(())
    }

    /// What its end means.
    fn judge(&self, status: ExitStatus) -> Result<(), ImageError> {
        self.look(Duration::ZERO)?;
        self.check_disk()?;
        self.check_room()?;
        if status.success() {
            return Ok(());
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        Err(BuildError::Ended { how, said: self.last() }.into())
    }

    fn last(&self) -> String {
        last(&self.said).trim_end().to_owned()
    }
}

/// The last whole lines of a text.
#[must_use]
pub fn last(text: &str) -> &str {
    let from = (text.len().saturating_sub(MAX_SAID)..=text.len()).find(|at| text.is_char_boundary(*at));
    let cut = &text[from.unwrap_or(text.len())..];
    if cut.len() == text.len() { cut } else { cut.split_once('\n').map_or(cut, |(_, rest)| rest) }
}

/// The next line, as text; the end of one that is too long is dropped.
fn one_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let read = from.take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
    if read == 0 {
        return None;
    }
    Some(plain_line(&line))
}

/// A line as text, without its end and without what moves a terminal's cursor, which is not for ours.
#[must_use]
pub fn plain_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// Bytes that the files below a folder take, or would without holes, whoever is at work in it: what
/// is gone meanwhile takes none. Stops counting at `most` files.
fn disk_bytes((folder, most): (&Path, u64)) -> Result<u64, BuildError> {
    let (mut bytes, mut files) = (0_u64, 0_u64);
    let mut open = vec![folder.to_owned()];
    let odd = |dir: &Path, why| {
        let path = dir.strip_prefix(folder).unwrap_or(dir).iter().take(SHOWN_PARTS).collect();
        Err(BuildError::Tree { path, why })
    };
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            // What lies there would not be counted.
            Err(error) if error.kind() == ErrorKind::InvalidFilename => {
                return odd(&dir, "has folders in it that lie deeper than a path may be long");
            }
            entries => entries,
        };
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(data) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(data.len().max(data.blocks().saturating_mul(BLOCK)));
            files += 1;
            if files > most {
                return odd(&dir, "has more files than images.max_entries");
            }
            if data.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// Says which program is missing before anything is begun.
fn check_programs() -> Result<(), BuildError> {
    PROGRAMS.iter().try_for_each(|(program, package)| installed(program, package))
}

/// Whether a program is where those that are shut in are looked for.
pub(super) fn installed(program: &str, package: &str) -> Result<(), BuildError> {
    let there = PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
    if there {
        return Ok(());
    }
    Err(BuildError::Confinement(format!("{program} is missing: install the package {package}")))
}

/// A user namespace that is there as long as this is.
struct UserNamespace(Child);

impl UserNamespace {
    fn create() -> Result<Self, BuildError> {
        // It waits for an input that never comes; without us it ends.
        let holder =
            Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let namespace = Self(holder.map_err(|error| missing("unshare", &error))?);
        let ours = fs::read_link("/proc/self/ns/user").map_err(BuildError::io("read a namespace"))?;
        let start = Instant::now();
        while fs::read_link(namespace.file("ns/user")).map_err(BuildError::io("read a namespace"))? == ours {
            if start.elapsed() > NAMESPACE {
                return Err(BuildError::Confinement("the kernel gives no user namespace".to_owned()));
            }
            sleep(PAUSE);
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(namespace.file(map), format!("0 {SHIFT} {SHIFTED_IDS}"))
                .map_err(|error| BuildError::Confinement(format!("the user namespace takes no {map}: {error}")))?;
        }
        Ok(namespace)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.id())
    }

    fn option(&self) -> OsString {
        OsStr::new(&format!("--user={}", self.file("ns/user"))).to_owned()
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn missing(program: &str, error: &std::io::Error) -> BuildError {
    BuildError::Confinement(format!("{program} does not start ({error}): install the package util-linux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_apart_for_a_file_counts_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("a")).unwrap();
        let before = disk_bytes((dir.path(), 10)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 4 * MIB).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(disk_bytes((dir.path(), 10)).unwrap() >= before + 4 * MIB);
    }

    #[test]
    fn what_lies_deeper_than_it_can_be_counted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let mut at = rustix::fs::open(dir.path(), flags, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
        let counted = disk_bytes((dir.path(), 10_000));
        drop(at);
        crate::erase::erase_folder(&dir.keep()).unwrap();
        let said = counted.unwrap_err().to_string();
        assert!(said.contains("deeper") && said.len() < 200, "{said}");
    }

    #[test]
    fn the_last_lines_are_whole_and_bounded() {
        assert_eq!(last("a\nb\n"), "a\nb\n");
        let long = (0..2000).map(|at| format!("line {at} é\n")).collect::<String>();
        let kept = last(&long);
        assert!(kept.len() <= MAX_SAID && kept.starts_with("line ") && kept.ends_with("line 1999 é\n"));
        assert!(last(&"é".repeat(MAX_SAID)).len() <= MAX_SAID);
    }

    #[test]
    fn a_line_is_text_without_what_moves_a_cursor_and_has_an_end() {
        let mut from = &b"plain\n\x1b[2Jred\r\n\xff\n"[..];
        assert_eq!(one_line(&mut from).unwrap(), "plain");
        assert_eq!(one_line(&mut from).unwrap(), "[2Jred");
        assert_eq!(one_line(&mut from).unwrap(), "\u{fffd}");
        assert!(one_line(&mut from).is_none());
        let mut endless = std::io::repeat(b'x').take(10 * MAX_LINE);
        assert_eq!(one_line(&mut BufReader::new(&mut endless)).unwrap().len(), usize::try_from(MAX_LINE).unwrap());
    }
}
