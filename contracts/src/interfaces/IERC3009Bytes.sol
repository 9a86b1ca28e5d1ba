// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The part of ERC-3009, as USDC since v2.2 has it, that takes the signature of a contract account
interface IERC3009Bytes {
    /// @notice As ERC-3009's `receiveWithAuthorization`, with a signature of any form the payer's account accepts.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
