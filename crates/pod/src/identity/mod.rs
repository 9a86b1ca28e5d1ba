//! Who the guest is: checked, then made true, once.

mod adopt;
mod check;

pub(crate) use adopt::{AdoptError, adopt};
pub(crate) use check::IdentityError;
