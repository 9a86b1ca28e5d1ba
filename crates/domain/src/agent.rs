//! An agent's life.
//!
//! ```text
//! reserved ─▶ placed ─▶ booting ⇄ ready
//!     │          │         │ ⇅ ⤡    │
//!     │          │      waiting(lack)
//!     └──────────┴────┬────┴────────┘
//!                     ▼
//!               stopping(end) ─▶ stopped(reason) | failed(reason)
//! ```
//!
//! `waiting` is the node's trouble and not the agent's failure: it lasts as long as
//! the node lacks something, and nobody is billed for it.
//!
//! Every way out leads through `stopping`: a wallet is free again only when the
//! node has said that nothing of its agent runs any more. `end` says which of
//! the two it will be.
//!
//! This is the life of one run of a POD. The POD itself lasts until it is removed.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why an agent was stopped on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Its holder asked; its data is kept.
    Requested,
    /// Its holder asked, and its data goes: the POD was removed, or was to leave nothing.
    Removed,
    /// The holder's balance stayed below the tier.
    Balance,
    /// The operator asked.
    Operator,
    /// The time that its holder gave it to live was over; its data is kept.
    Expired,
}

/// Why an agent could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// Not ready within the deadline.
    BootTimeout,
    /// The guest or its agent died more often than allowed.
    CrashLoop,
    /// No node has room.
    NoCapacity,
    /// No node could hold it, even empty.
    ExceedsCapacity,
    /// The node refused or could not start it.
    NodeRefused,
    /// The spawn was cut off before a node heard of it.
    Interrupted,
    /// The node no longer knows it.
    Lost,
}

/// What a node lacks to run an agent. It is waited for: no agent fails of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeShortage {
    /// Room on its disk, or a disk that works.
    Disk,
    /// The agent's image.
    Image,
    /// A network for the guest: links, tun, packet rules.
    Network,
    /// Limits for the guest.
    Cgroup,
    /// A VMM that starts, or the kernel it boots.
    Vmm,
    /// Its own records of the agent, which cannot be written or read.
    Ledger,
    /// Something else of the machine; the node's log says what.
    Host,
}

impl NodeShortage {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Disk, Self::Image, Self::Network, Self::Cgroup, Self::Vmm, Self::Ledger, Self::Host];

    /// The name as the wire and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Image => "image",
            Self::Network => "network",
            Self::Cgroup => "cgroup",
            Self::Vmm => "vmm",
            Self::Ledger => "ledger",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for NodeShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a stopping agent will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// On purpose.
    Stopped(StopReason),
    /// Not on purpose.
    Failed(FailReason),
}

impl EndReason {
    /// Whether the data goes with it: by its holder's word alone.
    #[must_use]
    pub const fn erases_data(self) -> bool {
        match self {
            Self::Stopped(StopReason::Removed) => true,
            Self::Stopped(StopReason::Requested | StopReason::Balance | StopReason::Operator | StopReason::Expired)
            | Self::Failed(_) => false,
        }
    }
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its wallet's slot is taken; nothing runs.
    Reserved,
    /// A node was chosen and told.
    Placed,
    /// The node has started it, or starts it again.
    Booting,
    /// Its node lacks this, and starts it when it is there.
    Waiting(NodeShortage),
    /// It answers.
    Ready,
    /// It is being taken down, to this end.
    Stopping(EndReason),
    /// Gone, on purpose.
    Stopped(StopReason),
    /// Gone, not on purpose.
    Failed(FailReason),
}

/// A state's name alone, as the APIs and the database write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as the states above")]
pub enum StateName {
    Reserved,
    Placed,
    Booting,
    Waiting,
    Ready,
    Stopping,
    Stopped,
    Failed,
}

impl StateName {
    /// The name as the wire and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Placed => "placed",
            Self::Booting => "booting",
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether the agent still holds its wallet's slot.
    #[must_use]
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed)
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// The state's name alone.
    #[must_use]
    pub const fn name(self) -> StateName {
        match self {
            Self::Reserved => StateName::Reserved,
            Self::Placed => StateName::Placed,
            Self::Booting => StateName::Booting,
            Self::Waiting(_) => StateName::Waiting,
            Self::Ready => StateName::Ready,
            Self::Stopping(_) => StateName::Stopping,
            Self::Stopped(_) => StateName::Stopped,
            Self::Failed(_) => StateName::Failed,
        }
    }

    /// Whether the agent still holds its wallet's slot.
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.name().is_live()
    }

    /// How it ended or will end, if that is known.
    #[must_use]
    pub const fn end(self) -> Option<EndReason> {
        match self {
            Self::Stopping(end) => Some(end),
            Self::Stopped(reason) => Some(EndReason::Stopped(reason)),
            Self::Failed(reason) => Some(EndReason::Failed(reason)),
            Self::Reserved | Self::Placed | Self::Booting | Self::Waiting(_) | Self::Ready => None,
        }
    }
}

/// What happened to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Placement chose a node.
    Placed,
    /// The node starts it, for the first time or again.
    Booting,
    /// The node cannot start it, or go on with it, for want of this.
    Waiting(NodeShortage),
    /// It answers.
    Ready,
    /// Somebody wants it gone, on purpose.
    Stop(StopReason),
    /// It cannot go on.
    Fail(FailReason),
    /// The node holds nothing of it any more.
    Gone,
}

/// What has to be done because of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepEffect {
    /// Tell the node to run it.
    Create,
    /// Tell the node to take it down.
    Destroy,
    /// The wallet may spawn again.
    FreeWallet,
}

/// A step that the life of an agent does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent that is {state} cannot take the step {event:?}", state = .state.name())]
pub struct InvalidAgentTransition {
    /// The state it was in.
    pub state: State,
    /// What was refused.
    pub event: Event,
}

/// Takes one step of an agent's life.
///
/// Steps that change nothing (a second `Ready`, a second `Stop`) are accepted
/// with no action, so that every caller may repeat itself.
///
/// # Errors
/// An [`InvalidAgentTransition`] for a step the diagram does not have.
pub fn step(state: State, event: Event) -> Result<(State, &'static [StepEffect]), InvalidAgentTransition> {
    use State::{Booting, Failed, Placed, Ready, Reserved, Stopped, Stopping, Waiting};
    let to = |next: State, actions: &'static [StepEffect]| Ok((next, actions));
    match (state, event) {
        (Reserved, Event::Placed) => to(Placed, &[StepEffect::Create]),
        (Placed, Event::Placed) => to(Placed, &[]),
        (Placed | Booting | Waiting(_) | Ready, Event::Booting) => to(Booting, &[]),
        (Placed | Booting | Waiting(_) | Ready, Event::Waiting(lack)) => to(Waiting(lack), &[]),
        (Placed | Booting | Waiting(_) | Ready, Event::Ready) => to(Ready, &[]),
        (Reserved | Placed | Booting | Waiting(_) | Ready, Event::Stop(reason)) => {
            to(Stopping(EndReason::Stopped(reason)), &[StepEffect::Destroy])
        }
        (Reserved | Placed | Booting | Waiting(_) | Ready, Event::Fail(reason)) => {
            to(Stopping(EndReason::Failed(reason)), &[StepEffect::Destroy])
        }
        (Reserved | Placed | Booting | Waiting(_) | Ready, Event::Gone) => {
            to(Failed(FailReason::Lost), &[StepEffect::FreeWallet])
        }
        // The first end stands, but for its holder's word that the data goes.
        (Stopping(_), Event::Stop(StopReason::Removed)) => to(Stopping(EndReason::Stopped(StopReason::Removed)), &[]),
        (
            Stopping(_),
            Event::Stop(StopReason::Requested | StopReason::Balance | StopReason::Operator | StopReason::Expired)
            | Event::Fail(_),
        ) => to(state, &[]),
        (Stopping(EndReason::Stopped(reason)), Event::Gone) => to(Stopped(reason), &[StepEffect::FreeWallet]),
        (Stopping(EndReason::Failed(reason)), Event::Gone) => to(Failed(reason), &[StepEffect::FreeWallet]),
        (Stopped(_) | Failed(_), Event::Stop(_) | Event::Fail(_) | Event::Gone) => to(state, &[]),
        (Reserved, Event::Booting | Event::Waiting(_) | Event::Ready)
        | (Booting | Waiting(_) | Ready, Event::Placed)
        | (Stopping(_) | Stopped(_) | Failed(_), Event::Placed | Event::Booting | Event::Waiting(_) | Event::Ready) => {
            Err(InvalidAgentTransition { state, event })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            Just(Event::Placed),
            Just(Event::Booting),
            Just(Event::Waiting(NodeShortage::Disk)),
            Just(Event::Ready),
            Just(Event::Stop(StopReason::Requested)),
            Just(Event::Stop(StopReason::Removed)),
            Just(Event::Fail(FailReason::CrashLoop)),
            Just(Event::Gone),
        ];
        proptest::collection::vec(one, 0..40)
    }

    fn ends() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Stop(StopReason::Requested)),
            Just(Event::Stop(StopReason::Balance)),
            Just(Event::Stop(StopReason::Operator)),
            Just(Event::Stop(StopReason::Expired)),
            Just(Event::Fail(FailReason::CrashLoop)),
        ]
    }

    proptest! {
        #[test]
        fn the_wallet_is_freed_exactly_once_and_only_at_the_grave(story in events()) {
            let mut state = State::Reserved;
            let mut freed = 0;
            for event in story {
                let Ok((next, actions)) = step(state, event) else { continue };
                freed += actions.iter().filter(|a| **a == StepEffect::FreeWallet).count();
                prop_assert_eq!(freed == 1, !next.is_live());
                prop_assert!(state.is_live() || state == next, "a grave was left: {:?} -> {:?}", state, next);
                state = next;
            }
        }

        #[test]
        fn a_stop_always_works_and_then_gone_always_ends_it(story in events()) {
            let mut state = State::Reserved;
            for event in story {
                if let Ok((next, _)) = step(state, event) { state = next; }
            }
            let (state, _) = step(state, Event::Stop(StopReason::Requested)).unwrap();
            let (state, _) = step(state, Event::Gone).unwrap();
            prop_assert!(!state.is_live());
        }

        #[test]
        fn fault_1_1_a_removal_is_not_lost_while_another_end_is_under_way(story in events(), reason in ends()) {
            let mut state = State::Reserved;
            for event in story {
                if let Ok((next, _)) = step(state, event) { state = next; }
            }
            let (state, _) = step(state, reason).unwrap();
            let (told, actions) = step(state, Event::Stop(StopReason::Removed)).unwrap();
            prop_assert!(actions.is_empty());
            if state.is_live() {
                prop_assert!(told.end().is_some_and(EndReason::erases_data));
                // Nobody takes it back.
                for other in [Event::Stop(StopReason::Requested), Event::Stop(StopReason::Operator), Event::Fail(FailReason::Lost)] {
                    prop_assert_eq!(step(told, other).unwrap().0, told);
                }
            } else {
                prop_assert_eq!(told, state);
            }
        }

        #[test]
        fn fault_1_1_what_a_node_lacks_ends_no_agent(story in events(), lack in proptest::sample::select(&NodeShortage::ALL[..])) {
            let mut state = State::Reserved;
            for event in story {
                if let Ok((next, _)) = step(state, event) { state = next; }
            }
            if let Ok((waiting, actions)) = step(state, Event::Waiting(lack)) {
                prop_assert!(waiting.is_live() && waiting.end().is_none() && actions.is_empty());
                prop_assert_eq!(step(waiting, Event::Ready).unwrap().0, State::Ready);
            }
        }

        #[test]
        fn an_agent_is_created_at_most_once(story in events()) {
            let mut state = State::Reserved;
            let mut created = 0;
            for event in story {
                let Ok((next, actions)) = step(state, event) else { continue };
                created += actions.iter().filter(|a| **a == StepEffect::Create).count();
                state = next;
            }
            prop_assert!(created <= 1);
        }
    }
}
