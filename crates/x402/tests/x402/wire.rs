//! The dialects: what is good is read, and whatever is changed is refused.

use domain::U256;
use http::{HeaderMap, HeaderValue};
use palatine_x402::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::*;

const TOLERANCE: ClockTolerance = ClockTolerance { now: NOW, settle_margin_s: 10, clock_skew_s: 30 };

fn verified(headers: &HeaderMap) -> Result<(Offer, SignedAuthorization), InvalidReason> {
    let presented = UnverifiedPayment::from_headers(headers, &tokens()).map_err(|(_, reason)| reason)?;
    verify(&quote_at(URL), &presented.ok_or(InvalidReason::Payload)?, &TOLERANCE)
}

fn every_dialect() -> [(http::HeaderName, Value); 3] {
    let payer = payer();
    let signed = authorization(&payer);
    let signature = sign_here(&payer, &signed);
    [
        (PAYMENT_SIGNATURE, v2(&signed, &signature)),
        (X_PAYMENT, v1(&signed, &signature)),
        (X_PAYMENT, cronos(&signed, &signature)),
    ]
}

#[test]
fn one_payment_reads_the_same_in_every_dialect() {
    for (name, payment) in every_dialect() {
        let (_, signed) = verified(&header(&name, &payment)).unwrap();
        assert_eq!(signed.authorization, authorization(&payer()));
    }
}

#[test]
fn a_dialect_belongs_to_its_header_and_its_version() {
    for (name, payment) in every_dialect() {
        let other = if name == X_PAYMENT { PAYMENT_SIGNATURE } else { X_PAYMENT };
        assert_eq!(verified(&header(&other, &payment)).unwrap_err(), InvalidReason::Version);
        let mut strange = payment.clone();
        strange["x402Version"] = json!(3);
        assert_eq!(verified(&header(&name, &strange)).unwrap_err(), InvalidReason::Version);
        strange["x402Version"] = json!("2");
        assert_eq!(verified(&header(&name, &strange)).unwrap_err(), InvalidReason::Payload);
    }
}

#[test]
fn the_shapes_of_version_1_are_never_mixed() {
    let [_, (_, nested), (_, flat)] = every_dialect();
    let mut mixed = nested.clone();
    for (field, value) in flat["payload"].as_object().unwrap() {
        mixed["payload"][field] = value.clone();
    }
    assert_eq!(verified(&header(&X_PAYMENT, &mixed)).unwrap_err(), InvalidReason::Payload);
    for field in ["from", "asset", "value"] {
        let mut less = flat.clone();
        less["payload"].as_object_mut().unwrap().remove(field);
        assert_eq!(verified(&header(&X_PAYMENT, &less)).unwrap_err(), InvalidReason::Payload, "{field}");
    }
}

#[test]
fn other_schemes_networks_and_tokens_are_named_as_what_is_wrong() {
    let [(_, v2), (_, v1), (_, cronos)] = every_dialect();
    let with = |payment: &Value, path: &str, value: Value| {
        let mut payment = payment.clone();
        *payment.pointer_mut(path).unwrap() = value;
        payment
    };
    let reason = |name: &http::HeaderName, payment: Value| verified(&header(name, &payment)).unwrap_err();
    assert_eq!(reason(&PAYMENT_SIGNATURE, with(&v2, "/accepted/scheme", json!("upto"))), InvalidReason::Scheme);
    assert_eq!(reason(&X_PAYMENT, with(&v1, "/scheme", json!("upto"))), InvalidReason::Scheme);
    assert_eq!(reason(&X_PAYMENT, with(&v1, "/network", json!("cronos"))), InvalidReason::Network);
    assert_eq!(reason(&X_PAYMENT, with(&v1, "/network", json!("eip155:338"))), InvalidReason::Network);
    assert_eq!(reason(&X_PAYMENT, with(&cronos, "/payload/asset", json!(PAYEE))), InvalidReason::Requirements);
}

#[test]
fn an_array_is_no_object_with_its_fields_in_order() {
    for (name, payment) in every_dialect() {
        for path in ["", "/payload", "/payload/authorization", "/accepted"] {
            let mut listed = payment.clone();
            let Some(object) = listed.pointer_mut(path) else { continue };
            *object = object.as_object().unwrap().values().cloned().collect();
            assert!(verified(&header(&name, &listed)).is_err(), "{name} {path}");
        }
    }
}

#[test]
fn a_field_given_twice_is_refused() {
    let [_, (_, v1), _] = every_dialect();
    let text = v1.to_string().replacen("\"value\":", "\"value\":\"1\",\"value\":", 1);
    let mut headers = HeaderMap::new();
    let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    headers.insert(X_PAYMENT, HeaderValue::try_from(value).unwrap());
    assert_eq!(verified(&headers).unwrap_err(), InvalidReason::Payload);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let [(name, mut payment), ..] = every_dialect();
    payment["resource"]["description"] = json!("x".repeat(UnverifiedPayment::MAX_HEADER));
    assert_eq!(verified(&header(&name, &payment)).unwrap_err(), InvalidReason::Payload);
}

/// Every value of a payment that is signed, or that decides what is paid.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found)),
        _ if path.contains("/resource/") && !path.ends_with("/url") => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn a_payment_with_any_field_changed_or_missing_is_refused() {
    for (name, payment) in every_dialect() {
        let mut paths = Vec::new();
        leaves(&payment, "", &mut paths);
        for path in paths {
            for wrong in [json!("0"), json!(1), json!(null), json!([]), json!("0x00")] {
                let mut changed = payment.clone();
                if *changed.pointer(&path).unwrap() == wrong {
                    continue;
                }
                *changed.pointer_mut(&path).unwrap() = wrong.clone();
                let read = verified(&header(&name, &changed));
                assert!(read.is_err(), "{name} {path} = {wrong} was accepted");
            }
        }
    }
}

fn headers_of(name: &http::HeaderName, value: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value).ok()?);
    Some(headers)
}

proptest! {
    #[test]
    fn no_header_makes_us_panic(value in prop::collection::vec(any::<u8>(), 0..400), version in 0..2) {
        let name = if version == 0 { PAYMENT_SIGNATURE } else { X_PAYMENT };
        if let Some(headers) = headers_of(&name, &value) {
            prop_assert!(verified(&headers).is_err());
        }
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &value);
        prop_assert!(verified(&headers_of(&name, encoded.as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn a_payment_with_one_byte_changed_is_the_same_payment_or_none(
        dialect in 0..3_usize, at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f,
    ) {
        let (name, payment) = every_dialect()[dialect].clone();
        let mut text = payment.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &text);
        if let Ok((offer, signed)) = verified(&headers_of(&name, encoded.as_bytes()).unwrap()) {
            prop_assert_eq!(signed.authorization, authorization(&payer()));
            prop_assert_eq!(offer, quote_at(URL).offers[0].clone());
        }
    }

    #[test]
    fn a_payment_with_another_value_in_the_signed_part_is_refused(
        value in any::<u64>(), after in any::<u64>(), before in any::<u64>(), nonce in any::<[u8; 32]>(),
    ) {
        let payer = payer();
        let honest = authorization(&payer);
        let signature = sign_here(&payer, &honest);
        let changed = Authorization {
            value: domain::Usdc(value),
            valid_after: U256::from(after),
            valid_before: U256::from(before),
            nonce: nonce.into(),
            ..honest
        };
        prop_assume!(changed != honest);
        prop_assert!(verified(&header(&X_PAYMENT, &v1(&changed, &signature))).is_err());
        prop_assert!(verified(&header(&PAYMENT_SIGNATURE, &v2(&changed, &signature))).is_err());
    }
}
