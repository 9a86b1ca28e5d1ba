//! The control plane with a real store, over a node that keeps its promises and
//! breaks everything else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod balance;
mod chaos;
mod cluster;
mod crash;
mod data;
mod guests;
mod inventory;
mod lifetime;
mod spawn;
mod stop;
mod volumes;
