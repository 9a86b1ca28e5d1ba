// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "./Vm.sol";

/// @title What every test stands on
abstract contract TestBase {
    /// @dev forge takes a contract with this for a test's.
    // solhint-disable-next-line const-name-snakecase
    bool public constant IS_TEST = true;

    /// @dev Where forge answers cheatcodes.
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @dev Where forge takes messages to be printed from.
    address private constant CONSOLE = 0x000000000000000000636F6e736F6c652e6c6f67;

    /// @dev An account that can sign, and its key, both from its name.
    function account(string memory name) internal returns (address who, uint256 key) {
        key = uint256(keccak256(bytes(name)));
        who = vm.addr(key);
        vm.label(who, name);
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The EIP-712 digest of a struct in a domain, worked out here rather than by what is under test.
    function typedDigest(bytes32 domainSeparator, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator, structHash));
    }

    function domainOf(string memory name, string memory version, uint256 chain, address verifyingContract)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chain,
                verifyingContract
            )
        );
    }

    /// @dev A number within bounds, for a fuzzed one.
    function within(uint256 value, uint256 min, uint256 max) internal pure returns (uint256) {
        uint256 size = max - min + 1;
        return size == 0 ? value : min + value % size;
    }

    function print(string memory message, uint256 value) internal view {
        (bool success,) = CONSOLE.staticcall(abi.encodeWithSignature("log(string,uint256)", message, value));
        success;
    }
}
