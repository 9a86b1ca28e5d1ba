// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title Makes the vaults of pods
/// @notice One vault for each pair of pod and owner, at an address known before it exists (CREATE2). Anyone may send
/// the transaction: the owner's signature, not the sender, is what counts. A vault is told from an impostor by its
/// address and code, which `isVault` recomputes; never by what a log says.
interface IPODVaultFactory {
    /// @notice A vault was made.
    event VaultCreated(address indexed vault, address indexed owner, address indexed agentWallet, string podId);

    /// @notice The owner neither sent the call nor signed it.
    error InvalidOwnerSignature(address owner);

    /// @notice The owner's signature was good until `deadline`.
    error SignatureExpired(uint256 deadline, uint256 time);

    /// @notice This pod of this owner has its vault.
    error VaultExists(address vault);

    /// @notice A pod's name has from 1 to `max` bytes.
    error InvalidPodIdLength(uint256 length, uint256 max);

    /// @notice The address cannot have this place: zero, or no contract where one is needed.
    error InvalidAddress(address account);

    /// @notice Makes the vault of `podId` and `owner`.
    /// Who: the owner; or anyone with the owner's EIP-712 signature (ECDSA or ERC-1271), in the domain
    /// ("PODVaultFactory", "1"), over CreateVault(string podId,address owner,address agentWallet,uint256 deadline).
    /// When: once, and by signature until `deadline`. Effect: the vault exists, with that owner and agent wallet.
    /// Events: VaultCreated.
    /// Errors: InvalidPodIdLength, InvalidAddress, VaultExists, SignatureExpired, InvalidOwnerSignature.
    /// @param deadline The last time at which the signature is good; not looked at when the owner is the sender.
    /// @param signature Empty when the owner is the sender.
    function createPODVault(
        string calldata podId,
        address owner,
        address agentWallet,
        uint256 deadline,
        bytes calldata signature
    ) external returns (address vault);

    /// @notice Where the vault of `podId` and its first owner is, or will be.
    function vaultOf(string calldata podId, address owner) external view returns (address vault);

    /// @notice The Keccak-256 hash of the code that this vault has, or will have.
    function vaultCodeHash(string calldata podId, address owner) external view returns (bytes32);

    /// @notice Whether this factory made the vault at this address.
    function isVault(address vault) external view returns (bool);

    /// @notice The code behind every vault.
    function implementation() external view returns (address);

    /// @notice The token of every vault.
    function usdc() external view returns (IERC20);

    /// @notice The ERC-2771 forwarder that every vault trusts.
    function trustedForwarder() external view returns (address);
}
