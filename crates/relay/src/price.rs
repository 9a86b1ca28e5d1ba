//! What a call costs its caller: exact integers, rounded up once, at the end. Pure.

use alloy_primitives::U256;
use domain::Usdc;

use crate::config::Config;

/// Gas of the transaction that collects a fee.
pub(crate) const COLLECTING_GAS: u64 = 120_000;
/// Hundredths of a per cent in a whole.
const BPS: u64 = 10_000;

/// What fees are reckoned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeeRates {
    cro_usd_micros: u64,
    margin_bps: u64,
    min_fee: Usdc,
}

impl FeeRates {
    pub(crate) const fn new(config: &Config) -> Self {
        Self { cro_usd_micros: config.cro_usd_micros, margin_bps: config.margin_bps, min_fee: config.min_fee }
    }

    /// The fee for this much gas at this many wei each. `None` if no amount of USDC
    /// is that large.
    pub(crate) fn fee(&self, gas: u64, gas_price: u128) -> Option<Usdc> {
        let wei_per_cro = U256::from(10).pow(U256::from(18));
        let wei = U256::from(gas) * U256::from(gas_price);
        // 64 + 128 + 30 + 17 bits: nothing overflows within the configuration's bounds.
        let scaled = wei.checked_mul(U256::from(self.cro_usd_micros) * U256::from(BPS + self.margin_bps))?;
        let fee = scaled.div_ceil(wei_per_cro * U256::from(BPS));
        Usdc::try_from(fee).ok().map(|fee| fee.max(self.min_fee))
    }

    /// Dollars per CRO, for people.
    #[expect(clippy::cast_precision_loss, reason = "at most 1e9 micro-dollars, exact in a double; only shown")]
    pub(crate) fn dollars(&self) -> f64 {
        self.cro_usd_micros as f64 / 1e6
    }
}

/// A number of base units as a decimal text of whole ones: `decimals` digits after
/// the point, less trailing zeros, at least one.
pub(crate) fn units(amount: U256, decimals: usize) -> String {
    let (whole, rest) = amount.div_rem(U256::from(10).pow(U256::from(decimals)));
    let digits = format!("{rest:0>decimals$}");
    let kept = digits.trim_end_matches('0').len().max(1);
    format!("{whole}.{}", &digits[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(margin_bps: u64) -> FeeRates {
        FeeRates::new(&Config { margin_bps, cro_usd_micros: 150_000, min_fee: Usdc(0), ..Config::default() })
    }

    #[test]
    fn a_fee_is_gas_times_price_in_dollars_and_the_margin_rounded_up() {
        // 200,000 gas at 375 gwei is 0.075 CRO: 11,250 micro-dollars at 15 cents.
        assert_eq!(rates(0).fee(200_000, 375_000_000_000), Some(Usdc(11_250)));
        assert_eq!(rates(2000).fee(200_000, 375_000_000_000), Some(Usdc(13_500)));
        assert_eq!(rates(0).fee(1, 1), Some(Usdc(1)));
        assert_eq!(rates(0).fee(u64::MAX, u128::MAX), None);
    }

    #[test]
    fn no_fee_is_under_the_least() {
        let rates = FeeRates::new(&Config::default());
        assert_eq!(rates.fee(1, 1), Some(Usdc(1000)));
    }

    #[test]
    fn units_are_shown_exactly() {
        assert_eq!(units(U256::from(1_500_000), 6), "1.5");
        assert_eq!(units(U256::ZERO, 18), "0.0");
        assert_eq!(units(U256::from(1), 18), "0.000000000000000001");
    }

    proptest! {
        #[test]
        fn a_fee_never_loses_money(gas in 0..30_000_000_u64, price in 0..1_000_000_000_000_000_u128, bps in 0..100_000_u64) {
            let fee = rates(bps).fee(gas, price).unwrap();
            let cost = U256::from(gas) * U256::from(price) * U256::from(150_000);
            prop_assert!(fee.to_u256() * U256::from(10).pow(U256::from(18)) >= cost);
        }
    }
}
