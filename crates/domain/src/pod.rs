//! The id of a POD: what its URL, its vault and its `/data` are called by, for ever.

use std::fmt;
use std::str::FromStr;

use arrayvec::ArrayString;

use crate::id::RunId;
use crate::text::text_on_the_wire;

/// The longest id: with a port of five digits and a dash before it, it is still one
/// DNS label of 63 characters (RFC 1035, section 2.3.4).
const MAX: usize = 57;
/// The most digits of a port.
const PORT_DIGITS: usize = 5;

/// Why a text is no id of a POD, or none that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodIdError {
    /// Not a DNS label.
    #[error(
        "a POD's id is 1 to {MAX} lower-case letters, digits and dashes, and begins and ends with none of the dashes"
    )]
    Label,
    /// `{port}-…`: the host of one port of an agent.
    #[error("a POD's id does not begin with a port and a dash: such a host names one port of an agent")]
    Port,
    /// The shape of the ids that Palatine mints.
    #[error("ids that look like a1b2c3d4-e5f6-7890 are given by Palatine; choose another one")]
    Minted,
    /// `xn--…` and its kind (RFC 5891, section 4.2.3.1).
    #[error("a POD's id has no two dashes in its third and fourth places: such labels belong to international names")]
    Encoded,
}

/// A POD's name for life: minted (`a1b2c3d4-e5f6-7890`) or chosen (`agent-123`). A DNS
/// label of at most 57 characters. No secret: who knows it can do nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(ArrayString<MAX>);

impl PodId {
    /// The longest id, in bytes.
    pub const MAX_TEXT: usize = MAX;

    /// The id of a POD whose first run is this one, where nobody chose another.
    #[must_use]
    pub fn minted(run: RunId) -> Self {
        let mut text = ArrayString::new();
        // 18 characters of 57.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{run}"));
        Self(text)
    }

    /// An id that its holder chose.
    ///
    /// # Errors
    /// [`PodIdError`]: it is no label, or of a shape that is taken.
    pub fn chosen(text: &str) -> Result<Self, PodIdError> {
        let id = Self::from_str(text)?;
        if id.first_run().is_some() {
            return Err(PodIdError::Minted);
        }
        if id.begins_with_port() {
            return Err(PodIdError::Port);
        }
        if text.as_bytes().get(2..4) == Some(b"--") {
            return Err(PodIdError::Encoded);
        }
        Ok(id)
    }

    /// The run that a minted id is of; `None` if the id was chosen.
    #[must_use]
    pub fn first_run(&self) -> Option<RunId> {
        self.0.parse().ok()
    }

    /// Whether it would be read as `{port}-{id}` in a host: no POD has such an id.
    #[must_use]
    pub fn begins_with_port(&self) -> bool {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        (1..=PORT_DIGITS).contains(&digits) && self.0.as_bytes().get(digits) == Some(&b'-')
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodId({self})")
    }
}

impl FromStr for PodId {
    type Err = PodIdError;

    fn from_str(text: &str) -> Result<Self, PodIdError> {
        let shaped = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.is_empty()
            && !text.starts_with('-')
            && !text.ends_with('-');
        let id = ArrayString::from(text).map_err(|_| PodIdError::Label)?;
        if shaped { Ok(Self(id)) } else { Err(PodIdError::Label) }
    }
}

text_on_the_wire!(PodId, "^[a-z0-9]([a-z0-9-]{0,55}[a-z0-9])?$", "agent-123");

impl From<RunId> for PodId {
    fn from(run: RunId) -> Self {
        Self::minted(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_chosen_as_the_seed_chooses_it() {
        for text in ["agent-123", "a", "0rca", "3d-printer", "1234567", "123456-x", &"x".repeat(57)] {
            assert_eq!(PodId::chosen(text).map(|id| id.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_label_or_of_a_shape_that_is_taken_is_refused_and_told_why() {
        let long = "x".repeat(58);
        for (text, error) in [
            ("", PodIdError::Label),
            ("-a", PodIdError::Label),
            ("a-", PodIdError::Label),
            ("A", PodIdError::Label),
            ("a.b", PodIdError::Label),
            ("a/../b", PodIdError::Label),
            ("ä", PodIdError::Label),
            (&long, PodIdError::Label),
            ("8080-agent", PodIdError::Port),
            ("3-d", PodIdError::Port),
            ("a1b2c3d4-e5f6-7890", PodIdError::Minted),
            ("xn--80ak6aa92e", PodIdError::Encoded),
        ] {
            assert_eq!(PodId::chosen(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = text.parse::<PodId>();
        }

        #[test]
        fn a_minted_id_is_the_text_of_its_first_run_and_leads_back_to_it(bits: u64) {
            let run = RunId::from_bits(bits);
            let id = PodId::minted(run);
            prop_assert_eq!(id.to_string(), run.to_string());
            prop_assert_eq!(id.to_string().parse::<PodId>(), Ok(id));
            prop_assert_eq!(id.first_run(), Some(run));
            prop_assert_eq!(PodId::chosen(id.as_str()), Err(PodIdError::Minted));
        }

        #[test]
        fn every_id_behind_a_port_is_one_label(text in "[a-z0-9-]{1,57}", port: u16) {
            if let Ok(id) = PodId::chosen(&text) {
                let host = format!("{port}-{id}");
                prop_assert!(host.len() <= 63 && PodId::chosen(&host).is_err());
            }
        }
    }
}
