//! The journal's file.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::state::{JournalHeader, JournalMark, JournalState, VERSION};
use crate::ledger::random;

/// Bytes of a journal's name.
const NAME_BYTES: usize = 8;

/// The file, open at its end.
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    /// How much of it is known to be good.
    length: u64,
}

impl JournalFile {
    /// Opens the journal, cuts off a torn end, or starts a new one. One that is damaged
    /// before its end is set aside whole: what comes after the damage may be counted
    /// already, under numbers that would be given a second time.
    pub(super) fn open(path: &Path) -> io::Result<(Self, JournalState)> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::start(path),
            Err(error) => return Err(error),
        };
        if let Some(found) = later_form(&text) {
            let why = format!(
                "{} was written by a later version of this program (its form is {found}, ours is {VERSION}): start that \
                 version, which hands the marks out, or move the file away to begin anew without them",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let Some((state, good)) = read(&text).filter(|(_, good)| is_whole(&text, *good)) else {
            let aside = durable::set_aside(path)?;
            tracing::error!(
                path = %path.display(), aside = %aside.display(),
                "the metering journal is damaged: it is set aside and a new one is begun. What nobody has fetched of \
                 it is not billed; to bill it, put a backup in its place and start hypercore again"
            );
            return Self::start(path);
        };
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        if good < text.len() as u64 {
            tracing::warn!(bytes = text.len() as u64 - good, "the metering journal had a torn end");
            file.set_len(good)?;
            file.sync_all()?;
        }
        if state.version() < VERSION {
            // Its first line says so before there is a mark that earlier programs cannot read.
            let state = state.renewed();
            return Ok((Self::write(path, &state)?, state));
        }
        file.seek(SeekFrom::Start(good))?;
        Ok((Self { path: path.to_owned(), file, length: good }, state))
    }

    fn start(path: &Path) -> io::Result<(Self, JournalState)> {
        let mut name = [0; NAME_BYTES];
        random(&mut name)?;
        let state = JournalState::new(JournalHeader::new(hex::encode(name)));
        Ok((Self::write(path, &state)?, state))
    }

    fn write(path: &Path, state: &JournalState) -> io::Result<Self> {
        let half = path.with_extension("half");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        let mut text = String::new();
        for line in state.lines() {
            text.push_str(&line?);
            text.push('\n');
        }
        durable::failpoint("marks", "opened");
        file.write_all(text.as_bytes())?;
        durable::failpoint("marks", "written");
        file.sync_all()?;
        durable::failpoint("marks", "synced");
        durable::move_to("marks", &half, path)?;
        Ok(Self { path: path.to_owned(), file, length: text.len() as u64 })
    }

    /// Adds marks and waits for the disk. After a failure nothing was added.
    pub(super) fn append(&mut self, marks: &[JournalMark]) -> io::Result<()> {
        let mut text = String::new();
        for mark in marks {
            text.push_str(&serde_json::to_string(mark)?);
            text.push('\n');
        }
        // Over whatever a failure has left behind the good part.
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        // In two halves, so that a test finds one of them.
        let (first, second) = text.as_bytes().split_at(text.len() / 2);
        self.file.write_all(first)?;
        durable::failpoint("marks", "torn");
        self.file.write_all(second)?;
        durable::failpoint("marks", "added");
        self.file.sync_data()?;
        durable::failpoint("marks", "kept");
        self.length += text.len() as u64;
        Ok(())
    }

    /// Writes the file anew, without what was fetched.
    pub(super) fn compact(&mut self, state: &JournalState) -> io::Result<()> {
        *self = Self::write(&self.path, state)?;
        Ok(())
    }
}

/// The form of a journal that a later program wrote.
fn later_form(text: &[u8]) -> Option<u64> {
    let head = text.split(|byte| *byte == b'\n').next()?;
    let form = serde_json::from_slice::<serde_json::Value>(head).ok()?.get("version")?.as_u64()?;
    (form > u64::from(VERSION)).then_some(form)
}

/// Whether all finished lines are good. A last line without its end is only a write cut
/// short.
fn is_whole(text: &[u8], good: u64) -> bool {
    let rest = usize::try_from(good).ok().and_then(|good| text.get(good..)).unwrap_or_default();
    !rest.contains(&b'\n')
}

/// The state, and how many bytes of the file are good. A line counts when it is
/// finished, can be read, and has the next number; what was synced always does.
pub(crate) fn read(text: &[u8]) -> Option<(JournalState, u64)> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let head = lines.next()?;
    let mut state = JournalState::new(serde_json::from_slice(head).ok().filter(JournalHeader::may_go_on)?);
    let mut good = head.len() as u64;
    for line in lines {
        match serde_json::from_slice::<JournalMark>(line) {
            Ok(mark) if state.take(mark) => good += line.len() as u64,
            _ => break,
        }
    }
    Some((state, good))
}

#[cfg(test)]
mod tests {
    use domain::{MarkKind, RunId, UnixMillis};

    use super::*;

    fn add(file: &mut JournalFile, state: &mut JournalState, kind: MarkKind) {
        let mark = JournalMark::Agent(state.next(RunId::from_bits(7), kind, UnixMillis(9)).unwrap());
        file.append(&[mark]).unwrap();
        assert!(state.take(mark));
    }

    #[test]
    fn a_file_cut_at_any_byte_gives_all_whole_marks_and_goes_on_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, mut state) = JournalFile::open(&path).unwrap();
        for kind in [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready] {
            add(&mut file, &mut state, kind);
        }
        let whole = std::fs::read(&path).unwrap();
        let head = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in head..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut file, mut state) = JournalFile::open(&path).unwrap();
            let lines = whole[head..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!(state.last(), lines);
            let kind = if lines == 1 { MarkKind::Ready } else { MarkKind::Booting };
            if state.next(RunId::from_bits(7), kind, UnixMillis(9)).is_some() {
                add(&mut file, &mut state, kind);
                assert_eq!(JournalFile::open(&path).unwrap().1, state);
            }
        }
    }

    #[test]
    fn a_compacted_file_keeps_its_name_its_numbers_and_how_each_agent_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, mut state) = JournalFile::open(&path).unwrap();
        add(&mut file, &mut state, MarkKind::Booting);
        add(&mut file, &mut state, MarkKind::Ready);
        state.fetched(2);
        file.compact(&state).unwrap();
        add(&mut file, &mut state, MarkKind::Unready);
        let (_, again) = JournalFile::open(&path).unwrap();
        assert_eq!(again, state);
        assert_eq!((again.last(), again.standing(RunId::from_bits(7))), (3, Some(MarkKind::Unready)));
    }

    #[test]
    fn a_file_that_is_no_journal_is_put_aside_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let first = JournalFile::open(&path).unwrap().1;
        std::fs::write(&path, "noise\n").unwrap();
        let second = JournalFile::open(&path).unwrap().1;
        assert_ne!(first.journal(), second.journal());
        assert!(path.with_extension("broken").exists());
    }

    #[test]
    fn a_journal_of_the_last_version_goes_on_and_one_of_a_later_version_is_left_alone() {
        let before = include_bytes!("../../tests/formats/marks-1");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        std::fs::write(&path, before).unwrap();
        let (mut file, mut state) = JournalFile::open(&path).unwrap();
        let run = "a1b2c3d4-e5f6-7890".parse().unwrap();
        assert_eq!(
            (state.journal(), state.last(), state.standing(run)),
            ("36ba3ece2a9c4a21", 2, Some(MarkKind::Ready))
        );
        add(&mut file, &mut state, MarkKind::Booting);
        file.compact(&state).unwrap();
        let ours = std::fs::read_to_string(&path).unwrap();
        assert_eq!(JournalFile::open(&path).unwrap().1, state);
        let later = ours.replacen("\"version\":2", "\"version\":3", 1);
        assert_ne!(ours, later);
        std::fs::write(&path, &later).unwrap();
        let refused = JournalFile::open(&path).err().unwrap().to_string();
        assert!(refused.contains("later version"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), later);
    }

    #[test]
    fn fault_3_4_a_journal_that_has_no_number_left_is_no_journal() {
        for fetched in [u64::MAX, u64::MAX - 1, 1 << 63] {
            let head = format!("{{\"journal\":\"00\",\"fetched\":{fetched},\"standing\":{{}}}}\n");
            assert_eq!(read(head.as_bytes()), None);
        }
    }

    #[test]
    fn fault_1_2_a_journal_damaged_in_its_middle_is_set_aside_and_none_of_its_numbers_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, mut state) = JournalFile::open(&path).unwrap();
        for kind in [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready] {
            add(&mut file, &mut state, kind);
        }
        for round in 0..2 {
            let whole = std::fs::read(&path).unwrap();
            let mut damaged = whole.clone();
            let second = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
            damaged[second] = b'#';
            std::fs::write(&path, &damaged).unwrap();
            let anew = JournalFile::open(&path).unwrap().1;
            assert_ne!(anew.journal(), state.journal(), "the gateway has counted marks of that name");
            assert_eq!((anew.last(), anew.standing(RunId::from_bits(7))), (0, None));
            let mut aside = path.clone().into_os_string();
            aside.push([".broken", ".broken.1"][round]);
            assert_eq!(std::fs::read(aside).unwrap(), damaged);
            std::fs::write(&path, &whole).unwrap();
        }
    }
}
