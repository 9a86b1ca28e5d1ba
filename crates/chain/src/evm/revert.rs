//! Why a contract refuses a call: from revert data to a typed reason, whose text
//! says what to do next.

use alloy::sol_types::{Panic, PanicKind, Revert as Words, SolError, SolInterface};
use domain::vault::TaskId;
use domain::{Address, B256, Bytes, U256};

use super::abi::{ERC2771Forwarder as Forwarder, PODVault as Vault, PODVaultFactory as Factory, TestUSDC as Token};

/// The longest part of a contract's own words that is kept.
const MAX_WORDS: usize = 200;
/// Bytes of data that nobody here can read, kept at most.
const MAX_DATA: usize = 68;

/// Whom a call is reserved for, as `IPODVault.Role` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in contracts/src/interfaces/IPODVault.sol")]
pub enum VaultRole {
    Factory,
    Owner,
    PendingOwner,
    Agent,
    AgentOrOperator,
    PendingAgent,
    Creator,
    CreatorOrEvaluator,
    Arbiter,
    /// One that a later contract knows.
    Other(u8),
}

impl From<u8> for VaultRole {
    fn from(role: u8) -> Self {
        const ROLES: [VaultRole; 9] = [
            VaultRole::Factory,
            VaultRole::Owner,
            VaultRole::PendingOwner,
            VaultRole::Agent,
            VaultRole::AgentOrOperator,
            VaultRole::PendingAgent,
            VaultRole::Creator,
            VaultRole::CreatorOrEvaluator,
            VaultRole::Arbiter,
        ];
        ROLES.get(usize::from(role)).copied().unwrap_or(Self::Other(role))
    }
}

impl std::fmt::Display for VaultRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Factory => "the factory",
            Self::Owner => "the vault's owner",
            Self::PendingOwner => "whom the vault was offered to",
            Self::Agent => "the agent wallet",
            Self::AgentOrOperator => "the agent wallet or an operator",
            Self::PendingAgent => "whom the agent's role was offered to",
            Self::Creator => "the task's creator",
            Self::CreatorOrEvaluator => "the task's creator or its evaluator",
            Self::Arbiter => "the task's arbiter",
            Self::Other(_) => "somebody else",
        })
    }
}

/// Where a task stands on the chain, as `IPODVault.State` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in contracts/src/interfaces/IPODVault.sol")]
pub enum OnChainTaskState {
    None,
    Funded,
    Submitted,
    Disputed,
    Completed,
    Refunded,
    Resolved,
    /// One that a later contract knows.
    Other(u8),
}

impl From<u8> for OnChainTaskState {
    fn from(state: u8) -> Self {
        const STATES: [OnChainTaskState; 7] = [
            OnChainTaskState::None,
            OnChainTaskState::Funded,
            OnChainTaskState::Submitted,
            OnChainTaskState::Disputed,
            OnChainTaskState::Completed,
            OnChainTaskState::Refunded,
            OnChainTaskState::Resolved,
        ];
        STATES.get(usize::from(state)).copied().unwrap_or(Self::Other(state))
    }
}

impl std::fmt::Display for OnChainTaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "unknown",
            Self::Funded => "funded",
            Self::Submitted => "submitted",
            Self::Disputed => "disputed",
            Self::Completed => "completed",
            Self::Refunded => "refunded",
            Self::Resolved => "resolved",
            Self::Other(_) => "in a state that this version does not know",
        })
    }
}

/// Which quantity was out of bounds, as `IPODVault.Field` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in contracts/src/interfaces/IPODVault.sol")]
pub enum VaultField {
    Amount,
    MinPaid,
    SubmitBy,
    ReviewPeriod,
    ArbiterPeriod,
    DefaultAgentBps,
    MetadataLength,
    FeeBps,
    Paid,
    AgentAmount,
    /// One that a later contract knows.
    Other(u8),
}

impl From<u8> for VaultField {
    fn from(field: u8) -> Self {
        const FIELDS: [VaultField; 10] = [
            VaultField::Amount,
            VaultField::MinPaid,
            VaultField::SubmitBy,
            VaultField::ReviewPeriod,
            VaultField::ArbiterPeriod,
            VaultField::DefaultAgentBps,
            VaultField::MetadataLength,
            VaultField::FeeBps,
            VaultField::Paid,
            VaultField::AgentAmount,
        ];
        FIELDS.get(usize::from(field)).copied().unwrap_or(Self::Other(field))
    }
}

impl std::fmt::Display for VaultField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Amount => "the amount (micro-USDC)",
            Self::MinPaid => "the least to be paid (micro-USDC)",
            Self::SubmitBy => "the time to submit by (Unix seconds)",
            Self::ReviewPeriod => "the review (seconds)",
            Self::ArbiterPeriod => "the arbiter's time (seconds)",
            Self::DefaultAgentBps => "the pod's default share (basis points)",
            Self::MetadataLength => "the length of the metadata (bytes)",
            Self::FeeBps => "the fee (basis points)",
            Self::Paid => "the pay (micro-USDC)",
            Self::AgentAmount => "the pod's share (micro-USDC)",
            Self::Other(_) => "a quantity",
        })
    }
}

/// Why a contract refuses a call. The text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named as in the contracts")]
pub enum Revert {
    // Of the vault.
    /// The caller is not whom the call is reserved for.
    #[error("only {required} may do this, not {caller}: sign with that account")]
    Unauthorized { caller: Address, required: VaultRole },
    /// The task is in another state than the call needs.
    #[error("task {task} is {actual}, and has to be {required}: look at it again before you go on")]
    WrongState { task: TaskId, actual: OnChainTaskState, required: OnChainTaskState },
    /// No task has these terms.
    #[error("no task of these terms is in this vault: terms must be given exactly as they were at creation ({task})")]
    NoTask { task: TaskId },
    /// A task of these terms was created before.
    #[error("task {task} exists already: it was created before; for a second one like it, choose another salt")]
    TaskExists { task: TaskId },
    /// Too late.
    #[error("too late for task {task}: the time ended at {deadline}, and it is {time}")]
    DeadlinePassed { task: TaskId, deadline: u64, time: u64 },
    /// Too early.
    #[error("too early for task {task}: come back at {deadline}; it is {time}")]
    DeadlineNotReached { task: TaskId, deadline: u64, time: u64 },
    /// A quantity lies outside its bounds.
    #[error("{field} must be from {min} to {max}, not {value}")]
    OutOfBounds { field: VaultField, value: U256, min: U256, max: U256 },
    /// The terms do not state the vault's settings.
    #[error("the vault's settings are arbiter {arbiter}, fee {fee_bps} bps to {fee_recipient}: put them in the terms")]
    SettingsMismatch { arbiter: Address, fee_recipient: Address, fee_bps: u16 },
    /// The metadata does not hash to what the terms state.
    #[error("the metadata hashes to {actual}, and the terms state {expected}")]
    MetadataMismatch { expected: B256, actual: B256 },
    /// The owner has stopped creation.
    #[error("the vault's owner has stopped new tasks; those that exist go on")]
    CreationPaused,
    /// The creator neither sent the call nor signed the terms.
    #[error("{creator} has not signed the terms of task {task}")]
    CreatorSignature { creator: Address, task: TaskId },
    /// The token moved another amount than asked.
    #[error("the token moved another amount than asked: the vault would hold {actual} and not {expected}")]
    UnexpectedBalance { expected: U256, actual: U256 },
    /// More was asked for than there is.
    #[error("there are {available}, and {requested} were asked for: ask for less")]
    InsufficientBalance { available: U256, requested: U256 },
    /// Nothing was asked for.
    #[error("nothing was asked for: name an amount above zero")]
    ZeroAmount,
    /// The address cannot have this place.
    #[error("{account} cannot have this place: zero, or the contract itself, or no contract where one is needed")]
    InvalidAddress { account: Address },
    /// The call went to the code behind the vaults.
    #[error("this is the code behind the vaults, and no vault: use the vault's own address")]
    NotAVault,
    /// A call into a call.
    #[error("the vault was called again from within a call: the token or the sender does what it should not")]
    Reentered,
    /// The token answered false, or nothing.
    #[error("the token {token} refused to move the amount")]
    TokenFailed { token: Address },

    // Of the factory.
    /// The owner neither sent the call nor signed it.
    #[error("{owner} has not signed for this vault: sign CreateVault with the owner's key")]
    OwnerSignature { owner: Address },
    /// The signature was good until `deadline`.
    #[error("the owner's signature was good until {deadline}, and it is {time}: sign again")]
    SignatureExpired { deadline: u64, time: u64 },
    /// This pod of this owner has its vault.
    #[error("this pod of this owner has a vault already: {vault}")]
    VaultExists { vault: Address },
    /// A pod's name is too long or empty.
    #[error("a pod's name has from 1 to {max} bytes, not {length}")]
    PodIdLength { length: U256, max: U256 },

    // Of the token.
    /// The account is on the token's blocklist.
    #[error("the token blocks {account}: name another account where that is possible")]
    Blocklisted { account: Address },
    /// The token is stopped.
    #[error("the token is stopped by its issuer: try later")]
    TokenPaused,
    /// Less than needed.
    #[error("{account} holds {balance} micro-USDC and needs {needed}: fund it")]
    TokenBalance { account: Address, balance: U256, needed: U256 },
    /// Less allowed than needed.
    #[error("{spender} is allowed {allowance} micro-USDC and needs {needed}: approve it, or sign an authorization")]
    TokenAllowance { spender: Address, allowance: U256, needed: U256 },
    /// An authorization of other people, or a forged one.
    #[error("the payer has not signed this authorization")]
    AuthorizationSignature,
    /// An authorization was used before, or taken back.
    #[error("{authorizer} has used or cancelled the authorization {nonce} before: nothing is paid twice")]
    AuthorizationUsed { authorizer: Address, nonce: B256 },
    /// Now is not between the two.
    #[error("the authorization is good after {valid_after} and before {valid_before}: sign another")]
    AuthorizationTime { valid_after: U256, valid_before: U256 },
    /// The permit's time is over, or it was not signed by its owner.
    #[error("the permit is not good (any more): sign another")]
    Permit,

    // Of the forwarder.
    /// The request's time is over.
    #[error("the forwarded request was good until {deadline}: sign another")]
    RequestExpired { deadline: u64 },
    /// Somebody else signed the request.
    #[error("the forwarded request is of {from} and was signed by {signer}, or for another nonce")]
    RequestSigner { signer: Address, from: Address },
    /// The target trusts another forwarder.
    #[error("{target} does not trust the forwarder {forwarder}: no call can reach it this way")]
    UntrustfulTarget { target: Address, forwarder: Address },
    /// The forwarded call failed.
    #[error("the forwarded call failed: simulate it as its signer to see why")]
    ForwardedCallFailed,
    /// A nonce of a token or forwarder that is not the next one.
    #[error("the next nonce of {account} is {current}: sign again with that")]
    AccountNonce { account: Address, current: U256 },

    // Of any contract.
    /// A failed assertion of the compiler's.
    #[error("a fault of the contract: {0}")]
    Panic(String),
    /// In the contract's own words.
    #[error("{0}")]
    Words(String),
    /// An error of ours for which nothing more can be said.
    #[error("the contract says {0}")]
    Named(&'static str),
    /// An error that nobody here can read; its first bytes.
    #[error("the contract says something unknown: {0}")]
    Unknown(Bytes),
    /// Reverted without a word: the wrong contract, or out of gas.
    #[error("the call failed without a reason: the address may hold another contract, or the gas ran out")]
    Silent,
}

impl Revert {
    /// The reason that revert data states.
    #[must_use]
    pub fn decode(data: &[u8]) -> Self {
        if data.is_empty() {
            return Self::Silent;
        }
        of_vault(data)
            .or_else(|| of_factory(data))
            .or_else(|| of_token(data))
            .or_else(|| of_forwarder(data))
            .or_else(|| of_solidity(data))
            .unwrap_or_else(|| Self::Unknown(Bytes::copy_from_slice(&data[..data.len().min(MAX_DATA)])))
    }
}

fn seconds(time: U256) -> u64 {
    time.saturating_to()
}

fn of_vault(data: &[u8]) -> Option<Revert> {
    use Vault::PODVaultErrors as E;
    Some(match E::abi_decode(data).ok()? {
        E::Unauthorized(e) => Revert::Unauthorized { caller: e.caller, required: e.required.into() },
        E::WrongState(e) if e.actual == 0 => Revert::NoTask { task: TaskId(e.taskId) },
        E::WrongState(e) => {
            Revert::WrongState { task: TaskId(e.taskId), actual: e.actual.into(), required: e.required.into() }
        }
        E::TaskExists(e) => Revert::TaskExists { task: TaskId(e.taskId) },
        E::DeadlinePassed(e) => {
            Revert::DeadlinePassed { task: TaskId(e.taskId), deadline: seconds(e.deadline), time: seconds(e.time) }
        }
        E::DeadlineNotReached(e) => {
            Revert::DeadlineNotReached { task: TaskId(e.taskId), deadline: seconds(e.deadline), time: seconds(e.time) }
        }
        E::OutOfBounds(e) => Revert::OutOfBounds { field: e.field.into(), value: e.value, min: e.min, max: e.max },
        E::SettingsMismatch(e) => {
            Revert::SettingsMismatch { arbiter: e.arbiter, fee_recipient: e.feeRecipient, fee_bps: e.feeBps }
        }
        E::MetadataMismatch(e) => Revert::MetadataMismatch { expected: e.expected, actual: e.actual },
        E::CreationIsPaused(_) => Revert::CreationPaused,
        E::InvalidCreatorSignature(e) => Revert::CreatorSignature { creator: e.creator, task: TaskId(e.taskId) },
        E::UnexpectedBalance(e) => Revert::UnexpectedBalance { expected: e.expected, actual: e.actual },
        E::InsufficientBalance(e) => Revert::InsufficientBalance { available: e.available, requested: e.requested },
        E::ZeroAmount(_) => Revert::ZeroAmount,
        E::InvalidAddress(e) => Revert::InvalidAddress { account: e.account },
        E::NotAVault(_) => Revert::NotAVault,
        E::ReentrancyGuardReentrantCall(_) => Revert::Reentered,
        E::SafeERC20FailedOperation(e) => Revert::TokenFailed { token: e.token },
        E::InvalidShortString(_) => Revert::Named("InvalidShortString"),
        E::StringTooLong(_) => Revert::Named("StringTooLong"),
    })
}

fn of_factory(data: &[u8]) -> Option<Revert> {
    use Factory::PODVaultFactoryErrors as E;
    Some(match E::abi_decode(data).ok()? {
        E::InvalidOwnerSignature(e) => Revert::OwnerSignature { owner: e.owner },
        E::SignatureExpired(e) => Revert::SignatureExpired { deadline: seconds(e.deadline), time: seconds(e.time) },
        E::VaultExists(e) => Revert::VaultExists { vault: e.vault },
        E::InvalidPodIdLength(e) => Revert::PodIdLength { length: e.length, max: e.max },
        E::InvalidAddress(e) => Revert::InvalidAddress { account: e.account },
        E::InsufficientBalance(e) => Revert::InsufficientBalance { available: e.balance, requested: e.needed },
        E::CloneArgumentsTooLong(_) => Revert::Named("CloneArgumentsTooLong"),
        E::Create2EmptyBytecode(_) => Revert::Named("Create2EmptyBytecode"),
        E::FailedDeployment(_) => Revert::Named("FailedDeployment"),
        E::InvalidShortString(_) => Revert::Named("InvalidShortString"),
        E::StringTooLong(_) => Revert::Named("StringTooLong"),
    })
}

fn of_token(data: &[u8]) -> Option<Revert> {
    use Token::TestUSDCErrors as E;
    Some(match E::abi_decode(data).ok()? {
        E::Blacklisted(e) => Revert::Blocklisted { account: e.account },
        E::TokenPaused(_) => Revert::TokenPaused,
        E::ERC20InsufficientBalance(e) => {
            Revert::TokenBalance { account: e.sender, balance: e.balance, needed: e.needed }
        }
        E::ERC20InsufficientAllowance(e) => {
            Revert::TokenAllowance { spender: e.spender, allowance: e.allowance, needed: e.needed }
        }
        E::ERC3009InvalidSignature(_)
        | E::ECDSAInvalidSignature(_)
        | E::ECDSAInvalidSignatureLength(_)
        | E::ECDSAInvalidSignatureS(_) => Revert::AuthorizationSignature,
        E::ERC3009UsedAuthorization(e) => Revert::AuthorizationUsed { authorizer: e.authorizer, nonce: e.nonce },
        E::ERC3009InvalidAuthorizationTime(e) => {
            Revert::AuthorizationTime { valid_after: e.validAfter, valid_before: e.validBefore }
        }
        E::InvalidPermit(_) | E::PermitExpired(_) => Revert::Permit,
        E::InvalidAccountNonce(e) => Revert::AccountNonce { account: e.account, current: e.currentNonce },
        E::ERC20InvalidReceiver(e) => Revert::InvalidAddress { account: e.receiver },
        E::ERC20InvalidSender(e) => Revert::InvalidAddress { account: e.sender },
        E::ERC20InvalidApprover(e) => Revert::InvalidAddress { account: e.approver },
        E::ERC20InvalidSpender(e) => Revert::InvalidAddress { account: e.spender },
        E::NotMinter(_) => Revert::Named("NotMinter: only the test token's minter may do this"),
        E::SafeCastOverflowedUintDowncast(_) => Revert::Named("SafeCastOverflowedUintDowncast"),
        E::InvalidShortString(_) => Revert::Named("InvalidShortString"),
        E::StringTooLong(_) => Revert::Named("StringTooLong"),
    })
}

fn of_forwarder(data: &[u8]) -> Option<Revert> {
    use Forwarder::ERC2771ForwarderErrors as E;
    Some(match E::abi_decode(data).ok()? {
        E::ERC2771ForwarderExpiredRequest(e) => Revert::RequestExpired { deadline: e.deadline.to() },
        E::ERC2771ForwarderInvalidSigner(e) => Revert::RequestSigner { signer: e.signer, from: e.from },
        E::ERC2771UntrustfulTarget(e) => Revert::UntrustfulTarget { target: e.target, forwarder: e.forwarder },
        E::FailedCall(_) => Revert::ForwardedCallFailed,
        E::InvalidAccountNonce(e) => Revert::AccountNonce { account: e.account, current: e.currentNonce },
        E::InsufficientBalance(e) => Revert::InsufficientBalance { available: e.balance, requested: e.needed },
        E::ERC2771ForwarderMismatchedValue(_) => Revert::Named("ERC2771ForwarderMismatchedValue"),
        E::ERC2771ForwarderNoRefundReceiver(_) => Revert::Named("ERC2771ForwarderNoRefundReceiver"),
        E::InvalidShortString(_) => Revert::Named("InvalidShortString"),
        E::StringTooLong(_) => Revert::Named("StringTooLong"),
    })
}

fn of_solidity(data: &[u8]) -> Option<Revert> {
    if let Ok(words) = Words::abi_decode(data) {
        let words = words.reason.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        return Some(Revert::Words(words));
    }
    let panic = Panic::abi_decode(data).ok()?;
    let code: u64 = panic.code.saturating_to();
    let kind = u32::try_from(code).ok().and_then(PanicKind::from_number);
    Some(Revert::Panic(kind.map_or_else(|| format!("panic {code:#x}"), |kind| kind.as_str().to_owned())))
}
