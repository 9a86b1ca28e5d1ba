//! An identity in a container: only the state directory is the pod's to make.

use std::os::unix::fs::chown;

use wire::v1::pod::GuestConfig;

use crate::identity::{Platform, ValidGuestConfig};
use crate::process::{Privileges, am_root};
use crate::step::{Context as _, StepError, make_dir};

/// A container that its runtime has set up.
#[derive(Debug)]
pub(super) struct Container;

impl Platform for Container {
    fn apply(&self, identity: &GuestConfig, valid: &ValidGuestConfig) -> Result<(), StepError> {
        let state = &identity.run.state_dir;
        make_dir(state)?;
        if am_root() {
            let (uid, gid) = (valid.user.uid, valid.user.gid);
            chown(state, Some(uid), Some(gid)).context(format_args!("give the agent {state}"))?;
        }
        Ok(())
    }

    fn mount_volumes(&self, identity: &GuestConfig, _valid: &ValidGuestConfig) -> Result<(), String> {
        match identity.volumes.first() {
            None => Ok(()),
            Some(volume) => Err(format!("the volume {} cannot be mounted: this is a container", volume.name)),
        }
    }

    fn privileges(&self) -> Privileges {
        Privileges::Container
    }
}
