// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {ERC2771Context} from "@openzeppelin/contracts/metatx/ERC2771Context.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Bytes} from "@openzeppelin/contracts/utils/Bytes.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IERC3009Bytes} from "./interfaces/IERC3009Bytes.sol";
import {IPODVault} from "./interfaces/IPODVault.sol";

/// @title PODVault
/// @notice See `IPODVault`, which says of every entry who may call it, when, and what follows.
/// @dev The code behind every vault. A vault is a minimal proxy (ERC-1167) whose code ends in its first owner and its
/// pod's name; token, forwarder and factory are the same for all, hence immutable here.
///
/// Money moves in two places only: `_fund` brings it in, `_send` lets it out. What is in between is bookkeeping, and
///     token balance = Σ amounts of tasks not yet ended + Σ credits + availableBalance
/// holds after every call, as long as nobody gives the vault tokens unasked. There is no `multicall` and no
/// `delegatecall` to oneself, which would let a caller forge the ERC-2771 sender.
contract PODVault is IPODVault, ERC2771Context, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @dev What a task keeps. All else is in the terms, which its id commits to.
    struct Task {
        uint96 amount;
        address creator;
        State state;
        uint40 timestamp;
        uint40 deadline;
    }

    /// @dev The pod's sums, in one word.
    struct Totals {
        uint96 availableBalance;
        uint96 totalEarnings;
        uint64 totalTasks;
    }

    /// @notice The EIP-712 type of a task's terms.
    bytes32 public constant TERMS_TYPEHASH = keccak256(
        "Terms(address creator,address evaluator,address arbiter,address feeRecipient,uint96 amount,uint96 minPaid,"
        "uint40 submitBy,uint32 reviewPeriod,uint32 arbiterPeriod,uint16 defaultAgentBps,uint16 feeBps,"
        "bytes32 metadataHash,bytes32 salt)"
    );

    /// @notice The whole, in basis points.
    uint16 public constant BPS = 10_000;

    /// @notice The highest fee, in basis points.
    uint16 public constant MAX_FEE_BPS = 1_000;

    /// @notice The longest metadata, in bytes.
    uint256 public constant MAX_METADATA_LENGTH = 1_024;

    /// @notice The shortest time for a result, a review or an arbiter.
    uint256 public constant MIN_PERIOD = 1 minutes;

    /// @notice The longest time for a result.
    uint256 public constant MAX_SUBMIT_PERIOD = 365 days;

    /// @notice The longest time for a review.
    uint256 public constant MAX_REVIEW_PERIOD = 30 days;

    /// @notice The longest time for an arbiter.
    uint256 public constant MAX_ARBITER_PERIOD = 90 days;

    /// @dev The length of a signature as r, s, v.
    uint256 private constant ECDSA_SIGNATURE_LENGTH = 65;

    /// @dev Where the pod's name starts among the immutable arguments, after the first owner.
    uint256 private constant POD_ID_OFFSET = 20;

    /// @inheritdoc IPODVault
    IERC20 public immutable usdc;

    /// @inheritdoc IPODVault
    address public immutable factory;

    address private immutable _implementation;

    /// @inheritdoc IPODVault
    address public owner;

    /// @inheritdoc IPODVault
    address public pendingOwner;

    /// @inheritdoc IPODVault
    address public agentWallet;

    /// @inheritdoc IPODVault
    address public pendingAgentWallet;

    // In this order the settings and `paused` take two words, which is what a creation reads.
    address private _arbiter;
    /// @inheritdoc IPODVault
    bool public paused;
    address private _feeRecipient;
    uint16 private _feeBps;

    Totals private _totals;

    /// @inheritdoc IPODVault
    mapping(bytes32 taskId => Task) public tasks;

    /// @inheritdoc IPODVault
    mapping(address account => uint256) public credits;

    /// @inheritdoc IPODVault
    mapping(address account => bool) public authorizedOperators;

    /// @dev Deployed by the factory. This contract itself is no vault: it has no owner, and creation is stopped.
    constructor(IERC20 usdc_, address trustedForwarder_) ERC2771Context(trustedForwarder_) EIP712("PODVault", "1") {
        usdc = usdc_;
        factory = msg.sender;
        _implementation = address(this);
        paused = true;
    }

    /// @inheritdoc IPODVault
    function initialize(address owner_, address agentWallet_) external {
        if (msg.sender != factory) revert Unauthorized(msg.sender, Role.Factory);
        owner = owner_;
        agentWallet = agentWallet_;
    }

    // ---------------------------------------------------------------------------------------------------- creation

    /// @inheritdoc IPODVault
    function createTask(Terms calldata terms, string calldata metadata) external nonReentrant returns (bytes32 taskId) {
        _requireCaller(terms.creator, Role.Creator);
        taskId = _open(terms, metadata);
        _fund(terms);
    }

    /// @inheritdoc IPODVault
    function createTaskWithPermit(
        Terms calldata terms,
        string calldata metadata,
        uint256 permitDeadline,
        bytes calldata permitSignature,
        bytes calldata creatorSignature
    ) external nonReentrant returns (bytes32 taskId) {
        taskId = _open(terms, metadata);
        if (
            _msgSender() != terms.creator
                && !SignatureChecker.isValidSignatureNowCalldata(terms.creator, taskId, creatorSignature)
        ) {
            revert InvalidCreatorSignature(terms.creator, taskId);
        }
        _permit(terms, permitDeadline, permitSignature);
        _fund(terms);
    }

    /// @inheritdoc IPODVault
    function createTaskWithAuthorization(
        Terms calldata terms,
        string calldata metadata,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external nonReentrant returns (bytes32 taskId) {
        taskId = _open(terms, metadata);
        uint256 balance = _balance();
        _receiveWithAuthorization(taskId, terms, validAfter, validBefore, signature);
        _requireBalance(balance + terms.amount);
    }

    // -------------------------------------------------------------------------------------------------- transitions

    /// @inheritdoc IPODVault
    function submit(Terms calldata terms, bytes32 resultHash) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Funded);
        address caller = _msgSender();
        if (caller != agentWallet && !authorizedOperators[caller]) revert Unauthorized(caller, Role.AgentOrOperator);
        _requireBefore(taskId, task.deadline);
        uint256 reviewBy = block.timestamp + terms.reviewPeriod;
        _enter(task, State.Submitted, reviewBy);
        emit TaskSubmitted(taskId, caller, resultHash, reviewBy);
    }

    /// @inheritdoc IPODVault
    function decline(Terms calldata terms) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Funded);
        _requireCaller(agentWallet, Role.Agent);
        emit TaskDeclined(taskId, agentWallet);
        _refund(taskId, task, terms);
    }

    /// @inheritdoc IPODVault
    function refund(Terms calldata terms) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Funded);
        _requireFrom(taskId, task.deadline);
        _refund(taskId, task, terms);
    }

    /// @inheritdoc IPODVault
    function completeTask(Terms calldata terms, uint96 paid) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Submitted);
        address caller = _msgSender();
        if (caller != terms.creator && caller != terms.evaluator) revert Unauthorized(caller, Role.CreatorOrEvaluator);
        _requireWithin(Field.Paid, paid, terms.minPaid, terms.amount);
        _complete(taskId, task, terms, paid);
    }

    /// @inheritdoc IPODVault
    function dispute(Terms calldata terms, bytes32 reasonHash) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Submitted);
        _requireCaller(terms.creator, Role.Creator);
        _requireBefore(taskId, task.deadline);
        uint256 arbiterBy = block.timestamp + terms.arbiterPeriod;
        _enter(task, State.Disputed, arbiterBy);
        emit TaskDisputed(taskId, reasonHash, arbiterBy);
    }

    /// @inheritdoc IPODVault
    function claim(Terms calldata terms) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Submitted);
        _requireFrom(taskId, task.deadline);
        emit TaskClaimed(taskId, _msgSender());
        _complete(taskId, task, terms, terms.amount);
    }

    /// @inheritdoc IPODVault
    function resolve(Terms calldata terms, uint96 agentAmount) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Disputed);
        _requireCaller(terms.arbiter, Role.Arbiter);
        _requireBefore(taskId, task.deadline);
        _requireWithin(Field.AgentAmount, agentAmount, 0, terms.amount);
        _resolve(taskId, task, terms, agentAmount, false);
    }

    /// @inheritdoc IPODVault
    function defaultResolve(Terms calldata terms) external nonReentrant {
        (bytes32 taskId, Task storage task) = _find(terms, State.Disputed);
        _requireFrom(taskId, task.deadline);
        _resolve(taskId, task, terms, _share(terms.amount, terms.defaultAgentBps), true);
    }

    // ------------------------------------------------------------------------------------------------- withdrawals

    /// @inheritdoc IPODVault
    function withdraw(address recipient, uint256 amount) external nonReentrant {
        _requireCaller(owner, Role.Owner);
        uint96 available = _totals.availableBalance;
        if (amount > available) revert InsufficientBalance(available, amount);
        // forge-lint: disable-next-line(unsafe-typecast) -- at most `available`, which is such a number
        _totals.availableBalance = available - uint96(amount);
        emit EarningsWithdrawn(amount, recipient);
        _send(recipient, amount);
    }

    /// @inheritdoc IPODVault
    function withdrawCredit(address recipient, uint256 amount) external nonReentrant {
        address account = _msgSender();
        uint256 available = credits[account];
        if (amount > available) revert InsufficientBalance(available, amount);
        credits[account] = available - amount;
        emit CreditWithdrawn(account, amount, recipient);
        _send(recipient, amount);
    }

    // ---------------------------------------------------------------------------------------------- administration

    /// @inheritdoc IPODVault
    function setOperator(address operator, bool authorized) external {
        _requireCaller(owner, Role.Owner);
        authorizedOperators[operator] = authorized;
        emit OperatorSet(operator, authorized);
    }

    /// @inheritdoc IPODVault
    function setSettings(Settings calldata newSettings) external {
        _requireCaller(owner, Role.Owner);
        _requireWithin(Field.FeeBps, newSettings.feeBps, 0, MAX_FEE_BPS);
        address recipient = newSettings.feeRecipient;
        if (recipient == address(this) || (recipient == address(0) && newSettings.feeBps != 0)) {
            revert InvalidAddress(recipient);
        }
        _arbiter = newSettings.arbiter;
        _feeRecipient = recipient;
        _feeBps = newSettings.feeBps;
        emit SettingsChanged(newSettings);
    }

    /// @inheritdoc IPODVault
    function setPaused(bool paused_) external {
        _requireCaller(owner, Role.Owner);
        paused = paused_;
        emit CreationPaused(paused_);
    }

    /// @inheritdoc IPODVault
    function transferOwnership(address newOwner) external {
        _requireCaller(owner, Role.Owner);
        pendingOwner = newOwner;
        emit OwnershipTransferStarted(owner, newOwner);
    }

    /// @inheritdoc IPODVault
    function acceptOwnership() external {
        address newOwner = pendingOwner;
        _requireCaller(newOwner, Role.PendingOwner);
        emit OwnershipTransferred(owner, newOwner);
        owner = newOwner;
        pendingOwner = address(0);
    }

    /// @inheritdoc IPODVault
    function proposeAgentWallet(address newAgentWallet) external {
        _requireCaller(owner, Role.Owner);
        pendingAgentWallet = newAgentWallet;
        emit AgentWalletProposed(agentWallet, newAgentWallet);
    }

    /// @inheritdoc IPODVault
    function acceptAgentWallet() external {
        address newAgentWallet = pendingAgentWallet;
        _requireCaller(newAgentWallet, Role.PendingAgent);
        emit AgentWalletChanged(agentWallet, newAgentWallet);
        agentWallet = newAgentWallet;
        pendingAgentWallet = address(0);
    }

    // ------------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IPODVault
    function taskIdOf(Terms calldata terms) public view returns (bytes32) {
        return _hashTypedDataV4(hashTerms(terms));
    }

    /// @inheritdoc IPODVault
    function hashTerms(Terms calldata terms) public pure returns (bytes32) {
        return keccak256(abi.encode(TERMS_TYPEHASH, terms));
    }

    /// @inheritdoc IPODVault
    function availableBalance() external view returns (uint256) {
        return _totals.availableBalance;
    }

    /// @inheritdoc IPODVault
    function totalEarnings() external view returns (uint256) {
        return _totals.totalEarnings;
    }

    /// @inheritdoc IPODVault
    function totalTasks() external view returns (uint256) {
        return _totals.totalTasks;
    }

    /// @inheritdoc IPODVault
    function podId() external view returns (string memory) {
        if (address(this) == _implementation) revert NotAVault();
        return string(Bytes.slice(Clones.fetchCloneArgs(address(this)), POD_ID_OFFSET));
    }

    /// @inheritdoc IPODVault
    function settings() external view returns (Settings memory) {
        return Settings({arbiter: _arbiter, feeRecipient: _feeRecipient, feeBps: _feeBps});
    }

    // -------------------------------------------------------------------------------------- creation, step by step

    /// @dev Checks the terms and writes the task down as funded; what follows must bring the money or revert.
    function _open(Terms calldata terms, string calldata metadata) private returns (bytes32 taskId) {
        if (paused) revert CreationIsPaused();
        taskId = taskIdOf(terms);
        if (tasks[taskId].state != State.None) revert TaskExists(taskId);
        _requireSoundTerms(terms);
        _requireMetadata(metadata, terms.metadataHash);
        tasks[taskId] = Task({
            amount: terms.amount,
            creator: terms.creator,
            state: State.Funded,
            timestamp: uint40(block.timestamp),
            deadline: terms.submitBy
        });
        emit TaskCreated(taskId, terms.amount, terms.creator);
        emit TaskTerms(taskId, terms, metadata);
    }

    function _requireSoundTerms(Terms calldata terms) private view {
        _requireWithin(Field.Amount, terms.amount, 1, type(uint96).max);
        _requireWithin(Field.MinPaid, terms.minPaid, 0, terms.amount);
        _requireWithin(
            Field.SubmitBy, terms.submitBy, block.timestamp + MIN_PERIOD, block.timestamp + MAX_SUBMIT_PERIOD
        );
        _requireWithin(Field.ReviewPeriod, terms.reviewPeriod, MIN_PERIOD, MAX_REVIEW_PERIOD);
        _requireWithin(Field.ArbiterPeriod, terms.arbiterPeriod, MIN_PERIOD, MAX_ARBITER_PERIOD);
        _requireWithin(Field.DefaultAgentBps, terms.defaultAgentBps, 0, BPS);
        if (terms.arbiter != _arbiter || terms.feeRecipient != _feeRecipient || terms.feeBps != _feeBps) {
            revert SettingsMismatch(_arbiter, _feeRecipient, _feeBps);
        }
    }

    function _requireMetadata(string calldata metadata, bytes32 expected) private pure {
        _requireWithin(Field.MetadataLength, bytes(metadata).length, 0, MAX_METADATA_LENGTH);
        bytes32 actual = keccak256(bytes(metadata));
        if (actual != expected) revert MetadataMismatch(expected, actual);
    }

    /// @dev Takes the amount from the creator, whose consent the caller of this function has made sure of.
    function _fund(Terms calldata terms) private {
        uint256 balance = _balance();
        // slither-disable-next-line arbitrary-send-erc20 -- the creator called, or signed these terms
        usdc.safeTransferFrom(terms.creator, address(this), terms.amount);
        _requireBalance(balance + terms.amount);
    }

    /// @dev A permit is public once sent, so another may have used it first; then the allowance is there without it.
    function _permit(Terms calldata terms, uint256 deadline, bytes calldata signature) private {
        (uint8 v, bytes32 r, bytes32 s) = ECDSA.parseCalldata(signature);
        IERC20Permit token = IERC20Permit(address(usdc));
        // solhint-disable-next-line no-empty-blocks
        try token.permit(terms.creator, address(this), terms.amount, deadline, v, r, s) {} catch {}
    }

    function _receiveWithAuthorization(
        bytes32 nonce,
        Terms calldata terms,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) private {
        if (signature.length != ECDSA_SIGNATURE_LENGTH) {
            IERC3009Bytes(address(usdc))
                .receiveWithAuthorization(
                    terms.creator, address(this), terms.amount, validAfter, validBefore, nonce, signature
                );
            return;
        }
        (uint8 v, bytes32 r, bytes32 s) = ECDSA.parseCalldata(signature);
        IERC3009(address(usdc))
            .receiveWithAuthorization(
                terms.creator, address(this), terms.amount, validAfter, validBefore, nonce, v, r, s
            );
    }

    // ----------------------------------------------------------------------------------------- how a task moves on

    function _find(Terms calldata terms, State required) private view returns (bytes32 taskId, Task storage task) {
        taskId = taskIdOf(terms);
        task = tasks[taskId];
        if (task.state != required) revert WrongState(taskId, task.state, required);
    }

    function _enter(Task storage task, State state, uint256 deadline) private {
        task.state = state;
        // forge-lint: disable-next-line(unsafe-typecast) -- a time of this age plus a bounded period
        task.deadline = uint40(deadline);
    }

    function _refund(bytes32 taskId, Task storage task, Terms calldata terms) private {
        _enter(task, State.Refunded, 0);
        emit TaskRefunded(taskId, terms.amount);
        _credit(terms.creator, terms.amount, taskId);
    }

    function _complete(bytes32 taskId, Task storage task, Terms calldata terms, uint96 paid) private {
        _enter(task, State.Completed, 0);
        ++_totals.totalTasks;
        emit TaskCompleted(taskId, _split(taskId, terms, paid));
    }

    function _resolve(bytes32 taskId, Task storage task, Terms calldata terms, uint96 agentAmount, bool byDefault)
        private
    {
        _enter(task, State.Resolved, 0);
        emit TaskResolved(taskId, _split(taskId, terms, agentAmount), byDefault);
    }

    /// @dev Divides the locked amount: `paid` to the pod less the fee of it, the rest to the creator.
    function _split(bytes32 taskId, Terms calldata terms, uint96 paid) private returns (uint96 earned) {
        uint96 fee = _share(paid, terms.feeBps);
        earned = paid - fee;
        _totals.availableBalance += earned;
        _totals.totalEarnings += earned;
        _credit(terms.feeRecipient, fee, taskId);
        _credit(terms.creator, terms.amount - paid, taskId);
    }

    function _credit(address account, uint256 amount, bytes32 taskId) private {
        if (amount == 0) return;
        credits[account] += amount;
        emit Credited(account, amount, taskId);
    }

    function _share(uint96 amount, uint16 bps) private pure returns (uint96) {
        // forge-lint: disable-next-line(unsafe-typecast) -- bps is at most BPS, so this is at most `amount`
        return uint96(uint256(amount) * bps / BPS);
    }

    // ------------------------------------------------------------------------------------------ token, and refusals

    function _send(address recipient, uint256 amount) private {
        if (recipient == address(0) || recipient == address(this)) revert InvalidAddress(recipient);
        if (amount == 0) revert ZeroAmount();
        usdc.safeTransfer(recipient, amount);
    }

    function _balance() private view returns (uint256) {
        return usdc.balanceOf(address(this));
    }

    function _requireBalance(uint256 expected) private view {
        uint256 actual = _balance();
        if (actual != expected) revert UnexpectedBalance(expected, actual);
    }

    function _requireCaller(address expected, Role role) private view {
        address caller = _msgSender();
        if (caller != expected) revert Unauthorized(caller, role);
    }

    function _requireBefore(bytes32 taskId, uint256 deadline) private view {
        if (block.timestamp >= deadline) revert DeadlinePassed(taskId, deadline, block.timestamp);
    }

    function _requireFrom(bytes32 taskId, uint256 deadline) private view {
        if (block.timestamp < deadline) revert DeadlineNotReached(taskId, deadline, block.timestamp);
    }

    function _requireWithin(Field field, uint256 value, uint256 min, uint256 max) private pure {
        if (value < min || value > max) revert OutOfBounds(field, value, min, max);
    }
}
