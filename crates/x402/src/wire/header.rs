//! Messages in headers: JSON in base64, both bounded.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};

use crate::InvalidReason;

/// Bytes of a header's value at most. A payment of version 2 repeats its terms
/// and takes about 1,200.
pub(crate) const MAX_HEADER: usize = 16 * 1024;

/// Some clients leave the padding away; nothing else may vary.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The JSON in a header's value.
pub(crate) fn from_base64(value: &[u8]) -> Result<Vec<u8>, InvalidReason> {
    if value.len() > MAX_HEADER {
        return Err(InvalidReason::Payload);
    }
    LENIENT.decode(value).map_err(|_| InvalidReason::Payload)
}

/// A header's value with this JSON.
pub(crate) fn to_base64(json: &impl serde::Serialize) -> String {
    general_purpose::STANDARD.encode(to_json(json))
}

/// JSON of a message of ours.
#[expect(clippy::expect_used, reason = "messages are structs of text and numbers, which JSON has")]
pub(crate) fn to_json(message: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("a message of ours is JSON")
}
