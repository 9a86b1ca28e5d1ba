// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title The vault of one pod: escrow of its tasks, and its earnings
/// @notice A creator locks USDC for a task; the pod's agent delivers; the creator, or an evaluator both sides know of,
/// lets the money go; a dispute is settled by an arbiter, or by a default both sides know of. Every state has a deadline
/// after which anyone at all can move the task on, so that no key's loss or silence can lock money.
///
/// A task is named by its terms: `taskId` is the EIP-712 digest of `Terms` in this vault's domain, and therefore covers
/// the chain, the vault, the creator and every condition. Callers hand the terms in again at each step; other terms
/// are another id, and that task does not exist.
///
/// Ending a task only credits balances: `availableBalance` of the pod, `credits` of everyone else. Each party pulls its
/// own, so one that cannot receive holds up nobody else.
/// @dev "Caller" below is the ERC-2771 sender: whoever signed, when the call comes through the trusted forwarder.
interface IPODVault {
    // ------------------------------------------------------------------------------------------------------- types

    /// @notice Where a task stands.
    /// @dev None → Funded → Submitted → Completed is the plain way; README.md holds the whole table.
    enum State {
        None,
        Funded,
        Submitted,
        Disputed,
        Completed,
        Refunded,
        Resolved
    }

    /// @notice Everything the parties agree to. Fixed at creation; nothing the owner changes later reaches it.
    /// @param creator Who pays, who may dispute, and who is credited with whatever the pod does not get.
    /// @param evaluator Who may complete the task beside the creator; zero for nobody.
    /// @param arbiter Who may resolve a dispute; the vault's setting at creation. Zero: only the default can.
    /// @param feeRecipient Who is credited with the fee; the vault's setting at creation.
    /// @param amount What is locked, in the token's base units.
    /// @param minPaid The least that a completion may pay: how far the price may be cut without an arbiter.
    /// @param submitBy The time from which a result is refused, and the money goes back.
    /// @param reviewPeriod Seconds after the result in which the creator may dispute; then the pod may claim.
    /// @param arbiterPeriod Seconds after a dispute in which the arbiter may resolve; then the default applies.
    /// @param defaultAgentBps The pod's share, in basis points, of a dispute that nobody resolved.
    /// @param feeBps The fee, in basis points of what the pod is paid; the vault's setting at creation.
    /// @param metadataHash The Keccak-256 hash of the metadata, which is published in an event and not stored.
    /// @param salt Tells apart tasks of otherwise equal terms; chosen by the creator.
    struct Terms {
        address creator;
        address evaluator;
        address arbiter;
        address feeRecipient;
        uint96 amount;
        uint96 minPaid;
        uint40 submitBy;
        uint32 reviewPeriod;
        uint32 arbiterPeriod;
        uint16 defaultAgentBps;
        uint16 feeBps;
        bytes32 metadataHash;
        bytes32 salt;
    }

    /// @notice What the owner sets for tasks to come.
    /// @param arbiter Who resolves disputes; zero for nobody.
    /// @param feeRecipient Who gets the fee; not zero where there is one.
    /// @param feeBps The fee in basis points of what the pod is paid, at most `MAX_FEE_BPS`.
    struct Settings {
        address arbiter;
        address feeRecipient;
        uint16 feeBps;
    }

    /// @notice Whom a call is reserved for.
    enum Role {
        Factory,
        Owner,
        PendingOwner,
        Agent,
        AgentOrOperator,
        PendingAgent,
        Creator,
        CreatorOrEvaluator,
        Arbiter
    }

    /// @notice Which quantity was out of bounds.
    enum Field {
        Amount,
        MinPaid,
        SubmitBy,
        ReviewPeriod,
        ArbiterPeriod,
        DefaultAgentBps,
        MetadataLength,
        FeeBps,
        Paid,
        AgentAmount
    }

    // ------------------------------------------------------------------------------------------------------ events

    /// @notice A task was funded: `amount` is locked.
    event TaskCreated(bytes32 indexed taskId, uint256 amount, address creator);

    /// @notice The terms of the task just created, and the metadata they hash.
    event TaskTerms(bytes32 indexed taskId, Terms terms, string metadata);

    /// @notice A result was handed in; the creator may dispute it until `reviewBy`.
    event TaskSubmitted(bytes32 indexed taskId, address indexed submitter, bytes32 resultHash, uint256 reviewBy);

    /// @notice The agent turned the task down. `TaskRefunded` follows.
    event TaskDeclined(bytes32 indexed taskId, address indexed agent);

    /// @notice The task ended without a result. The whole `amount` is no longer locked; `Credited` says whose it is.
    event TaskRefunded(bytes32 indexed taskId, uint256 amount);

    /// @notice The creator disputed the result; the arbiter may resolve it until `arbiterBy`.
    event TaskDisputed(bytes32 indexed taskId, bytes32 reasonHash, uint256 arbiterBy);

    /// @notice The review ended in silence, and `caller` claimed the task for the pod. `TaskCompleted` follows.
    event TaskClaimed(bytes32 indexed taskId, address indexed caller);

    /// @notice The task is done: `availableBalance` and `totalEarnings` grew by `amount`, which is what the pod was paid
    /// without the fee. The rest of the locked amount is in this task's `Credited` events, to the last unit.
    event TaskCompleted(bytes32 indexed taskId, uint256 amount);

    /// @notice The dispute is settled: `availableBalance` and `totalEarnings` grew by `amount`, without the fee.
    /// The rest of the locked amount is in this task's `Credited` events, to the last unit.
    /// @param byDefault Whether the arbiter kept silent and the default of the terms was applied.
    event TaskResolved(bytes32 indexed taskId, uint256 amount, bool byDefault);

    /// @notice `credits[account]` grew by `amount` when the task ended.
    event Credited(address indexed account, uint256 amount, bytes32 indexed taskId);

    /// @notice `credits[account]` fell by `amount`, which was sent to `recipient`.
    event CreditWithdrawn(address indexed account, uint256 amount, address recipient);

    /// @notice `availableBalance` fell by `amount`, which was sent to `recipient`.
    event EarningsWithdrawn(uint256 amount, address recipient);

    /// @notice An operator was authorized, or no longer is.
    event OperatorSet(address indexed operator, bool authorized);

    /// @notice The settings for tasks to come changed.
    event SettingsChanged(Settings settings);

    /// @notice Creation was stopped or allowed again.
    event CreationPaused(bool paused);

    /// @notice `pendingOwner` may now accept the vault; zero takes an earlier offer back.
    event OwnershipTransferStarted(address indexed owner, address indexed pendingOwner);

    /// @notice The vault has a new owner.
    event OwnershipTransferred(address indexed previousOwner, address indexed owner);

    /// @notice `pendingAgentWallet` may now accept the role; zero takes an earlier proposal back.
    event AgentWalletProposed(address indexed agentWallet, address indexed pendingAgentWallet);

    /// @notice The pod has a new agent wallet.
    event AgentWalletChanged(address indexed previousAgentWallet, address indexed agentWallet);

    // ------------------------------------------------------------------------------------------------------ errors

    /// @notice The caller is not whom the call is reserved for.
    error Unauthorized(address caller, Role required);

    /// @notice The task is in another state than the call needs; `None` when no task has these terms.
    error WrongState(bytes32 taskId, State actual, State required);

    /// @notice A task of these terms was created before.
    error TaskExists(bytes32 taskId);

    /// @notice The call came at `time`, and had to come before `deadline`.
    error DeadlinePassed(bytes32 taskId, uint256 deadline, uint256 time);

    /// @notice The call came at `time`, and may come from `deadline` on.
    error DeadlineNotReached(bytes32 taskId, uint256 deadline, uint256 time);

    /// @notice A quantity lies outside its bounds, both of which are allowed values.
    error OutOfBounds(Field field, uint256 value, uint256 min, uint256 max);

    /// @notice The terms do not state the vault's settings, which are these.
    error SettingsMismatch(address arbiter, address feeRecipient, uint16 feeBps);

    /// @notice The metadata does not hash to what the terms state.
    error MetadataMismatch(bytes32 expected, bytes32 actual);

    /// @notice The owner has stopped creation.
    error CreationIsPaused();

    /// @notice The creator neither sent the call nor signed the terms.
    error InvalidCreatorSignature(address creator, bytes32 taskId);

    /// @notice The token did not bring what was asked for: the vault now holds `actual` of it.
    error UnexpectedBalance(uint256 expected, uint256 actual);

    /// @notice More was asked for than there is.
    error InsufficientBalance(uint256 available, uint256 requested);

    /// @notice Nothing was asked for.
    error ZeroAmount();

    /// @notice The address cannot have this place: zero, or the vault itself.
    error InvalidAddress(address account);

    /// @notice The call is for a vault that the factory made, and this is the code behind them.
    error NotAVault();

    // ---------------------------------------------------------------------------------------------------- creation

    /// @notice Locks `terms.amount` of the caller's, by allowance.
    /// Who: the creator. When: not paused. Effect: None → Funded. Events: TaskCreated, TaskTerms.
    /// Errors: Unauthorized, TaskExists, CreationIsPaused, OutOfBounds, SettingsMismatch, MetadataMismatch,
    /// UnexpectedBalance, and the token's own.
    function createTask(Terms calldata terms, string calldata metadata) external returns (bytes32 taskId);

    /// @notice Locks `terms.amount` by an ERC-2612 permit. A permit that was used before, by whomever, does no harm:
    /// the allowance it left is used.
    /// Who: the creator, or anyone with the creator's EIP-712 signature over the terms (ECDSA or ERC-1271); the permit
    /// alone moves nothing. When, effect, events and errors: as `createTask`, and InvalidCreatorSignature.
    /// @param permitSignature The creator's permit of `terms.amount` to this vault, 65 bytes, or 64 as in ERC-2098.
    /// @param creatorSignature The signature over the digest `taskIdOf(terms)`; empty when the creator is the caller.
    function createTaskWithPermit(
        Terms calldata terms,
        string calldata metadata,
        uint256 permitDeadline,
        bytes calldata permitSignature,
        bytes calldata creatorSignature
    ) external returns (bytes32 taskId);

    /// @notice Locks `terms.amount` by an ERC-3009 authorization to receive whose nonce is `taskIdOf(terms)`. Only this
    /// vault can use it, and only for these terms.
    /// Who: anyone. When, effect, events and errors: as `createTask`; the token's own if the signature is not good.
    /// @param signature The creator's ReceiveWithAuthorization; other lengths than 65 go to the token as they are.
    function createTaskWithAuthorization(
        Terms calldata terms,
        string calldata metadata,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external returns (bytes32 taskId);

    // -------------------------------------------------------------------------------------------------- transitions

    /// @notice Hands in a result.
    /// Who: the agent or an operator. When: Funded, before `submitBy`. Effect: → Submitted. Events: TaskSubmitted.
    /// Errors: WrongState, Unauthorized, DeadlinePassed.
    function submit(Terms calldata terms, bytes32 resultHash) external;

    /// @notice Turns the task down.
    /// Who: the agent. When: Funded. Effect: → Refunded; the creator is credited with the whole.
    /// Events: TaskDeclined, TaskRefunded, Credited. Errors: WrongState, Unauthorized.
    function decline(Terms calldata terms) external;

    /// @notice Gives back what nobody earned in time.
    /// Who: anyone. When: Funded, from `submitBy` on. Effect: → Refunded; the creator is credited with the whole.
    /// Events: TaskRefunded, Credited. Errors: WrongState, DeadlineNotReached.
    function refund(Terms calldata terms) external;

    /// @notice Accepts the result and pays for it, in part or whole.
    /// Who: the creator or the evaluator. When: Submitted. Effect: → Completed; the pod earns `paid` less the fee, the
    /// rest is credited back. Events: TaskCompleted, Credited. Errors: WrongState, Unauthorized, OutOfBounds.
    /// @param paid What the result is worth, from `terms.minPaid` to `terms.amount`.
    function completeTask(Terms calldata terms, uint96 paid) external;

    /// @notice Disputes the result.
    /// Who: the creator. When: Submitted, before the review ends. Effect: → Disputed. Events: TaskDisputed.
    /// Errors: WrongState, Unauthorized, DeadlinePassed.
    function dispute(Terms calldata terms, bytes32 reasonHash) external;

    /// @notice Takes the pay for a result that nobody answered.
    /// Who: anyone. When: Submitted, once the review has ended. Effect: → Completed, paid in whole.
    /// Events: TaskClaimed, TaskCompleted, Credited. Errors: WrongState, DeadlineNotReached.
    function claim(Terms calldata terms) external;

    /// @notice Settles a dispute.
    /// Who: the arbiter of the terms. When: Disputed, before the arbiter's time ends. Effect: → Resolved; the pod earns
    /// `agentAmount` less the fee, the rest is credited back. Events: TaskResolved, Credited.
    /// Errors: WrongState, Unauthorized, DeadlinePassed, OutOfBounds.
    /// @param agentAmount The pod's share, from 0 to `terms.amount`.
    function resolve(Terms calldata terms, uint96 agentAmount) external;

    /// @notice Settles a dispute that the arbiter left alone.
    /// Who: anyone. When: Disputed, once the arbiter's time has ended. Effect: → Resolved; the pod earns
    /// `terms.defaultAgentBps` of the amount less the fee, the rest is credited back. Events: TaskResolved, Credited.
    /// Errors: WrongState, DeadlineNotReached.
    function defaultResolve(Terms calldata terms) external;

    // ------------------------------------------------------------------------------------------------- withdrawals

    /// @notice Sends earnings of the pod.
    /// Who: the owner. When: always. Effect: `availableBalance` falls. Events: EarningsWithdrawn.
    /// Errors: Unauthorized, InvalidAddress, ZeroAmount, InsufficientBalance, and the token's own.
    function withdraw(address recipient, uint256 amount) external;

    /// @notice Sends what the caller was credited with.
    /// Who: anyone, of their own. When: always. Effect: `credits` falls. Events: CreditWithdrawn.
    /// Errors: InvalidAddress, ZeroAmount, InsufficientBalance, and the token's own.
    function withdrawCredit(address recipient, uint256 amount) external;

    // ---------------------------------------------------------------------------------------------- administration

    /// @notice Authorizes an operator to hand in results, or no longer.
    /// Who: the owner. When: always. Events: OperatorSet. Errors: Unauthorized.
    function setOperator(address operator, bool authorized) external;

    /// @notice Sets arbiter and fee of tasks to come.
    /// Who: the owner. When: always. Events: SettingsChanged. Errors: Unauthorized, OutOfBounds, InvalidAddress.
    function setSettings(Settings calldata newSettings) external;

    /// @notice Stops creation, and nothing else, or allows it again.
    /// Who: the owner. When: always. Events: CreationPaused. Errors: Unauthorized.
    function setPaused(bool paused_) external;

    /// @notice Offers the vault, with its earnings, to another; zero takes the offer back.
    /// Who: the owner. When: always. Events: OwnershipTransferStarted. Errors: Unauthorized.
    function transferOwnership(address newOwner) external;

    /// @notice Accepts the vault.
    /// Who: the pending owner. When: always. Events: OwnershipTransferred. Errors: Unauthorized.
    function acceptOwnership() external;

    /// @notice Proposes another agent wallet; zero takes the proposal back.
    /// Who: the owner. When: always. Events: AgentWalletProposed. Errors: Unauthorized.
    function proposeAgentWallet(address newAgentWallet) external;

    /// @notice Accepts the agent's role.
    /// Who: the proposed wallet. When: always. Events: AgentWalletChanged. Errors: Unauthorized.
    function acceptAgentWallet() external;

    /// @notice Gives a new vault its owner and agent, in the transaction that makes it.
    /// Who: the factory. When: once. Errors: Unauthorized.
    function initialize(address owner_, address agentWallet_) external;

    // ------------------------------------------------------------------------------------------------------- views

    /// @notice The id of the task of these terms: their EIP-712 digest in this vault's domain ("PODVault", "1").
    function taskIdOf(Terms calldata terms) external view returns (bytes32);

    /// @notice The EIP-712 struct hash of terms, which no chain or vault is part of.
    function hashTerms(Terms calldata terms) external pure returns (bytes32);

    /// @notice A task as it stands.
    /// @return amount What was locked at creation.
    /// @return creator Who paid.
    /// @return state Where it stands.
    /// @return timestamp When it was created.
    /// @return deadline When its present state's time ends: `submitBy`, the review's end or the arbiter's; 0 at the end.
    function tasks(bytes32 taskId)
        external
        view
        returns (uint96 amount, address creator, State state, uint40 timestamp, uint40 deadline);

    /// @notice What an account may withdraw with `withdrawCredit`.
    function credits(address account) external view returns (uint256);

    /// @notice What the owner may withdraw with `withdraw`.
    function availableBalance() external view returns (uint256);

    /// @notice All that the pod ever earned, fees taken off.
    function totalEarnings() external view returns (uint256);

    /// @notice How many tasks were completed.
    function totalTasks() external view returns (uint256);

    /// @notice The pod's name, fixed at creation.
    function podId() external view returns (string memory);

    /// @notice Who withdraws the earnings and sets the rest.
    function owner() external view returns (address);

    /// @notice Who has been offered the vault.
    function pendingOwner() external view returns (address);

    /// @notice Who delivers for the pod.
    function agentWallet() external view returns (address);

    /// @notice Who has been proposed as the agent wallet.
    function pendingAgentWallet() external view returns (address);

    /// @notice Whether an account may hand in results beside the agent wallet.
    function authorizedOperators(address account) external view returns (bool);

    /// @notice The settings for tasks to come.
    function settings() external view returns (Settings memory);

    /// @notice Whether creation is stopped.
    function paused() external view returns (bool);

    /// @notice The token: USDC, the same for every vault of a factory.
    function usdc() external view returns (IERC20);

    /// @notice The factory that made this vault.
    function factory() external view returns (address);
}
