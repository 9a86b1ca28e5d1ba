//! In which transaction an ERC-3009 authorization was used, and what for.

use alloy::sol_types::SolEvent;
use domain::payment::{Authorization, AuthorizationState};
use domain::{Address, B256};
use serde_json::json;

use super::abi::TestUSDC::AuthorizationUsed;
use super::{BlockTag, CheckedChain, EvmError, TransactionStatus};

/// Ranges of blocks that are searched for a use, from the newest back.
const MAX_RANGES: u64 = 24;

impl CheckedChain {
    /// What became of an authorization of the token, whoever used it.
    ///
    /// # Errors
    /// [`EvmError`]; also when it was used in a transaction that is not deep enough.
    pub async fn authorization_state(&self, authorization: &Authorization) -> Result<AuthorizationState, EvmError> {
        let Authorization { from, nonce, .. } = *authorization;
        let agreed_head = self.evm.agreed_head().await?;
        let deep = (agreed_head + 1).saturating_sub(self.evm.config().confirmations);
        if !self.is_authorization_used(from, nonce, BlockTag::Block(deep)).await? {
            let block = self.evm.block(deep).await?;
            let what = "no block at a height that was told";
            let block = block.ok_or(EvmError::Inconsistent { method: "eth_getBlockByNumber", what })?;
            return Ok(AuthorizationState::Unused { as_of: block.reference().time });
        }
        let Some(tx) = self.find_use(from, nonce, deep).await? else { return Ok(AuthorizationState::Void) };
        match self.evm.transaction_status(tx).await? {
            TransactionStatus::Confirmed(confirmed) if authorization.is_paid_by(&confirmed.logs) => {
                Ok(AuthorizationState::Paid { tx })
            }
            TransactionStatus::Confirmed(_) => Ok(AuthorizationState::Void),
            TransactionStatus::NotFound | TransactionStatus::Unconfirmed { .. } => {
                let what = "an authorization was used in a transaction that is not deep enough";
                Err(EvmError::Inconsistent { method: "eth_getTransactionReceipt", what })
            }
        }
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
