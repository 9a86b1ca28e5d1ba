//! Version 1 of our own APIs: what paths that begin with `/v1`, and the public ones, speak.

pub mod content;
pub mod images;
pub mod keys;
pub mod node;
pub mod pod;
pub mod public;
pub mod relay;
pub mod vault;
pub mod volumes;
