//! Typed client of the public and node APIs.
