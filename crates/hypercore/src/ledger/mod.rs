//! What the node remembers of its sandboxes, on disk.
//!
//! ```text
//! <state>/node.key                     seals the environments; root alone
//! <state>/sandboxes/<id>/record.json   what is desired and what happened, without secrets
//! <state>/sandboxes/<id>/secrets       the environment and pod's token, sealed
//! <state>/sandboxes/<id>/*.log         the agent's lines, the guest's console
//! <state>/kept.ages                    for how long the node has kept what outlived its sandbox
//! <state>/reserve                      room for all of this when others have filled the disk
//! ```
//!
//! A sandbox exists from the moment its record has its name until the folder is
//! gone. A folder without a record is a creation that nobody was told of, or the rest
//! of a deletion, as long as the machine holds nothing of it. If it does, the record is
//! lost; such a sandbox is left alone until somebody repairs it, as one is whose record
//! cannot be read. Key, record and secrets are written aside, synced and renamed, so a
//! reader finds the old one or the new one; logs are only added to.

mod dir;
mod record;
mod secrets;

pub(crate) use dir::{Ledger, LedgerError, SandboxDir};
pub(crate) use record::{DesiredState, SandboxRecord};
pub(crate) use secrets::{Secrets, random};
