//! The tokens that payments are made in: everything that is signed about one is
//! known beforehand, never taken from a message.

use std::sync::Arc;

use alloy_sol_types::Eip712Domain;
use domain::{Address, B256};

/// The namespace of EVM chains in CAIP-2.
const NAMESPACE: &str = "eip155:";

/// A token with six decimals and EIP-3009, and the EIP-712 domain it checks
/// signatures against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    chain_id: u64,
    network: String,
    address: Address,
    name: String,
    version: String,
    separator: B256,
}

impl Token {
    /// A token at `address` of the chain, with the name and version of its
    /// EIP-712 domain. `network` is what x402 v1 calls the chain.
    #[must_use]
    pub fn new(chain_id: u64, network: &str, address: Address, name: &str, version: &str) -> Self {
        let domain = Eip712Domain::new(
            Some(name.to_owned().into()),
            Some(version.to_owned().into()),
            Some(domain::U256::from(chain_id)),
            Some(address),
            None,
        );
        Self {
            chain_id,
            network: network.to_owned(),
            address,
            name: name.to_owned(),
            version: version.to_owned(),
            separator: domain.separator(),
        }
    }

    /// The chain, as `eth_chainId` gives it.
    #[must_use]
    pub const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The chain's name in x402 v1, like `cronos-testnet`.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The chain in CAIP-2, like `eip155:338`, as x402 v2 has it.
    #[must_use]
    pub fn caip2(&self) -> String {
        format!("{NAMESPACE}{}", self.chain_id)
    }

    /// The contract.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The name in the token's EIP-712 domain.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version in the token's EIP-712 domain.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The domain's separator; must equal the contract's `DOMAIN_SEPARATOR()`,
    /// which whoever holds an RPC endpoint compares at start.
    #[must_use]
    pub const fn separator(&self) -> B256 {
        self.separator
    }
}

/// The tokens that are known. What is not in here is neither taken nor paid.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Arc<Token>>);

impl Tokens {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.0.iter()
    }

    /// The token at this address of the chain.
    #[must_use]
    pub fn at(&self, chain_id: u64, address: Address) -> Option<&Arc<Token>> {
        self.0.iter().find(|token| token.chain_id == chain_id && token.address == address)
    }

    /// The chain that v2 writes like this; none for a chain that no token is on.
    #[must_use]
    pub fn chain_of_caip2(&self, text: &str) -> Option<u64> {
        let digits = text.strip_prefix(NAMESPACE)?;
        // One writing per chain: no sign, no leading zero.
        self.0.iter().map(|token| token.chain_id).find(|chain| chain.to_string() == digits)
    }

    /// The chain that v1 calls by this name; none for a chain that no token is
    /// on.
    #[must_use]
    pub fn chain_of_name(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|token| token.network == name).map(|token| token.chain_id)
    }
}

impl FromIterator<Token> for Tokens {
    fn from_iter<I: IntoIterator<Item = Token>>(tokens: I) -> Self {
        Self(tokens.into_iter().map(Arc::new).collect())
    }
}
