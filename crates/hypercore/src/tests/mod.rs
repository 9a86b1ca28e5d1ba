//! The node on fakes: a runtime without guests and a `pod` that does what it is told.

mod adopt;
mod api;
mod bookkeeping;
mod content;
mod images;
mod kill;
mod life;
mod node;
mod pod;
mod quarantine;
mod runs;
mod shortage;
mod snapshots;
mod volumes;

pub(crate) use pod::run;
