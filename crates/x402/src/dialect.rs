//! How the other side writes x402.

/// How the other side writes x402.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Version 2: everything in headers, chains in CAIP-2.
    V2,
    /// Version 1: terms in the body, chains by name.
    V1,
    /// The hosted Cronos facilitator's: version 1 with a flat payload that names
    /// its asset.
    Cronos,
}
