//! What agents are paid: vaults, the relayer, payments for requests, over one store
//! and one chain.
//!
//! | file | does |
//! |---|---|
//! | `handle` | [`Treasury`]: what the gateway calls; asks the chain until it answers, then keeps the loops |
//! | `services` | everything that needs the chain, set up once it has answered |
//! | `deploys` | the agents' vaults on their way onto the chain |
//! | `tasks` | what an agent does with a task |
//! | `identities`, `keystores` | the PODs' keys; what is left of earlier versions' files of them |
//! | `standing` | what the chain says of a vault, where no gateway runs |
//! | `transfers` | payments onto the chain, and what became of them |
//! | `sponsor` | for whom vaults are deployed |
//! | `unavailable` | pure: why the chain is not used, for everybody |
//! | `view` | pure: from the ledger to the wire |
//! | `config`, `error` | `[treasury]`; why not |

mod config;
mod deploys;
mod error;
mod handle;
mod identities;
mod keystores;
mod services;
mod sponsor;
mod standing;
mod tasks;
mod transfers;
mod unavailable;
mod view;

pub use config::{Config, ServicesConfig};
pub use error::TreasuryError;
pub use handle::Treasury;
pub use identities::{Identities, IdentityError};
pub use keystores::LegacyKeyError;
pub use standing::standing_wallet;
pub use unavailable::ChainUnavailable;
