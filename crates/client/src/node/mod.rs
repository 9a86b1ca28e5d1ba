//! The client of the node API.

mod api;
mod body;
mod call;
mod content;
mod error;
mod exchange;
mod images;
mod snapshots;
mod stream;

pub use api::NodeClient;
pub use body::NodeBody;
pub use call::CallDeadlines;
pub use error::NodeError;
pub use stream::{LogSource, Tunnel};
