//! A containerd of our own: started with the driver, kept while it lives, gone with it. The
//! containers are none of its children, and go on without it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use domain::Backoff;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, getrlimit, kill_process, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setrlimit,
};

use super::OciRuntime;
use super::client::{MAX_ANSWER, NAMESPACE};
use crate::{DriverFailure, files};

/// The program, and what it starts for each container; both of Debian's package `containerd`.
pub(super) const PROGRAM: &str = "containerd";
pub(super) const SHIM: &str = "containerd-shim-runc-v2";
/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 107;
/// Between its death and its next start.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(10) };
/// One that ran for as long has started well.
const WELL: Duration = Duration::from_secs(30);
/// How long it may take to end when it is asked.
const END: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// Files that a container's process may have open, where the node may allow as many.
const OPEN_FILES: u64 = 64 * 1024;
/// Bytes of a line of what it writes that are passed on at once.
const LINE: u64 = 8 * 1024;

/// Parts of containerd that are not needed, and that would reach out of our folder or need what
/// few machines have.
const WITHOUT: &[&str] = &[
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// Where it has its things.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn under(state: &Path) -> Result<Self, DriverFailure> {
        let place = Self::named(state)?;
        files::private_dir(&place.0)?;
        Ok(place)
    }

    /// Where it would be; nothing is made.
    pub(super) fn named(state: &Path) -> Result<Self, DriverFailure> {
        let place = Self(state.join("containerd"));
        let longest = place.0.join("grpc.sock.ttrpc");
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(DriverFailure::Missing(format!("the path {} is too long for a socket", longest.display())));
        }
        Ok(place)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("grpc.sock")
    }

    /// Where runc, or crun, has its own records.
    pub(super) fn runtime_root(&self) -> PathBuf {
        self.0.join("runtime")
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The bundle of a container.
    pub(super) fn bundle(&self, id: &str) -> PathBuf {
        self.bundles_dir().join(id)
    }

    /// The ids of the containers that have one.
    pub(super) fn bundles(&self) -> io::Result<Vec<String>> {
        files::names(&self.bundles_dir())
    }

    fn bundles_dir(&self) -> PathBuf {
        self.0.join("state/io.containerd.runtime.v2.task").join(NAMESPACE)
    }

    /// A wrapper of crun where the hierarchy of version 2 stands beside those of version 1, which
    /// crun refuses: there it looks at a copy of the mounts without it.
    pub(super) fn crun(&self, crun: &Path) -> Result<PathBuf, DriverFailure> {
        let script = format!(
            "#!/bin/sh\n[ -d /sys/fs/cgroup/unified ] || exec {crun} \"$@\"\n\
             exec unshare --mount --propagation slave sh -c \
             'umount /sys/fs/cgroup/unified && exec {crun} \"$@\"' crun \"$@\"\n",
            crun = crun.display()
        );
        self.wrapper("crun", &script)
    }

    /// A wrapper of gVisor's program with what it is always told: its own network stack, files
    /// written through to the layer, and no socket of the host's.
    pub(super) fn runsc(&self, runsc: &Path) -> Result<PathBuf, DriverFailure> {
        let flags = "--platform=systrap --network=sandbox --overlay2=none --host-uds=none";
        self.wrapper("runsc", &format!("#!/bin/sh\nexec {} {flags} \"$@\"\n", runsc.display()))
    }

    fn wrapper(&self, name: &str, script: &str) -> Result<PathBuf, DriverFailure> {
        let wrapper = self.0.join(name);
        write_anew(name, &wrapper, script)?;
        fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(wrapper)
    }

    fn write_config(&self) -> io::Result<()> {
        let text = config(&self.0, WITHOUT);
        write_anew("containerd", &self.config(), &text)
    }

    /// Removes all of it; nothing may run any more.
    pub(super) fn clear(&self) -> io::Result<()> {
        // gVisor holds an empty network namespace there, for those that open files for its kernels.
        let empty = self.runtime_root().join(OciRuntime::Gvisor.program()).join(NAMESPACE).join("null-netns");
        match unmount(&empty, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        files::remove_dir(&self.0)
    }
}

/// Writes a file where it does not say that already: a node whose disk is full starts all the same.
fn write_anew(what: &str, path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    durable::replace(what, path, text.as_bytes())
}

fn config(place: &Path, without: &[&str]) -> String {
    let path = |name: &str| toml_string(&place.join(name).to_string_lossy());
    let without: Vec<String> = without.iter().map(|name| toml_string(name)).collect();
    format!(
        "version = 2\nroot = {root}\nstate = {state}\ndisabled_plugins = [{without}]\n\n\
         [grpc]\naddress = {grpc}\nmax_send_message_size = {MAX_ANSWER}\n\n[ttrpc]\naddress = {ttrpc}\n\n[debug]\naddress = \"\"\nlevel = \"warn\"\n\n\
         [metrics]\naddress = \"\"\n",
        root = path("root"),
        state = path("state"),
        without = without.join(", "),
        grpc = path("grpc.sock"),
        ttrpc = path("grpc.sock.ttrpc"),
    )
}

/// JSON's strings are TOML's too.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The daemon, kept by a thread of its own until this is dropped.
pub(super) struct Daemon {
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts it, and again whenever it dies.
    pub(super) fn keep(place: &Place, program: PathBuf) -> Result<Self, DriverFailure> {
        place.write_config()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, config) = (Arc::clone(&stop), place.config());
        // It dies with the thread that has started it, and so with this program, however that ends.
        let keeper = thread::Builder::new().name("containerd".to_owned()).spawn(move || {
            run(&program, &config, &stopped);
        })?;
        Ok(Self { stop, keeper: Some(keeper) })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // It has said why, if it is broken.
            let _ = keeper.join();
        }
    }
}

/// Files that a container's process may have open. It inherits that from containerd, as all that is started here, which
/// needs less itself.
pub(super) fn open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES)
}

fn run(program: &Path, config: &Path, stop: &AtomicBool) {
    let mut pauses = AGAIN.pauses();
    while !stop.load(Ordering::Acquire) {
        let since = Instant::now();
        let ended = match start(program, config) {
            Ok(child) => watch(child, stop),
            Err(error) => error.to_string(),
        };
        if stop.load(Ordering::Acquire) {
            return;
        }
        if since.elapsed() > WELL {
            pauses.succeeded();
        }
        metrics::counter!("hypercore_containerd_restarts_total").increment(1);
        tracing::error!(ended, "containerd has ended; it is started again, and its containers run on");
        thread::park_timeout(pauses.failed());
    }
}

#[expect(unsafe_code, reason = "a child that ends with its parent has to say so itself")]
fn start(program: &Path, config: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).current_dir("/").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let this = getpid();
    let files = Some(open_files());
    let before = move || {
        setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Whoever ended before that has sent none.
        if getppid() == Some(this) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(before) };
    command.spawn()
}

/// Passes on what it writes, and keeps the last of it.
fn relay(said: ChildStderr, last: &Mutex<String>) {
    let (mut said, mut line) = (BufReader::new(said), Vec::new());
    while said.by_ref().take(LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        tracing::debug!(said = text, "containerd");
        *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        line.clear();
    }
}

/// Waits for its end, or ends it. What it has started may hold its output open for longer.
fn watch(mut child: Child, stop: &AtomicBool) -> String {
    let last = Arc::new(Mutex::new(String::new()));
    if let Some(said) = child.stderr.take() {
        let last = Arc::clone(&last);
        thread::spawn(move || relay(said, &last));
    }
    let status = ended(child, stop);
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_empty() { status } else { format!("{status}, and said last: {last}") }
}

fn ended(mut child: Child, stop: &AtomicBool) -> String {
    let gone = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => {}
            Err(error) => return error.to_string(),
        }
        if stop.load(Ordering::Acquire) {
            if let Ok(gone) = &gone {
                let _ = pidfd_send_signal(gone, Signal::TERM);
            }
            let until = Instant::now() + END;
            while Instant::now() < until {
                if let Ok(Some(status)) = child.try_wait() {
                    return status.to_string();
                }
                thread::sleep(PAUSE);
            }
            let _ = child.kill();
            return child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        }
        // Both news come by a wake-up or are found a little later.
        thread::park_timeout(Duration::from_millis(100));
    }
}

/// Kills the shims of a container: where containerd is stuck with one, nothing else ends it.
pub(super) fn kill_shims(place: &Place, id: &str) -> io::Result<usize> {
    let (address, mut killed) = (place.socket().to_string_lossy().into_owned(), 0);
    for name in files::names(Path::new("/proc"))? {
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
        // It may have ended meanwhile.
        let line = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_shim = words.first().is_some_and(|program| program.ends_with(SHIM.as_bytes()));
        if is_shim && words.contains(&id.as_bytes()) && words.contains(&address.as_bytes()) {
            killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
    }
    Ok(killed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_it_lies_in_its_folder() {
        let text = config(Path::new("/var/lib/node \"1\"/containerd"), WITHOUT);
        assert!(text.contains(r#"root = "/var/lib/node \"1\"/containerd/root""#), "{text}");
        assert!(text.contains(r#"address = "/var/lib/node \"1\"/containerd/grpc.sock""#), "{text}");
        assert!(text.contains("io.containerd.grpc.v1.cri") && !text.contains("/run/") && !text.contains("/opt/"));
    }

    #[test]
    fn what_is_written_already_is_not_written_again() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::under(state.path()).unwrap();
        let write = |runsc: &str| {
            place.write_config().unwrap();
            place.runsc(Path::new(runsc)).unwrap();
        };
        write("/one");
        // As on a disk that takes nothing: where a file is written before it has its name.
        for half in ["runsc.half", "config.half"] {
            fs::create_dir(place.0.join(half)).unwrap();
        }
        write("/one");
        assert!(place.runsc(Path::new("/two")).is_err());
    }

    #[test]
    fn a_folder_with_a_path_too_long_for_a_socket_is_refused() {
        let deep = Path::new("/tmp").join("a".repeat(100));
        let error = Place::under(&deep).unwrap_err();
        assert!(error.to_string().contains("too long for a socket"), "{error}");
        assert!(!deep.exists());
    }
}
