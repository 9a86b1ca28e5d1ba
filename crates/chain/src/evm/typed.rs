//! What is signed: EIP-712 structs, and the hashes that a key signs. Pure.
//!
//! Every function gives the struct, which wallets can show, and [`digest`] gives
//! the hash for it in a domain. A signature is 65 bytes: r, s, and v as 27 or 28.

use alloy::sol_types::{Eip712Domain, SolStruct};
use alloy_sol_types::{eip712_domain, sol};
use domain::vault::{TaskId, TaskTerms};
use domain::{Address, B256, U256};

use super::{EvmConfig, terms};

sol! {
    /// An ERC-2771 request, as OpenZeppelin's `ERC2771Forwarder` has it.
    #[derive(Debug, PartialEq, Eq)]
    struct ForwardRequest {
        /// Whose call it is.
        address from;
        /// The contract.
        address to;
        /// Wei that go with it.
        uint256 value;
        /// Gas for the inner call.
        uint256 gas;
        /// The forwarder's nonce of `from`.
        uint256 nonce;
        /// The last Unix second at which it is good.
        uint48 deadline;
        /// Function and arguments.
        bytes data;
    }

    /// An owner's consent to a vault, as `PODVaultFactory` has it.
    #[derive(Debug, PartialEq, Eq)]
    struct CreateVault {
        /// The pod's name.
        string podId;
        /// The owner.
        address owner;
        /// The agent's wallet.
        address agentWallet;
        /// The last Unix second at which it is good.
        uint256 deadline;
    }

    /// ERC-3009: a payment that only its receiver can make happen.
    #[derive(Debug, PartialEq, Eq)]
    struct ReceiveWithAuthorization {
        /// Who pays.
        address from;
        /// Who is paid, and must be the caller.
        address to;
        /// Micro-USDC.
        uint256 value;
        /// Good after this Unix second.
        uint256 validAfter;
        /// Good before this Unix second.
        uint256 validBefore;
        /// Used once.
        bytes32 nonce;
    }

    /// ERC-2612: an allowance.
    #[derive(Debug, PartialEq, Eq)]
    struct Permit {
        /// Whose tokens.
        address owner;
        /// Who may take them.
        address spender;
        /// Micro-USDC.
        uint256 value;
        /// The token's nonce of `owner`.
        uint256 nonce;
        /// The last Unix second at which it is good.
        uint256 deadline;
    }
}

/// When an authorization is good: after `after` and before `before`, in Unix
/// seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityWindow {
    /// Good after this.
    pub after: u64,
    /// Good before this.
    pub before: u64,
}

/// The hash that a key signs (EIP-712): keccak of 0x1901, the domain's separator
/// and the struct's hash.
#[must_use]
pub fn digest(message: &impl SolStruct, domain: &Eip712Domain) -> B256 {
    message.eip712_signing_hash(domain)
}

/// The domain of `[evm] usdc` at this version.
#[must_use]
pub fn token_domain(config: &EvmConfig, version: &str) -> Eip712Domain {
    let (name, version) = (config.usdc_name.clone(), version.to_owned());
    eip712_domain!(name: name, version: version, chain_id: config.chain_id, verifying_contract: config.usdc,)
}

/// The domain of `[evm] factory`.
#[must_use]
pub const fn factory_domain(config: &EvmConfig) -> Eip712Domain {
    eip712_domain!(
        name: "PODVaultFactory",
        version: "1",
        chain_id: config.chain_id,
        verifying_contract: config.factory,
    )
}

/// The domain of a vault.
#[must_use]
pub const fn vault_domain(config: &EvmConfig, vault: Address) -> Eip712Domain {
    eip712_domain!(name: "PODVault", version: "1", chain_id: config.chain_id, verifying_contract: vault,)
}

/// The domain of `[evm] forwarder`. Its name is what it was deployed with.
#[must_use]
pub fn forwarder_domain(config: &EvmConfig, name: &str, version: &str) -> Eip712Domain {
    let (name, version) = (name.to_owned(), version.to_owned());
    eip712_domain!(name: name, version: version, chain_id: config.chain_id, verifying_contract: config.forwarder,)
}

/// A task's id: the digest of its terms in its vault's domain. The creator signs
/// it to have another send the task, and it is the nonce of the authorization that
/// pays for it.
#[must_use]
pub fn task_id(config: &EvmConfig, vault: Address, of: &TaskTerms) -> TaskId {
    TaskId(digest(&terms::to_abi(of), &vault_domain(config, vault)))
}

/// The payment for a task, bound to its terms: the nonce is the task's id.
#[must_use]
pub fn task_payment(
    config: &EvmConfig,
    vault: Address,
    of: &TaskTerms,
    window: ValidityWindow,
) -> ReceiveWithAuthorization {
    ReceiveWithAuthorization {
        from: of.creator,
        to: vault,
        value: of.amount.to_u256(),
        validAfter: U256::from(window.after),
        validBefore: U256::from(window.before),
        nonce: task_id(config, vault, of).0,
    }
}

#[cfg(test)]
mod tests {
    use domain::Usdc;
    use domain::payment::Authorization;

    use super::*;

    sol! {
        struct TransferWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }
    }

    #[test]
    fn the_domains_digest_of_an_authorization_is_the_one_of_its_eip_712_struct() {
        let authorization = Authorization {
            chain_id: 338,
            asset: Address::repeat_byte(5),
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: Usdc(3),
            valid_after: U256::from(4),
            valid_before: U256::MAX,
            nonce: B256::repeat_byte(6),
        };
        let Authorization { from, to, value, valid_after, valid_before, nonce, .. } = authorization;
        let message = TransferWithAuthorization {
            from,
            to,
            value: value.to_u256(),
            validAfter: valid_after,
            validBefore: valid_before,
            nonce,
        };
        let domain =
            eip712_domain!(name: "USDC", version: "2", chain_id: 338, verifying_contract: authorization.asset,);
        assert_eq!(authorization.digest(domain.separator()), digest(&message, &domain));
    }
}
