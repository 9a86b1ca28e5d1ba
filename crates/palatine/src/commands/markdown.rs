//! An answer's Markdown on a terminal, as its words come.
//!
//! A line stands there as it comes, and is written anew, as it is meant, when it is whole; a table
//! when all of it is there. What has left the screen meanwhile stays as it came. Whatever an agent
//! says, it is text: what would command the terminal is left out.

use std::io::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use console::Style;
use minimad::{Composite, CompositeStyle, Compound, Line};
use unicode_width::UnicodeWidthChar;

/// What begins and ends a block of code.
const FENCE: &str = "```";
/// What a tabulator becomes.
const TAB: &str = "    ";
/// Characters of a rule across the screen, at most.
const MAX_RULE: usize = 60;

/// Whether there are to be colours: see no-color.org.
pub(crate) fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScreenSize {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

impl ScreenSize {
    /// Rows that this text takes: one at least.
    fn rows_of(self, text: &str) -> usize {
        let (mut rows, mut column) = (1, 0);
        for width in text.chars().filter_map(UnicodeWidthChar::width) {
            if column + width > self.columns {
                rows += 1;
                column = 0;
            }
            column += width;
        }
        rows
    }
}

/// Writes an answer.
pub(crate) struct MarkdownWriter<W> {
    out: W,
    has_colours: bool,
    size: ScreenSize,
    /// The line that is coming.
    line: String,
    /// The lines of a table that stand there as they came.
    table: Vec<String>,
    in_code: bool,
}

impl<W: Write> MarkdownWriter<W> {
    pub(crate) fn new(out: W, has_colours: bool, size: ScreenSize) -> Self {
        Self { out, has_colours, size, line: String::new(), table: Vec::new(), in_code: false }
    }

    /// Writes what has come.
    pub(crate) fn write(&mut self, words: &str) -> io::Result<()> {
        let mut rest = words;
        while let Some((head, tail)) = rest.split_once('\n') {
            self.say(head)?;
            self.end_line()?;
            rest = tail;
        }
        self.say(rest)?;
        self.out.flush()
    }

    /// Writes what is left when no more comes. What it was written to comes back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        self.end_table(0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Adds to the line, which stands there as it comes.
    fn say(&mut self, words: &str) -> io::Result<()> {
        let shown = printable(words);
        self.out.write_all(shown.as_bytes())?;
        self.line.push_str(&shown);
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if !self.in_code && line.trim_start().starts_with('|') {
            self.table.push(line);
            return self.out.write_all(b"\n");
        }
        let rows = self.size.rows_of(&line);
        let is_gone = self.end_table(rows)? || self.erase(rows)?;
        let is_fence = line.trim_start().starts_with(FENCE);
        if is_fence {
            self.in_code = !self.in_code;
        }
        match (is_fence, self.in_code) {
            _ if !is_gone => self.out.write_all(b"\n"),
            (true, _) => Ok(()),
            (false, true) => writeln!(self.out, "{}", self.code(&line)),
            (false, false) => writeln!(self.out, "{}", self.rendered(&line)),
        }
    }

    /// Writes the table anew, if there is one, in the place of its lines and of the line below
    /// it, which takes so many rows. Says whether that one is gone with them.
    fn end_table(&mut self, below: usize) -> io::Result<bool> {
        let table = std::mem::take(&mut self.table);
        if table.is_empty() {
            return Ok(false);
        }
        let rows: usize = table.iter().map(|line| self.size.rows_of(line)).sum();
        // Where no line is below it, the cursor has a row of its own there.
        let is_gone = self.erase(rows + below.max(1))?;
        if is_gone {
            writeln!(self.out, "{}", tabulated(&table, self.size.columns))?;
        }
        Ok(is_gone)
    }

    /// Takes away what stands in the last so many rows; `false` if a part of it has left the
    /// screen.
    fn erase(&mut self, rows: usize) -> io::Result<bool> {
        if rows >= self.size.rows {
            return Ok(false);
        }
        self.out.write_all(b"\r")?;
        if rows > 1 {
            write!(self.out, "\x1b[{}A", rows - 1)?;
        }
        self.out.write_all(b"\x1b[J")?;
        Ok(true)
    }

    /// A line as it is meant.
    fn rendered(&self, line: &str) -> String {
        match Line::from(line) {
            Line::Normal(composite) => self.composite(&composite),
            Line::HorizontalRule => "─".repeat(self.size.columns.min(MAX_RULE)),
            // They are dealt with before.
            Line::TableRow(_) | Line::TableRule(_) | Line::CodeFence(_) => line.to_owned(),
        }
    }

    fn composite(&self, composite: &Composite<'_>) -> String {
        let words: String = composite.compounds.iter().map(|compound| self.compound(compound)).collect();
        let indented = |level: u8, mark: &str| format!("{}{mark} {words}", "  ".repeat(level.into()));
        match composite.style {
            CompositeStyle::Paragraph => words,
            CompositeStyle::Header(_) => self.style().bold().underlined().apply_to(plain(composite)).to_string(),
            CompositeStyle::ListItem(level) => indented(level, "•"),
            CompositeStyle::OrderedListItem { level, index } => indented(level, &format!("{index}.")),
            CompositeStyle::Code => self.code(&plain(composite)),
            CompositeStyle::Quote => format!("│ {words}"),
        }
    }

    fn compound(&self, compound: &Compound<'_>) -> String {
        let mut style = self.style();
        if compound.bold {
            style = style.bold();
        }
        if compound.italic {
            style = style.italic();
        }
        if compound.strikeout {
            style = style.strikethrough();
        }
        if compound.code { self.code(compound.src) } else { style.apply_to(compound.src).to_string() }
    }

    fn code(&self, code: &str) -> String {
        self.style().cyan().apply_to(code).to_string()
    }

    fn style(&self) -> Style {
        Style::new().force_styling(self.has_colours)
    }
}

/// The words of a part of a line.
fn plain(composite: &Composite<'_>) -> String {
    composite.compounds.iter().map(|compound| compound.src).collect()
}

/// A table of these lines: the first one is its head if a rule follows.
fn tabulated(lines: &[String], columns: usize) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
    let parsed: Vec<Line<'_>> = lines.iter().map(|line| Line::from(line.trim())).collect();
    for (at, line) in parsed.iter().enumerate() {
        let Line::TableRow(row) = line else { continue };
        let cells: Vec<String> = row.cells.iter().map(|cell| plain(cell).trim().to_owned()).collect();
        if at == 0 && matches!(parsed.get(1), Some(Line::TableRule(_))) {
            table.set_header(cells);
        } else {
            table.add_row(cells);
        }
    }
    table.to_string()
}

/// What is text of these words.
pub(crate) fn printable(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for character in words.chars() {
        match character {
            '\t' => text.push_str(TAB),
            '\n' => text.push('\n'),
            control if control.is_control() => {}
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ScreenSize = ScreenSize { columns: 20, rows: 10 };

    /// What a terminal shows that understands what is written here.
    #[derive(Default)]
    struct Screen {
        rows: Vec<Vec<char>>,
        row: usize,
        column: usize,
    }

    impl Screen {
        fn of(bytes: &[u8], columns: usize) -> Vec<String> {
            let mut screen = Self::default();
            let text = std::str::from_utf8(bytes).unwrap();
            let mut characters = text.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\r' => screen.column = 0,
                    '\n' => (screen.row, screen.column) = (screen.row + 1, 0),
                    '\x1b' => {
                        assert_eq!(characters.next(), Some('['));
                        let command: String = characters.by_ref().take_while_inclusive(char::is_ascii_digit);
                        screen.command(&command);
                    }
                    other => screen.put(other, columns),
                }
            }
            let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
            let mut lines: Vec<String> = screen.rows.iter().map(line).collect();
            while lines.last().is_some_and(String::is_empty) {
                lines.pop();
            }
            lines
        }

        fn command(&mut self, command: &str) {
            match command.split_at(command.len() - 1) {
                (count, "A") => self.row -= count.parse::<usize>().unwrap(),
                ("", "J") => {
                    self.rows.truncate(self.row + 1);
                    if let Some(row) = self.rows.get_mut(self.row) {
                        row.truncate(self.column);
                    }
                }
                other => panic!("{other:?}"),
            }
        }

        fn put(&mut self, character: char, columns: usize) {
            if self.column + character.width().unwrap_or(0) > columns {
                (self.row, self.column) = (self.row + 1, 0);
            }
            while self.rows.len() <= self.row {
                self.rows.push(Vec::new());
            }
            let row = &mut self.rows[self.row];
            row.resize(row.len().max(self.column + 1), ' ');
            row[self.column] = character;
            self.column += character.width().unwrap_or(0);
        }
    }

    trait TakeWhileInclusive: Iterator<Item = char> {
        /// The characters up to the first that is none of these, and that one.
        fn take_while_inclusive(&mut self, is_one: impl Fn(&char) -> bool) -> String {
            let mut taken = String::new();
            for character in self {
                taken.push(character);
                if !is_one(&character) {
                    break;
                }
            }
            taken
        }
    }

    impl<I: Iterator<Item = char>> TakeWhileInclusive for I {}

    fn written(pieces: &[&str]) -> Vec<u8> {
        let mut writer = MarkdownWriter::new(Vec::new(), false, SIZE);
        for piece in pieces {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    fn shown(pieces: &[&str]) -> Vec<String> {
        Screen::of(&written(pieces), SIZE.columns)
    }

    #[test]
    fn a_line_stands_there_as_it_comes_and_as_it_is_meant_when_it_is_whole() {
        let mut writer = MarkdownWriter::new(Vec::new(), false, SIZE);
        writer.write("so **lo").unwrap();
        assert_eq!(writer.out, b"so **lo");
        writer.write("ud**").unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(Screen::of(&bytes, SIZE.columns), ["so loud"]);
        assert_eq!(shown(&["one\ntw", "o\n\nthree"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn a_line_that_takes_several_rows_is_written_anew_in_its_place() {
        let shown = shown(&["first\n", "**one two three four** five six seven\nlast"]);
        assert_eq!(shown[0], "first");
        assert_eq!(shown[1..shown.len() - 1].join(""), "one two three four five six seven");
        assert_eq!(shown.last().unwrap(), "last");
        assert_eq!(SIZE.rows_of(&"x".repeat(20)), 1);
        assert_eq!(SIZE.rows_of(&"x".repeat(21)), 2);
        // Ten of two columns each and one more.
        assert_eq!(SIZE.rows_of(&"界".repeat(11)), 2);
    }

    #[test]
    fn what_is_in_a_block_of_code_is_no_markdown() {
        let shown = shown(&["```rust\nlet a = **b;\n| no | table |\n```\nand *so* on\n"]);
        assert_eq!(shown, ["let a = **b;", "| no | table |", "and so on"]);
    }

    #[test]
    fn a_table_is_written_when_it_is_whole() {
        let shown = shown(&["| a | b |\n", "|---|---|\n", "| 1 | 22 |\n", "and\n"]);
        assert!(shown.iter().any(|line| line.contains('1') && line.contains("22")), "{shown:?}");
        assert!(!shown.iter().any(|line| line.contains("|---")), "{shown:?}");
        assert_eq!(shown.last().unwrap(), "and");
    }

    #[test]
    fn what_has_left_the_screen_stays_as_it_came() {
        let long = "**x** ".repeat(40);
        let bytes = written(&[&long, "\n"]);
        assert!(!bytes.contains(&0x1b), "nothing above the screen can be taken away");
    }

    #[test]
    fn what_would_command_the_terminal_is_left_out() {
        let bytes = written(&["\x1b]0;t\x07a\x1b[2Jb\u{9b}31mc\rd\te"]);
        let text = String::from_utf8(bytes).unwrap();
        let kept = "]0;ta[2Jb31mcd    e";
        assert!(text.starts_with(kept), "{text:?}");
        let commands = text.matches('\x1b').count();
        assert_eq!(commands, 1, "the one that is ours: {text:?}");
    }
}
