//! What agents are paid: vaults, the relayer, payments for requests, over one store
//! and one chain.
//!
//! | file | does |
//! |---|---|
//! | `service` | [`Treasury`]: what the gateway calls; asks the chain until it answers, then keeps the loops |
//! | `desk` | everything that needs the chain, set up once it has answered |
//! | `deploys` | the agents' vaults on their way onto the chain |
//! | `tasks` | what an agent does with a task |
//! | `identities` | the agents' keys |
//! | `settle` | payments onto the chain, and what became of them |
//! | `sponsor` | for whom vaults are deployed |
//! | `ledger`, `outbox` | the traits of `chain`, over the store |
//! | `trouble` | pure: why the chain is not used, for everybody |
//! | `view` | pure: from the books to the wire |
//! | `config`, `error` | `[treasury]`; why not |

mod config;
mod deploys;
mod desk;
mod error;
mod identities;
mod ledger;
mod outbox;
mod service;
mod settle;
mod sponsor;
mod tasks;
mod trouble;
mod view;

pub use config::{Config, Options};
pub use error::TreasuryError;
pub use identities::IdentityError;
pub use ledger::ledger;
pub use outbox::outbox;
pub use service::Treasury;
pub use trouble::Trouble;
