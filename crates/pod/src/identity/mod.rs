//! Who the pod is: validated, then made true, once.

mod accept;
mod platform;
mod validate;

pub(crate) use accept::{IdentityRefused, accept};
pub(crate) use platform::Platform;
pub(crate) use validate::{IdentityError, ValidGuestConfig};
