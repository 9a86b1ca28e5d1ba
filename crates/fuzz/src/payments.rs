//! Money, keys, and what contracts say.

use alloy_primitives::Address;
use chain::evm::Revert;
use http::{HeaderMap, HeaderValue};
use identity::Keystore;
use x402::{PAYMENT_SIGNATURE, Token, Tokens, UnverifiedPayment, X_PAYMENT};

/// A payment's header, in the first dialect and in the second.
pub(crate) fn x402(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let tokens = tokens();
    for name in [&X_PAYMENT, &PAYMENT_SIGNATURE] {
        let headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
        let one = UnverifiedPayment::from_headers(&headers, &tokens);
        assert!(!matches!(one, Ok(None)), "a header that is there is a payment or an error");
        let mut twice = headers;
        twice.append(name, value.clone());
        assert!(UnverifiedPayment::from_headers(&twice, &tokens).is_err(), "two payments are none");
    }
}

/// What other sellers, facilitators and buyers send.
pub(crate) fn facilitator(bytes: &[u8]) {
    x402::fuzz::facilitator(bytes, &tokens());
}

fn tokens() -> Tokens {
    let token = Token::new(338, "cronos-testnet", Address::repeat_byte(0xaa), "Bridged USDC (Stargate)", "1");
    [token].into_iter().collect()
}

/// A key file, which is read and not opened.
pub(crate) fn keystore(bytes: &[u8]) {
    let Ok(read) = Keystore::parse(bytes) else { return };
    let again = Keystore::parse(read.to_json().as_bytes());
    assert!(again.is_ok_and(|again| again.to_json() == read.to_json()), "what is written is read again");
}

/// What a call that failed gives back.
pub(crate) fn revert(bytes: &[u8]) {
    let said = Revert::decode(bytes).to_string();
    assert!(said.len() <= 16 * (bytes.len() + 64), "{} bytes said {}", bytes.len(), said.len());
}
