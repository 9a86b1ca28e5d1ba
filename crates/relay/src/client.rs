//! A relayer elsewhere.
