//! What differs between the places where this program runs.

use std::fmt::Debug;

use wire::v1::pod::GuestConfig;

use super::validate::ValidGuestConfig;
use crate::process::Privileges;
use crate::step::StepError;

/// A machine of the pod's own, or a container that somebody else has set up.
pub(crate) trait Platform: Debug + Send + Sync {
    /// Makes true what the identity says about the surroundings, as far as they
    /// are the pod's, and gives the agent's user its state directory.
    ///
    /// # Errors
    /// The step that the kernel refused; the pod waits on for an identity then.
    fn apply(&self, identity: &GuestConfig, valid: &ValidGuestConfig) -> Result<(), StepError>;

    /// Mounts the volumes that the identity names. Their agent is not started without them, and
    /// this says why not, in a sentence for their owner.
    ///
    /// # Errors
    /// That sentence.
    fn mount_volumes(&self, identity: &GuestConfig, valid: &ValidGuestConfig) -> Result<(), String>;

    /// What the agent's processes may become here.
    fn privileges(&self) -> Privileges;
}
