//! What the ledger holds of a guest, so that its driver finds it again.

use serde::{Deserialize, Serialize};

use crate::drivers::container::facts::ContainerFacts;
use crate::drivers::qemu::facts::VmmFacts;

/// What a driver knows of a guest that it runs, each in a form of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "snake_case")]
pub enum GuestFacts {
    /// A VMM of the `qemu` driver.
    Qemu(VmmFacts),
    /// A container of the `container` driver.
    Container(ContainerFacts),
}

impl GuestFacts {
    /// The process that an operator finds on the node, where a guest has one there.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match self {
            Self::Qemu(facts) => Some(facts.process.pid),
            Self::Container(facts) => Some(facts.process.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessFacts;

    #[test]
    fn facts_name_their_driver_beside_what_it_knows() {
        let process = ProcessFacts { pid: 7, started: 8, boot: "b".to_owned() };
        let facts = GuestFacts::Qemu(VmmFacts { process });
        let text = r#"{"driver":"qemu","pid":7,"started":8,"boot":"b"}"#;
        assert_eq!(serde_json::to_string(&facts).unwrap(), text);
        assert_eq!(serde_json::from_str::<GuestFacts>(text).unwrap(), facts);
        // Of a driver that this program does not have.
        assert!(serde_json::from_str::<GuestFacts>(&text.replace("qemu", "firecracker")).is_err());
    }
}
