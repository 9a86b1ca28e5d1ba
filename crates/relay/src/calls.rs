//! The functions that can be let through, by name. Pure.

use alloy_primitives::keccak256;

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

/// What a call of a function begins with.
pub(crate) type Selector = [u8; 4];

/// The selector of a signature like `transfer(address,uint256)`.
pub(crate) fn selector_of(signature: &str) -> Option<Selector> {
    let (name, arguments) = signature.split_once('(')?;
    let sound =
        |part: &str, more: &str| part.bytes().all(|c| c.is_ascii_alphanumeric() || more.as_bytes().contains(&c));
    let shaped = !name.is_empty() && sound(name, "_$") && arguments.ends_with(')') && sound(arguments, "(),[]");
    shaped.then(|| keccak256(signature)).and_then(|hash| hash.first_chunk().copied())
}
