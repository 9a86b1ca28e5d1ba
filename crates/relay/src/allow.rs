//! Which calls are relayed: targets and selectors. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use alloy_primitives::{Address, keccak256};

use crate::abi::{PODVault, PODVaultFactory, TestUSDC};
use crate::chain::Facts;
use crate::class::CallClass;
use crate::config::Config;

/// Functions of a vault that can be let through: those that ask who sends.
/// `initialize` is the factory's alone.
pub(crate) const VAULT_CALLS: &[&str] = &[
    "createTask",
    "createTaskWithPermit",
    "createTaskWithAuthorization",
    "submit",
    "decline",
    "refund",
    "completeTask",
    "dispute",
    "claim",
    "resolve",
    "defaultResolve",
    "withdraw",
    "withdrawCredit",
    "setOperator",
    "setSettings",
    "setPaused",
    "transferOwnership",
    "acceptOwnership",
    "proposeAgentWallet",
    "acceptAgentWallet",
];
/// Functions for which it does not matter who sends.
pub(crate) const SPONSORED: &[&str] = &[
    "createPODVault",
    "createTaskWithAuthorization",
    "createTaskWithPermit",
    "refund",
    "claim",
    "defaultResolve",
    "transferWithAuthorization",
];
/// All of them but the last: whoever has a micro-USDC could have any number of
/// transfers sent.
pub(crate) const SPONSORED_BY_DEFAULT: &[&str] = SPONSORED.split_at(SPONSORED.len() - 1).0;

type Selector = [u8; 4];

/// What the rules say of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Let through.
    Allowed,
    /// Let through if the target is a vault of our factory.
    IfVault,
    /// No such function may be called there.
    NoSuchCall,
}

/// The rules, from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    factory: Address,
    token: Address,
    listed: HashMap<Address, HashSet<Selector>>,
    vault: HashSet<Selector>,
    sponsored_factory: HashSet<Selector>,
    sponsored_token: HashSet<Selector>,
    sponsored_vault: HashSet<Selector>,
}

impl Rules {
    /// The configuration was checked: what is no signature is left out.
    pub(crate) fn new(config: &Config, facts: &Facts) -> Self {
        let listed = config.targets.iter().map(|target| {
            let selectors = target.calls.iter().filter_map(|call| selector_of(call)).collect();
            (target.address, selectors)
        });
        Self {
            factory: facts.factory,
            token: facts.token,
            listed: listed.filter(|(address, _)| !forbidden(*address, facts)).collect(),
            vault: named(&config.vault_calls, PODVault::PODVaultCalls::SIGNATURES),
            sponsored_factory: named(&config.sponsored_calls, PODVaultFactory::PODVaultFactoryCalls::SIGNATURES),
            sponsored_token: named(&config.sponsored_calls, TestUSDC::TestUSDCCalls::SIGNATURES),
            sponsored_vault: named(&config.sponsored_calls, PODVault::PODVaultCalls::SIGNATURES),
        }
    }

    /// For a call through the forwarder.
    pub(crate) fn forwarded(&self, to: Address, selector: Option<Selector>) -> Rule {
        let Some(selector) = selector else { return Rule::NoSuchCall };
        match self.listed.get(&to) {
            Some(calls) if calls.contains(&selector) => Rule::Allowed,
            None if self.vault.contains(&selector) && to != self.factory && to != self.token => Rule::IfVault,
            Some(_) | None => Rule::NoSuchCall,
        }
    }

    /// For a call of the relayer's own.
    pub(crate) fn sponsored(&self, to: Address, selector: Option<Selector>) -> Rule {
        let Some(selector) = selector else { return Rule::NoSuchCall };
        let of_ours =
            |calls: &HashSet<Selector>| if calls.contains(&selector) { Rule::Allowed } else { Rule::NoSuchCall };
        if to == self.factory {
            of_ours(&self.sponsored_factory)
        } else if to == self.token {
            of_ours(&self.sponsored_token)
        } else if self.sponsored_vault.contains(&selector) {
            Rule::IfVault
        } else {
            Rule::NoSuchCall
        }
    }

    /// What a call of this contract is for.
    pub(crate) fn class(&self, to: Address, data: &[u8]) -> CallClass {
        if to == self.factory {
            return CallClass::Deploy;
        }
        if to == self.token {
            return CallClass::Settle;
        }
        let vault = CallClass::of_vault(data).filter(|_| !self.listed.contains_key(&to));
        vault.unwrap_or(CallClass::Forward)
    }

    /// For a transaction that its own signer pays: whatever is let through one way
    /// or the other.
    pub(crate) fn broadcast(&self, to: Address, selector: Option<Selector>) -> Rule {
        match self.forwarded(to, selector) {
            Rule::NoSuchCall => self.sponsored(to, selector),
            rule @ (Rule::Allowed | Rule::IfVault) => rule,
        }
    }
}

/// Never a target, whatever the configuration lists: the forwarder itself.
fn forbidden(address: Address, facts: &Facts) -> bool {
    address == facts.forwarder
}

/// All overloads of these names.
fn named(names: &BTreeSet<String>, signatures: &[&str]) -> HashSet<Selector> {
    let name = |signature: &str| signature.split('(').next().unwrap_or_default().to_owned();
    signatures.iter().filter(|it| names.contains(&name(it))).filter_map(|it| selector_of(it)).collect()
}

/// The selector of a signature like `transfer(address,uint256)`.
pub(crate) fn selector_of(signature: &str) -> Option<Selector> {
    let (name, arguments) = signature.split_once('(')?;
    let sound =
        |part: &str, more: &str| part.bytes().all(|c| c.is_ascii_alphanumeric() || more.as_bytes().contains(&c));
    let shaped = !name.is_empty() && sound(name, "_$") && arguments.ends_with(')') && sound(arguments, "(),[]");
    shaped.then(|| keccak256(signature)).and_then(|hash| hash.first_chunk().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_function_of_the_contracts() {
        let is_in = |name: &str, list: &[&str]| list.iter().any(|it| it.split('(').next() == Some(name));
        for name in VAULT_CALLS {
            assert!(is_in(name, PODVault::PODVaultCalls::SIGNATURES), "{name}");
        }
        for name in SPONSORED {
            let known = [
                PODVault::PODVaultCalls::SIGNATURES,
                PODVaultFactory::PODVaultFactoryCalls::SIGNATURES,
                TestUSDC::TestUSDCCalls::SIGNATURES,
            ];
            assert!(known.iter().any(|list| is_in(name, list)), "{name}");
        }
    }

    #[test]
    fn a_selector_is_the_hash_of_its_signature() {
        assert_eq!(selector_of("transfer(address,uint256)"), Some([0xa9, 0x05, 0x9c, 0xbb]));
        for text in ["transfer", "(address)", "a b()", "f(", "f(address) view"] {
            assert_eq!(selector_of(text), None, "{text}");
        }
    }
}
