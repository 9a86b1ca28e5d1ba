//! The gasless relayer, and a client for another one.
//!
//! Two ways lead through it. A **forward request** (ERC-2771, OpenZeppelin's
//! forwarder) is signed by somebody without CRO and calls a contract in his name.
//! A **sponsored call** carries its own signature, or needs none: the relayer only
//! pays for it. Besides, it passes on whole transactions whose signer pays himself.
//! Routes and JSON are CroGas's; see [`wire::v1::relay`].
//!
//! What holds: a request is tried before it is sent, and refused with the reason if
//! it would fail; it is written down before it is sent, and has one effect and one
//! answer whatever crashes; `success` is what the chain says of the call itself; a
//! fee is taken before the call, once, and told of whatever becomes of the call.
//!
//! | file | holds |
//! |---|---|
//! | `relayer`, `state` | [`Relayer`]: a method for each route; what it holds |
//! | `prepare` | from a body to work that may be taken on: rules, simulation, price |
//! | `worker` | one task carries one entry to its end |
//! | `answer` | from entries to the wire |
//! | `status` | what `/estimate`, `/health`, `/meta/domain` tell |
//! | `raw` | whole transactions of others |
//! | `class`, `sponsor` | what a call is for; for whom vaults are deployed |
//! | `spend`, `budget` | pure: what is counted of a call, and for whom; `[relayer.budgets]` |
//! | `request`, `payment`, `allow`, `calls`, `price`, `outcome`, `text` | pure: checks and meanings |
//! | `chain` | the trait: what is needed from outside, besides [`RelayJournal`] and [`domain::Clock`] |
//! | `evm` | [`EvmChain`]: the chain, over `chain::evm` |
//! | `config`, `error` | `[relayer]`; refusals |
//! | `client` | a relayer elsewhere |
//! | `fake`, `conformance` | for tests: chain and journal in memory; what every journal must do |

mod abi;
mod allow;
mod answer;
mod budget;
mod calls;
pub mod chain;
mod class;
pub mod client;
mod config;
#[cfg(feature = "fake")]
pub mod conformance;
mod error;
mod evm;
#[cfg(feature = "fake")]
pub mod fake;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod outcome;
pub mod payment;
mod prepare;
mod price;
mod raw;
mod relayer;
pub mod request;
mod spend;
mod sponsor;
mod state;
mod status;
pub mod text;
mod worker;

pub use budget::{BudgetUnit, Budgets};
pub use chain::{Chain, ChainError, ChainParameters};
pub use class::{CallPurpose, VaultDeployment};
pub use config::{Config, ConfigError, FeePolicy, TargetContract};
pub use domain::relay::{RelayJournal, RelayJournalError};
pub use error::{ErrorBody, RelayError};
pub use evm::{EvmChain, facts};
pub use spend::{Beneficiary, GasSpend};
pub use sponsor::SponsorPolicy;
#[cfg(feature = "fake")]
pub use sponsor::{SponsorAll, SponsorAllAsHolder};
pub use state::{RelayResponse, Relayer};
