//! The texts that are signed, and the bytes that wallets make of them.

use domain::UnixMillis;
use sha2::{Digest, Sha256};

/// What every off-chain message of Solana begins with.
const SIGNING_DOMAIN: &[u8; 16] = b"\xffsolana offchain";
/// The only version of the off-chain header.
const HEADER_VERSION: u8 = 0;
/// Bytes of a whole message that a hardware wallet shows: a Solana packet.
const MAX_SHOWN: usize = 1232;
/// Bytes of a whole message at most.
const MAX_MESSAGE: usize = u16::MAX as usize;

/// The request that a bound signature covers.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path with its query string, as sent.
    pub path: &'a str,
    /// The whole body; empty if there is none.
    pub body: &'a [u8],
}

/// How the text was wrapped before it was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The UTF-8 text: browser wallets, tweetnacl, our own client.
    Raw,
    /// `FF "solana offchain" 00`, format, length, text: Agave's
    /// `solana sign-offchain-message`.
    Legacy,
    /// The specification's version 0, with an application domain of zeros and
    /// the wallet as only signer: the Ledger app.
    V0,
}

impl Form {
    /// Every form, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Legacy, Self::V0];

    /// A name for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Legacy => "legacy",
            Self::V0 => "v0",
        }
    }

    /// Writes the bytes this form signs for `text`; `false` where the form
    /// cannot carry it.
    pub(crate) fn write(self, signer: &[u8; 32], text: &str, out: &mut Vec<u8>) -> bool {
        out.clear();
        match self {
            Self::Raw => {
                out.extend_from_slice(text.as_bytes());
                true
            }
            Self::Legacy => write_legacy(text, out),
            Self::V0 => write_v0(signer, text, out),
        }
    }
}

fn write_legacy(text: &str, out: &mut Vec<u8>) -> bool {
    const HEADER: usize = SIGNING_DOMAIN.len() + 1 + 1 + 2;
    let Some((format, length)) = format_of(text, HEADER) else { return false };
    out.extend_from_slice(SIGNING_DOMAIN);
    out.extend_from_slice(&[HEADER_VERSION, format]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    true
}

fn write_v0(signer: &[u8; 32], text: &str, out: &mut Vec<u8>) -> bool {
    const APPLICATION_DOMAIN: [u8; 32] = [0; 32];
    const SIGNERS: u8 = 1;
    const HEADER: usize = SIGNING_DOMAIN.len() + 1 + 32 + 1 + 1 + 32 + 2;
    let Some((format, length)) = format_of(text, HEADER) else { return false };
    out.extend_from_slice(SIGNING_DOMAIN);
    out.push(HEADER_VERSION);
    out.extend_from_slice(&APPLICATION_DOMAIN);
    out.extend_from_slice(&[format, SIGNERS]);
    out.extend_from_slice(signer);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    true
}

/// The format byte that belongs to a text of this length and alphabet, and the
/// length as the header writes it.
fn format_of(text: &str, header: usize) -> Option<(u8, u16)> {
    let whole = text.len() + header;
    if text.is_empty() || whole > MAX_MESSAGE {
        return None;
    }
    let length = u16::try_from(text.len()).ok()?;
    let format = if whole > MAX_SHOWN { 2 } else { u8::from(!text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))) };
    Some((format, length))
}

/// `romulus:<unix-ms>`.
pub(crate) fn bare_text(at: UnixMillis) -> String {
    format!("romulus:{at}")
}

/// `romulus:<unix-ms>:<METHOD>:<path>:<hex sha256 of the body>`.
pub(crate) fn bound_text(at: UnixMillis, request: &Request<'_>) -> String {
    let mut sum = [0; 64];
    let written = hex::encode_to_slice(Sha256::digest(request.body), &mut sum);
    debug_assert!(written.is_ok(), "64 digits hold 32 bytes");
    let sum = std::str::from_utf8(&sum).unwrap_or_default();
    format!("romulus:{at}:{}:{}:{sum}", request.method, request.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use solana_offchain_message::OffchainMessage;

    const SIGNER: [u8; 32] = [7; 32];

    fn bytes(form: Form, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(form.write(&SIGNER, text, &mut out), "{form:?} carries {} bytes", text.len());
        out
    }

    #[test]
    fn the_legacy_form_of_a_21_byte_text_has_41_bytes() {
        let written = bytes(Form::Legacy, "romulus:1700000000000");
        let mut expected = b"\xffsolana offchain\x00\x00\x15\x00".to_vec();
        expected.extend_from_slice(b"romulus:1700000000000");
        assert_eq!((written.len(), written), (41, expected));
    }

    #[test]
    fn the_v0_form_of_a_21_byte_text_has_106_bytes() {
        let written = bytes(Form::V0, "romulus:1700000000000");
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
        assert_eq!(bytes(Form::Legacy, &fits)[17], 0);
        assert_eq!(bytes(Form::Legacy, &format!("{fits}a"))[17], 2);
        assert_eq!(bytes(Form::V0, &"a".repeat(1147))[49], 0);
        assert_eq!(bytes(Form::V0, &"a".repeat(1148))[49], 2);
        assert_eq!(bytes(Form::V0, "é")[49], 1);
    }

    #[test]
    fn a_text_longer_than_a_form_carries_has_no_such_form() {
        let long = "a".repeat(65_536);
        let mut out = Vec::new();
        assert!(!Form::Legacy.write(&SIGNER, &long, &mut out));
        assert!(!Form::V0.write(&SIGNER, &long, &mut out));
        assert!(!Form::V0.write(&SIGNER, "", &mut out));
    }

    proptest! {
        #[test]
        fn the_legacy_form_is_what_solanas_own_crate_writes(text in "\\PC{1,1300}") {
            let theirs = OffchainMessage::new(0, text.as_bytes()).unwrap().serialize().unwrap();
            prop_assert_eq!(bytes(Form::Legacy, &text), theirs);
        }

        #[test]
        fn two_requests_never_share_a_text(
            one in ("[A-Z]{1,7}", "/[!-~]{0,30}", any::<Vec<u8>>()),
            two in ("[A-Z]{1,7}", "/[!-~]{0,30}", any::<Vec<u8>>()),
        ) {
            let text = |(method, path, body): &(String, String, Vec<u8>)| {
                bound_text(UnixMillis(1_700_000_000_000), &Request { method, path, body })
            };
            prop_assert_eq!(one == two, text(&one) == text(&two));
            prop_assert_ne!(text(&one), bare_text(UnixMillis(1_700_000_000_000)));
        }
    }
}
