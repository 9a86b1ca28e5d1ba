//! Paying a 402.
//!
//! What is signed is known beforehand: a token of ours, in the domain that we
//! know for it, for no more than the cap, valid for no longer than the limit. A
//! seller's words choose among that, and no more.

use std::sync::Arc;

use alloy_primitives::Signature;
use domain::{Address, B256, U256, Usdc};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::facilitator::domain_agrees;
use crate::seller::{PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE};
use crate::verify::digest;
use crate::wire::{PaymentHeader, StatedOffer, read_receipt, read_terms, v1_header, v2_header};
use crate::{Authorization, PAYMENT_SIGNATURE, PaymentKey, SignedAuthorization, Token, Tokens, X_PAYMENT};

/// Seconds by which the validity begins before now: the chain's clock may be
/// behind ours.
const BACKDATED_S: u64 = 600;

/// Who signs for a buyer.
pub trait SignHash: Send + Sync {
    /// The account that pays.
    fn address(&self) -> Address;

    /// Signs a hash as it is.
    ///
    /// # Errors
    /// Why it cannot; without secrets.
    fn sign(&self, hash: &B256) -> Result<Signature, SignError>;
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payment could not be signed: {0}")]
pub struct SignError(pub String);

/// Pays for requests.
pub struct Buyer<S> {
    signer: S,
    tokens: Arc<Tokens>,
    max_timeout_s: u64,
}

/// What is paid, once its header was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPayment {
    /// The header to send the same request again with.
    pub header: (HeaderName, HeaderValue),
    /// Who is paid.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
    /// In which token.
    pub token: Arc<Token>,
    /// The payment. It may be on the chain until `valid_before`, whatever the
    /// seller answers.
    pub key: PaymentKey,
    /// Unix seconds after which it can be taken no more.
    pub valid_before: u64,
}

/// Why a 402 is not paid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuyError {
    /// No terms in any dialect.
    #[error("the answer asks for payment and states no terms that x402 knows")]
    NoTerms,
    /// None of the offers is in a token that we know, with the scheme and domain
    /// that it has.
    #[error("nothing that is offered can be paid: no known token, chain and scheme among it")]
    NoOffer,
    /// The cheapest costs more than the cap.
    #[error("it costs {asked}, more than the {cap} that may be paid")]
    TooDear {
        /// The cheapest offer.
        asked: Usdc,
        /// The cap.
        cap: Usdc,
    },
    /// It would have to be valid for longer than the limit.
    #[error("the payment would have to be valid for {asked_s} seconds; {limit_s} are allowed")]
    TooLong {
        /// What the seller asks for.
        asked_s: u64,
        /// Ours.
        limit_s: u64,
    },
    /// The signer did not.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl<S: SignHash> Buyer<S> {
    /// A buyer in these tokens, whose payments are valid for at most so long.
    #[must_use]
    pub const fn new(signer: S, tokens: Arc<Tokens>, max_timeout_s: u64) -> Self {
        Self { signer, tokens, max_timeout_s }
    }

    /// Signs a payment for the cheapest of a 402's offers that we can pay. `now`
    /// is in Unix seconds; `nonce` is random.
    ///
    /// # Errors
    /// Nothing was signed; the reason is for the user.
    pub fn pay(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        cap: Usdc,
        now: u64,
        nonce: B256,
    ) -> Result<SignedPayment, BuyError> {
        let header = headers.get(PAYMENT_REQUIRED).map(HeaderValue::as_bytes);
        let stated = read_terms(header, body, &self.tokens, self.max_timeout_s).ok_or(BuyError::NoTerms)?;
        let (offer, token) = self.choose(&stated, cap)?;
        self.sign(offer, token, now, nonce)
    }

    fn choose<'a>(&self, stated: &'a [StatedOffer], cap: Usdc) -> Result<(&'a StatedOffer, &Arc<Token>), BuyError> {
        let known = stated.iter().filter_map(|offer| Some((offer, self.known(offer)?)));
        let (offer, token) = known.min_by_key(|(offer, _)| offer.amount).ok_or(BuyError::NoOffer)?;
        if offer.amount > cap {
            return Err(BuyError::TooDear { asked: offer.amount, cap });
        }
        if offer.max_timeout_s > self.max_timeout_s {
            return Err(BuyError::TooLong { asked_s: offer.max_timeout_s, limit_s: self.max_timeout_s });
        }
        Ok((offer, token))
    }

    /// The token of an offer that can be paid: ours, by chain and address, in its
    /// own domain, moved by EIP-3009, to somebody.
    fn known(&self, offer: &StatedOffer) -> Option<&Arc<Token>> {
        let token = self.tokens.at(offer.chain_id, offer.asset)?;
        let method = offer.extra.as_ref().and_then(|extra| extra.get("assetTransferMethod"));
        let by_3009 = method.is_none_or(|method| method.as_str() == Some("eip3009"));
        let domain = domain_agrees(offer.extra.as_ref(), token.name(), token.version());
        (by_3009 && domain && offer.pay_to != Address::ZERO).then_some(token)
    }

    fn sign(&self, offer: &StatedOffer, token: &Arc<Token>, now: u64, nonce: B256) -> Result<SignedPayment, BuyError> {
        let valid_before = now.saturating_add(offer.max_timeout_s);
        let authorization = Authorization {
            chain_id: offer.chain_id,
            asset: offer.asset,
            from: self.signer.address(),
            to: offer.pay_to,
            value: offer.amount,
            valid_after: U256::from(now.saturating_sub(BACKDATED_S)),
            valid_before: U256::from(valid_before),
            nonce,
        };
        let signature = self.signer.sign(&digest(token, &authorization))?.normalized_s();
        let signed = SignedAuthorization { authorization, signature };
        let (name, value) = match &offer.format {
            PaymentHeader::V2 { terms, resource } => (PAYMENT_SIGNATURE, v2_header(terms, resource.as_ref(), &signed)),
            PaymentHeader::V1 { network } => (X_PAYMENT, v1_header(network, &signed)),
        };
        let value = HeaderValue::try_from(value).map_err(|_| BuyError::NoTerms)?;
        Ok(SignedPayment {
            header: (name, value),
            payee: authorization.to,
            amount: authorization.value,
            token: Arc::clone(token),
            key: authorization.key(),
            valid_before,
        })
    }
}

/// The transaction that a seller says settled the payment, from the headers of
/// his answer. It is his word: only the token knows.
#[must_use]
pub fn receipt(headers: &HeaderMap) -> Option<B256> {
    let header = headers.get(PAYMENT_RESPONSE).or_else(|| headers.get(X_PAYMENT_RESPONSE))?;
    read_receipt(header.as_bytes())
}
