//! Transactions of one account: written down first, sent in the order of their
//! nonces, offered more when stuck, believed when deep enough.
//!
//! One task owns the account's nonces; a [`Sender`] talks to it. What an intent's
//! key stands for happens at most once: all its attempts have one nonce, and the
//! nonce is given up only when somebody else's transaction has used it.
//!
//! After `kill -9` at any instant: what was not written was not sent; what was
//! written is sent again, which nodes take for what it is.

use std::sync::Arc;

use domain::U256;
use domain::evm::{Call, IntentKey, Outbox, OutboxEntry, SenderAccount, TransactionOutcome};
use tokio::sync::{mpsc, oneshot, watch};

use super::unsent::SendError;
use super::worker::{SenderRequest, Worker, same_call};
use super::{CheckedChain, GasPrice, SigningKey};

/// Requests that wait for the account's task at once.
const MAX_REQUESTS: usize = 64;

/// What a simulation says about a call, before it is sent.
#[derive(Clone, Debug)]
pub enum Estimate {
    /// It was sent before.
    AlreadySent(Box<OutboxEntry>),
    /// It is new, and would cost this.
    New(TransactionCost),
}

/// What a transaction would cost.
#[derive(Clone, Copy, Debug)]
pub struct TransactionCost {
    gas_limit: u64,
    price: GasPrice,
    /// What the account has.
    balance_wei: U256,
}

impl TransactionCost {
    /// Gas that it may use at most.
    #[must_use]
    pub const fn gas_limit(&self) -> u64 {
        self.gas_limit
    }
}

/// A handle to the task that sends from one account. The task ends with its last
/// handle; what it has not finished is finished after the next start.
#[derive(Clone, Debug)]
pub struct Sender {
    chain: Arc<CheckedChain>,
    account: SenderAccount,
    requests: mpsc::Sender<SenderRequest>,
    last_error: watch::Receiver<Option<String>>,
}

impl Sender {
    /// Starts the account's task: reads what is pending, sends it again, and goes
    /// on.
    ///
    /// # Errors
    /// When the outbox or the chain cannot be read, or do not fit each other.
    pub async fn start(chain: Arc<CheckedChain>, outbox: Arc<dyn Outbox>, key: SigningKey) -> Result<Self, SendError> {
        let account = SenderAccount { chain_id: chain.evm.config().chain_id, address: key.address() };
        let (requests, inbox) = mpsc::channel(MAX_REQUESTS);
        let (tell, last_error) = watch::channel(None);
        let worker = Worker::recover(Arc::clone(&chain), outbox, key, account, tell).await?;
        tokio::spawn(worker.run(inbox));
        Ok(Self { chain, account, requests, last_error })
    }

    /// Whose transactions it sends.
    #[must_use]
    pub const fn account(&self) -> SenderAccount {
        self.account
    }

    /// Sends a call, once, whatever crashes and however often it is asked for under
    /// this key. Simulated first; when this returns, it is written down and will be
    /// sent until it is mined.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was written, unless it was before.
    pub async fn send(&self, key: &IntentKey, call: &Call) -> Result<OutboxEntry, SendError> {
        let estimate = self.estimate(key, call).await?;
        self.send_estimated(key, call, estimate).await
    }

    /// Simulates a call, and says what it would cost, without sending it; or that it
    /// was sent before under this key.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn estimate(&self, key: &IntentKey, call: &Call) -> Result<Estimate, SendError> {
        if let Some(entry) = self.find(key).await? {
            return same_call(entry, call).map(Box::new).map(Estimate::AlreadySent);
        }
        let (gas_limit, price, balance_wei) = tokio::try_join!(
            self.chain.evm.gas_limit(call, self.account.address),
            self.chain.evm.price(),
            self.chain.evm.balance_wei(self.account.address),
        )?;
        Ok(Estimate::New(TransactionCost { gas_limit, price, balance_wei }))
    }

    /// Sends a call that was estimated under this key, as [`Sender::send`] does.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was written, unless it was before.
    pub async fn send_estimated(
        &self,
        key: &IntentKey,
        call: &Call,
        estimate: Estimate,
    ) -> Result<OutboxEntry, SendError> {
        let TransactionCost { gas_limit, price, balance_wei } = match estimate {
            Estimate::AlreadySent(entry) => return Ok(*entry),
            Estimate::New(cost) => cost,
        };
        let (key, call) = (key.clone(), call.clone());
        self.ask(|answer| SenderRequest::Send { key, call, gas_limit, price, balance_wei, answer }).await?
    }

    /// The entry of a key, if there is one.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn find(&self, key: &IntentKey) -> Result<Option<OutboxEntry>, SendError> {
        let key = key.clone();
        self.ask(|answer| SenderRequest::Find { key, answer }).await?
    }

    /// Waits for the end of what was asked for under a key. Put a deadline on it: a
    /// chain may stand still.
    ///
    /// # Errors
    /// [`SendError::NoSuchKey`] when nothing was asked for.
    pub async fn settled(&self, key: &IntentKey) -> Result<TransactionOutcome, SendError> {
        let key = key.clone();
        self.ask(|answer| SenderRequest::Wait { key, answer }).await?
    }

    /// Sends a call and waits for its end.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn execute(&self, key: &IntentKey, call: &Call) -> Result<TransactionOutcome, SendError> {
        self.send(key, call).await?;
        self.settled(key).await
    }

    /// What keeps pending transactions from going on, if anything does.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.borrow().clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> SenderRequest) -> Result<T, SendError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| SendError::Ended)?;
        answered.await.map_err(|_| SendError::Ended)
    }
}
