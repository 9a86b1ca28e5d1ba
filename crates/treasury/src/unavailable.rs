//! Why the chain is not used: for everybody, and for the log. Pure.

use chain::evm::{ChainStartError, EvmError, SendError};
use store::StoreError;

use crate::error::TreasuryError;

const SILENT: &str = "no EVM endpoint gives a block";
const UNUSABLE: &str = "too few EVM endpoints give an answer that can be used";
/// What asks any one endpoint for its newest block.
const NEWEST: &str = "eth_getBlockByNumber";
const OTHER_CHAIN: &str = "an EVM endpoint serves another chain than the configured one";
const CONTRADICT: &str = "the EVM endpoints contradict each other";
const UNFIT: &str = "the answers of the EVM endpoints do not fit each other";
const CONTRACTS: &str = "a contract on the EVM chain is missing, or not the configured one";
const REFUSED: &str = "a contract on the EVM chain refuses what it is asked for";
const CONFIGURATION: &str = "the configuration of vaults and payments does not fit the EVM chain";
const FUNDS: &str = "the gateway's account on the EVM chain cannot pay for gas";
const FORGOTTEN: &str = "the EVM chain has forgotten transactions of the gateway's account";
const ACCOUNT: &str = "the gateway's account on the EVM chain cannot be used";
const STORE: &str = "what is under way on the EVM chain cannot be read from the store";

/// Why the chain is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ChainUnavailable {
    /// The cause, as everybody may read it.
    pub summary: &'static str,
    /// The same with all that is known. For the log.
    pub detail: String,
}

impl ChainUnavailable {
    pub(crate) fn not_asked() -> Self {
        let summary = "it was not asked yet";
        Self { summary, detail: summary.to_owned() }
    }
}

impl From<EvmError> for ChainUnavailable {
    fn from(error: EvmError) -> Self {
        Self { summary: of_chain(&error), detail: error.to_string() }
    }
}

impl From<ChainStartError> for ChainUnavailable {
    fn from(error: ChainStartError) -> Self {
        let summary = match &error {
            ChainStartError::Config(_) | ChainStartError::Client(_) => CONFIGURATION,
            ChainStartError::OtherChain { .. } => OTHER_CHAIN,
            ChainStartError::Evm(error) => of_chain(error),
            ChainStartError::NoCode { .. }
            | ChainStartError::Decimals(_)
            | ChainStartError::Separator { .. }
            | ChainStartError::Forwarder { .. }
            | ChainStartError::Factory { .. } => CONTRACTS,
        };
        Self { summary, detail: error.to_string() }
    }
}

impl From<SendError> for ChainUnavailable {
    fn from(error: SendError) -> Self {
        let summary = match &error {
            SendError::Evm(error) => of_chain(error),
            SendError::Outbox(_) => STORE,
            SendError::Forgotten { .. } => FORGOTTEN,
            SendError::Sign(_)
            | SendError::KeyReused(_)
            | SendError::NoSuchKey(_)
            | SendError::Busy
            | SendError::Ended => ACCOUNT,
        };
        Self { summary, detail: error.to_string() }
    }
}

impl From<relay::RelayError> for ChainUnavailable {
    fn from(error: relay::RelayError) -> Self {
        // What was left open is read from its journal, and nothing else is done.
        Self { summary: STORE, detail: error.to_string() }
    }
}

impl From<StoreError> for ChainUnavailable {
    fn from(error: StoreError) -> Self {
        Self { summary: STORE, detail: error.to_string() }
    }
}

impl From<ChainUnavailable> for TreasuryError {
    fn from(unavailable: ChainUnavailable) -> Self {
        Self::Unavailable(unavailable.detail)
    }
}

/// What is configured and cannot be with this chain.
pub(crate) fn unfit(error: &dyn std::fmt::Display) -> ChainUnavailable {
    ChainUnavailable { summary: CONFIGURATION, detail: error.to_string() }
}

fn of_chain(error: &EvmError) -> &'static str {
    match error {
        EvmError::Unknown { method: NEWEST, .. } => SILENT,
        EvmError::Unknown { .. } | EvmError::TooMany { .. } => UNUSABLE,
        EvmError::OtherChain { .. } => OTHER_CHAIN,
        EvmError::Disagreement { .. } => CONTRADICT,
        EvmError::Inconsistent { .. } => UNFIT,
        EvmError::Reverted(_) => REFUSED,
        EvmError::Unfunded { .. } | EvmError::GasTooDear { .. } | EvmError::GasTooMuch { .. } => FUNDS,
    }
}

#[cfg(test)]
mod tests {
    use domain::Address;

    use super::*;

    #[test]
    fn fault_1_0_each_trouble_with_a_chain_has_its_own_words_and_none_of_the_inside() {
        let (one, host) = ("one.example".to_owned(), "two.example".to_owned());
        let silent = |method| EvmError::Unknown { method, why: "one.example: no connection".to_owned() };
        let told: [(ChainUnavailable, &str); 10] = [
            (silent("eth_getBlockByNumber").into(), "no EVM endpoint gives a block"),
            (
                ChainStartError::Evm(silent("eth_chainId")).into(),
                "too few EVM endpoints give an answer that can be used",
            ),
            (ChainStartError::OtherChain { host: host.clone(), is: 1, wanted: 25 }.into(), OTHER_CHAIN),
            (EvmError::OtherChain { method: "eth_call", host: host.clone(), is: 1, wanted: 25 }.into(), OTHER_CHAIN),
            (
                EvmError::Disagreement { method: "eth_call", one, other: host }.into(),
                "the EVM endpoints contradict each other",
            ),
            (ChainStartError::NoCode { key: "usdc", address: Address::ZERO, chain_id: 25 }.into(), CONTRACTS),
            (ChainStartError::Decimals(18).into(), CONTRACTS),
            (SendError::Evm(EvmError::Unfunded { account: Address::ZERO, has: 0, needs: 1 }).into(), FUNDS),
            (SendError::Forgotten { account: Address::ZERO, chain: 1, ours: 2 }.into(), FORGOTTEN),
            (unfit(&"[[x402.tokens]] lacks it"), CONFIGURATION),
        ];
        for (unavailable, summary) in told {
            assert_eq!(unavailable.summary, summary, "{unavailable}");
            assert!(
                !unavailable.summary.contains("example") && unavailable.to_string() == unavailable.detail,
                "{unavailable:?}"
            );
        }
    }
}
