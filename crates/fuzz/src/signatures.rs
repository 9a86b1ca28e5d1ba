//! Who signed, and what names what.

use std::str::from_utf8;

use auth::{
    BoundRequest, EvmSignature, GatewayName, HolderSignature, LinkTerms, SignatureHeaders, UnverifiedSignature,
    VerifyPolicy, verify,
};
use domain::{ImageDigest, PodId, RunId, UnixMillis, Wallet};

/// The instant of the seeds.
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Lines: wallet, signature, timestamp, audience (`-` for none), method, path; the
/// rest is the body.
pub(crate) fn signature(bytes: &[u8]) {
    let mut lines = bytes.splitn(7, |byte| *byte == b'\n');
    let mut line = || lines.next().and_then(|line| from_utf8(line).ok()).unwrap_or_default();
    let [wallet, signature, timestamp, audience, method, path] = std::array::from_fn(|_| line());
    let body = lines.next().unwrap_or_default();
    let audience = Some(audience).filter(|audience| *audience != "-");
    let presented =
        SignatureHeaders { wallet: Some(wallet), signature: Some(signature), timestamp: Some(timestamp), audience };
    let request = BoundRequest { method, path, body };
    let ours: Vec<GatewayName> = ["palatine.example:8443"].iter().filter_map(|name| name.parse().ok()).collect();
    let policy = VerifyPolicy { audiences: &ours, require_bound: false };
    // As the gateway does it: the headers first, the body later.
    let Ok(claim) = UnverifiedSignature::read(presented, policy, NOW) else { return };
    let Ok(signed) = claim.verify(&request, NOW) else { return };
    assert_eq!(signed.wallet.to_string(), wallet, "a wallet has one text");
    assert_eq!(signed.bound, audience.is_some());
    // A good signature is of this request alone, and at this gateway alone.
    let nowhere = VerifyPolicy { audiences: &[], require_bound: false };
    assert!(!signed.bound || verify(presented, &request, nowhere, NOW).is_err());
    let other = BoundRequest { body: &[body, b"x"].concat(), ..request };
    assert!(!signed.bound || verify(presented, &other, policy, NOW).is_err());
    let late = signed.expires_at.plus(1);
    assert!(verify(presented, &request, policy, late).is_err(), "it ends");
}

/// The text of a link.
pub(crate) fn link(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    if let Ok(terms) = LinkTerms::parse(text) {
        assert_eq!(terms.text(), text, "a link has one text");
    }
}

/// What stands in hosts, paths and fields: each thing has one text.
pub(crate) fn names(bytes: &[u8]) {
    let Ok(text) = from_utf8(bytes) else { return };
    fn one<T: std::str::FromStr + ToString>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|thing| thing.to_string())
    }
    let read = [
        one::<RunId>(text),
        one::<PodId>(text),
        one::<Wallet>(text),
        one::<ImageDigest>(text),
        one::<GatewayName>(text),
    ];
    let read = read.into_iter().chain([one::<HolderSignature>(text)]);
    for again in read.flatten() {
        assert_eq!(again, text);
    }
    if let Ok(signature) = text.parse::<EvmSignature>() {
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }
}
