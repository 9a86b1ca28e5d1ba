//! A signature as the Solana command line makes it: `solana 2.3.13` (Agave),
//! `solana sign-offchain-message "romulus:1700000000000"`, with the keypair of
//! 32 bytes of 7. Ed25519 signatures are deterministic.

use domain::UnixMillis;
use palatine_auth::{BoundRequest, MessageEncoding, SignatureHeaders, VerifyPolicy, verify};

const SIGNATURE: &str = "7eu5hwg4hGDsmgR2YTConkYSZ56tZPbmesXkdUDSFtn5cXSbi7FN5iPuvdiGYyULPXUQ7jkMBFofz8Ny3DBvW1E";

#[test]
fn a_signature_of_the_solana_command_line_is_taken_in_its_legacy_form() {
    let presented = SignatureHeaders {
        wallet: Some("GmaDrppBC7P5ARKV8g3djiwP89vz1jLK23V2GBjuAEGB"),
        signature: Some(SIGNATURE),
        timestamp: Some("1700000000000"),
        audience: None,
    };
    let request = BoundRequest { method: "POST", path: "/spawn", body: b"{}" };
    let signed = verify(presented, &request, VerifyPolicy::default(), UnixMillis(1_700_000_000_500)).unwrap();
    assert_eq!((signed.form, signed.bound), (MessageEncoding::Legacy, false));
}
