//! Payments onto the chain, and what became of them there.

use std::sync::Arc;

use alloy_primitives::keccak256;
use async_trait::async_trait;
use chain::evm::{BlockTag, CheckedChain, Estimate, EvmError, SendError, Sender, TransactionStatus, calls};
use domain::evm::{Call, IntentKey, TransactionOutcome};
use domain::payment::{Authorization, AuthorizationState, SignedAuthorization};
use domain::{Address, B256, ClientAddr, Usdc};
use relay::{Beneficiary, CallPurpose, GasSpend, Relayer};
use x402::{SubmissionState, TokenReadError, TokenReader, TransferError, Transfers};

/// Our own account makes the transfers.
#[derive(Clone, Debug)]
pub(crate) struct RelayerTransfers {
    pub(crate) chain: Arc<CheckedChain>,
    pub(crate) sender: Sender,
    /// Who counts what it costs.
    pub(crate) relayer: Relayer,
}

#[async_trait]
impl Transfers for RelayerTransfers {
    async fn transfer(&self, payment: &SignedAuthorization, client: ClientAddr) -> Result<B256, TransferError> {
        let authorization = &payment.authorization;
        let token = self.chain.evm.config().usdc;
        if authorization.asset != token {
            return Err(TransferError::unavailable(format!("transfers of {token} alone are made here")));
        }
        let key = key(authorization)?;
        self.send(&key, &calls::transfer_with_authorization(payment), authorization, client).await?;
        match self.sender.settled(&key).await.map_err(unconfirmed)? {
            TransactionOutcome::Mined(mined) if mined.success => self.receipt(authorization, mined.hash).await,
            TransactionOutcome::Mined(_) => Err(TransferError::Refused("the transfer was reverted".to_owned())),
            TransactionOutcome::Lost { .. } => {
                Err(TransferError::Unknown("our transaction was replaced by another".to_owned()))
            }
        }
    }

    async fn submission(&self, payment: &SignedAuthorization) -> SubmissionState {
        let Ok(key) = key(&payment.authorization) else { return SubmissionState::None };
        match self.sender.find(&key).await {
            Ok(None) => SubmissionState::None,
            Ok(Some(entry)) => entry
                .attempts
                .last()
                .map_or(SubmissionState::Unknown, |attempt| SubmissionState::Transaction(attempt.hash)),
            Err(_) => SubmissionState::Unknown,
        }
    }
}

impl RelayerTransfers {
    /// Sends the transfer, if it was not sent before. What the chain would refuse costs
    /// nothing and counts for nothing.
    async fn send(
        &self,
        key: &IntentKey,
        call: &Call,
        authorization: &Authorization,
        client: ClientAddr,
    ) -> Result<(), TransferError> {
        let estimate = self.sender.estimate(key, call).await.map_err(unsent)?;
        if let Estimate::New(cost) = &estimate {
            let Authorization { from, to, .. } = *authorization;
            let beneficiary = Some(Beneficiary::Payee(to));
            let spend = GasSpend { class: CallPurpose::Settle, wallet: from, beneficiary, gas: cost.gas_limit() };
            self.relayer.spend(key.as_str(), spend, Some(client)).await.map_err(uncounted)?;
        }
        self.sender.send_estimated(key, call, estimate).await.map(drop).map_err(unsent)
    }

    /// The transfer, as its own receipt tells it.
    async fn receipt(&self, authorization: &Authorization, tx: B256) -> Result<B256, TransferError> {
        match self.chain.evm.transaction_status(tx).await {
            Ok(TransactionStatus::Confirmed(confirmed)) if authorization.is_paid_by(&confirmed.logs) => Ok(tx),
            Ok(TransactionStatus::Confirmed(_)) => {
                Err(TransferError::Unknown("the receipt shows another transfer".to_owned()))
            }
            Ok(TransactionStatus::NotFound | TransactionStatus::Unconfirmed { .. }) => {
                Err(TransferError::Unknown("the receipt is not deep enough any more".to_owned()))
            }
            Err(error) => Err(TransferError::Unknown(error.to_string())),
        }
    }
}

/// One intent a payment, whoever asks for it.
fn key(authorization: &Authorization) -> Result<IntentKey, TransferError> {
    let name = keccak256(authorization.key().to_string());
    format!("x402:{name}").parse().map_err(|error| TransferError::unavailable(format!("{error}")))
}

/// Why nothing is counted, and so nothing is sent.
fn uncounted(error: relay::RelayError) -> TransferError {
    TransferError::Unavailable { why: error.to_string(), retry_after_s: error.retry_after() }
}

/// Why a transfer is not sent: mostly nothing was written then.
fn unsent(error: SendError) -> TransferError {
    match error {
        SendError::Evm(EvmError::Reverted(revert)) => TransferError::Refused(revert.to_string()),
        error @ (SendError::Evm(_) | SendError::Busy) => TransferError::unavailable(error.to_string()),
        error => TransferError::Unknown(error.to_string()),
    }
}

/// Why the end of what was sent is not known.
fn unconfirmed(error: SendError) -> TransferError {
    TransferError::Unknown(error.to_string())
}

/// What the token says.
#[derive(Clone, Debug)]
pub(crate) struct ChainTokenReader(pub(crate) Arc<CheckedChain>);

#[async_trait]
impl TokenReader for ChainTokenReader {
    async fn state(&self, authorization: &Authorization) -> Result<AuthorizationState, TokenReadError> {
        self.ours(authorization.chain_id, authorization.asset)?;
        self.0.authorization_state(authorization).await.map_err(unread)
    }

    async fn balance(&self, chain_id: u64, asset: Address, owner: Address) -> Result<Usdc, TokenReadError> {
        self.ours(chain_id, asset)?;
        self.0.usdc_of(owner, BlockTag::Latest).await.map_err(unread)
    }
}

impl ChainTokenReader {
    fn ours(&self, chain_id: u64, asset: Address) -> Result<(), TokenReadError> {
        let config = self.0.evm.config();
        let ours = (chain_id, asset) == (config.chain_id, config.usdc);
        if ours { Ok(()) } else { Err(TokenReadError(format!("eip155:{chain_id}/{asset} is not read here"))) }
    }
}

fn unread(error: EvmError) -> TokenReadError {
    TokenReadError(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chain::evm::fake::MemoryOutbox;
    use chain::evm::{SigningKey, deploy_local};
    use domain::{SystemClock, U256};
    use fixtures::{ACCOUNT_KEYS, Anvil, CHAIN_ID, PATIENCE};
    use identity::{Identity, SignerSync};
    use relay::fake::MemoryJournal;
    use relay::{Config, EvmChain};
    use tokio::time::timeout;

    use super::*;

    const CLIENT: ClientAddr = ClientAddr(1);

    struct Fixture {
        settlement: RelayerTransfers,
        journal: Arc<MemoryJournal>,
        _anvil: Anvil,
    }

    impl Fixture {
        /// Our account is anvil's first, which has money too.
        async fn open() -> Self {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let anvil = Anvil::start(&[]);
            let endpoint = anvil.endpoint();
            let funded = Identity::from_secret(&ACCOUNT_KEYS[0]).unwrap();
            let key = || SigningKey::new(funded.clone());
            let deployed =
                deploy_local(endpoint.clone(), CHAIN_ID, &key(), funded.address(), Usdc(1000)).await.unwrap();
            let chain = Arc::new(CheckedChain::connect(&deployed.config(endpoint, CHAIN_ID)).await.unwrap());
            let outbox = Arc::new(MemoryOutbox::default());
            let sender = Sender::start(Arc::clone(&chain), outbox, key()).await.unwrap();
            let journal = Arc::new(MemoryJournal::default());
            let relayed = Arc::new(EvmChain::new(Arc::clone(&chain), sender.clone()));
            let relayer = Relayer::new(Config::default(), relayed, journal.clone(), Arc::new(SystemClock)).unwrap();
            Self { settlement: RelayerTransfers { chain, sender, relayer }, journal, _anvil: anvil }
        }

        fn payment(&self, payer: &Identity, value: Usdc) -> SignedAuthorization {
            let CheckedChain { evm, usdc_domain, .. } = &*self.settlement.chain;
            let authorization = Authorization {
                chain_id: CHAIN_ID,
                asset: evm.config().usdc,
                from: payer.address(),
                to: Address::repeat_byte(7),
                value,
                valid_after: U256::ZERO,
                valid_before: U256::MAX,
                nonce: B256::repeat_byte(9),
            };
            let hash = authorization.digest(usdc_domain.separator());
            SignedAuthorization { authorization, signature: payer.sign_hash_sync(&hash).unwrap() }
        }

        /// What was counted, by subject.
        fn counted(&self) -> BTreeMap<String, u64> {
            let state = serde_json::to_value(self.journal.state()).unwrap();
            serde_json::from_value(state["counts"].clone()).unwrap()
        }
    }

    #[tokio::test]
    async fn fault_2_6_what_the_token_refuses_counts_for_nothing_and_what_is_sent_counts_once() {
        let fixture = Fixture::open().await;
        let settle = async |payment: &SignedAuthorization| {
            timeout(PATIENCE, fixture.settlement.transfer(payment, CLIENT)).await.expect("a settlement ends")
        };
        let empty = fixture.payment(&Identity::from_secret(&[5; 32]).unwrap(), Usdc(1));
        for _ in 0..3 {
            assert!(matches!(settle(&empty).await, Err(TransferError::Refused(_))));
        }
        assert_eq!(
            (fixture.counted(), fixture.settlement.submission(&empty).await),
            (BTreeMap::new(), SubmissionState::None)
        );
        let paying = fixture.payment(&Identity::from_secret(&ACCOUNT_KEYS[0]).unwrap(), Usdc(1));
        let tx = settle(&paying).await.unwrap();
        assert_eq!(fixture.settlement.submission(&paying).await, SubmissionState::Transaction(tx));
        let counted = fixture.counted();
        let payee = format!("settle:payee:{}:share", paying.authorization.to);
        let shared = counted.iter().filter(|(name, _)| name.ends_with(&payee)).map(|(_, gas)| *gas).collect::<Vec<_>>();
        assert!(matches!(shared[..], [1..=150_000]), "{counted:?}");
        assert!(counted.keys().any(|name| name.contains(&CLIENT.to_string())), "{counted:?}");
        settle(&paying).await.unwrap();
        assert_eq!(fixture.counted(), counted, "it was sent once");
    }
}
