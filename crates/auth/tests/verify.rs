//! What a signature proves, and each fault of the old gateway that lies here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use domain::UnixMillis;
use palatine_auth::{
    AuthError, AuthHeader, BoundRequest, GatewayName, Keypair, KeypairError, MessageEncoding, OffchainFormat,
    SignatureHeaders, SignedHeaders, UnverifiedSignature, VerifiedSignature, VerifyPolicy, verify,
};
use proptest::prelude::*;
use secrecy::ExposeSecret;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const SPAWN: BoundRequest<'static> = BoundRequest { method: "POST", path: "/spawn", body: br#"{"agent_type":"echo"}"# };

fn wallet() -> Keypair {
    Keypair::generate(&[42; 32])
}

fn present(headers: &SignedHeaders) -> SignatureHeaders<'_> {
    SignatureHeaders {
        wallet: Some(&headers.wallet),
        signature: Some(&headers.signature),
        timestamp: Some(&headers.timestamp),
        audience: headers.audience.as_ref().map(GatewayName::as_str),
    }
}

/// The gateway of these tests, and another name of it.
fn names() -> [GatewayName; 2] {
    ["palatine.example:8443", "127.0.0.1:8080"].map(|name| name.parse().unwrap())
}

fn check(headers: &SignedHeaders, request: &BoundRequest<'_>, now: UnixMillis) -> Result<VerifiedSignature, AuthError> {
    let policy = VerifyPolicy { audiences: &names(), require_bound: false };
    verify(present(headers), request, policy, now)
}

fn bound(request: &BoundRequest<'_>, at: UnixMillis) -> SignedHeaders {
    wallet().sign_request(&names()[0], request, at)
}

#[test]
fn each_form_of_romulus_text_is_accepted() {
    for form in MessageEncoding::ALL {
        let signed = check(&wallet().sign_instant(form, NOW), &SPAWN, NOW).unwrap();
        assert_eq!((signed.wallet, signed.form, signed.bound), (wallet().wallet(), form, false));
    }
}

#[test]
fn the_bound_form_is_accepted_for_its_own_request_alone() {
    let headers = bound(&SPAWN, NOW);
    assert!(check(&headers, &SPAWN, NOW).unwrap().bound);
    let others = [
        BoundRequest { method: "GET", ..SPAWN },
        BoundRequest { path: "/spawn?wait=false", ..SPAWN },
        BoundRequest { body: br#"{"agent_type":"coding"}"#, ..SPAWN },
    ];
    for other in others {
        assert_eq!(check(&headers, &other, NOW), Err(AuthError::Invalid), "{other:?}");
    }
}

#[test]
fn a_gateway_that_wants_the_bound_form_refuses_the_others_by_that_name() {
    let policy = VerifyPolicy { audiences: &names(), require_bound: true };
    for form in MessageEncoding::ALL {
        let headers = wallet().sign_instant(form, NOW);
        assert_eq!(verify(present(&headers), &SPAWN, policy, NOW), Err(AuthError::Unbound));
    }
    assert!(verify(present(&bound(&SPAWN, NOW)), &SPAWN, policy, NOW).is_ok());
}

#[test]
fn fault_2_5_a_bound_signature_is_good_at_the_gateway_it_names_alone() {
    let headers = bound(&SPAWN, NOW);
    let at = |names: &[GatewayName]| {
        verify(present(&headers), &SPAWN, VerifyPolicy { audiences: names, require_bound: false }, NOW)
    };
    assert!(at(&names()).unwrap().bound);
    let other: GatewayName = "other.example".parse().unwrap();
    assert_eq!(at(std::slice::from_ref(&other)), Err(AuthError::OtherGateway { named: names()[0].clone() }));
    assert_eq!(at(&[]), Err(AuthError::OtherGateway { named: names()[0].clone() }));
    // Whoever passes it on cannot give it another name, not even one of the same gateway's.
    let renamed = |name: &str| {
        verify(
            SignatureHeaders { audience: Some(name), ..present(&headers) },
            &SPAWN,
            policy(&[other.clone(), names()[1].clone()]),
            NOW,
        )
    };
    assert_eq!(renamed("other.example"), Err(AuthError::Invalid));
    assert_eq!(renamed("127.0.0.1:8080"), Err(AuthError::Invalid));
    let unnamed = verify(SignatureHeaders { audience: None, ..present(&headers) }, &SPAWN, policy(&names()), NOW);
    assert_eq!(unnamed, Err(AuthError::Invalid));
}

fn policy(audiences: &[GatewayName]) -> VerifyPolicy<'_> {
    VerifyPolicy { audiences, require_bound: false }
}

#[test]
fn fault_2_5_a_name_that_no_url_has_is_malformed() {
    let headers = bound(&SPAWN, NOW);
    for name in ["", "Palatine.example:8443", "palatine.example:8443/", "https://palatine.example", "palatine.example:"]
    {
        let said =
            verify(SignatureHeaders { audience: Some(name), ..present(&headers) }, &SPAWN, policy(&names()), NOW);
        assert_eq!(said, Err(AuthError::Malformed(AuthHeader::Audience)), "{name}");
    }
}

/// The bound form as it was before gateways had names: `romulus:<ms>:<METHOD>:<path>:<sha>`,
/// signed by OpenSSL.
#[test]
fn fault_2_5_the_form_without_a_gateway_is_refused_in_words_that_tell_the_new_one() {
    let headers = SignedHeaders {
        signature: "5W2NJj9WnQBKTGeACcEFjJrZknhxQwmcbvq8ScFES94Q1pffJbYUiZ835rqVFeZ1eXb5wcrXQ5gEPtZiVx1ear9Q"
            .to_owned(),
        ..wallet().sign_instant(MessageEncoding::Raw, NOW)
    };
    let error = check(&headers, &SPAWN, NOW).unwrap_err();
    assert_eq!(error, AuthError::Nameless);
    let said = error.to_string();
    assert!(said.contains("<METHOD>:<host[:port]><path>:") && said.contains("X-Audience"), "{said}");
}

// Old gateway: parseInt("x") is NaN, and NaN > 300000 is false.
#[test]
fn a_timestamp_that_is_not_13_digits_is_refused_even_if_it_was_signed() {
    let texts = ["x", "", "170000000000", "17000000000000", "1700000000000x", "+170000000000", "1.70000000000", "-1"];
    let wide = "１７００００００００００００";
    for text in texts.into_iter().chain([wide, " 1700000000000", "0x18bcfe56800"]) {
        let mut headers = bound(&SPAWN, NOW);
        headers.timestamp = text.to_owned();
        assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Malformed(AuthHeader::Timestamp)), "{text}");
    }
}

#[test]
fn the_window_is_five_minutes_back_and_thirty_seconds_ahead_to_the_millisecond() {
    let at = |ms: u64| check(&bound(&SPAWN, UnixMillis(ms)), &SPAWN, NOW).map(|_| ());
    assert_eq!(at(NOW.0 - 300_000), Ok(()));
    assert_eq!(at(NOW.0 - 300_001), Err(AuthError::Expired));
    assert_eq!(at(NOW.0 + 30_000), Ok(()));
    assert_eq!(at(NOW.0 + 30_001), Err(AuthError::Early));
}

#[test]
fn a_signature_is_remembered_for_as_long_as_it_would_be_accepted() {
    let signed = check(&bound(&SPAWN, NOW), &SPAWN, NOW).unwrap();
    assert!(check(&bound(&SPAWN, NOW), &SPAWN, signed.expires_at).is_ok());
    assert_eq!(check(&bound(&SPAWN, NOW), &SPAWN, signed.expires_at.plus(1)), Err(AuthError::Expired));
}

// Old gateway: no memory at all; and a cache on the signature's bytes would not
// see that the same text was wrapped or signed another way.
#[test]
fn the_same_text_in_another_form_is_the_same_request_again() {
    let key = |form| check(&wallet().sign_instant(form, NOW), &SPAWN, NOW).unwrap().replay_key;
    assert!(MessageEncoding::ALL.into_iter().all(|form| key(form) == key(MessageEncoding::Raw)));
}

#[test]
fn another_wallet_instant_or_request_is_another_stamp() {
    let key = |pair: &Keypair, at: UnixMillis, path| {
        let request = BoundRequest { path, ..SPAWN };
        let headers = pair.sign_request(&names()[0], &request, at);
        check(&headers, &request, NOW).unwrap().replay_key
    };
    let other = Keypair::generate(&[43; 32]);
    let keys = [
        key(&wallet(), NOW, "/spawn"),
        key(&other, NOW, "/spawn"),
        key(&wallet(), NOW.plus(1), "/spawn"),
        key(&wallet(), NOW, "/stop"),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(one));
    }
}

#[test]
fn a_missing_header_is_named() {
    let headers = bound(&SPAWN, NOW);
    let whole = present(&headers);
    let cases = [
        (SignatureHeaders { wallet: None, ..whole }, AuthHeader::Wallet),
        (SignatureHeaders { signature: None, ..whole }, AuthHeader::Signature),
        (SignatureHeaders { timestamp: None, ..whole }, AuthHeader::Timestamp),
    ];
    for (presented, header) in cases {
        let said = verify(presented, &SPAWN, VerifyPolicy::default(), NOW);
        assert_eq!(said, Err(AuthError::Missing(header)));
    }
}

#[test]
fn keys_and_signatures_of_another_length_are_refused_before_they_are_decoded() {
    let good = bound(&SPAWN, NOW);
    for length in [0, 31, 33, 1_000_000] {
        let headers = SignedHeaders { wallet: "1".repeat(length), ..good.clone() };
        assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Malformed(AuthHeader::Wallet)), "{length}");
    }
    for length in [0, 63, 65, 1_000_000] {
        let headers = SignedHeaders { signature: "1".repeat(length), ..good.clone() };
        assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Malformed(AuthHeader::Signature)), "{length}");
    }
    let headers = SignedHeaders { wallet: format!("{}0", &good.wallet[1..]), ..good };
    assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Malformed(AuthHeader::Wallet)));
}

/// The order of the base point, little-endian: adding it to a signature's `s`
/// makes other bytes that sloppy verifiers accept for the same message.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn a_malleated_signature_is_refused() {
    let mut headers = bound(&SPAWN, NOW);
    let mut bytes = bs58::decode(&headers.signature).into_vec().unwrap();
    let mut carry = 0;
    for (byte, add) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    headers.signature = bs58::encode(bytes).into_string();
    assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Invalid));
}

// The point of order one, with R equal to it and s zero, satisfies the loose
// equation for every message.
#[test]
fn a_key_of_small_order_signs_nothing() {
    let mut identity = [0_u8; 32];
    identity[0] = 1;
    let mut signature = [0_u8; 64];
    signature[0] = 1;
    let headers = SignedHeaders {
        wallet: bs58::encode(identity).into_string(),
        signature: bs58::encode(signature).into_string(),
        timestamp: NOW.to_string(),
        audience: None,
    };
    assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Invalid));
}

#[test]
fn a_keypair_file_goes_out_and_comes_back() {
    let text = wallet().to_json();
    let back = Keypair::from_json(text.expose_secret()).unwrap();
    assert_eq!(back.wallet(), wallet().wallet());
    assert!(!format!("{:?}", wallet()).contains("42"));
}

#[test]
fn a_keypair_file_of_another_shape_is_refused_without_showing_it() {
    let mut bytes: Vec<u8> = wallet().to_json().expose_secret()[1..]
        .trim_end_matches(']')
        .split(',')
        .map(|number| number.parse().unwrap())
        .collect();
    bytes[63] ^= 1;
    let mismatched = format!("{bytes:?}");
    let short = "[1,2,3]".to_owned();
    let huge = format!("[{}1]", "1,".repeat(100_000));
    let wide = "[300]".to_owned();
    assert_eq!(Keypair::from_json(&mismatched).unwrap_err(), KeypairError::Mismatch);
    for text in [short, huge, wide, "{}".to_owned(), String::new()] {
        assert_eq!(Keypair::from_json(&text).unwrap_err(), KeypairError::Shape);
    }
}

/// Signatures of one fixed key. Made by OpenSSL from the bytes as the forms'
/// specifications give them; those of versions 0 and 1 by `@solana/offchain-messages`
/// 8.4 from npm.
#[test]
fn the_published_vectors_hold() {
    let pair = wallet();
    assert_eq!(pair.wallet().to_string(), "2iXtA8oeZqUU5pofxK971TCEvFGfems2AcDRaZHKD2pQ");
    for form in MessageEncoding::ALL {
        let headers = pair.sign_instant(form, NOW);
        assert_eq!(headers.timestamp, "1700000000000");
        assert_eq!(headers.signature, vector(form));
    }
    assert_eq!(
        bound(&SPAWN, NOW).signature,
        "2kjdeDncvcDy83ks2xEBwXujwAkGo4RNcYMmbVvfUyNMLo5eja2Mbh8cpVvK6JoWxrvSGEJiuyVhQZq9gkYDXBaL"
    );
}

fn vector(form: MessageEncoding) -> &'static str {
    match form {
        MessageEncoding::Raw => {
            "3xmpT9cZUx2YmPZDQQnZbLa1pjP57CvroHv4o9jePf5cH3oVUzuWvp4XSbCvKxc7DGiXcp7rq7tPGUFqyAqgDouz"
        }
        MessageEncoding::Legacy => {
            "45dHPyrvgBpJDsGM565nVQiAie66cXruEdd6PBzcXuDwzVrTADrtSLkckSVFMBoAyhbZzFxr1gpUSMPZ7kcJRzRc"
        }
        MessageEncoding::V1 => {
            "2ZAUHnZpZ4aT7wFMssKyVAP3A98ZESTAdHuwJreqTegyca2j5cNyDTUNDP9CceKjhV5nb9Ln3GMfWowV9Udwk7Dg"
        }
        MessageEncoding::V0(OffchainFormat::Utf8) => {
            "3tAAbRqoyza9bHKTV6stbwVpMTeeBS4VLsUXH5TDrLBNR9FqtAzYFhwhkReM7WqkVqpzfFfXgszFNdcvDdx2v4ua"
        }
        MessageEncoding::V0(OffchainFormat::Long) => {
            "2X66Lxk9r28vY755ahyBxuN95XYJYVKACX2THct16LkXew1N54RfxVBoSmzHyrnu74LmheyXvvcxGe5mMxT7bnEB"
        }
        MessageEncoding::V0(OffchainFormat::Ascii) => {
            "2ugbHHQ7xo8S69yL92QWZCbNKJGzgQo9p7ugdK6npD9bS8yTiL8Xu1itwx8cZpgF3cCoHzjh1edVJaGHEQBzgGpT"
        }
    }
}

#[test]
fn case_offchain_v1_is_taken_as_its_package_makes_it() {
    for form in [
        MessageEncoding::V1,
        MessageEncoding::V0(OffchainFormat::Utf8),
        MessageEncoding::V0(OffchainFormat::Long),
        MessageEncoding::V0(OffchainFormat::Ascii),
    ] {
        let headers =
            SignedHeaders { signature: vector(form).to_owned(), ..wallet().sign_instant(MessageEncoding::Raw, NOW) };
        let signed = check(&headers, &SPAWN, NOW).unwrap();
        assert_eq!((signed.wallet, signed.form, signed.bound), (wallet().wallet(), form, false));
    }
}

/// The same wallet's signature, of a message that a second wallet must sign too.
#[test]
fn case_offchain_v1_with_a_second_signer_is_nobodys_word_yet() {
    let signature =
        "5tjdv2LvFSkSirbjwVGSTkGvxh33RFtxpwKV3fno1J3Xg2GeLotswhXEPFLvHProsNYogztUVz7oiKehbC3zMggE".to_owned();
    let headers = SignedHeaders { signature, ..wallet().sign_instant(MessageEncoding::Raw, NOW) };
    assert_eq!(check(&headers, &SPAWN, NOW), Err(AuthError::Invalid));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_headers_hold_the_verifier_does_not_panic_and_lets_nobody_in(
        wallet in ".{0,60}", signature in ".{0,100}", timestamp in ".{0,20}",
    ) {
        let headers = SignedHeaders { wallet, signature, timestamp, audience: None };
        prop_assert!(check(&headers, &SPAWN, NOW).is_err());
    }

    #[test]
    fn a_signed_request_is_accepted_and_one_flipped_bit_is_not(
        seed: [u8; 32], path in "/[!-~]{0,40}", body: Vec<u8>, byte in 0_usize..64, bit in 0_u8..8,
    ) {
        let request = BoundRequest { method: "POST", path: &path, body: &body };
        let mut headers = Keypair::generate(&seed).sign_request(&names()[0], &request, NOW);
        prop_assert!(check(&headers, &request, NOW).is_ok());
        let mut bytes = bs58::decode(&headers.signature).into_vec().unwrap();
        bytes[byte] ^= 1 << bit;
        headers.signature = bs58::encode(bytes).into_string();
        prop_assert_eq!(check(&headers, &request, NOW), Err(AuthError::Invalid));
    }
}

#[test]
fn fault_2_2_headers_that_no_body_could_save_are_refused_without_it() {
    let headers = bound(&SPAWN, NOW);
    let (whole, names) = (present(&headers), names());
    let read = |presented, now| UnverifiedSignature::read(presented, policy(&names), now).map(drop);
    assert_eq!(read(whole, NOW), Ok(()));
    let of = |wallet, signature, timestamp| read(SignatureHeaders { wallet, signature, timestamp, ..whole }, NOW);
    let SignatureHeaders { wallet, signature, timestamp, .. } = whole;
    assert_eq!(of(None, signature, timestamp), Err(AuthError::Missing(AuthHeader::Wallet)));
    assert_eq!(of(wallet, None, timestamp), Err(AuthError::Missing(AuthHeader::Signature)));
    assert_eq!(of(wallet, signature, None), Err(AuthError::Missing(AuthHeader::Timestamp)));
    assert_eq!(of(Some("x"), signature, timestamp), Err(AuthError::Malformed(AuthHeader::Wallet)));
    assert_eq!(of(wallet, Some("x"), timestamp), Err(AuthError::Malformed(AuthHeader::Signature)));
    assert_eq!(of(wallet, signature, Some("1")), Err(AuthError::Malformed(AuthHeader::Timestamp)));
    assert_eq!(read(whole, NOW.plus(palatine_auth::PAST_MS + 1)), Err(AuthError::Expired));
}

#[test]
fn fault_2_2_a_signature_that_expires_while_its_body_is_read_opens_nothing() {
    let headers = bound(&SPAWN, NOW);
    let names = names();
    let claim = UnverifiedSignature::read(present(&headers), policy(&names), NOW).unwrap();
    let last = NOW.plus(palatine_auth::PAST_MS);
    assert!(claim.verify(&SPAWN, last).is_ok());
    assert_eq!(claim.verify(&SPAWN, last.plus(1)), Err(AuthError::Expired));
}
