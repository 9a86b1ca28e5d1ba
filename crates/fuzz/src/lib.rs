//! What is fuzzed, and what must hold whatever the bytes are.
//!
//! Each body takes bytes that an attacker may have made. It fails by a panic: that of
//! the code it calls, or its own where an answer breaks a promise. `fuzz/` runs the
//! bodies under libFuzzer; the tests of this crate run them over the seeds.

mod paths;
mod payments;
mod signatures;
mod streams;

/// A target: its name, which is that of its seeds' folder too, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("signature", signatures::signature),
    ("link", signatures::link),
    ("names", signatures::names),
    ("x402", payments::x402),
    ("keystore", payments::keystore),
    ("revert", payments::revert),
    ("envelopes", streams::envelopes),
    ("documents", streams::documents),
    ("facilitator", payments::facilitator),
    ("transaction", relay::fuzz::transaction),
    ("path", paths::path),
    ("host", gateway::fuzz::host),
    ("envd", gateway::fuzz::envd),
    ("layer", image::fuzz::layer),
    ("image", image::fuzz::document),
    ("archive", image::fuzz::archive),
    ("kernel", image::fuzz::kernel),
    ("lines", hypercore::fuzz::lines),
    ("journal", hypercore::fuzz::journal),
    ("record", hypercore::fuzz::record),
    ("qmp", sandbox::fuzz::qmp),
];

/// Runs the body of this name.
///
/// # Panics
/// When there is no such target, or the bytes break it.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, body) = target.unwrap_or_else(|| panic!("there is no target {name:?}"));
    body(bytes);
}
