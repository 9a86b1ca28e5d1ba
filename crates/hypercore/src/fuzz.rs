//! What is fuzzed of this crate: what a guest prints, and what a crash leaves in our files.

use domain::RunId;
use wire::v1::pod::LogLine;

use crate::guest::LineSplitter;
use crate::ledger::SandboxRecord;
use crate::logs::AgentLog;

/// Bytes of a log here, so that it is rotated soon.
const LOG_BYTES: u64 = 4 << 10;
/// Whose record is read.
const AGENT: RunId = RunId::from_bits(7);

/// What `pod` sends of an agent's output: cut into lines however it comes, and written
/// down once, also by a daemon that starts anew.
///
/// # Panics
/// When the bytes break that.
pub fn lines(bytes: &[u8]) {
    let whole = cut(bytes, bytes.len());
    assert_eq!(cut(bytes, 1), whole, "how the bytes arrive changes nothing");
    let dir = tempfile::tempdir().expect("a folder can be made");
    let open = || AgentLog::open(dir.path(), LOG_BYTES).expect("what was written is read");
    let (mut log, mut last) = (open(), 0);
    for line in whole.iter().filter_map(|line| serde_json::from_slice::<LogLine>(line).ok()) {
        let added = log.add(1, &line).is_ok();
        assert!(log.after(1) >= last, "no number comes twice");
        assert!(!added || log.after(1) == last.max(line.seq), "a line has its own number");
        last = log.after(1);
    }
    assert_eq!(open().after(1), last, "the next daemon goes on where this one was");
}

fn cut(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (mut lines, mut found) = (LineSplitter::default(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        lines.push(piece);
        found.extend(std::iter::from_fn(|| lines.next()).map(|line| line.to_vec()));
    }
    assert_eq!(found.concat().len() + lines.unfinished(), bytes.len(), "no byte is lost");
    found
}

/// The metering journal: what of it can be read is read again alike.
///
/// # Panics
/// When the bytes break that.
pub fn journal(bytes: &[u8]) {
    let Some((state, good)) = crate::journal::read(bytes) else { return };
    let good = usize::try_from(good).expect("it is a length");
    assert_eq!(crate::journal::read(&bytes[..good]), Some((state.clone(), good as u64)), "the good part is good");
    let marks = bytes[..good].split(|byte| *byte == b'\n').count() - 2;
    assert_eq!(state.waiting(), marks, "a line is a mark");
}

/// A sandbox' record: what is read and written is read again.
///
/// # Panics
/// When the bytes break that.
pub fn record(bytes: &[u8]) {
    let Ok(record) = SandboxRecord::parse(bytes, AGENT) else { return };
    let written = serde_json::to_vec(&record).expect("a record can be written");
    assert_eq!(SandboxRecord::parse(&written, AGENT), Ok(record));
}
