//! What may isolate an agent, as an operator allows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kind of isolation, by the name that the operator writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// A machine of its own, on KVM or emulated.
    Qemu,
    /// A container whose system calls go to gVisor's kernel, and to the node's by that one alone.
    ContainerGvisor,
    /// A container made by runc: its kernel is the node's.
    ContainerRunc,
    /// The same, made by crun.
    ContainerCrun,
}

impl RuntimeKind {
    /// All of them, the strongest first.
    pub const ALL: [Self; 4] = [Self::Qemu, Self::ContainerGvisor, Self::ContainerRunc, Self::ContainerCrun];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::ContainerGvisor => "container-gvisor",
            Self::ContainerRunc => "container-runc",
            Self::ContainerCrun => "container-crun",
        }
    }

    /// Whether what isolates an agent, by its full name, is of this kind: `qemu-kvm` is `qemu`.
    #[must_use]
    pub fn is_of(self, runtime: &str) -> bool {
        runtime.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Qemu => 1,
            Self::ContainerRunc => 2,
            Self::ContainerCrun => 4,
            Self::ContainerGvisor => 8,
        }
    }
}

/// The kinds that are allowed. In no order: whoever has a choice takes the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(from = "Vec<RuntimeKind>", into = "Vec<RuntimeKind>")]
#[schema(value_type = Vec<RuntimeKind>)]
pub struct RuntimeKinds(u8);

impl RuntimeKinds {
    /// Machines alone: what is meant where nothing is said.
    pub const MACHINES: Self = Self(RuntimeKind::Qemu.bit());

    /// Whether this one is allowed.
    #[must_use]
    pub const fn allow(self, kind: RuntimeKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are allowed, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = RuntimeKind> {
        RuntimeKind::ALL.into_iter().filter(move |kind| self.allow(*kind))
    }
}

impl FromIterator<RuntimeKind> for RuntimeKinds {
    fn from_iter<I: IntoIterator<Item = RuntimeKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }
}

impl From<Vec<RuntimeKind>> for RuntimeKinds {
    fn from(kinds: Vec<RuntimeKind>) -> Self {
        kinds.into_iter().collect()
    }
}

impl From<RuntimeKinds> for Vec<RuntimeKind> {
    fn from(kinds: RuntimeKinds) -> Self {
        kinds.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_by_their_names_the_strongest_first() {
        let both: RuntimeKinds = serde_json::from_str(r#"["container-runc","qemu"]"#).unwrap();
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"["qemu","container-runc"]"#);
        assert!(both.allow(RuntimeKind::Qemu) && !both.allow(RuntimeKind::ContainerCrun));
        assert!(serde_json::from_str::<RuntimeKinds>(r#"["container"]"#).is_err(), "by name, and no more than that");
        for kind in RuntimeKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
