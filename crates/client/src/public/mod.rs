//! The client of the public API, of an agent's chat, and of commands inside it.

mod access;
mod api;
mod ask;
mod content;
mod error;
mod exec;
mod files;
mod follow;
mod http;
mod images;
mod keys;
mod ports;
mod pump;
mod resolve;
mod stream;
mod vault;
mod volumes;

pub use access::AgentAccess;
pub use api::SpawnOptions;
pub use ask::{AgentEndpoint, ChatMessage, ChatPrompt, ChatRole, Payer};
pub use content::{ArchiveDownload, DiskFiles};
pub use error::{ApiError, ClientError};
pub use exec::{AttachedAgain, ExecCommand, Process, ProcessHandle};
pub use files::{AgentFiles, FileDownload};
pub use http::{GatewayClient, Timeouts, gateway_name};
pub use images::ImageUploader;
pub use ports::{AgentPorts, PortConnection};
pub use pump::ExitStatus;
