//! The node daemon: one task owns one sandbox.
