//! The gateway, asked over loopback by real HTTP clients. Behind it: a real
//! store on disk, the real control plane, and fakes of the chain and the node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod addressing;
mod api;
mod content;
mod disk;
mod edge;
mod events;
mod faults;
mod guest;
mod images;
mod ingress;
mod keys;
mod limits;
mod pages;
mod paid;
mod pool;
mod raw;
mod several;
mod smuggling;
mod streams;
mod timeout;
mod tls;
mod volumes;
