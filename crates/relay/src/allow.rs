//! Which calls are relayed: targets and selectors. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use alloy_primitives::Address;

use crate::abi::{PODVault, PODVaultFactory, TestUSDC};
use crate::calls::{Selector, selector_of};
use crate::chain::ChainParameters;
use crate::class::CallPurpose;
use crate::config::Config;

/// What the rules say of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowVerdict {
    /// Let through.
    Allowed,
    /// Let through if the target is a vault of our factory.
    IfVault,
    /// No such function may be called there.
    NoSuchCall,
}

/// The rules, from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct AllowRules {
    factory: Address,
    token: Address,
    listed: HashMap<Address, HashSet<Selector>>,
    vault: HashSet<Selector>,
    sponsored_factory: HashSet<Selector>,
    sponsored_token: HashSet<Selector>,
    sponsored_vault: HashSet<Selector>,
}

impl AllowRules {
    /// The configuration was checked: what is no signature is left out.
    pub(crate) fn new(config: &Config, facts: &ChainParameters) -> Self {
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
    pub(crate) fn forwarded(&self, to: Address, selector: Option<Selector>) -> AllowVerdict {
        let Some(selector) = selector else { return AllowVerdict::NoSuchCall };
        match self.listed.get(&to) {
            Some(calls) if calls.contains(&selector) => AllowVerdict::Allowed,
            None if self.vault.contains(&selector) && to != self.factory && to != self.token => AllowVerdict::IfVault,
            Some(_) | None => AllowVerdict::NoSuchCall,
        }
    }

    /// For a call of the relayer's own.
    pub(crate) fn sponsored(&self, to: Address, selector: Option<Selector>) -> AllowVerdict {
        let Some(selector) = selector else { return AllowVerdict::NoSuchCall };
        let of_ours = |calls: &HashSet<Selector>| {
            if calls.contains(&selector) { AllowVerdict::Allowed } else { AllowVerdict::NoSuchCall }
        };
        if to == self.factory {
            of_ours(&self.sponsored_factory)
        } else if to == self.token {
            of_ours(&self.sponsored_token)
        } else if self.sponsored_vault.contains(&selector) {
            AllowVerdict::IfVault
        } else {
            AllowVerdict::NoSuchCall
        }
    }

    /// What a call of this contract is for.
    pub(crate) fn class(&self, to: Address, data: &[u8]) -> CallPurpose {
        if to == self.factory {
            return CallPurpose::Deploy;
        }
        if to == self.token {
            return CallPurpose::Settle;
        }
        let vault = CallPurpose::of_vault(data).filter(|_| !self.listed.contains_key(&to));
        vault.unwrap_or(CallPurpose::Forward)
    }

    /// For a transaction that its own signer pays: whatever is let through one way
    /// or the other.
    pub(crate) fn broadcast(&self, to: Address, selector: Option<Selector>) -> AllowVerdict {
        match self.forwarded(to, selector) {
            AllowVerdict::NoSuchCall => self.sponsored(to, selector),
            rule @ (AllowVerdict::Allowed | AllowVerdict::IfVault) => rule,
        }
    }
}

/// Never a target, whatever the configuration lists: the forwarder itself.
fn forbidden(address: Address, facts: &ChainParameters) -> bool {
    address == facts.forwarder
}

/// All overloads of these names.
fn named(names: &BTreeSet<String>, signatures: &[&str]) -> HashSet<Selector> {
    let name = |signature: &str| signature.split('(').next().unwrap_or_default().to_owned();
    signatures.iter().filter(|it| names.contains(&name(it))).filter_map(|it| selector_of(it)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::{SPONSORED, VAULT_CALLS};

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
