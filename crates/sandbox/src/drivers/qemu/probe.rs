//! Which accelerator this machine really has.
//!
//! That `/dev/kvm` can be opened proves nothing: there are hosts on which a guest
//! is made and then crawls for minutes. So a guest is booted, against the clock,
//! the same way as every other guest. The verdict holds until the host is booted
//! again or its QEMU or the guests' kernel changes; one that could not be come to, for
//! want of memory or of a processor, until the node starts again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use wire::v1::node::RuntimeName;
use wire::v1::pod::PROBE_ANSWER;

use super::Kernel;
use crate::{DriverFailure, process};

pub(super) const KVM: &str = "/dev/kvm";
/// What a VMM says, or how it ends, where the machine lacks something for a while: the
/// words of `strerror`, and the signal of the kernel that makes room.
const PASSING: [&str; 7] = [
    "Cannot allocate memory",
    "Too many open files",
    "Resource temporarily unavailable",
    "Device or resource busy",
    "Interrupted system call",
    "No space left on device",
    "SIGKILL",
];
/// A probe guest that had to wait for a processor for this part of its time says
/// nothing about KVM.
const WAITED_PART: u32 = 4;
/// What a probe guest may say before it is taken for a babbler.
const MAX_CONSOLE: u64 = 256 * 1024;

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

impl Accelerator {
    /// The runtime's name with this accelerator.
    #[must_use]
    pub const fn runtime(self) -> RuntimeName {
        match self {
            Self::Kvm => RuntimeName::QemuKvm,
            Self::Tcg => RuntimeName::QemuTcg,
        }
    }
}

/// Which accelerator the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM where a probe guest boots on it, else emulation.
    #[default]
    Auto,
    /// KVM, or the node does not start.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProbeResult {
    /// For which machine, kernel and VMM.
    key: String,
    pub(super) accelerator: Accelerator,
    /// Why, in one sentence.
    pub(super) reason: String,
    pub(super) tsc_khz: u64,
}

/// Where a verdict is kept and what it depends on.
pub(super) struct ProbeCache {
    path: PathBuf,
    key: String,
}

impl ProbeCache {
    pub(super) fn new(
        state: &Path,
        program: &Path,
        kernel: &Kernel,
        choice: AcceleratorChoice,
    ) -> Result<Self, DriverFailure> {
        let qemu = fs::metadata(program)?;
        let (boot, version) = (process::boot_id()?, &kernel.version);
        let device = fs::metadata(KVM).map(|kvm| format!("{:o}:{}", kvm.mode(), kvm.gid())).unwrap_or_default();
        let key = format!("{choice:?} {boot} {version} {} {} {} {device}", program.display(), qemu.len(), qemu.mtime());
        Ok(Self { path: state.join("accelerator.json"), key })
    }

    pub(super) fn recall(&self) -> Option<ProbeResult> {
        let verdict: ProbeResult = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        (verdict.key == self.key).then_some(verdict)
    }

    pub(super) fn verdict(&self, accelerator: Accelerator, reason: String, tsc_khz: u64) -> ProbeResult {
        ProbeResult { key: self.key.clone(), accelerator, reason, tsc_khz }
    }

    /// One that cannot be kept is found out again at the next start.
    pub(super) fn keep(&self, verdict: &ProbeResult) {
        let text = serde_json::to_vec_pretty(verdict).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| durable::replace("accelerator", &self.path, &text)) {
            tracing::warn!(path = %self.path.display(), %error, "the choice of the accelerator cannot be kept");
        }
    }
}

/// Why KVM is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProbeFailure {
    /// In one sentence.
    pub(super) why: String,
    /// Whether that is the machine's nature, and not its state.
    pub(super) lasts: bool,
}

impl ProbeFailure {
    pub(super) const fn lasting(why: String) -> Self {
        Self { why, lasts: true }
    }

    /// A probe guest was silent until its deadline, and for so long of it waited for a
    /// processor.
    pub(super) fn of_deadline(deadline: Duration, waited: Duration) -> Self {
        let why = format!("{KVM} opens, but a probe guest on it gave no answer within {deadline:?}");
        if waited < deadline / WAITED_PART {
            return Self::lasting(why);
        }
        Self { why: format!("{why}, of which it waited {waited:?} for a processor"), lasts: false }
    }

    /// A probe guest's VMM ended with these words; with none where it did not end.
    pub(super) fn of_end(words: &str) -> Self {
        let passes = words.is_empty() || PASSING.iter().any(|want| words.contains(want));
        Self { why: format!("a probe guest on {KVM} gave no answer: {words}"), lasts: !passes }
    }
}

/// The groups through which an unprivileged VMM may open `/dev/kvm`; else why not.
pub(super) fn kvm_groups() -> Result<Vec<u32>, String> {
    let device = fs::metadata(KVM).map_err(|_| format!("there is no {KVM}"))?;
    let (mode, group) = (device.mode() & 0o777, device.gid());
    if mode & 0o006 == 0o006 {
        return Ok(Vec::new());
    }
    if mode & 0o060 != 0o060 {
        return Err(format!(
            "{KVM} is closed to the guests' users: its mode is {mode:04o}, its group needs read and write"
        ));
    }
    // The group of root is given to nobody.
    if group == 0 {
        Err(format!("{KVM} belongs to the group root; give it a group of its own"))
    } else {
        Ok(vec![group])
    }
}

/// Why a probe guest is not believed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It took too long.
    Deadline,
    /// It, or its VMM, ended.
    End,
}

/// Listens on the probe guest's console for its answer.
pub(super) async fn listen(console: &Path, deadline: Duration) -> Result<Duration, NoAnswer> {
    let since = Instant::now();
    let said = timeout(deadline, async { heard(UnixStream::connect(console).await?).await });
    match said.await {
        Ok(Ok(true)) => Ok(since.elapsed()),
        Ok(Ok(false) | Err(_)) => Err(NoAnswer::End),
        Err(_) => Err(NoAnswer::Deadline),
    }
}

async fn heard(stream: impl AsyncRead + Unpin) -> std::io::Result<bool> {
    let (mut said, mut stream) = (Vec::new(), stream.take(MAX_CONSOLE));
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok(false);
        }
        said.extend_from_slice(&piece[..read]);
        if said.windows(PROBE_ANSWER.len()).any(|words| words == PROBE_ANSWER.as_bytes()) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_is_heard_across_two_pieces_and_amid_noise() {
        let said = tokio_pieces(&["boot noise palatine-pro", "be-ok\r\n"]);
        assert!(heard(said).await.unwrap());
        assert!(!heard(tokio_pieces(&["kernel panic"])).await.unwrap());
    }

    #[test]
    fn fault_1_5_only_what_says_something_about_kvm_lasts() {
        let ended = |how: &str| format!("the VMM ended ({how})");
        for (words, lasts) in [
            (ended("exit status: 1) and said: Could not access KVM kernel module: Permission denied"), true),
            (ended("exit status: 1) and said: kvm_init_vcpu failed: Cannot allocate memory"), false),
            (ended("exit status: 1) and said: could not fork: Resource temporarily unavailable"), false),
            (ended("exit status: 1) and said: eventfd: Too many open files"), false),
            (ended("signal: 9 (SIGKILL)"), false),
            (ended("signal: 11 (SIGSEGV)"), true),
            (String::new(), false),
        ] {
            assert_eq!(ProbeFailure::of_end(&words).lasts, lasts, "{words}");
        }
        let second = Duration::from_secs(1);
        assert!(ProbeFailure::of_deadline(5 * second, second).lasts);
        assert!(!ProbeFailure::of_deadline(5 * second, 2 * second).lasts);
    }

    fn tokio_pieces(pieces: &[&str]) -> tokio::io::DuplexStream {
        let (mut guest, host) = tokio::io::duplex(8);
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        tokio::spawn(async move {
            for piece in pieces {
                tokio::io::AsyncWriteExt::write_all(&mut guest, piece.as_bytes()).await.unwrap();
            }
        });
        host
    }

    #[test]
    fn a_verdict_is_forgotten_when_the_kernel_changes() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = |version: &str| Kernel { vmlinux: "/v".into(), initramfs: "/i".into(), version: version.into() };
        let memory = |version: &str| {
            ProbeCache::new(dir.path(), Path::new("/bin/sh"), &kernel(version), AcceleratorChoice::Auto).unwrap()
        };
        let first = memory("1");
        first.keep(&first.verdict(Accelerator::Tcg, "because".into(), 1));
        assert_eq!(memory("1").recall().unwrap().reason, "because");
        assert_eq!(memory("2").recall(), None);
    }

    #[test]
    fn fault_1_6_a_verdict_that_cannot_be_written_down_holds_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        // Where it is written before it has its name.
        fs::create_dir(dir.path().join("accelerator.half")).unwrap();
        let memory = ProbeCache { path: dir.path().join("accelerator.json"), key: "key".into() };
        memory.keep(&memory.verdict(Accelerator::Tcg, "because".into(), 1));
        assert_eq!(memory.recall(), None);
    }
}
