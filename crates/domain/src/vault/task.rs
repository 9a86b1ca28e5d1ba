//! One task.
//!
//! ```text
//! announced ─▶ funded ─▶ submitted ─▶ disputed ─▶ resolved
//!                │  └─▶ declined │ └─▶ claimed
//!                ▼        │      ▼        │
//!             refunded ◀──┘  completed ◀──┘
//! ```
//!
//! `announced`, `declined` and `claimed` last no longer than the transaction that
//! makes them: they stand for the second event that must follow.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use super::{InvalidEvent, TaskStateName, TaskTerms, VaultEvent};
use crate::Usdc;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TaskState {
    /// Its amount is locked; its terms follow.
    Announced,
    /// The agent may work.
    Funded,
    /// The agent turned it down; the refund follows.
    Declined,
    /// There is a result.
    Submitted {
        /// Who handed it in.
        submitter: Address,
        /// What it hashes to.
        result_hash: B256,
        /// The Unix second at which the review ends.
        review_by: u64,
    },
    /// The creator disputes the result.
    Disputed {
        /// What the result hashes to.
        result_hash: B256,
        /// What the reason hashes to.
        reason_hash: B256,
        /// The Unix second at which the arbiter's time ends.
        arbiter_by: u64,
    },
    /// The review ended in silence; the completion follows.
    Claimed,
    /// Paid, in part or whole.
    Completed {
        /// What the pod got, its fee taken off.
        earned: Usdc,
    },
    /// Given back.
    Refunded,
    /// A dispute was settled.
    Resolved {
        /// What the pod got, its fee taken off.
        earned: Usdc,
        /// Whether the arbiter kept silent.
        by_default: bool,
    },
}

impl TaskState {
    /// The state's name alone.
    #[must_use]
    pub const fn name(self) -> TaskStateName {
        match self {
            Self::Announced => TaskStateName::Announced,
            Self::Funded => TaskStateName::Funded,
            Self::Declined => TaskStateName::Declined,
            Self::Submitted { .. } => TaskStateName::Submitted,
            Self::Disputed { .. } => TaskStateName::Disputed,
            Self::Claimed => TaskStateName::Claimed,
            Self::Completed { .. } => TaskStateName::Completed,
            Self::Refunded => TaskStateName::Refunded,
            Self::Resolved { .. } => TaskStateName::Resolved,
        }
    }

    /// Whether its amount is still locked.
    #[must_use]
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Completed { .. } | Self::Refunded | Self::Resolved { .. })
    }
}

/// One task, as its vault's events tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What was locked at creation.
    pub amount: Usdc,
    /// Who paid.
    pub creator: Address,
    /// Its terms; nothing only while it is announced.
    pub terms: Option<TaskTerms>,
    /// What it is about, in its creator's words: not to be trusted.
    pub metadata: String,
    /// Where it stands.
    pub state: TaskState,
    /// What its end has credited to accounts. With what the pod earned it makes up
    /// `amount` once the task has ended; it is zero before.
    pub credited: Usdc,
}

impl Task {
    /// A task that was just created.
    #[must_use]
    pub const fn announced(amount: Usdc, creator: Address) -> Self {
        Self {
            amount,
            creator,
            terms: None,
            metadata: String::new(),
            state: TaskState::Announced,
            credited: Usdc::ZERO,
        }
    }

    /// What is still locked for it.
    #[must_use]
    pub const fn locked(&self) -> Usdc {
        if self.state.is_open() { self.amount } else { Usdc::ZERO }
    }

    /// Whether nothing more has to follow in the same transaction.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        match self.state {
            TaskState::Announced | TaskState::Declined | TaskState::Claimed => false,
            TaskState::Funded | TaskState::Submitted { .. } | TaskState::Disputed { .. } => self.credited.0 == 0,
            TaskState::Completed { .. } | TaskState::Refunded | TaskState::Resolved { .. } => self.uncredited().0 == 0,
        }
    }

    /// What the pod has earned by it.
    #[must_use]
    pub const fn earned(&self) -> Usdc {
        match self.state {
            TaskState::Completed { earned } | TaskState::Resolved { earned, .. } => earned,
            _ => Usdc::ZERO,
        }
    }

    /// What is neither earned nor credited yet.
    #[must_use]
    pub const fn uncredited(&self) -> Usdc {
        Usdc(self.amount.0.saturating_sub(self.earned().0).saturating_sub(self.credited.0))
    }

    /// The task after one more of its events.
    ///
    /// # Errors
    /// [`InvalidEvent`] when the event cannot follow.
    pub fn step(&self, event: &VaultEvent) -> Result<Self, InvalidEvent> {
        use VaultEvent as E;
        match event {
            E::TaskTerms { terms, metadata, .. } => self.agree(terms, metadata),
            E::TaskRefunded { amount, .. } => self.refund(*amount),
            E::TaskCompleted { amount, .. } => self.complete(*amount),
            E::TaskResolved { amount, by_default, .. } => self.resolve(*amount, *by_default),
            E::Credited { amount, .. } => self.credit(*amount),
            E::TaskSubmitted { .. } | E::TaskDeclined { .. } | E::TaskDisputed { .. } | E::TaskClaimed { .. } => {
                self.advance(event)
            }
            _ => Err(self.refuse(event.name())),
        }
    }

    /// Steps that move no money.
    fn advance(&self, event: &VaultEvent) -> Result<Self, InvalidEvent> {
        use {TaskState as S, VaultEvent as E};
        let state = match (self.state, event) {
            (S::Funded, E::TaskSubmitted { submitter, result_hash, review_by, .. }) => {
                S::Submitted { submitter: *submitter, result_hash: *result_hash, review_by: *review_by }
            }
            (S::Funded, E::TaskDeclined { .. }) => S::Declined,
            (S::Submitted { result_hash, .. }, E::TaskDisputed { reason_hash, arbiter_by, .. }) => {
                S::Disputed { result_hash, reason_hash: *reason_hash, arbiter_by: *arbiter_by }
            }
            (S::Submitted { .. }, E::TaskClaimed { .. }) => S::Claimed,
            _ => return Err(self.refuse(event.name())),
        };
        Ok(Self { state, ..self.clone() })
    }

    fn agree(&self, terms: &TaskTerms, metadata: &str) -> Result<Self, InvalidEvent> {
        if self.state != TaskState::Announced {
            return Err(self.refuse("TaskTerms"));
        }
        if terms.amount != self.amount || terms.creator != self.creator {
            return Err(InvalidEvent::OtherTerms);
        }
        let (terms, metadata) = (Some(terms.clone()), metadata.to_owned());
        Ok(Self { terms, metadata, state: TaskState::Funded, ..self.clone() })
    }

    fn refund(&self, amount: Usdc) -> Result<Self, InvalidEvent> {
        match self.state {
            TaskState::Funded | TaskState::Declined if amount == self.amount => {
                Ok(Self { state: TaskState::Refunded, ..self.clone() })
            }
            TaskState::Funded | TaskState::Declined => Err(InvalidEvent::Amount { said: amount, is: self.amount }),
            _ => Err(self.refuse("TaskRefunded")),
        }
    }

    fn complete(&self, earned: Usdc) -> Result<Self, InvalidEvent> {
        match self.state {
            TaskState::Submitted { .. } | TaskState::Claimed => self.end(earned, TaskState::Completed { earned }),
            _ => Err(self.refuse("TaskCompleted")),
        }
    }

    fn resolve(&self, earned: Usdc, by_default: bool) -> Result<Self, InvalidEvent> {
        match self.state {
            TaskState::Disputed { .. } => self.end(earned, TaskState::Resolved { earned, by_default }),
            _ => Err(self.refuse("TaskResolved")),
        }
    }

    /// The contract credits before it says that the task has ended.
    fn end(&self, earned: Usdc, state: TaskState) -> Result<Self, InvalidEvent> {
        let left = self.uncredited();
        if earned > left {
            return Err(InvalidEvent::Amount { said: earned, is: left });
        }
        Ok(Self { state, ..self.clone() })
    }

    fn credit(&self, amount: Usdc) -> Result<Self, InvalidEvent> {
        let over = InvalidEvent::Amount { said: amount, is: self.uncredited() };
        match self.state {
            TaskState::Announced | TaskState::Funded | TaskState::Declined => Err(self.refuse("Credited")),
            _ if amount > self.uncredited() => Err(over),
            _ => Ok(Self { credited: Usdc(self.credited.0.saturating_add(amount.0)), ..self.clone() }),
        }
    }

    const fn refuse(&self, event: &'static str) -> InvalidEvent {
        InvalidEvent::Step { event, state: self.state.name() }
    }
}
