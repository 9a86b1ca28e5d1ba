//! What is paid for gas. Pure.

use super::EvmError;

/// Wei in one gwei.
pub(super) const GWEI: u128 = 1_000_000_000;

/// A replacement must offer an eighth more: nodes ask for 10 % to 12.5 %.
const BUMP_DIVISOR: u128 = 8;
/// The base fee grows by an eighth per block at most: a quarter lasts two blocks.
const HEADROOM_DIVISOR: u128 = 4;

/// Wei per unit of gas that a transaction offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GasPrice {
    /// EIP-1559.
    Dynamic {
        /// At most, in all.
        max_fee: u128,
        /// For the block's maker.
        tip: u128,
    },
    /// For chains that know no base fee.
    Legacy {
        /// In all.
        gas_price: u128,
    },
}

impl GasPrice {
    /// At most, in all.
    #[must_use]
    pub const fn max_fee(self) -> u128 {
        match self {
            Self::Dynamic { max_fee, .. } => max_fee,
            Self::Legacy { gas_price } => gas_price,
        }
    }

    /// For the block's maker.
    #[must_use]
    pub const fn tip(self) -> u128 {
        match self {
            Self::Dynamic { tip, .. } => tip,
            Self::Legacy { gas_price } => gas_price,
        }
    }
}

/// What the operator pays at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FeeCaps {
    pub(super) max_fee: u128,
    pub(super) tip: u128,
}

/// What to offer now. Tight: some chains charge the offer, not the need.
///
/// # Errors
/// [`EvmError::GasTooDear`] when the least that gets in costs more than the cap.
pub(super) fn quote(base_fee: Option<u128>, gas_price: u128, caps: FeeCaps) -> Result<GasPrice, EvmError> {
    let least = base_fee.unwrap_or(gas_price);
    if least > caps.max_fee {
        return Err(EvmError::GasTooDear { now: least, cap: caps.max_fee });
    }
    let Some(base) = base_fee else {
        return Ok(GasPrice::Legacy { gas_price });
    };
    let wanted = base.saturating_add(base / HEADROOM_DIVISOR).saturating_add(caps.tip).max(gas_price);
    let max_fee = wanted.min(caps.max_fee);
    Ok(GasPrice::Dynamic { max_fee, tip: caps.tip.min(max_fee) })
}

/// What to offer instead of `old`, which is stuck while `fresh` is asked for;
/// `None` when the cap allows no replacement that nodes would take.
pub(super) fn bump(old: GasPrice, fresh: GasPrice, cap: u128) -> Option<GasPrice> {
    let max_fee = raised(old.max_fee()).max(fresh.max_fee());
    if max_fee > cap {
        return None;
    }
    Some(match old {
        GasPrice::Legacy { .. } => GasPrice::Legacy { gas_price: max_fee },
        GasPrice::Dynamic { tip, .. } => GasPrice::Dynamic { max_fee, tip: raised(tip).max(fresh.tip()).min(max_fee) },
    })
}

fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(BUMP_DIVISOR).max(1))
}

/// The limit for a transaction that is estimated to need this much.
///
/// # Errors
/// [`EvmError::GasTooMuch`] when the estimate alone is above the cap.
pub(super) fn limit(estimate: u64, margin_percent: u64, most: u64) -> Result<u64, EvmError> {
    if estimate > most {
        return Err(EvmError::GasTooMuch { gas: estimate, most });
    }
    let margin = u128::from(estimate) * u128::from(margin_percent) / 100;
    Ok(estimate.saturating_add(u64::try_from(margin).unwrap_or(u64::MAX)).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPS: FeeCaps = FeeCaps { max_fee: 1000, tip: 3 };

    #[test]
    fn the_offer_covers_the_base_fee_and_stays_under_the_cap() {
        assert_eq!(quote(Some(400), 10, CAPS), Ok(GasPrice::Dynamic { max_fee: 503, tip: 3 }));
        assert_eq!(quote(Some(400), 700, CAPS), Ok(GasPrice::Dynamic { max_fee: 700, tip: 3 }));
        assert_eq!(quote(Some(999), 10, CAPS), Ok(GasPrice::Dynamic { max_fee: 1000, tip: 3 }));
        assert_eq!(quote(None, 10, CAPS), Ok(GasPrice::Legacy { gas_price: 10 }));
    }

    #[test]
    fn what_costs_more_than_the_cap_is_refused() {
        assert_eq!(quote(Some(1001), 10, CAPS), Err(EvmError::GasTooDear { now: 1001, cap: 1000 }));
        assert_eq!(quote(None, 1001, CAPS), Err(EvmError::GasTooDear { now: 1001, cap: 1000 }));
        assert_eq!(limit(101, 20, 100), Err(EvmError::GasTooMuch { gas: 101, most: 100 }));
        assert_eq!(limit(90, 20, 100), Ok(100));
    }

    proptest! {
        #[test]
        fn a_replacement_offers_an_eighth_more_and_never_more_than_the_cap(
            max_fee in 1u128..1 << 80, tip in 0u128..1 << 80, now in 0u128..1 << 80, cap in 1u128..1 << 82,
        ) {
            let tip = tip.min(max_fee);
            let fresh = GasPrice::Dynamic { max_fee: now, tip: 0 };
            match bump(GasPrice::Dynamic { max_fee, tip }, fresh, cap) {
                Some(new) => {
                    prop_assert!(new.max_fee() <= cap && new.max_fee() >= now);
                    prop_assert!(new.max_fee() * 8 >= max_fee * 9 && new.tip() <= new.max_fee());
                    prop_assert!(new.tip() * 8 >= tip * 9 && new.tip() > tip);
                }
                None => prop_assert!(raised(max_fee).max(now) > cap),
            }
        }
    }
}
