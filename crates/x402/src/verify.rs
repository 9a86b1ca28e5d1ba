//! Is this payment good? Pure: no clock, no chain.

use domain::{Address, B256, U256};

use crate::recover::signer;
use crate::unverified::{AcceptedTerms, UnverifiedPayment};
use crate::wire::v2_extra;
use crate::{Authorization, InvalidReason, Offer, Quote, SignedAuthorization, Token};

/// The hash that is signed for a transfer of this token.
#[must_use]
pub fn digest(token: &Token, authorization: &Authorization) -> B256 {
    authorization.digest(token.separator())
}

/// The time, and how far clocks may be apart. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockTolerance {
    /// Our clock.
    pub now: u64,
    /// Seconds that must be left for the settlement.
    pub settle_margin_s: u64,
    /// Seconds by which the payer's clock may be ahead of ours.
    pub clock_skew_s: u64,
}

/// Everything but the time: is this payment for one of these offers, and signed
/// by its payer?
///
/// # Errors
/// The first thing that is wrong. The signature is looked at last: it costs the
/// most.
pub fn check_authenticity(
    quote: &Quote,
    presented: &UnverifiedPayment,
) -> Result<(Offer, SignedAuthorization), InvalidReason> {
    if presented.url.as_ref().is_some_and(|url| *url != quote.resource.url) {
        return Err(InvalidReason::Requirements);
    }
    let mut reason = InvalidReason::Network;
    for offer in quote.offers.iter().take(Quote::MAX_OFFERS) {
        match held_against(offer, presented) {
            Ok(signed) => return Ok((offer.clone(), signed)),
            Err(InvalidReason::Network) => {}
            // The offer that was accepted says best what is wrong.
            Err(found) if matches!(reason, InvalidReason::Network | InvalidReason::Requirements) => reason = found,
            Err(_) => {}
        }
    }
    Err(reason)
}

/// Holds a payment against one offer.
pub(crate) fn held_against(offer: &Offer, presented: &UnverifiedPayment) -> Result<SignedAuthorization, InvalidReason> {
    let UnverifiedPayment { chain_id, asset, transfer, accepted, .. } = presented;
    if *chain_id != offer.token.chain_id() {
        return Err(InvalidReason::Network);
    }
    if asset.is_some_and(|asset| asset != offer.token.address()) {
        return Err(InvalidReason::Requirements);
    }
    if accepted.as_ref().is_some_and(|accepted| *accepted != payment_required(offer)) {
        return Err(InvalidReason::Requirements);
    }
    if transfer.to != offer.pay_to {
        return Err(InvalidReason::Recipient);
    }
    if transfer.from == transfer.to {
        return Err(InvalidReason::SelfPayment);
    }
    if transfer.value != offer.amount {
        return Err(InvalidReason::Value);
    }
    let signed = SignedAuthorization {
        authorization: presented.authorization(offer.token.address()),
        signature: transfer.signature,
    };
    if signed_by(&offer.token, &signed) != Some(transfer.from) {
        return Err(InvalidReason::Signature);
    }
    Ok(signed)
}

fn payment_required(offer: &Offer) -> AcceptedTerms {
    AcceptedTerms {
        asset: offer.token.address(),
        pay_to: offer.pay_to,
        amount: offer.amount,
        max_timeout_s: offer.max_timeout_s,
        extra: Some(v2_extra(&offer.token)),
    }
}

/// Who signed, if anybody. The zero address signs nothing: it is what a failed
/// recovery gives on the EVM.
fn signed_by(token: &Token, signed: &SignedAuthorization) -> Option<Address> {
    let signer = signer(&signed.signature, &digest(token, &signed.authorization))?;
    (signer != Address::ZERO).then_some(signer)
}

/// Is it valid now, for long enough to settle, and for no longer than was asked?
///
/// # Errors
/// [`InvalidReason::ValidAfter`] or [`InvalidReason::ValidBefore`].
pub fn check_validity(
    authorization: &Authorization,
    max_timeout_s: u64,
    tolerance: &ClockTolerance,
) -> Result<(), InvalidReason> {
    let ClockTolerance { now, settle_margin_s, clock_skew_s } = *tolerance;
    if authorization.valid_after >= U256::from(now) {
        return Err(InvalidReason::ValidAfter);
    }
    // Records of longer ones would have to be kept for longer.
    let earliest = U256::from(now.saturating_add(settle_margin_s));
    let latest = U256::from(now.saturating_add(max_timeout_s).saturating_add(clock_skew_s));
    if authorization.valid_before <= earliest || authorization.valid_before > latest {
        return Err(InvalidReason::ValidBefore);
    }
    Ok(())
}

/// Both: [`check_authenticity`] and [`check_validity`].
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(
    quote: &Quote,
    presented: &UnverifiedPayment,
    tolerance: &ClockTolerance,
) -> Result<(Offer, SignedAuthorization), InvalidReason> {
    let (offer, signed) = check_authenticity(quote, presented)?;
    check_validity(&signed.authorization, offer.max_timeout_s, tolerance)?;
    Ok((offer, signed))
}
