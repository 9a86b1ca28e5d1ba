//! As an ordinary process, in a container: mounts, network, clock and names are
//! what its runtime made them. Nothing here touches them, or a process that is
//! not a descendant of this one.

mod children;
mod platform;
mod run;

pub(crate) use run::run;
