//! What is typed into a shell, and what of it is meant for us: `~` at the start of a line, and
//! one more key, as in ssh. Pure.

/// What to do with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// They are for the shell.
    Keys(Vec<u8>),
    /// The shell is to end.
    End,
    /// The shell is to go on without us.
    Detach,
    /// What can be typed is to be told.
    Help,
}

/// What `~?` tells, a line each.
pub(crate) const HELP: [&str; 4] = [
    "~.  end the shell",
    "~d  leave it running, and attach again later",
    "~?  this",
    "~~  a ~; each at the start of a line",
];

/// Where in a line the next key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Tilde,
    Middle,
}

/// Tells keys and escapes apart, however they are cut into pieces.
#[derive(Debug)]
pub(crate) struct Escapes {
    /// Absent where nothing is one.
    place: Option<Place>,
}

impl Escapes {
    pub(crate) const fn new(wanted: bool) -> Self {
        Self { place: if wanted { Some(Place::Start) } else { None } }
    }

    /// What was typed next, in order.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Vec<Typed> {
        let Some(mut place) = self.place else { return vec![Typed::Keys(piece.to_vec())] };
        let (mut typed, mut keys) = (Vec::new(), Vec::new());
        for key in piece {
            let meant = match (place, key) {
                (Place::Start, b'~') => {
                    place = Place::Tilde;
                    continue;
                }
                (Place::Tilde, b'.') => Some(Typed::End),
                (Place::Tilde, b'd') => Some(Typed::Detach),
                (Place::Tilde, b'?') => Some(Typed::Help),
                (Place::Tilde, b'~') => None,
                (Place::Tilde, _) => {
                    keys.push(b'~');
                    None
                }
                (Place::Start | Place::Middle, _) => None,
            };
            let Some(meant) = meant else {
                keys.push(*key);
                place = if matches!(key, b'\r' | b'\n') { Place::Start } else { Place::Middle };
                continue;
            };
            if !keys.is_empty() {
                typed.push(Typed::Keys(std::mem::take(&mut keys)));
            }
            typed.push(meant);
            place = Place::Start;
        }
        if !keys.is_empty() {
            typed.push(Typed::Keys(keys));
        }
        self.place = Some(place);
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Typed {
        Typed::Keys(text.as_bytes().to_vec())
    }

    fn read(pieces: &[&str]) -> Vec<Typed> {
        let mut escapes = Escapes::new(true);
        pieces.iter().flat_map(|piece| escapes.read(piece.as_bytes())).collect()
    }

    #[test]
    fn an_escape_is_one_at_the_start_of_a_line_alone() {
        assert_eq!(read(&["~."]), [Typed::End]);
        assert_eq!(read(&["ls\r~."]), [keys("ls\r"), Typed::End]);
        assert_eq!(read(&["ls ~."]), [keys("ls ~.")]);
        assert_eq!(read(&["~?~d"]), [Typed::Help, Typed::Detach]);
        assert_eq!(read(&["a\n~?ls"]), [keys("a\n"), Typed::Help, keys("ls")]);
    }

    #[test]
    fn a_tilde_that_is_meant_reaches_the_shell() {
        assert_eq!(read(&["~~."]), [keys("~.")]);
        assert_eq!(read(&["~/bin\r"]), [keys("~/bin\r")]);
        assert_eq!(read(&["~\r~."]), [keys("~\r"), Typed::End]);
    }

    #[test]
    fn an_escape_may_come_in_pieces() {
        assert_eq!(read(&["ls\r", "~", "."]), [keys("ls\r"), Typed::End]);
        assert_eq!(read(&["~", "x"]), [keys("~x")]);
        assert_eq!(read(&["l", "s", "~", "."]), [keys("l"), keys("s"), keys("~"), keys(".")]);
    }

    #[test]
    fn without_escapes_all_keys_are_the_shells() {
        let mut escapes = Escapes::new(false);
        assert_eq!(escapes.read(b"~."), [keys("~.")]);
    }
}
