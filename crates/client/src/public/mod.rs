//! The client of the public API, of an agent's chat, and of commands inside it.

mod api;
mod ask;
mod error;
mod exec;
mod files;
mod follow;
mod http;
mod keys;
mod pump;
mod resolve;
mod stream;
mod vault;
mod volumes;

pub use api::SpawnOptions;
pub use ask::{AgentEndpoint, ChatPrompt, Payer};
pub use error::{ApiError, ClientError};
pub use exec::{ExecCommand, Process, ProcessHandle};
pub use files::{AgentFiles, FileDownload};
pub use http::{GatewayClient, Timeouts, gateway_name};
pub use pump::ExitStatus;
