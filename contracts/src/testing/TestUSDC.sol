// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IERC3009Bytes} from "../interfaces/IERC3009Bytes.sol";

/// @title A stand-in for USDC.e on test chains
/// @notice Behaves as the real token does where a vault can tell: its EIP-712 domain and 6 decimals, ERC-2612 and
/// ERC-3009 (with signatures of contract accounts), a minter who is also its pauser and blocklister. Never for money.
contract TestUSDC is ERC3009, Nonces, IERC20Permit, IERC3009Bytes {
    /// @notice The EIP-712 type of an ERC-2612 permit.
    bytes32 public constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    /// @notice Who mints, blocklists and pauses.
    address public immutable minter;

    /// @notice Whether nothing moves at all.
    bool public paused;

    /// @notice Whether an account can neither send nor receive.
    mapping(address account => bool) public isBlacklisted;

    /// @notice An account was put on the blocklist, or taken off it.
    event BlacklistSet(address indexed account, bool blacklisted);

    /// @notice The token was stopped, or runs again.
    event PausedSet(bool paused);

    /// @notice The caller is not the minter.
    error NotMinter(address caller);

    /// @notice The account is on the blocklist.
    error Blacklisted(address account);

    /// @notice The token is stopped.
    error TokenPaused();

    /// @notice The permit was good until `deadline`.
    error PermitExpired(uint256 deadline);

    /// @notice The permit was not signed by `owner`.
    error InvalidPermit(address owner);

    modifier onlyMinter() {
        if (msg.sender != minter) revert NotMinter(msg.sender);
        _;
    }

    /// @param version_ The version in the EIP-712 domain: "1" and "2" are both met with.
    /// @param minter_ Who mints, blocklists and pauses.
    constructor(string memory version_, address minter_)
        ERC20("Bridged USDC (Stargate)", "USDC.e")
        EIP712("Bridged USDC (Stargate)", version_)
    {
        minter = minter_;
    }

    /// @notice Makes `amount` out of nothing. Who: the minter.
    function mint(address to, uint256 amount) external onlyMinter {
        _mint(to, amount);
    }

    /// @notice Puts an account on the blocklist, or takes it off. Who: the minter. Events: BlacklistSet.
    function setBlacklisted(address account, bool blacklisted) external onlyMinter {
        isBlacklisted[account] = blacklisted;
        emit BlacklistSet(account, blacklisted);
    }

    /// @notice Stops every movement, or lets them go on. Who: the minter. Events: PausedSet.
    function setPaused(bool paused_) external onlyMinter {
        paused = paused_;
        emit PausedSet(paused_);
    }

    /// @inheritdoc IERC20Permit
    function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        if (block.timestamp > deadline) revert PermitExpired(deadline);
        bytes32 structHash = keccak256(abi.encode(PERMIT_TYPEHASH, owner, spender, value, _useNonce(owner), deadline));
        if (!_isSignedBy(owner, structHash, abi.encodePacked(r, s, v))) revert InvalidPermit(owner);
        _approve(owner, spender, value);
    }

    /// @inheritdoc IERC3009Bytes
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public {
        bytes32 structHash = keccak256(
            abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        if (!_isSignedBy(from, structHash, signature)) revert ERC3009InvalidSignature();
        if (to != msg.sender) revert ERC20InvalidReceiver(to);
        _transferWithAuthorization(from, to, value, validAfter, validBefore, nonce);
    }

    /// @notice As ERC-3009 has it; a contract account's signature of 65 bytes is good here too, as in the real token.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public override {
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc IERC20Permit
    function nonces(address owner) public view override(IERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    /// @inheritdoc IERC20Permit
    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @notice The version in the EIP-712 domain.
    function version() external view returns (string memory) {
        return _EIP712Version();
    }

    /// @notice As USDC has it everywhere.
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function _update(address from, address to, uint256 value) internal virtual override {
        if (paused) revert TokenPaused();
        if (isBlacklisted[from]) revert Blacklisted(from);
        if (isBlacklisted[to]) revert Blacklisted(to);
        super._update(from, to, value);
    }

    function _isSignedBy(address signer, bytes32 structHash, bytes memory signature) private view returns (bool) {
        return SignatureChecker.isValidSignatureNow(signer, _hashTypedDataV4(structHash), signature);
    }
}
