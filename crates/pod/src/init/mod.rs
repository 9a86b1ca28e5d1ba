//! What only PID 1 of a virtual machine does: mounts, modules, network, clock,
//! names, power-off.

mod boot;
mod containers;
mod disks;
mod entropy;
mod error;
mod helper;
mod machine;
mod modules;
mod mounts;
mod network;
mod power;
mod run;
mod volumes;

pub(crate) use run::run;
