//! The node on fakes: a runtime without guests and a `pod` that does what it is told.

mod adopt;
mod api;
mod books;
mod house;
mod kill;
mod lack;
mod life;
mod pod;
mod quarantine;
mod runs;

pub(crate) use pod::run;
