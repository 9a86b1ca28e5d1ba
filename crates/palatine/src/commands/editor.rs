//! A line that is typed at a terminal: edited as in other shells, and remembered in a file that
//! its owner alone reads.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use console::{Key, Term};
use unicode_width::UnicodeWidthChar;

use crate::terminal::RawTerminal;

/// Lines that are remembered.
const MAX_HISTORY: usize = 1_000;
/// Lines in the file, at which it is cut down to those.
const MAX_KEPT: usize = 4_000;
/// Bytes of a line that is typed.
const MAX_LINE: usize = 64 * 1024;

/// Ctrl-D, -K, -U and -W, as terminals send them.
const CTRL_D: char = '\x04';
const CTRL_K: char = '\x0b';
const CTRL_U: char = '\x15';
const CTRL_W: char = '\x17';

/// What a key has made of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// It goes on.
    Editing,
    /// It is done.
    Line(String),
    /// Ctrl-C: what was typed is not meant.
    TakenBack,
    /// Ctrl-D on an empty line: no more come.
    End,
}

/// What is typed, and what was typed before.
#[derive(Debug, Default)]
struct LineBuffer {
    text: Vec<char>,
    /// Before which character the next one comes.
    cursor: usize,
    history: VecDeque<String>,
    /// Which line of the history is shown; past its end, the one that is being typed.
    at: usize,
    /// The one that is being typed, while another one is shown.
    draft: Vec<char>,
}

impl LineBuffer {
    fn new(history: VecDeque<String>) -> Self {
        Self { history, ..Self::default() }
    }

    /// Begins a line with this text.
    fn begin(&mut self, text: &str) {
        self.text = text.chars().filter(|character| !character.is_control()).collect();
        (self.cursor, self.at) = (self.text.len(), self.history.len());
        self.draft.clear();
    }

    fn press(&mut self, key: Key) -> Typed {
        match key {
            Key::Enter => return Typed::Line(self.text.iter().collect()),
            Key::CtrlC => return Typed::TakenBack,
            Key::Char(CTRL_D) if self.text.is_empty() => return Typed::End,
            Key::Char(CTRL_D) | Key::Del => self.remove(self.cursor..self.cursor + 1),
            Key::Backspace => self.remove(self.cursor.saturating_sub(1)..self.cursor),
            Key::Char(CTRL_U) => self.remove(0..self.cursor),
            Key::Char(CTRL_K) => self.remove(self.cursor..self.text.len()),
            Key::Char(CTRL_W) => self.remove(self.word()..self.cursor),
            Key::ArrowLeft => self.cursor = self.cursor.saturating_sub(1),
            Key::ArrowRight => self.cursor = self.text.len().min(self.cursor + 1),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::ArrowUp => self.show(self.at.saturating_sub(1)),
            Key::ArrowDown => self.show(self.history.len().min(self.at + 1)),
            Key::Tab => self.insert(' '),
            Key::Char(character) if !character.is_control() => self.insert(character),
            _ => {}
        }
        Typed::Editing
    }

    fn insert(&mut self, character: char) {
        if self.text.len() < MAX_LINE / character.len_utf8() {
            self.text.insert(self.cursor, character);
            self.cursor += 1;
        }
    }

    /// Takes these characters away, as far as they are there.
    fn remove(&mut self, which: std::ops::Range<usize>) {
        let end = which.end.min(self.text.len());
        let start = which.start.min(end);
        self.text.drain(start..end);
        self.cursor = start;
    }

    /// Where the word before the cursor begins.
    fn word(&self) -> usize {
        let before = &self.text[..self.cursor];
        let end = before.iter().rposition(|character| !character.is_whitespace()).map_or(0, |last| last + 1);
        before[..end].iter().rposition(|character| character.is_whitespace()).map_or(0, |last| last + 1)
    }

    /// Shows a line of the history, or the one that is being typed.
    fn show(&mut self, at: usize) {
        if at == self.at {
            return;
        }
        if self.at == self.history.len() {
            self.draft = std::mem::take(&mut self.text);
        }
        self.at = at;
        self.text = self.history.get(at).map_or_else(|| self.draft.clone(), |line| line.chars().collect());
        self.cursor = self.text.len();
    }

    /// Notes a line; `false` if it says nothing new.
    fn remember(&mut self, line: &str) -> bool {
        if line.trim().is_empty() || self.history.back().is_some_and(|last| last == line) {
            return false;
        }
        self.history.push_back(line.to_owned());
        if self.history.len() > MAX_HISTORY {
            self.history.pop_front();
        }
        true
    }
}

/// Where a text ends that begins at the left of a screen: how many rows below, and in which column.
fn end_of(text: impl Iterator<Item = char>, columns: usize) -> (usize, usize) {
    let (mut row, mut column) = (0, 0);
    for width in text.filter_map(UnicodeWidthChar::width) {
        if column + width > columns {
            (row, column) = (row + 1, 0);
        }
        column += width;
        if column == columns {
            (row, column) = (row + 1, 0);
        }
    }
    (row, column)
}

/// A line on the screen.
struct ShownLine<'a, W> {
    out: W,
    prompt: &'a str,
    columns: usize,
    /// How many rows below its first one the cursor is.
    row: usize,
}

impl<W: Write> ShownLine<'_, W> {
    /// Writes the line anew, and puts the cursor where it belongs.
    fn draw(&mut self, line: &LineBuffer) -> io::Result<()> {
        let text: String = line.text.iter().collect();
        self.up(self.row)?;
        write!(self.out, "\r\x1b[J{}{text}", self.prompt)?;
        let place = |count: usize| end_of(self.prompt.chars().chain(line.text[..count].iter().copied()), self.columns);
        let (end, cursor) = (place(line.text.len()), place(line.cursor));
        // A terminal goes on to the next row when something is written there.
        if end.0 > 0 && end.1 == 0 {
            self.out.write_all(b"\r\n")?;
        }
        self.up(end.0 - cursor.0)?;
        self.out.write_all(b"\r")?;
        if cursor.1 > 0 {
            write!(self.out, "\x1b[{}C", cursor.1)?;
        }
        self.row = cursor.0;
        self.out.flush()
    }

    fn up(&mut self, rows: usize) -> io::Result<()> {
        if rows > 0 { write!(self.out, "\x1b[{rows}A") } else { Ok(()) }
    }

    /// Goes on below the line.
    fn leave(mut self, line: &mut LineBuffer) -> io::Result<()> {
        line.cursor = line.text.len();
        self.draw(line)?;
        self.out.write_all(b"\r\n")?;
        self.out.flush()
    }
}

/// Where lines are typed.
pub(crate) struct LineEditor {
    line: LineBuffer,
    file: PathBuf,
}

impl LineEditor {
    /// Remembers what was typed before, in this file.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let named = || format!("open {}", file.display());
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(named)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(file).with_context(named)?;
        let text = String::from_utf8_lossy(&fs::read(file).with_context(named)?).into_owned();
        let kept = text.lines().count();
        let history: VecDeque<String> =
            text.lines().skip(kept.saturating_sub(MAX_HISTORY)).map(str::to_owned).collect();
        if kept > MAX_KEPT {
            let lines: String = history.iter().map(|line| format!("{line}\n")).collect();
            durable::replace("chat history", file, lines.as_bytes()).with_context(named)?;
        }
        Ok(Self { line: LineBuffer::new(history), file: file.to_owned() })
    }

    /// Reads a line behind this prompt; it begins with this text.
    pub(crate) fn read(&mut self, prompt: &str, begun: &str, columns: usize) -> io::Result<Typed> {
        let _raw = RawTerminal::keys()?;
        let keys = Term::stdout();
        self.line.begin(begun);
        let mut shown = ShownLine { out: io::stdout(), prompt, columns, row: 0 };
        let typed = loop {
            shown.draw(&self.line)?;
            let key = match keys.read_key_raw() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Typed::End,
                key => key?,
            };
            match self.line.press(key) {
                Typed::Editing => {}
                typed @ (Typed::Line(_) | Typed::TakenBack | Typed::End) => break typed,
            }
        };
        shown.leave(&mut self.line)?;
        if let Typed::Line(line) = &typed {
            self.remember(line);
        }
        Ok(typed)
    }

    /// Keeps what was typed. That it cannot be kept ends no conversation.
    fn remember(&mut self, line: &str) {
        if !self.line.remember(line) {
            return;
        }
        let kept = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file);
        if let Err(error) = kept.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            eprintln!("warning: {}: what is typed is not kept: {error}", self.file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn typed(line: &mut LineBuffer, keys: &str) {
        for key in keys.chars() {
            assert_eq!(line.press(Key::Char(key)), Typed::Editing);
        }
    }

    fn text(line: &LineBuffer) -> (String, usize) {
        (line.text.iter().collect(), line.cursor)
    }

    fn pressed(line: &mut LineBuffer, keys: &[Key]) -> (String, usize) {
        for key in keys {
            assert_eq!(line.press(key.clone()), Typed::Editing);
        }
        text(line)
    }

    #[test]
    fn a_line_is_edited_at_its_cursor() {
        let mut line = LineBuffer::default();
        line.begin("");
        typed(&mut line, "hällo wörld");
        assert_eq!(pressed(&mut line, &[Key::ArrowLeft, Key::Backspace]), ("hällo wörd".to_owned(), 9));
        assert_eq!(pressed(&mut line, &[Key::Char('l')]), ("hällo wörld".to_owned(), 10));
        assert_eq!(pressed(&mut line, &[Key::Home, Key::Del, Key::Char('H')]), ("Hällo wörld".to_owned(), 1));
        assert_eq!(pressed(&mut line, &[Key::End, Key::ArrowRight]), ("Hällo wörld".to_owned(), 11));
        assert_eq!(pressed(&mut line, &[Key::Char(CTRL_W)]), ("Hällo ".to_owned(), 6));
        assert_eq!(pressed(&mut line, &[Key::Char(CTRL_W)]), (String::new(), 0));
        typed(&mut line, "one two");
        assert_eq!(pressed(&mut line, &[Key::Home, Key::ArrowRight, Key::Char(CTRL_K)]), ("o".to_owned(), 1));
        assert_eq!(pressed(&mut line, &[Key::Char(CTRL_U), Key::Backspace, Key::Del]), (String::new(), 0));
        // What is no text is none here either.
        assert_eq!(pressed(&mut line, &[Key::Char('\x07'), Key::Escape, Key::Unknown, Key::Tab]), (" ".to_owned(), 1));
    }

    #[test]
    fn a_line_ends_by_enter_ctrl_c_or_ctrl_d_on_an_empty_one() {
        let mut line = LineBuffer::default();
        line.begin("again");
        assert_eq!(line.press(Key::Enter), Typed::Line("again".to_owned()));
        assert_eq!(line.press(Key::CtrlC), Typed::TakenBack);
        assert_eq!(pressed(&mut line, &[Key::Home, Key::Char(CTRL_D)]), ("gain".to_owned(), 0));
        line.begin("");
        assert_eq!(line.press(Key::Char(CTRL_D)), Typed::End);
    }

    #[test]
    fn earlier_lines_are_found_again_and_the_one_that_was_begun_too() {
        let mut line = LineBuffer::new(VecDeque::from(["first".to_owned()]));
        assert!(line.remember("second") && !line.remember("second") && !line.remember("  "));
        line.begin("");
        typed(&mut line, "third");
        assert_eq!(pressed(&mut line, &[Key::ArrowUp]).0, "second");
        assert_eq!(pressed(&mut line, &[Key::ArrowUp, Key::ArrowUp]).0, "first");
        assert_eq!(pressed(&mut line, &[Key::ArrowDown, Key::ArrowDown, Key::ArrowDown]).0, "third");
        for n in 0..2 * MAX_HISTORY {
            line.remember(&n.to_string());
        }
        assert_eq!((line.history.len(), line.history[0].as_str()), (MAX_HISTORY, "1000"));
    }

    #[test]
    fn the_cursor_is_put_where_it_belongs_on_however_many_rows() {
        assert_eq!(end_of("ab".chars(), 4), (0, 2));
        assert_eq!(end_of("abcd".chars(), 4), (1, 0));
        assert_eq!(end_of("abc界".chars(), 4), (1, 2));
        let mut line = LineBuffer::default();
        line.begin("abcdef");
        line.cursor = 1;
        let mut shown = ShownLine { out: Vec::new(), prompt: "> ", columns: 4, row: 0 };
        shown.draw(&line).unwrap();
        assert_eq!(String::from_utf8(std::mem::take(&mut shown.out)).unwrap(), "\r\x1b[J> abcdef\r\n\x1b[2A\r\x1b[3C");
        assert_eq!(shown.row, 0);
        line.cursor = 5;
        shown.draw(&line).unwrap();
        assert_eq!(shown.row, 1);
        shown.out.clear();
        shown.draw(&line).unwrap();
        assert!(shown.out.starts_with(b"\x1b[1A\r\x1b[J"));
    }

    #[test]
    fn what_is_typed_is_kept_in_a_private_file_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/chat.history");
        let mut editor = LineEditor::open(&path).unwrap();
        editor.remember("a secret of mine");
        editor.remember("another");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(LineEditor::open(&path).unwrap().line.history, ["a secret of mine", "another"]);
        let many: String = (0..5_000).map(|n| format!("{n}\n")).collect();
        fs::write(&path, many).unwrap();
        assert_eq!(LineEditor::open(&path).unwrap().line.history[0], "4000");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), MAX_HISTORY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
