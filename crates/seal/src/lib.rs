//! A secret key in a file of its owner's alone, and what is sealed with it.
//!
//! | file | is |
//! |---|---|
//! | `key` | [`Key`]: 32 random bytes, and the file that holds them: made once, mode 0600 |
//! | `sealer` | [`Sealer`]: XChaCha20-Poly1305 under such a key. Each sealed text is bound to its place |

mod key;
mod sealer;

pub use key::{Key, KeyError, generate, read, read_or_create};
pub use sealer::{SealError, Sealer};
