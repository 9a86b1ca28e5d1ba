//! What is remembered of a container.

use serde::{Deserialize, Serialize};
use wire::v1::node::RuntimeName;

use crate::process::ProcessFacts;

/// A container that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// What made it.
    pub runtime: RuntimeName,
    /// Its first process, by its id on the node.
    #[serde(flatten)]
    pub process: ProcessFacts,
}
