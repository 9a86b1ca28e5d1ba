//! What a token says of payers, kept for a moment: whoever asks at the same time, or
//! again at once, costs the chain one question.

use std::sync::Arc;
use std::time::Duration;

use domain::{Address, Usdc};
use moka::future::Cache;

use crate::{Authorization, AuthorizationState, PaymentKey, TokenReadError, TokenReader};

/// How long an answer is kept. A payer who tops his account up waits so long at most.
const LASTS: Duration = Duration::from_secs(2);
/// Answers of each kind that are kept at once.
const MAX_KEPT: u64 = 10_000;

/// A holding's chain, token and owner.
type Account = (u64, Address, Address);

/// The token, and what it said a moment ago. Good for refusing a payment before it
/// costs anything; whether one was made is asked afresh.
pub(crate) struct FundsCache {
    chain: Arc<dyn TokenReader>,
    used: Cache<PaymentKey, bool>,
    balances: Cache<Account, Usdc>,
}

impl FundsCache {
    pub(crate) fn new(chain: Arc<dyn TokenReader>) -> Self {
        Self {
            chain,
            used: Cache::builder().max_capacity(MAX_KEPT).time_to_live(LASTS).build(),
            balances: Cache::builder().max_capacity(MAX_KEPT).time_to_live(LASTS).build(),
        }
    }

    /// Whether the token knows the authorization: it was made, or cancelled.
    pub(crate) async fn is_used(&self, authorization: &Authorization) -> Result<bool, TokenReadError> {
        let asking = async {
            let state = self.chain.state(authorization).await?;
            Ok::<_, TokenReadError>(!matches!(state, AuthorizationState::Unused { .. }))
        };
        self.used.try_get_with(authorization.key(), asking).await.map_err(Arc::unwrap_or_clone)
    }

    /// Whether the payer holds as much as he pays.
    pub(crate) async fn covers(&self, authorization: &Authorization) -> Result<bool, TokenReadError> {
        let Authorization { chain_id, asset, from, value, .. } = *authorization;
        let asking = self.chain.balance(chain_id, asset, from);
        let held = self.balances.try_get_with((chain_id, asset, from), asking).await;
        Ok(held.map_err(Arc::unwrap_or_clone)? >= value)
    }
}
