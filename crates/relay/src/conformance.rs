//! What every journal must do.
