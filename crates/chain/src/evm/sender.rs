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
use domain::evm::{Account, Call, Entry, IntentKey, Outcome};
use tokio::sync::{mpsc, oneshot, watch};

use super::worker::{Ask, Worker};
use super::{Chain, EvmError, Key, Outbox, OutboxError, Price, SignError};

/// Requests that wait for the account's task at once.
const MAX_REQUESTS: usize = 64;

/// Why a transaction is not sent, or its end not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The chain refuses it, or cannot be asked. Nothing was written.
    #[error(transparent)]
    Evm(#[from] EvmError),
    /// The storage failed, or another process sends from this account.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The key cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The key stands for another call.
    #[error("{0} was asked for before, with another call")]
    KeyReused(IntentKey),
    /// Nothing was ever asked for under this key.
    #[error("{0} was never asked for")]
    NoSuchKey(IntentKey),
    /// Too many wait to be mined.
    #[error("{most} transactions of this account wait already: try later", most = super::MAX_PENDING)]
    Busy,
    /// The chain knows fewer transactions than were settled: it is another chain of
    /// the same id, or its endpoint lost its memory.
    #[error("the chain has {chain} transactions of {account}, and up to {ours} are settled: is it the same chain?")]
    Forgotten {
        /// Whose.
        account: domain::Address,
        /// What the chain has.
        chain: u64,
        /// What the outbox has.
        ours: u64,
    },
    /// The account's task has ended.
    #[error("the sender has ended")]
    Ended,
}

/// A call that was looked at before it is sent.
#[derive(Clone, Debug)]
pub enum Weighed {
    /// It was sent before.
    Known(Box<Entry>),
    /// It is new, and would cost this.
    Fresh(Cost),
}

/// What a transaction would cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    gas_limit: u64,
    price: Price,
    /// What the account has.
    coins: U256,
}

impl Cost {
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
    chain: Arc<Chain>,
    account: Account,
    requests: mpsc::Sender<Ask>,
    trouble: watch::Receiver<Option<String>>,
}

impl Sender {
    /// Starts the account's task: reads what is pending, sends it again, and goes
    /// on.
    ///
    /// # Errors
    /// When the outbox or the chain cannot be read, or do not fit each other.
    pub async fn start(chain: Arc<Chain>, outbox: Arc<dyn Outbox>, key: Key) -> Result<Self, SendError> {
        let account = Account { chain_id: chain.evm.config().chain_id, address: key.address() };
        let (requests, inbox) = mpsc::channel(MAX_REQUESTS);
        let (tell, trouble) = watch::channel(None);
        let worker = Worker::recover(Arc::clone(&chain), outbox, key, account, tell).await?;
        tokio::spawn(worker.run(inbox));
        Ok(Self { chain, account, requests, trouble })
    }

    /// Whose transactions it sends.
    #[must_use]
    pub const fn account(&self) -> Account {
        self.account
    }

    /// Sends a call, once, whatever crashes and however often it is asked for under
    /// this key. Simulated first; when this returns, it is written down and will be
    /// sent until it is mined.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was written, unless it was before.
    pub async fn send(&self, key: &IntentKey, call: &Call) -> Result<Entry, SendError> {
        let weighed = self.weigh(key, call).await?;
        self.send_weighed(key, call, weighed).await
    }

    /// Simulates a call, and says what it would cost, without sending it; or that it
    /// was sent before under this key.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn weigh(&self, key: &IntentKey, call: &Call) -> Result<Weighed, SendError> {
        if let Some(entry) = self.find(key).await? {
            return same_call(entry, call).map(Box::new).map(Weighed::Known);
        }
        let (gas_limit, price, coins) = tokio::try_join!(
            self.chain.evm.gas_limit(call, self.account.address),
            self.chain.evm.price(),
            self.chain.evm.coins(self.account.address),
        )?;
        Ok(Weighed::Fresh(Cost { gas_limit, price, coins }))
    }

    /// Sends a call that was weighed under this key, as [`Sender::send`] does.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was written, unless it was before.
    pub async fn send_weighed(&self, key: &IntentKey, call: &Call, weighed: Weighed) -> Result<Entry, SendError> {
        let Cost { gas_limit, price, coins } = match weighed {
            Weighed::Known(entry) => return Ok(*entry),
            Weighed::Fresh(cost) => cost,
        };
        let (key, call) = (key.clone(), call.clone());
        self.ask(|answer| Ask::Send { key, call, gas_limit, price, coins, answer }).await?
    }

    /// The entry of a key, if there is one.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn find(&self, key: &IntentKey) -> Result<Option<Entry>, SendError> {
        let key = key.clone();
        self.ask(|answer| Ask::Find { key, answer }).await?
    }

    /// Waits for the end of what was asked for under a key. Put a deadline on it: a
    /// chain may stand still.
    ///
    /// # Errors
    /// [`SendError::NoSuchKey`] when nothing was asked for.
    pub async fn settled(&self, key: &IntentKey) -> Result<Outcome, SendError> {
        let key = key.clone();
        self.ask(|answer| Ask::Wait { key, answer }).await?
    }

    /// Sends a call and waits for its end.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn execute(&self, key: &IntentKey, call: &Call) -> Result<Outcome, SendError> {
        self.send(key, call).await?;
        self.settled(key).await
    }

    /// What keeps pending transactions from going on, if anything does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, SendError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| SendError::Ended)?;
        answered.await.map_err(|_| SendError::Ended)
    }
}

/// The entry, if it is of this call.
pub(super) fn same_call(entry: Entry, call: &Call) -> Result<Entry, SendError> {
    if entry.call == *call { Ok(entry) } else { Err(SendError::KeyReused(entry.key)) }
}
