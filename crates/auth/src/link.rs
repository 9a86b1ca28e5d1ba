//! Who owns what a holder's agents earn: one text, signed by the Solana wallet that
//! holds and by the EVM account that owns.
//!
//! ```text
//! palatine.example asks a holder and an owner to link their accounts.
//!
//! Agents of the holder work for the vaults of the owner. Sign this only if you know and trust the other side.
//!
//! Holder: 2iXtA8oeZqUU5pofxK971TCEvFGfems2AcDRaZHKD2pQ
//! Owner: 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266
//! Chain: eip155:338
//! Nonce: 0x000102030405060708090a0b0c0d0e0f
//! Issued: 1795000000000
//! Expires: 1795000600000
//! ```
//!
//! Lines end with a line feed, the last one with nothing. The instants are Unix
//! milliseconds, the owner is written with the check-sum of EIP-55, the nonce is 16
//! random bytes. [`LinkTerms::parse`] reads exactly what [`LinkTerms::text`] writes.
//!
//! The holder signs as wallets of Solana do (any [`MessageEncoding`]), the owner by EIP-191.

use std::fmt;
use std::str::{FromStr, Split};

use alloy_primitives::B128;
use domain::{Address, UnixMillis, Wallet};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::evm::EvmSignature;
use crate::keypair::{Keypair, base58};
use crate::message::MessageEncoding;
use crate::name::GatewayName;
use crate::verify::{FUTURE_MS, MAX_SIGNATURE_TEXT, form_of, replay_key};

/// How long a text may wait for its two signatures: two people may have to meet.
pub const MAX_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest text of a link.
pub const MAX_LINK_TEXT: usize = 1024;

const ASKS: &str = " asks a holder and an owner to link their accounts.";
const STATEMENT: &str =
    "Agents of the holder work for the vaults of the owner. Sign this only if you know and trust the other side.";

/// A line of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the lines")]
pub enum LinkField {
    Gateway,
    Statement,
    Holder,
    Owner,
    Chain,
    Nonce,
    Issued,
    Expires,
}

impl LinkField {
    /// What the line begins with.
    const fn label(self) -> &'static str {
        match self {
            Self::Gateway | Self::Statement => "",
            Self::Holder => "Holder: ",
            Self::Owner => "Owner: ",
            Self::Chain => "Chain: eip155:",
            Self::Nonce => "Nonce: ",
            Self::Issued => "Issued: ",
            Self::Expires => "Expires: ",
        }
    }
}

impl fmt::Display for LinkField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Statement => "statement",
            Self::Holder => "holder",
            Self::Owner => "owner",
            Self::Chain => "chain",
            Self::Nonce => "nonce",
            Self::Issued => "issue",
            Self::Expires => "expiry",
        })
    }
}

/// Why two accounts are not linked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not the text of a link.
    #[error("the line of the {0} is not that of a link")]
    Text(LinkField),
    /// It says the same in other bytes.
    #[error("the text is a link's, but not written as a link is: check-sum, digits, spaces, or something at its end")]
    NotCanonical,
    /// Not the base58 of 64 bytes.
    #[error("a holder's signature is the base58 of 64 bytes")]
    HolderShape,
    /// Meant for another gateway.
    #[error("the link is for {named}, which is no name of this gateway")]
    OtherGateway {
        /// The gateway it names.
        named: GatewayName,
    },
    /// Meant for another chain.
    #[error("the link is for chain {named}, and the vaults are on chain {ours}")]
    OtherChain {
        /// The chain it names.
        named: u64,
        /// The gateway's.
        ours: u64,
    },
    /// Names another holder than the one who asks.
    #[error("the link is {named}'s, not yours")]
    OtherHolder {
        /// The holder it names.
        named: Wallet,
    },
    /// Expires before it is issued, or too long after.
    #[error("a link is good for at most 24 hours from its issue")]
    Lifetime,
    /// Issued in the future.
    #[error("the link is issued more than 30 seconds ahead of this gateway's clock")]
    Early,
    /// Presented too late.
    #[error("the link has expired; sign a new one")]
    Expired,
    /// Not the holder's.
    #[error("the holder's signature is not this wallet's for this text")]
    HolderSignature,
    /// Not the owner's.
    #[error("the owner's signature is not this account's for this text")]
    OwnerSignature,
}

/// What both sides sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTerms {
    /// For which gateway.
    pub gateway: GatewayName,
    /// The Solana wallet that holds.
    pub holder: Wallet,
    /// The EVM account that owns the vaults.
    pub owner: Address,
    /// The chain of the vaults, by its EIP-155 number.
    pub chain_id: u64,
    /// 16 random bytes: no two links share a text.
    pub nonce: B128,
    /// When it was written, Unix milliseconds.
    pub issued_at: UnixMillis,
    /// Until when it must have been presented, Unix milliseconds.
    pub expires_at: UnixMillis,
}

impl LinkTerms {
    /// The text that both sides sign.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}{ASKS}\n\n{STATEMENT}\n\n{}{}\n{}{}\n{}{}\n{}{}\n{}{}\n{}{}",
            self.gateway,
            LinkField::Holder.label(),
            self.holder,
            LinkField::Owner.label(),
            self.owner,
            LinkField::Chain.label(),
            self.chain_id,
            LinkField::Nonce.label(),
            self.nonce,
            LinkField::Issued.label(),
            self.issued_at,
            LinkField::Expires.label(),
            self.expires_at,
        )
    }

    /// Reads what [`Self::text`] writes, and nothing else.
    ///
    /// # Errors
    /// [`LinkError::Text`] names the line at fault; [`LinkError::NotCanonical`] where
    /// every line can be read and the whole is written otherwise.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        if text.len() > MAX_LINK_TEXT {
            return Err(LinkError::NotCanonical);
        }
        let mut lines = text.split('\n');
        let gateway = read_gateway(&mut lines)?;
        read_statement(&mut lines)?;
        let terms = Self {
            gateway,
            holder: read(&mut lines, LinkField::Holder)?,
            owner: read(&mut lines, LinkField::Owner)?,
            chain_id: read(&mut lines, LinkField::Chain)?,
            nonce: read(&mut lines, LinkField::Nonce)?,
            issued_at: read(&mut lines, LinkField::Issued).map(UnixMillis)?,
            expires_at: read(&mut lines, LinkField::Expires).map(UnixMillis)?,
        };
        if terms.text() == text { Ok(terms) } else { Err(LinkError::NotCanonical) }
    }

    /// What to remember until [`Self::expires_at`] (`store`'s spent signatures), so that a
    /// link is accepted once: SHA-256 of holder and text.
    #[must_use]
    pub fn replay_key(&self) -> [u8; 32] {
        replay_key(&self.holder, &self.text())
    }

    fn check(&self, required: &LinkRequirements<'_>, at: UnixMillis) -> Result<(), LinkError> {
        if !required.gateways.contains(&self.gateway) {
            return Err(LinkError::OtherGateway { named: self.gateway.clone() });
        }
        if self.chain_id != required.chain_id {
            return Err(LinkError::OtherChain { named: self.chain_id, ours: required.chain_id });
        }
        if self.holder != required.holder {
            return Err(LinkError::OtherHolder { named: self.holder });
        }
        self.check_window(at)
    }

    fn check_window(&self, at: UnixMillis) -> Result<(), LinkError> {
        if self.expires_at <= self.issued_at || self.expires_at.since(self.issued_at) > MAX_LIFETIME_MS {
            return Err(LinkError::Lifetime);
        }
        if self.issued_at.since(at) > FUTURE_MS {
            return Err(LinkError::Early);
        }
        if at > self.expires_at { Err(LinkError::Expired) } else { Ok(()) }
    }
}

fn read_gateway(lines: &mut Split<'_, char>) -> Result<GatewayName, LinkError> {
    let name = lines.next().and_then(|line| line.strip_suffix(ASKS)).ok_or(LinkError::Text(LinkField::Gateway))?;
    name.parse().map_err(|_| LinkError::Text(LinkField::Gateway))
}

fn read_statement(lines: &mut Split<'_, char>) -> Result<(), LinkError> {
    let stated = ["", STATEMENT, ""].into_iter().all(|line| lines.next() == Some(line));
    if stated { Ok(()) } else { Err(LinkError::Text(LinkField::Statement)) }
}

fn read<T: FromStr>(lines: &mut Split<'_, char>, line: LinkField) -> Result<T, LinkError> {
    let value = lines.next().and_then(|text| text.strip_prefix(line.label()));
    value.and_then(|value| value.parse().ok()).ok_or(LinkError::Text(line))
}

/// A holder's signature: 64 bytes of ed25519, base58 as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderSignature(pub [u8; 64]);

impl fmt::Display for HolderSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base58(&self.0))
    }
}

impl FromStr for HolderSignature {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        if text.len() > MAX_SIGNATURE_TEXT {
            return Err(LinkError::HolderShape);
        }
        let mut bytes = [0; 64];
        five8::decode_64(text, &mut bytes).map_err(|_| LinkError::HolderShape)?;
        Ok(Self(bytes))
    }
}

impl Serialize for HolderSignature {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HolderSignature {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What the one who accepts a link knows without it.
#[derive(Clone, Copy, Debug)]
pub struct LinkRequirements<'a> {
    /// The names that the operator gave the gateway.
    pub gateways: &'a [GatewayName],
    /// The chain of its vaults.
    pub chain_id: u64,
    /// The wallet that signed the request, or whose link was stored.
    pub holder: Wallet,
}

/// Holder and owner, linked by both. Proves nothing until [`Link::verify`] has said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What both signed.
    #[serde(flatten)]
    pub terms: LinkTerms,
    /// The holder's signature, base58.
    pub holder_signature: HolderSignature,
    /// The owner's signature, `0x…`.
    pub owner_signature: EvmSignature,
}

impl Link {
    /// Verifies both sides. `at` is now when the link is presented, and the instant at
    /// which it was accepted when a stored one is looked at again.
    ///
    /// The caller must still spend [`LinkTerms::replay_key`], and keep of a holder's
    /// links the one that was issued last: a link presented twice would bring back an
    /// owner who was replaced.
    ///
    /// # Errors
    /// [`LinkError`] names the side or the line at fault.
    pub fn verify(&self, required: &LinkRequirements<'_>, at: UnixMillis) -> Result<(), LinkError> {
        self.terms.check(required, at)?;
        let text = self.terms.text();
        self.verify_owner(&text)?;
        self.verify_holder(&text)
    }

    fn verify_owner(&self, text: &str) -> Result<(), LinkError> {
        match self.owner_signature.signer_of_text(text.as_bytes()) {
            Ok(signer) if signer == self.terms.owner => Ok(()),
            Ok(_) | Err(_) => Err(LinkError::OwnerSignature),
        }
    }

    fn verify_holder(&self, text: &str) -> Result<(), LinkError> {
        let holder = &self.terms.holder.0;
        let key = VerifyingKey::from_bytes(holder).map_err(|_| LinkError::HolderSignature)?;
        let signature = Signature::from_bytes(&self.holder_signature.0);
        if form_of(&key, &signature, text).is_some() { Ok(()) } else { Err(LinkError::HolderSignature) }
    }
}

impl Keypair {
    /// Signs a link as its holder, in this form.
    #[must_use]
    pub fn sign_link(&self, terms: &LinkTerms, form: MessageEncoding) -> HolderSignature {
        HolderSignature(self.sign_bytes(&terms.text(), form))
    }
}
