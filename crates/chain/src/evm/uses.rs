//! In which transaction an ERC-3009 authorization was used.

use alloy::sol_types::SolEvent;
use domain::{Address, B256};
use serde_json::json;

use super::abi::TestUSDC::AuthorizationUsed;
use super::{At, Chain, EvmError};

/// Ranges of blocks that are searched for a use, from the newest back.
const MAX_RANGES: u64 = 24;

/// What became of an authorization, as of a block that is deep enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationUse {
    /// Not used up to a block of this time, in Unix seconds.
    Unused {
        /// The block's time.
        as_of: u64,
    },
    /// Used or cancelled; in this transaction, if it logged a use in the blocks
    /// that were searched.
    Used {
        /// The transaction.
        tx: Option<B256>,
    },
}

impl Chain {
    /// Whether an authorization of the token was used or cancelled, and where.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn authorization_use(&self, authorizer: Address, nonce: B256) -> Result<AuthorizationUse, EvmError> {
        let config = self.evm.config();
        let reach = self.evm.reach().await?;
        let deep = (reach + 1).saturating_sub(config.confirmations);
        if self.is_authorization_used(authorizer, nonce, At::Block(deep)).await? {
            return Ok(AuthorizationUse::Used { tx: self.find_use(authorizer, nonce, deep).await? });
        }
        let block = self.evm.block(deep).await?;
        let what = "no block at a height that was told";
        let block = block.ok_or(EvmError::Inconsistent { method: "eth_getBlockByNumber", what })?;
        Ok(AuthorizationUse::Unused { as_of: block.reference().time })
    }

    async fn find_use(&self, authorizer: Address, nonce: B256, deep: u64) -> Result<Option<B256>, EvmError> {
        let config = self.evm.config();
        let topics = [AuthorizationUsed::SIGNATURE_HASH, authorizer.into_word(), nonce];
        let mut to = deep;
        for _ in 0..MAX_RANGES {
            let from = (to + 1).saturating_sub(config.log_range);
            let (first, last) = (format!("{from:#x}"), format!("{to:#x}"));
            let filter = json!([{"address": config.usdc, "topics": topics, "fromBlock": first, "toBlock": last}]);
            let logs = self.evm.agreed_logs(filter, to).await?;
            let found = logs.iter().find(|log| log.address == config.usdc && log.topics == topics);
            if let Some(log) = found {
                return Ok(Some(log.transaction_hash));
            }
            if from <= config.start_block {
                break;
            }
            to = from - 1;
        }
        Ok(None)
    }
}
