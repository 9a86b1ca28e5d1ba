// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @title An account that is a contract, and takes for its signature whatever was told to it before
contract ContractAccount is IERC1271 {
    mapping(bytes32 digest => bytes32) private _accepted;

    /// @notice From now on `signature` is good for `digest`.
    function accept(bytes32 digest, bytes calldata signature) external {
        _accepted[digest] = keccak256(signature);
    }

    /// @inheritdoc IERC1271
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return _accepted[digest] == keccak256(signature) ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}
