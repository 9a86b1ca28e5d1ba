//! Every call of the vaults, the factory, the token and the forwarder, as plain
//! data. Pure: who sends it, and how, is the caller's matter.

use alloy::primitives::{Uint, aliases::U48};
use alloy::sol_types::SolCall;
use domain::evm::Call;
use domain::payment::SignedAuthorization;
use domain::vault::{TaskTerms, VaultSettings};
use domain::{Address, B256, Bytes, U256, Usdc};

use super::abi::ERC2771Forwarder as Forwarder;
use super::abi::PODVault as Vault;
use super::abi::PODVaultFactory as Factory;
use super::abi::TestUSDC as Token;
use super::terms::{settings_to_abi, to_abi};
use super::typed::{ForwardRequest, ValidityWindow};

fn call(to: Address, function: &impl SolCall) -> Call {
    Call { to, data: function.abi_encode().into(), value: U256::ZERO }
}

/// An owner's consent to a vault: a signature, and the last Unix second at which
/// it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadlineSignature {
    /// The last Unix second at which it is good.
    pub deadline: u64,
    /// The signature.
    pub signature: Bytes,
}

/// Makes a vault. Without a consent the owner must be the sender.
#[must_use]
pub fn create_vault(
    factory: Address,
    pod_id: &str,
    owner: Address,
    agent: Address,
    consent: Option<&DeadlineSignature>,
) -> Call {
    let (deadline, signature) = consent.map_or((0, Bytes::new()), |it| (it.deadline, it.signature.clone()));
    let (pod_id, deadline) = (pod_id.to_owned(), U256::from(deadline));
    call(factory, &Factory::createPODVaultCall { podId: pod_id, owner, agentWallet: agent, deadline, signature })
}

/// Creates a task by allowance; the creator is the sender.
#[must_use]
pub fn create_task(vault: Address, terms: &TaskTerms, metadata: &str) -> Call {
    call(vault, &Vault::createTaskCall { terms: to_abi(terms), metadata: metadata.to_owned() })
}

/// Creates a task by an ERC-2612 permit. `creator` is the creator's signature over
/// the task's id; empty when the creator is the sender.
#[must_use]
pub fn create_task_with_permit(
    vault: Address,
    terms: &TaskTerms,
    metadata: &str,
    permit: &DeadlineSignature,
    creator: Bytes,
) -> Call {
    call(
        vault,
        &Vault::createTaskWithPermitCall {
            terms: to_abi(terms),
            metadata: metadata.to_owned(),
            permitDeadline: U256::from(permit.deadline),
            permitSignature: permit.signature.clone(),
            creatorSignature: creator,
        },
    )
}

/// Creates a task by the creator's ERC-3009 authorization; anyone may send it. See
/// [`task_payment`](super::typed::task_payment) for what is signed.
#[must_use]
pub fn create_task_with_authorization(
    vault: Address,
    terms: &TaskTerms,
    metadata: &str,
    window: ValidityWindow,
    signature: Bytes,
) -> Call {
    call(
        vault,
        &Vault::createTaskWithAuthorizationCall {
            terms: to_abi(terms),
            metadata: metadata.to_owned(),
            validAfter: U256::from(window.after),
            validBefore: U256::from(window.before),
            signature,
        },
    )
}

/// Hands in a result; by the agent or an operator.
#[must_use]
pub fn submit(vault: Address, terms: &TaskTerms, result_hash: B256) -> Call {
    call(vault, &Vault::submitCall { terms: to_abi(terms), resultHash: result_hash })
}

/// Turns a task down; by the agent.
#[must_use]
pub fn decline(vault: Address, terms: &TaskTerms) -> Call {
    call(vault, &Vault::declineCall { terms: to_abi(terms) })
}

/// Gives back what nobody earned in time; by anyone.
#[must_use]
pub fn refund(vault: Address, terms: &TaskTerms) -> Call {
    call(vault, &Vault::refundCall { terms: to_abi(terms) })
}

/// Pays for a result, in part or whole; by the creator or the evaluator.
#[must_use]
pub fn complete(vault: Address, terms: &TaskTerms, paid: Usdc) -> Call {
    call(vault, &Vault::completeTaskCall { terms: to_abi(terms), paid: Uint::from(paid.0) })
}

/// Disputes a result; by the creator.
#[must_use]
pub fn dispute(vault: Address, terms: &TaskTerms, reason_hash: B256) -> Call {
    call(vault, &Vault::disputeCall { terms: to_abi(terms), reasonHash: reason_hash })
}

/// Takes the pay for a result that nobody answered; by anyone.
#[must_use]
pub fn claim(vault: Address, terms: &TaskTerms) -> Call {
    call(vault, &Vault::claimCall { terms: to_abi(terms) })
}

/// Settles a dispute; by the arbiter.
#[must_use]
pub fn resolve(vault: Address, terms: &TaskTerms, agent_amount: Usdc) -> Call {
    call(vault, &Vault::resolveCall { terms: to_abi(terms), agentAmount: Uint::from(agent_amount.0) })
}

/// Settles a dispute that the arbiter left alone; by anyone.
#[must_use]
pub fn default_resolve(vault: Address, terms: &TaskTerms) -> Call {
    call(vault, &Vault::defaultResolveCall { terms: to_abi(terms) })
}

/// Sends earnings of the pod; by the owner.
#[must_use]
pub fn withdraw(vault: Address, recipient: Address, amount: Usdc) -> Call {
    call(vault, &Vault::withdrawCall { recipient, amount: amount.to_u256() })
}

/// Sends what the caller was credited with.
#[must_use]
pub fn withdraw_credit(vault: Address, recipient: Address, amount: Usdc) -> Call {
    call(vault, &Vault::withdrawCreditCall { recipient, amount: amount.to_u256() })
}

/// Authorizes an operator, or no longer; by the owner.
#[must_use]
pub fn set_operator(vault: Address, operator: Address, authorized: bool) -> Call {
    call(vault, &Vault::setOperatorCall { operator, authorized })
}

/// Sets arbiter and fee of tasks to come; by the owner.
#[must_use]
pub fn set_settings(vault: Address, settings: &VaultSettings) -> Call {
    call(vault, &Vault::setSettingsCall { newSettings: settings_to_abi(settings) })
}

/// Stops creation, or allows it again; by the owner.
#[must_use]
pub fn set_paused(vault: Address, paused: bool) -> Call {
    call(vault, &Vault::setPausedCall { paused_: paused })
}

/// Offers the vault; by the owner.
#[must_use]
pub fn transfer_ownership(vault: Address, to: Address) -> Call {
    call(vault, &Vault::transferOwnershipCall { newOwner: to })
}

/// Accepts the vault; by whom it was offered to.
#[must_use]
pub fn accept_ownership(vault: Address) -> Call {
    call(vault, &Vault::acceptOwnershipCall {})
}

/// Offers the agent's role; by the owner.
#[must_use]
pub fn propose_agent_wallet(vault: Address, wallet: Address) -> Call {
    call(vault, &Vault::proposeAgentWalletCall { newAgentWallet: wallet })
}

/// Accepts the agent's role; by whom it was offered to.
#[must_use]
pub fn accept_agent_wallet(vault: Address) -> Call {
    call(vault, &Vault::acceptAgentWalletCall {})
}

/// Allows a spender to take tokens of the sender's.
#[must_use]
pub fn approve(usdc: Address, spender: Address, amount: Usdc) -> Call {
    call(usdc, &Token::approveCall { spender, value: amount.to_u256() })
}

/// Executes a signed payment; by anyone.
#[must_use]
pub fn transfer_with_authorization(payment: &SignedAuthorization) -> Call {
    let SignedAuthorization { authorization: of, signature } = payment;
    let function = Token::transferWithAuthorizationCall {
        from: of.from,
        to: of.to,
        value: of.value.to_u256(),
        validAfter: of.valid_after,
        validBefore: of.valid_before,
        nonce: of.nonce,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    };
    call(of.asset, &function)
}

/// A request as its signer and the forwarder's nonce make it: `call` will reach the
/// vault as if `from` had sent it.
#[must_use]
pub fn request(from: Address, call: &Call, gas: u64, nonce: U256, deadline: u64) -> ForwardRequest {
    ForwardRequest {
        from,
        to: call.to,
        value: call.value,
        gas: U256::from(gas),
        nonce,
        deadline: U48::saturating_from(deadline),
        data: call.data.clone(),
    }
}

/// Executes a signed request; by anyone, the relayer for instance.
#[must_use]
pub fn forward(forwarder: Address, request: &ForwardRequest, signature: Bytes) -> Call {
    let value = request.value;
    Call { value, ..call(forwarder, &Forwarder::executeCall { request: signed(request, signature) }) }
}

/// Executes several signed requests; those that fail are left out when `refund` is
/// not the zero address, and undo all when it is.
#[must_use]
pub fn forward_batch(forwarder: Address, requests: &[(ForwardRequest, Bytes)], refund: Address) -> Call {
    let value = requests.iter().fold(U256::ZERO, |sum, (request, _)| sum.saturating_add(request.value));
    let requests = requests.iter().map(|(request, signature)| signed(request, signature.clone())).collect();
    Call { value, ..call(forwarder, &Forwarder::executeBatchCall { requests, refundReceiver: refund }) }
}

fn signed(request: &ForwardRequest, signature: Bytes) -> super::abi::ERC2771Forwarder::ForwardRequestData {
    super::abi::ERC2771Forwarder::ForwardRequestData {
        from: request.from,
        to: request.to,
        value: request.value,
        gas: request.gas,
        deadline: request.deadline,
        data: request.data.clone(),
        signature,
    }
}
