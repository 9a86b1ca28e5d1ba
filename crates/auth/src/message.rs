//! The texts that are signed, and the bytes that wallets make of them.

use domain::UnixMillis;
use sha2::{Digest, Sha256};

use crate::name::GatewayName;

/// What every off-chain message of Solana begins with.
const SIGNING_DOMAIN: &[u8; 16] = b"\xffsolana offchain";
/// Bytes of a whole message that a hardware wallet shows: a Solana packet.
const MAX_SHOWN: usize = 1232;
/// Bytes of a whole message at most.
const MAX_MESSAGE: usize = u16::MAX as usize;
/// Signers of a message: the wallet alone.
const SIGNERS: u8 = 1;

/// The request that a bound signature covers.
#[derive(Clone, Copy, Debug)]
pub struct BoundRequest<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path with its query string, as sent.
    pub path: &'a str,
    /// The whole body; empty if there is none.
    pub body: &'a [u8],
}

/// How the text was wrapped before it was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageEncoding {
    /// The UTF-8 text: browser wallets, tweetnacl, our own client.
    Raw,
    /// `FF "solana offchain" 00`, format, length, text: Agave's
    /// `solana sign-offchain-message`.
    Legacy,
    /// The specification's version 1, with the wallet as only signer:
    /// `@solana/offchain-messages`, and what is built on it.
    V1,
    /// The specification's version 0, with an application domain of zeros and
    /// the wallet as only signer: the Ledger app.
    V0(OffchainFormat),
}

/// What a message of version 0 says of its text. A signer may name any that its
/// text fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffchainFormat {
    /// Printable ASCII, the whole message no longer than a packet.
    Ascii,
    /// UTF-8, the whole message no longer than a packet.
    Utf8,
    /// UTF-8 of any length that the header can write.
    Long,
}

impl OffchainFormat {
    const fn byte(self) -> u8 {
        match self {
            Self::Ascii => 0,
            Self::Utf8 => 1,
            Self::Long => 2,
        }
    }

    /// Whether a message of so many bytes with this text may be of this format.
    fn fits(self, text: &str, whole: usize) -> bool {
        match self {
            Self::Ascii => whole <= MAX_SHOWN && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)),
            Self::Utf8 => whole <= MAX_SHOWN,
            Self::Long => whole <= MAX_MESSAGE,
        }
    }
}

impl MessageEncoding {
    /// Every form, in the order in which they are tried.
    pub const ALL: [Self; 6] = [
        Self::Raw,
        Self::Legacy,
        Self::V1,
        Self::V0(OffchainFormat::Ascii),
        Self::V0(OffchainFormat::Utf8),
        Self::V0(OffchainFormat::Long),
    ];

    /// A name for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Legacy => "legacy",
            Self::V1 => "v1",
            Self::V0(_) => "v0",
        }
    }

    /// Writes the bytes this form signs for `text`; `false` where the form
    /// cannot carry it.
    pub(crate) fn write(self, signer: &[u8; 32], text: &str, out: &mut Vec<u8>) -> bool {
        out.clear();
        if self != Self::Raw && text.is_empty() {
            return false;
        }
        let carried = match self {
            Self::Raw => true,
            Self::Legacy => write_legacy_head(text, out),
            Self::V1 => write_v1_head(signer, out),
            Self::V0(format) => write_v0_head(signer, format, text, out),
        };
        out.extend_from_slice(text.as_bytes());
        carried
    }
}

/// The legacy header has one format for each text: the first that it fits.
fn write_legacy_head(text: &str, out: &mut Vec<u8>) -> bool {
    const HEADER: usize = SIGNING_DOMAIN.len() + 1 + 1 + 2;
    let formats = [OffchainFormat::Ascii, OffchainFormat::Utf8, OffchainFormat::Long];
    let Some(format) = formats.into_iter().find(|format| format.fits(text, HEADER + text.len())) else { return false };
    out.extend_from_slice(SIGNING_DOMAIN);
    out.extend_from_slice(&[0, format.byte()]);
    write_length(text, out)
}

fn write_v0_head(signer: &[u8; 32], format: OffchainFormat, text: &str, out: &mut Vec<u8>) -> bool {
    const APPLICATION_DOMAIN: [u8; 32] = [0; 32];
    const HEADER: usize = SIGNING_DOMAIN.len() + 1 + 32 + 1 + 1 + 32 + 2;
    if !format.fits(text, HEADER + text.len()) {
        return false;
    }
    out.extend_from_slice(SIGNING_DOMAIN);
    out.push(0);
    out.extend_from_slice(&APPLICATION_DOMAIN);
    out.extend_from_slice(&[format.byte(), SIGNERS]);
    out.extend_from_slice(signer);
    write_length(text, out)
}

/// Version 1 says neither domain nor format nor length: its text goes to the end.
fn write_v1_head(signer: &[u8; 32], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(SIGNING_DOMAIN);
    out.extend_from_slice(&[1, SIGNERS]);
    out.extend_from_slice(signer);
    true
}

fn write_length(text: &str, out: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(text.len()) else { return false };
    out.extend_from_slice(&length.to_le_bytes());
    true
}

/// `romulus:<unix-ms>`.
pub(crate) fn bare_text(at: UnixMillis) -> String {
    format!("romulus:{at}")
}

/// `romulus:<unix-ms>:<METHOD>:<host[:port]><path>:<hex sha256 of the body>`.
///
/// No two requests share a text: a method has no `:` and a gateway's name no `/`,
/// with which every path begins.
pub(crate) fn bound_text(at: UnixMillis, gateway: &GatewayName, request: &BoundRequest<'_>) -> String {
    format!("romulus:{at}:{}:{gateway}{}:{}", request.method, request.path, hex::encode(Sha256::digest(request.body)))
}

/// What our clients signed before gateways had names in it. Good nowhere; known so
/// that it can be said what is wrong with it.
pub(crate) fn nameless_text(at: UnixMillis, request: &BoundRequest<'_>) -> String {
    format!("romulus:{at}:{}:{}:{}", request.method, request.path, hex::encode(Sha256::digest(request.body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use solana_offchain_message::OffchainMessage;

    const SIGNER: [u8; 32] = [7; 32];

    fn bytes(form: MessageEncoding, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(form.write(&SIGNER, text, &mut out), "{form:?} carries {} bytes", text.len());
        out
    }

    #[test]
    fn the_legacy_form_of_a_21_byte_text_has_41_bytes() {
        let written = bytes(MessageEncoding::Legacy, "romulus:1700000000000");
        let mut expected = b"\xffsolana offchain\x00\x00\x15\x00".to_vec();
        expected.extend_from_slice(b"romulus:1700000000000");
        assert_eq!((written.len(), written), (41, expected));
    }

    #[test]
    fn the_v0_form_of_a_21_byte_text_has_106_bytes() {
        let written = bytes(MessageEncoding::V0(OffchainFormat::Ascii), "romulus:1700000000000");
        let mut expected = b"\xffsolana offchain\x00".to_vec();
        expected.extend_from_slice(&[0; 32]);
        expected.extend_from_slice(&[0, 1]);
        expected.extend_from_slice(&SIGNER);
        expected.extend_from_slice(&[21, 0]);
        expected.extend_from_slice(b"romulus:1700000000000");
        assert_eq!((written.len(), written), (106, expected));
    }

    #[test]
    fn a_message_longer_than_a_packet_takes_the_extended_format() {
        let fits = "a".repeat(1212);
        assert_eq!(bytes(MessageEncoding::Legacy, &fits)[17], 0);
        assert_eq!(bytes(MessageEncoding::Legacy, &format!("{fits}a"))[17], 2);
    }

    #[test]
    fn a_message_of_version_0_has_any_format_that_its_text_fits() {
        let fitting = |text: &str| -> Vec<u8> {
            let formats = [OffchainFormat::Ascii, OffchainFormat::Utf8, OffchainFormat::Long];
            let mut out = Vec::new();
            let mut written = |format| MessageEncoding::V0(format).write(&SIGNER, text, &mut out).then(|| out[49]);
            formats.into_iter().filter_map(&mut written).collect()
        };
        assert_eq!(fitting(&"a".repeat(1147)), [0, 1, 2]);
        assert_eq!(fitting(&"a".repeat(1148)), [2]);
        assert_eq!(fitting("é"), [1, 2]);
        assert_eq!(fitting("a\nb"), [1, 2]);
    }

    #[test]
    fn a_text_longer_than_a_form_carries_has_no_such_form() {
        let long = "a".repeat(65_536);
        let mut out = Vec::new();
        assert!(!MessageEncoding::Legacy.write(&SIGNER, &long, &mut out));
        assert!(!MessageEncoding::V0(OffchainFormat::Long).write(&SIGNER, &long, &mut out));
        assert!(
            MessageEncoding::ALL
                .into_iter()
                .all(|form| form == MessageEncoding::Raw || !form.write(&SIGNER, "", &mut out))
        );
    }

    proptest! {
        #[test]
        fn the_legacy_form_is_what_solanas_own_crate_writes(text in "\\PC{1,1300}") {
            let theirs = OffchainMessage::new(0, text.as_bytes()).unwrap().serialize().unwrap();
            prop_assert_eq!(bytes(MessageEncoding::Legacy, &text), theirs);
        }

        #[test]
        fn two_requests_never_share_a_text(
            one in ("[A-Z]{1,7}", "[a-z]{1,3}(:[1-9]{1,4})?", "/[!-~]{0,30}", any::<Vec<u8>>()),
            two in ("[A-Z]{1,7}", "[a-z]{1,3}(:[1-9]{1,4})?", "/[!-~]{0,30}", any::<Vec<u8>>()),
        ) {
            let text = |(method, gateway, path, body): &(String, String, String, Vec<u8>)| {
                bound_text(UnixMillis(1_700_000_000_000), &gateway.parse().unwrap(), &BoundRequest { method, path, body })
            };
            prop_assert_eq!(one == two, text(&one) == text(&two));
            prop_assert_ne!(text(&one), bare_text(UnixMillis(1_700_000_000_000)));
        }
    }
}
