//! The client of the public API, of an agent's chat, and of commands inside it.

mod api;
mod ask;
mod error;
mod exec;
mod follow;
mod http;
mod pump;
mod resolve;
mod stream;
mod vault;

pub use api::SpawnOptions;
pub use ask::{Door, Payer, Question};
pub use error::{ClientError, Refused};
pub use exec::{Command, Process, ProcessHandle};
pub use http::{Limits, Public, gateway_name};
pub use pump::Exit;
