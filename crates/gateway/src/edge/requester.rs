//! Who sends a request to an agent, and which quotas it takes from.

use domain::Address;

/// Who sends a request to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requester {
    /// Who holds the agent's token.
    Holder,
    /// Who brings a payment that was found good: the address
    /// ([`crate::edge::limits::client_key`]), and the account that pays.
    Payer(u128, Address),
    /// Anybody else.
    Visitor {
        /// As above.
        address: u128,
        /// Whether the agent has prices: some of its connections are kept for who pays.
        beside_payers: bool,
    },
}

/// Whose quota a permit is of. Who pays nothing uses up none of the quota of those who
/// pay at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QuotaKey {
    /// Who pays nothing, by address.
    Visitor(u128),
    /// Who pays, by address.
    Client(u128),
    /// Who pays, by account.
    Payer(Address),
}

impl Requester {
    /// The quotas that a permit is of. The payer's comes before that of its address, which
    /// others share: who waits for its own quota holds nobody else up.
    pub(crate) fn quotas(self) -> impl Iterator<Item = QuotaKey> {
        let quotas = match self {
            Self::Holder => [None, None],
            Self::Payer(address, payer) => [Some(QuotaKey::Payer(payer)), Some(QuotaKey::Client(address))],
            Self::Visitor { address, .. } => [Some(QuotaKey::Visitor(address)), None],
        };
        quotas.into_iter().flatten()
    }
}

impl QuotaKey {
    /// As a refusal names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Visitor(_) | Self::Client(_) => "your address",
            Self::Payer(_) => "this payer",
        }
    }
}
