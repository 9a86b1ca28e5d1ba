//! What each payer's authorization pays for: a request to an agent, or a fee of the
//! relayer's. Whoever takes payments asks here, in the transaction that takes one.

use domain::B256;

/// What an authorization pays for, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizationPurpose {
    /// A request; which one, the payment's own row says.
    Request,
    /// The fee for this group of calls.
    Fee(B256),
}

impl AuthorizationPurpose {
    pub(crate) fn column(&self) -> &[u8] {
        match self {
            Self::Request => &[],
            Self::Fee(group) => group.as_slice(),
        }
    }
}
