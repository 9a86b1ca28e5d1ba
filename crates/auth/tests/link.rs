//! What links a holder and an owner, and who would like to be linked without the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::str::FromStr;

use alloy_primitives::{B128, Signature, U256, eip191_hash_message, uint};
use domain::{Address, UnixMillis, Wallet};
use k256::ecdsa::SigningKey;
use palatine_auth::{
    EvmSignature, EvmSignatureError, GatewayName, HolderSignature, Keypair, Link, LinkError, LinkField,
    LinkRequirements, LinkTerms, MAX_LIFETIME_MS, MessageEncoding, OffchainFormat,
};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const CHAIN: u64 = 338;
/// The order of secp256k1.
const ORDER: U256 = uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);

/// An EVM account.
struct Account(SigningKey);

impl Account {
    fn new(seed: u8) -> Self {
        Self(SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    fn address(&self) -> Address {
        Address::from_public_key(self.0.verifying_key())
    }

    fn sign(&self, text: &str) -> EvmSignature {
        let (signature, id) = self.0.sign_prehash_recoverable(eip191_hash_message(text).as_slice()).unwrap();
        Signature::from((signature, id)).try_into().unwrap()
    }
}

fn holder() -> Keypair {
    Keypair::generate(&[42; 32])
}

fn owner() -> Account {
    Account::new(7)
}

fn gateway() -> GatewayName {
    "palatine.example:8443".parse().unwrap()
}

fn terms() -> LinkTerms {
    LinkTerms {
        gateway: gateway(),
        holder: holder().wallet(),
        owner: owner().address(),
        chain_id: CHAIN,
        nonce: B128::from([9; 16]),
        issued_at: NOW,
        expires_at: NOW.plus(600_000),
    }
}

fn signed(terms: LinkTerms) -> Link {
    let holder_signature = holder().sign_link(&terms, MessageEncoding::Raw);
    let owner_signature = owner().sign(&terms.text());
    Link { terms, holder_signature, owner_signature }
}

fn verify(link: &Link, at: UnixMillis) -> Result<(), LinkError> {
    link.verify(&LinkRequirements { gateways: &[gateway()], chain_id: CHAIN, holder: holder().wallet() }, at)
}

#[test]
fn the_text_is_what_the_documentation_shows() {
    let shown = "palatine.example asks a holder and an owner to link their accounts.\n\n\
        Agents of the holder work for the vaults of the owner. Sign this only if you know and trust the other side.\n\n\
        Holder: 2iXtA8oeZqUU5pofxK971TCEvFGfems2AcDRaZHKD2pQ\n\
        Owner: 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266\n\
        Chain: eip155:338\n\
        Nonce: 0x000102030405060708090a0b0c0d0e0f\n\
        Issued: 1795000000000\n\
        Expires: 1795000600000";
    let read = LinkTerms::parse(shown).unwrap();
    assert_eq!((read.text().as_str(), read.holder, read.chain_id), (shown, holder().wallet(), CHAIN));
}

#[test]
fn a_link_that_both_sides_signed_is_a_link_whatever_the_wallet_wrapped() {
    // Its lines are no printable ASCII.
    for form in MessageEncoding::ALL.into_iter().filter(|form| *form != MessageEncoding::V0(OffchainFormat::Ascii)) {
        let link = Link { holder_signature: holder().sign_link(&terms(), form), ..signed(terms()) };
        assert_eq!(verify(&link, NOW), Ok(()), "{form:?}");
    }
}

#[test]
fn a_link_goes_to_json_and_comes_back_and_still_proves_itself() {
    let link = signed(terms());
    let json = serde_json::to_string(&link).unwrap();
    let back: Link = serde_json::from_str(&json).unwrap();
    assert_eq!((&back, verify(&back, NOW)), (&link, Ok(())));
}

#[test]
fn a_stored_gateway_name_that_could_break_the_text_is_refused() {
    let json = serde_json::to_string(&signed(terms())).unwrap().replace("palatine.example:8443", "a\\nHolder: b");
    assert!(serde_json::from_str::<Link>(&json).is_err());
}

#[test]
fn one_side_alone_links_nobody() {
    let stranger = Keypair::generate(&[1; 32]);
    let forged = Link { holder_signature: stranger.sign_link(&terms(), MessageEncoding::Raw), ..signed(terms()) };
    assert_eq!(verify(&forged, NOW), Err(LinkError::HolderSignature));
    let forged = Link { owner_signature: Account::new(8).sign(&terms().text()), ..signed(terms()) };
    assert_eq!(verify(&forged, NOW), Err(LinkError::OwnerSignature));
}

#[test]
fn a_party_that_is_swapped_after_signing_breaks_the_other_sides_signature() {
    let link = signed(terms());
    let other_owner = LinkTerms { owner: Account::new(8).address(), ..terms() };
    // The thief signs for himself; the holder's signature is of another text.
    let stolen =
        Link { owner_signature: Account::new(8).sign(&other_owner.text()), terms: other_owner, ..link.clone() };
    assert_eq!(verify(&stolen, NOW), Err(LinkError::HolderSignature));
    let thief = Keypair::generate(&[1; 32]);
    let other_holder = LinkTerms { holder: thief.wallet(), ..terms() };
    let stolen =
        Link { holder_signature: thief.sign_link(&other_holder, MessageEncoding::Raw), terms: other_holder, ..link };
    let required = LinkRequirements { gateways: &[gateway()], chain_id: CHAIN, holder: thief.wallet() };
    assert_eq!(stolen.verify(&required, NOW), Err(LinkError::OwnerSignature));
}

#[test]
fn a_link_of_another_holder_gateway_or_chain_is_refused_by_that_name() {
    let link = signed(terms());
    let ours = [gateway()];
    let required = LinkRequirements { gateways: &ours, chain_id: CHAIN, holder: holder().wallet() };
    let elsewhere: GatewayName = "other.example".parse().unwrap();
    let cases = [
        (
            LinkRequirements { gateways: std::slice::from_ref(&elsewhere), ..required },
            LinkError::OtherGateway { named: gateway() },
        ),
        (LinkRequirements { chain_id: 25, ..required }, LinkError::OtherChain { named: CHAIN, ours: 25 }),
        (LinkRequirements { holder: Wallet([1; 32]), ..required }, LinkError::OtherHolder { named: holder().wallet() }),
    ];
    for (required, said) in cases {
        assert_eq!(link.verify(&required, NOW), Err(said));
    }
}

#[test]
fn a_link_is_good_from_its_issue_to_its_expiry_to_the_millisecond() {
    let link = signed(terms());
    assert_eq!(verify(&link, UnixMillis(NOW.0 - 30_000)), Ok(()));
    assert_eq!(verify(&link, UnixMillis(NOW.0 - 30_001)), Err(LinkError::Early));
    assert_eq!(verify(&link, NOW.plus(600_000)), Ok(()));
    assert_eq!(verify(&link, NOW.plus(600_001)), Err(LinkError::Expired));
}

#[test]
fn a_link_that_is_good_for_longer_than_a_day_or_for_no_time_is_refused() {
    let lasting = |millis| verify(&signed(LinkTerms { expires_at: NOW.plus(millis), ..terms() }), NOW);
    assert_eq!(lasting(MAX_LIFETIME_MS), Ok(()));
    assert_eq!(lasting(MAX_LIFETIME_MS + 1), Err(LinkError::Lifetime));
    assert_eq!(lasting(0), Err(LinkError::Lifetime));
    let endless = signed(LinkTerms { expires_at: UnixMillis(u64::MAX), ..terms() });
    assert_eq!(verify(&endless, NOW), Err(LinkError::Lifetime));
}

#[test]
fn two_links_never_share_a_stamp() {
    let other = LinkTerms { nonce: B128::from([8; 16]), ..terms() };
    assert_ne!(terms().replay_key(), other.replay_key());
    assert_eq!(terms().replay_key(), signed(terms()).terms.replay_key());
}

#[test]
fn a_text_with_anything_more_or_written_otherwise_is_refused() {
    let text = terms().text();
    let owner = owner().address().to_string();
    let others = [
        format!("{text}\n"),
        format!("{text} "),
        format!("{text}\nChain: eip155:25"),
        text.replace(&owner, &owner.to_lowercase()),
        text.replace(&owner, &owner[2..]),
        text.replace("eip155:338", "eip155:0338"),
        text.replace("eip155:338", "eip155:+338"),
        text.replace("Issued: ", "Issued: 0"),
        text.replace("0x0909", "0909"),
    ];
    for other in others {
        assert_ne!(other, text);
        let said = LinkTerms::parse(&other);
        assert!(
            matches!(said, Err(LinkError::NotCanonical | LinkError::Text(LinkField::Expires))),
            "{other}: {said:?}"
        );
    }
    assert_eq!(LinkTerms::parse(&"a".repeat(100_000)), Err(LinkError::NotCanonical));
}

#[test]
fn the_line_at_fault_is_named() {
    let text = terms().text();
    let cases = [
        ("palatine.example", "PALATINE", LinkField::Gateway),
        ("asks a holder", "commands a holder", LinkField::Gateway),
        ("know and trust", "know", LinkField::Statement),
        ("Holder: ", "Holder: 0", LinkField::Holder),
        ("Owner: 0x", "Owner: 1x", LinkField::Owner),
        ("eip155:", "solana:", LinkField::Chain),
        ("Nonce: 0x", "Nonce: 0x00", LinkField::Nonce),
        ("Issued: ", "Issued: -", LinkField::Issued),
        ("Expires: ", "Expires: soon", LinkField::Expires),
        ("\n", "\r\n", LinkField::Gateway),
    ];
    for (from, to, line) in cases {
        assert_eq!(LinkTerms::parse(&text.replace(from, to)), Err(LinkError::Text(line)), "{from} {to}");
    }
}

/// `r ‖ n − s ‖ v` turned: another signature of the same text that ecrecover takes.
fn turned(signature: EvmSignature) -> [u8; 65] {
    let mut bytes = signature.to_bytes();
    let s = U256::from_be_slice(&bytes[32..64]);
    bytes[32..64].copy_from_slice(&(ORDER - s).to_be_bytes::<32>());
    bytes[64] = if bytes[64] == 27 { 28 } else { 27 };
    bytes
}

#[test]
fn an_owners_signature_has_one_reading() {
    let good = owner().sign("text");
    assert_eq!(good.signer_of_text(b"text"), Ok(owner().address()));
    assert_eq!(EvmSignature::from_bytes(&turned(good)), Err(EvmSignatureError::HighS));
    let mut low = good.to_bytes();
    low[64] -= 27;
    assert_eq!(EvmSignature::from_bytes(&low), Ok(good));
    for v in [2, 26, 29, 35, 36, 255] {
        let mut other = good.to_bytes();
        other[64] = v;
        assert_eq!(EvmSignature::from_bytes(&other), Err(EvmSignatureError::Parity), "{v}");
    }
    for length in [0, 64, 66, 130] {
        assert_eq!(EvmSignature::from_bytes(&vec![1; length]), Err(EvmSignatureError::Shape), "{length}");
    }
}

#[test]
fn scalars_of_zero_or_beyond_the_order_sign_nothing() {
    let order = ORDER.to_be_bytes::<32>();
    for (range, bytes) in [(0..32, [0; 32]), (32..64, [0; 32]), (0..32, order), (32..64, order), (0..32, [255; 32])] {
        let mut signature = owner().sign("text").to_bytes();
        signature[range].copy_from_slice(&bytes);
        assert_eq!(EvmSignature::from_bytes(&signature), Err(EvmSignatureError::Impossible));
    }
}

#[test]
fn a_signatures_text_is_0x_and_130_digits() {
    let good = owner().sign("text");
    let text = good.to_string();
    assert_eq!(text.parse(), Ok(good));
    let bare = text[2..].to_owned();
    for other in [bare.clone(), format!("{bare}00"), format!("0X{bare}"), format!("{text}0"), "0x".to_owned()] {
        assert_eq!(EvmSignature::from_str(&other), Err(EvmSignatureError::Shape), "{other}");
    }
    assert_eq!(EvmSignature::from_str(&"0".repeat(1_000_000)), Err(EvmSignatureError::Shape));
}

/// Made by ethers 6 (`new Wallet("0x4646…46").signMessage("Palatine links")`).
#[test]
fn a_signature_that_another_wallet_made_is_read() {
    let signature: EvmSignature = ETHERS_SIGNATURE.parse().unwrap();
    assert_eq!(signature.signer_of_text(b"Palatine links"), Ok(Account::new(0x46).address()));
    assert_eq!(Account::new(0x46).sign("Palatine links"), signature);
}

const ETHERS_SIGNATURE: &str = "0xecc27d34a4208ba0ca3db65e8d8d255df601ebe2e49cfd181bd0584dd4c3b395751ae67df2f335063cfd09ef77cf0a238a469bbc850dd9c39c7b39448fea84781b";

fn any_terms() -> impl Strategy<Value = LinkTerms> {
    let name = "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,9}){0,2}(:[1-9][0-9]{0,3})?";
    let parties = (name, any::<[u8; 32]>(), any::<[u8; 20]>());
    let rest = (any::<u64>(), any::<[u8; 16]>(), any::<u64>(), any::<u64>());
    (parties, rest).prop_map(|((gateway, holder, owner), (chain_id, nonce, issued, expires))| LinkTerms {
        gateway: gateway.parse().unwrap(),
        holder: Wallet(holder),
        owner: owner.into(),
        chain_id,
        nonce: nonce.into(),
        issued_at: UnixMillis(issued),
        expires_at: UnixMillis(expires),
    })
}

proptest! {
    #[test]
    fn reading_undoes_writing(terms in any_terms()) {
        prop_assert_eq!(LinkTerms::parse(&terms.text()), Ok(terms));
    }

    #[test]
    fn a_text_with_one_byte_changed_is_refused_or_is_the_text_of_other_terms(at: prop::sample::Index, byte in 0_u8..128) {
        let mut text = terms().text().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let text = String::from_utf8(text).unwrap();
        if let Ok(read) = LinkTerms::parse(&text) {
            prop_assert_eq!(read.text(), text);
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "\\PC{0,200}") {
        let _ = LinkTerms::parse(&text);
        let _ = text.parse::<EvmSignature>();
        let _ = text.parse::<HolderSignature>();
    }

    #[test]
    fn a_link_with_one_bit_of_a_signature_changed_is_none(byte in 0_usize..129, bit in 0_u8..8) {
        let mut link = signed(terms());
        let flip = 1 << bit;
        if byte < 64 {
            link.holder_signature.0[byte] ^= flip;
            prop_assert_eq!(verify(&link, NOW), Err(LinkError::HolderSignature));
        } else {
            let mut bytes = link.owner_signature.to_bytes();
            bytes[byte - 64] ^= flip;
            if let Ok(changed) = EvmSignature::from_bytes(&bytes) {
                link.owner_signature = changed;
                prop_assert_eq!(verify(&link, NOW), Err(LinkError::OwnerSignature));
            }
        }
    }
}
