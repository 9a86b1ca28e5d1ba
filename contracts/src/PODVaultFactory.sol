// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {PODVault} from "./PODVault.sol";
import {IPODVaultFactory} from "./interfaces/IPODVaultFactory.sol";

/// @title PODVaultFactory
/// @notice See `IPODVaultFactory`.
/// @dev A vault is an ERC-1167 proxy followed by its first owner (20 bytes) and its pod's name. These bytes are part of
/// the code that CREATE2 hashes into the address, so that address and code each commit to both; the salt adds nothing,
/// and is zero. The agent wallet is no part of the address, but of what the owner signs.
contract PODVaultFactory is IPODVaultFactory, EIP712 {
    /// @notice The EIP-712 type of an owner's consent to a vault.
    bytes32 public constant CREATE_VAULT_TYPEHASH =
        keccak256("CreateVault(string podId,address owner,address agentWallet,uint256 deadline)");

    /// @notice The longest name of a pod, in bytes.
    uint256 public constant MAX_POD_ID_LENGTH = 64;

    /// @dev The proxy's own code before and after the implementation's address, and their lengths together.
    bytes10 private constant PROXY_HEAD = 0x363d3d373d3d3d363d73;
    bytes15 private constant PROXY_TAIL = 0x5af43d82803e903d91602b57fd5bf3;
    uint256 private constant PROXY_LENGTH = 45;

    /// @dev Where the pod's name starts among the immutable arguments.
    uint256 private constant POD_ID_OFFSET = 20;

    bytes32 private constant SALT = 0;

    /// @inheritdoc IPODVaultFactory
    address public immutable implementation;

    /// @inheritdoc IPODVaultFactory
    IERC20 public immutable usdc;

    /// @inheritdoc IPODVaultFactory
    address public immutable trustedForwarder;

    /// @param usdc_ The token of every vault.
    /// @param trustedForwarder_ The ERC-2771 forwarder that every vault trusts.
    constructor(IERC20 usdc_, address trustedForwarder_) EIP712("PODVaultFactory", "1") {
        if (address(usdc_).code.length == 0) revert InvalidAddress(address(usdc_));
        if (trustedForwarder_.code.length == 0) revert InvalidAddress(trustedForwarder_);
        usdc = usdc_;
        trustedForwarder = trustedForwarder_;
        implementation = address(new PODVault(usdc_, trustedForwarder_));
    }

    /// @inheritdoc IPODVaultFactory
    function createPODVault(
        string calldata podId,
        address owner,
        address agentWallet,
        uint256 deadline,
        bytes calldata signature
    ) external returns (address vault) {
        uint256 length = bytes(podId).length;
        if (length == 0 || length > MAX_POD_ID_LENGTH) revert InvalidPodIdLength(length, MAX_POD_ID_LENGTH);
        if (agentWallet == address(0)) revert InvalidAddress(agentWallet);
        if (msg.sender != owner) _requireConsent(podId, owner, agentWallet, deadline, signature);

        vault = vaultOf(podId, owner);
        if (vault.code.length != 0) revert VaultExists(vault);
        vault = Clones.cloneDeterministicWithImmutableArgs(implementation, _args(podId, owner), SALT);
        emit VaultCreated(vault, owner, agentWallet, podId);
        PODVault(vault).initialize(owner, agentWallet);
    }

    /// @inheritdoc IPODVaultFactory
    function vaultOf(string calldata podId, address owner) public view returns (address vault) {
        return _vaultOf(_args(podId, owner));
    }

    /// @inheritdoc IPODVaultFactory
    function vaultCodeHash(string calldata podId, address owner) external view returns (bytes32) {
        return _codeHashOf(_args(podId, owner));
    }

    /// @inheritdoc IPODVaultFactory
    function isVault(address vault) external view returns (bool) {
        if (vault.code.length <= PROXY_LENGTH + POD_ID_OFFSET) return false;
        bytes memory args = Clones.fetchCloneArgs(vault);
        return vault.codehash == _codeHashOf(args) && vault == _vaultOf(args);
    }

    function _requireConsent(
        string calldata podId,
        address owner,
        address agentWallet,
        uint256 deadline,
        bytes calldata signature
    ) private view {
        if (block.timestamp > deadline) revert SignatureExpired(deadline, block.timestamp);
        bytes32 structHash =
            keccak256(abi.encode(CREATE_VAULT_TYPEHASH, keccak256(bytes(podId)), owner, agentWallet, deadline));
        if (!SignatureChecker.isValidSignatureNowCalldata(owner, _hashTypedDataV4(structHash), signature)) {
            revert InvalidOwnerSignature(owner);
        }
    }

    function _args(string calldata podId, address owner) private pure returns (bytes memory) {
        return abi.encodePacked(owner, podId);
    }

    function _vaultOf(bytes memory args) private view returns (address) {
        return Clones.predictDeterministicAddressWithImmutableArgs(implementation, args, SALT);
    }

    function _codeHashOf(bytes memory args) private view returns (bytes32) {
        return keccak256(abi.encodePacked(PROXY_HEAD, implementation, PROXY_TAIL, args));
    }
}
