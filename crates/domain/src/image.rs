//! Images that holders bring: their ids, and the names by which they are known.

use std::fmt;
use std::str::FromStr;

use crate::Wallet;
use crate::text::text_on_the_wire;

/// Why a text is no name of a holder's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// The name.
    #[error("an image's name is 1 to {max} of a-z, 0-9, '.', '_' and '-', a letter or digit first", max = ImageRef::MAX_NAME)]
    Name,
    /// The tag.
    #[error("an image's tag is 1 to {max} of a-z, 0-9, '.', '_' and '-', a letter or digit first", max = ImageRef::MAX_TAG)]
    Tag,
    /// The wallet before it.
    #[error("before the '/' stands a wallet: the base58 of 32 bytes")]
    Wallet,
    /// Not 16 lower-case hex digits.
    #[error("the id of an image is 16 lower-case hex digits")]
    Id,
    /// Not 64 lower-case hex digits.
    #[error("a SHA-256 is 64 lower-case hex digits")]
    Sum,
}

/// A holder's image or the upload that becomes one, printed as 16 hex digits. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(u64);

impl ImageId {
    /// The id of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, for a database that stores integers.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({self})")
    }
}

impl FromStr for ImageId {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        if text.len() != 16 || !is_lower_hex(text) {
            return Err(ImageRefError::Id);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ImageRefError::Id)
    }
}

/// The SHA-256 of an archive as it is uploaded, printed as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveSum(pub [u8; 32]);

impl fmt::Display for ArchiveSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ArchiveSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveSum({self})")
    }
}

impl FromStr for ArchiveSum {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let mut sum = [0; 32];
        if !is_lower_hex(text) {
            return Err(ImageRefError::Sum);
        }
        hex::decode_to_slice(text, &mut sum).map_err(|_| ImageRefError::Sum)?;
        Ok(Self(sum))
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a holder calls an image: `name:tag`; `name` alone means the tag `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    name: String,
    tag: String,
}

impl ImageRef {
    /// Characters of a name at most.
    pub const MAX_NAME: usize = 40;
    /// Characters of a tag at most: with its name it fits an `agent_type`.
    pub const MAX_TAG: usize = 23;
    /// The tag that is meant where none is named.
    pub const LATEST: &'static str = "latest";

    /// Of a name and a tag.
    ///
    /// # Errors
    /// One of the two is none.
    pub fn new(name: &str, tag: &str) -> Result<Self, ImageRefError> {
        if !is_plain(name, Self::MAX_NAME) {
            return Err(ImageRefError::Name);
        }
        if !is_plain(tag, Self::MAX_TAG) {
            return Err(ImageRefError::Tag);
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

fn is_plain(text: &str, most: usize) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= most && text.starts_with(plain) && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag.as_str() {
            Self::LATEST => f.write_str(&self.name),
            tag => write!(f, "{}:{tag}", self.name),
        }
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let (name, tag) = text.split_once(':').unwrap_or((text, Self::LATEST));
        Self::new(name, tag)
    }
}

/// An image of a holder as an `agent_type` names it: one's own as `name:tag`, a published
/// one of anybody's as `<wallet>/name:tag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldImageName {
    /// Whose it is; one's own where nobody is named.
    pub of: Option<Wallet>,
    /// What they call it.
    pub image: ImageRef,
}

impl HeldImageName {
    /// The longest text of one.
    pub const MAX_TEXT: usize = Wallet::MAX_TEXT + 1 + ImageRef::MAX_NAME + 1 + ImageRef::MAX_TAG;
}

impl FromStr for HeldImageName {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        match text.split_once('/') {
            None => Ok(Self { of: None, image: text.parse()? }),
            Some((wallet, image)) => {
                let of = wallet.parse().map_err(|_| ImageRefError::Wallet)?;
                Ok(Self { of: Some(of), image: image.parse()? })
            }
        }
    }
}

text_on_the_wire!(ImageId, "^[0-9a-f]{16}$", "1a2b3c4d5e6f7890");
text_on_the_wire!(ArchiveSum, "^[0-9a-f]{64}$", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
text_on_the_wire!(ImageRef, "^[a-z0-9][a-z0-9._-]{0,39}(:[a-z0-9][a-z0-9._-]{0,22})?$", "work:v2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_its_latest() {
        let latest: ImageRef = "work".parse().unwrap();
        assert_eq!((latest.name(), latest.tag(), latest.to_string().as_str()), ("work", "latest", "work"));
        assert_eq!("work:latest".parse::<ImageRef>().unwrap(), latest);
        let tagged: ImageRef = "work:v2".parse().unwrap();
        assert_eq!((tagged.tag(), tagged.to_string().as_str()), ("v2", "work:v2"));
    }

    #[test]
    fn what_is_no_name_or_tag_is_refused_by_its_part() {
        let long = "x".repeat(41);
        for (text, error) in [
            ("", ImageRefError::Name),
            ("Work", ImageRefError::Name),
            ("-work", ImageRefError::Name),
            ("a/b", ImageRefError::Name),
            ("../b", ImageRefError::Name),
            (long.as_str(), ImageRefError::Name),
            ("work:", ImageRefError::Tag),
            ("work:a:b", ImageRefError::Tag),
            ("work:..", ImageRefError::Tag),
        ] {
            assert_eq!(text.parse::<ImageRef>(), Err(error), "{text}");
        }
    }

    #[test]
    fn another_holders_image_is_named_with_its_wallet() {
        let wallet = Wallet([7; 32]);
        let named: HeldImageName = format!("{wallet}/work:v2").parse().unwrap();
        assert_eq!((named.of, named.image.to_string().as_str()), (Some(wallet), "work:v2"));
        assert_eq!("work".parse::<HeldImageName>().unwrap().of, None);
        assert_eq!("me/work".parse::<HeldImageName>(), Err(ImageRefError::Wallet));
        assert!(format!("{wallet}/{}:{}", "n".repeat(40), "t".repeat(23)).len() <= HeldImageName::MAX_TEXT);
    }

    #[test]
    fn ids_and_sums_survive_their_own_text() {
        let id = ImageId::from_bits(0x1a2b);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("1A2B3C4D5E6F7890".parse::<ImageId>(), Err(ImageRefError::Id));
        let sum = ArchiveSum([9; 32]);
        assert_eq!(sum.to_string().parse(), Ok(sum));
        for wrong in ["", "09", &"A9".repeat(32), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<ArchiveSum>(), Err(ImageRefError::Sum), "{wrong}");
        }
    }
}
