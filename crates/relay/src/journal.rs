//! What must outlive the process: what was taken on, what was paid, how much
//! each may still ask.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use async_trait::async_trait;
use domain::{UnixMillis, Usdc};
use serde::{Deserialize, Serialize};
use wire::relay::Status;

use crate::payment::SignedPayment;

/// Why the journal gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relayer's journal: {0}")]
pub struct JournalError(pub String);

/// One thing that was taken on. Its name is `id`: for a forward request its
/// EIP-712 digest, for a call the hash of chain, target and data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; unique.
    pub id: B256,
    /// Forward requests: the forwarder's nonce it uses.
    pub lane: Option<Lane>,
    /// The transaction that carries it out, under [`Entry::key`].
    pub work: Work,
    /// What pays for it, where a fee was asked.
    pub payment: Option<Charge>,
    /// Where it is.
    pub state: State,
    /// The entry that must end first and spend its nonce: the one before it of the
    /// same signer in a batch. Otherwise this one is never sent.
    pub after: Option<B256>,
    /// How often an entry of this id gave way before (see [`Entry::gives_way`]).
    pub attempt: u32,
    /// When it was taken on.
    pub at: UnixMillis,
}

impl Entry {
    /// Whether a new entry of the same id may take its place. A forward request
    /// that was once sent keeps its answer for ever; a bare call that had no effect
    /// may come again, and so may whatever was not paid for.
    #[must_use]
    pub const fn gives_way(&self) -> bool {
        match &self.state {
            State::Paying | State::Sending { .. } => false,
            State::Unpaid { .. } => true,
            State::Done { verdict, .. } => self.lane.is_none() && !verdict.status.spends(),
        }
    }

    /// The key under which the chain is given the call: of each attempt another.
    #[must_use]
    pub fn key(&self) -> B256 {
        if self.attempt == 0 {
            return self.id;
        }
        keccak256([self.id.as_slice(), &self.attempt.to_be_bytes()].concat())
    }
}

/// A nonce of a forwarder. Live entries (see [`State::holds`]) never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The forwarder.
    pub forwarder: Address,
    /// Who signed.
    pub from: Address,
    /// The nonce.
    pub nonce: U256,
}

/// A transaction that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Who is called: the forwarder, or the target itself.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// The call.
    pub data: Bytes,
    /// Gas it is expected to need.
    pub gas: u64,
}

/// A payment, and what is owed. A payment (token, payer, nonce) belongs to one
/// group for ever: an entry of its own, or the entries of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// What it buys: the hash over the ids of all entries it pays for.
    pub group: B256,
    /// The signed authorization.
    pub payment: SignedPayment,
    /// Gas that collecting it is expected to need.
    pub gas: u64,
}

/// Where an entry is. `Paying → Sending → Done`, or `Paying → Unpaid`; without a
/// fee it begins at `Sending`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The fee is being collected.
    Paying,
    /// The fee is in, or none was asked; the call is being sent.
    Sending {
        /// What was taken, where a fee was.
        fee: Option<Fee>,
    },
    /// It is over.
    Done {
        /// What was taken, where a fee was.
        fee: Option<Fee>,
        /// What became of it.
        verdict: Verdict,
    },
    /// The fee could not be collected: nothing was sent, and the request may come
    /// again with another payment.
    Unpaid {
        /// Why not.
        why: String,
    },
}

impl State {
    /// Whether something remains to be done.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Paying | Self::Sending { .. })
    }

    /// Whether the entry keeps its lane: it is open, or it spent the nonce. One
    /// that ended without effect makes room for another request of that nonce.
    #[must_use]
    pub const fn holds(&self) -> bool {
        match self {
            Self::Paying | Self::Sending { .. } => true,
            Self::Done { verdict, .. } => verdict.status.spends(),
            Self::Unpaid { .. } => false,
        }
    }

    /// Whether the entry may step from this state to that one.
    #[must_use]
    pub const fn may_become(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Paying, Self::Sending { fee: Some(_) } | Self::Unpaid { .. })
                | (Self::Sending { .. }, Self::Done { .. })
        )
    }
}

/// A fee that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fee {
    /// How much.
    pub amount: Usdc,
    /// The transaction that moved it.
    pub tx: B256,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// In a word.
    pub status: End,
    /// The transaction, if one was mined.
    pub tx: Option<B256>,
    /// Its block.
    pub block: Option<u64>,
    /// Its gas.
    pub gas_used: Option<u64>,
    /// Wei per gas.
    pub gas_price: Option<u128>,
    /// Why it did not succeed.
    pub reason: Option<String>,
}

/// The ends a call can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It did what was asked.
    Executed,
    /// The called contract refused; a forwarder's nonce is spent.
    Reverted,
    /// Without effect; the nonce is not spent.
    Failed,
    /// Another transaction used the nonce first.
    Superseded,
}

impl End {
    /// Whether the request can have no effect any more, ever.
    #[must_use]
    pub const fn spends(self) -> bool {
        match self {
            Self::Executed | Self::Reverted | Self::Superseded => true,
            Self::Failed => false,
        }
    }

    /// As the wire has it.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Executed => Status::Executed,
            Self::Reverted => Status::Reverted,
            Self::Failed => Status::Failed,
            Self::Superseded => Status::Superseded,
        }
    }
}

/// A daily count that must not be passed. Days are UTC's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Who is counted, by the class of the call: `task:sender:0x…`, `task:client:…`,
    /// `task:client:…:share`, `task:budget`.
    pub subject: String,
    /// Days since 1970.
    pub day: u64,
    /// How much this entry adds.
    pub add: u64,
    /// How much there may be in all.
    pub limit: u64,
}

/// What the journal said to new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of them are in, as they were given.
    New,
    /// An entry of this id stands already. Nothing was changed.
    Known(Box<Entry>),
    /// A live entry of another id holds this lane. Nothing was changed.
    LaneTaken(Lane),
    /// The payment was presented for another group. Nothing was changed.
    PaymentUsed,
    /// This subject asked too often today. Nothing was changed.
    OverQuota(String),
}

/// How many entries there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open ones.
    pub pending: u64,
    /// Done and executed.
    pub executed: u64,
    /// Done otherwise.
    pub failed: u64,
}

/// The journal. Each method is one durable transaction: when it returns, a crash
/// does not undo it. [`crate::conformance`] holds every implementation to this.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Takes new entries on, all or none, and counts them.
    ///
    /// Looks in this order, at each for all entries:
    /// 1. an entry of the same id that does not give way ([`Entry::gives_way`]), or
    ///    whose `attempt` is not the new one's less one: `Known`;
    /// 2. another entry that holds ([`State::holds`]) the same lane: `LaneTaken`;
    /// 3. the same payment (token, payer, nonce) under another `group`:
    ///    `PaymentUsed`. A payment is remembered for ever, with its group, whatever
    ///    becomes of its entries;
    /// 4. a quota whose count of that day would pass its limit: `OverQuota`.
    ///
    /// Then the entries are written, in place of those that gave way, and the quotas
    /// counted.
    async fn admit(&self, entries: &[Entry], quotas: &[Quota]) -> Result<Admission, JournalError>;

    /// Counts, all or none, what is done without an entry; answers whose quota would
    /// be passed, if one's would. What was counted under `once` on these days already
    /// is not counted again, whatever the quotas say.
    async fn count(&self, once: &str, quotas: &[Quota]) -> Result<Option<String>, JournalError>;

    /// The entry of this id.
    async fn find(&self, id: B256) -> Result<Option<Entry>, JournalError>;

    /// Steps an entry on, if [`State::may_become`] allows it; otherwise changes
    /// nothing. Answers with the entry as it stands then.
    async fn step(&self, id: B256, next: &State) -> Result<Entry, JournalError>;

    /// Open entries, oldest first, at most this many.
    async fn open(&self, limit: usize) -> Result<Vec<Entry>, JournalError>;

    /// How many there are.
    async fn counts(&self) -> Result<Counts, JournalError>;
}
