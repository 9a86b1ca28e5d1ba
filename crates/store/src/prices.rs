//! What requests to a POD cost, by the beginning of their path.

use std::collections::BTreeMap;

use domain::{PodId, Usdc};

use crate::port::port;

/// Prices by the beginning of a path.
pub type Prices = BTreeMap<String, Usdc>;

port! {
    /// Prices.
    PriceStore {
        /// Sets a POD's prices in place of the old ones;
        /// [`StoreError::NoPod`](crate::StoreError::NoPod).
        fn set_prices(&self, pod: PodId, prices: Prices) -> ();

        /// A POD's prices; none of one that is not there.
        fn prices_of(&self, pod: PodId) -> Prices;
    }
}
