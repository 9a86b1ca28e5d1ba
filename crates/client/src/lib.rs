//! Typed clients of the gateway's public API and of a node's API.
//!
//! | client | speaks | for |
//! |---|---|---|
//! | [`NodeClient`] | [`wire::v1::node`], over a Unix socket | the control plane and the gateway |
//! | [`GatewayClient`] | [`wire::v1::public`], over HTTP; OpenAI's chat to an agent; E2B's protocols of processes and files into it, and connections to its ports | the CLI, and whoever writes programs against the gateway |
//!
//! Every call has a deadline and every answer a bound; both are named.

mod carry;
mod hop;
mod node;
mod public;

pub use carry::{CarryError, Role, carry};
pub use hop::strip_hop_by_hop;
pub use node::{CallDeadlines, LogSource, NodeBody, NodeClient, NodeError, Tunnel};
pub use public::{
    AgentAccess, AgentEndpoint, AgentFiles, AgentPorts, ApiError, ArchiveDownload, AttachedAgain, ChatMessage,
    ChatPrompt, ChatRole, ClientError, DiskFiles, ExecCommand, ExitStatus, FileDownload, GatewayClient, ImageUploader,
    Payer, PortConnection, Process, ProcessHandle, SpawnOptions, Timeouts, gateway_name,
};
