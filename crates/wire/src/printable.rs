//! Words of a guest's, or of whoever else is not believed, for a terminal or a list.

/// One line of at most so many bytes that a terminal shows and does not obey.
#[must_use]
pub fn printable(text: &str, most: usize) -> String {
    let (mut shown, mut chars) = (String::new(), text.chars().peekable());
    while let Some(next) = chars.next() {
        let next = match next {
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                // A control sequence, to its final byte.
                while chars.next_if(|next| !('@'..='~').contains(next)).is_some() {}
                chars.next();
                continue;
            }
            '\t' => ' ',
            other if other.is_control() || is_invisible(other) => continue,
            other => other,
        };
        if shown.len() + next.len_utf8() > most {
            break;
        }
        shown.push(next);
    }
    shown
}

/// What turns the direction of text, or hides in it.
const fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_gone() {
        let line = |text| printable(text, 200);
        assert_eq!(line("a\u{1b}[31mb\u{1b}[0m\tc\r\n"), "ab c");
        assert_eq!(line("\u{1b}]0;title\u{7}x"), "]0;titlex");
        assert_eq!(line("a\u{202e}b\u{9b}31m"), "ab31m");
    }

    proptest! {
        #[test]
        fn no_words_are_obeyed_or_long(text in any::<String>(), most in 0_usize..50) {
            let shown = printable(&text, most);
            prop_assert!(shown.len() <= most && !shown.chars().any(|shown| shown.is_control() || is_invisible(shown)));
        }
    }
}
