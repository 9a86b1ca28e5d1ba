//! Which owner a holder belongs to, and what both have signed.

use domain::{Address, UnixMillis, Wallet};

use crate::port::port;

/// A holder and an owner that say, each by a signature over the same text, that
/// they belong together. Verified before it comes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountLink {
    /// The Solana wallet.
    pub holder: Wallet,
    /// The EVM address.
    pub owner: Address,
    /// What both have signed.
    pub text: String,
    /// The holder's signature of it.
    pub holder_signature: String,
    /// The owner's signature of it.
    pub owner_signature: String,
    /// When the text was signed: an older link never replaces a newer one.
    pub signed_at: UnixMillis,
}

port! {
    /// Links of holders and owners.
    LinkStore {
        /// Keeps a link in place of the holder's older one. `false`: the one that is
        /// held is as new or newer.
        fn keep_link(&self, link: AccountLink) -> bool;

        /// A holder's link.
        fn link_of(&self, holder: Wallet) -> Option<AccountLink>;
    }
}
