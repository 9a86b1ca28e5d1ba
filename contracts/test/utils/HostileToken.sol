// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {TestUSDC} from "../../src/testing/TestUSDC.sol";

/// @title A token that does what a token must not
contract HostileToken is TestUSDC {
    enum Trick {
        None,
        /// Moves nothing, and says false instead of reverting.
        ReturnsFalse,
        /// Moves nothing, and says true.
        Pretends,
        /// Moves one unit less than asked, and keeps that.
        TakesFee,
        /// Calls the vault back while it moves.
        Reenters
    }

    Trick public trick;
    address public target;
    bytes[] public calls;

    /// @notice How often the vault was called back, and how often its guard refused that.
    uint256 public attempts;
    uint256 public refusals;

    constructor(address minter_) TestUSDC("1", minter_) {}

    function setTrick(Trick trick_) external {
        trick = trick_;
    }

    /// @notice What to call, and whom, when the trick is to re-enter.
    function setReentry(address target_, bytes[] memory calls_) external {
        target = target_;
        delete calls;
        for (uint256 i = 0; i < calls_.length; ++i) {
            calls.push(calls_[i]);
        }
    }

    function transfer(address to, uint256 value) public override returns (bool) {
        if (trick == Trick.ReturnsFalse) return false;
        if (trick == Trick.Pretends) return true;
        return super.transfer(to, value);
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (trick == Trick.ReturnsFalse) return false;
        if (trick == Trick.Pretends) return true;
        return super.transferFrom(from, to, value);
    }

    function _transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce
    ) internal override {
        if (trick == Trick.ReturnsFalse || trick == Trick.Pretends) return;
        super._transferWithAuthorization(from, to, value, validAfter, validBefore, nonce);
    }

    function _update(address from, address to, uint256 value) internal override {
        bool moves = from != address(0) && to != address(0);
        if (moves && trick == Trick.TakesFee && value > 0) {
            super._update(from, minter, 1);
            super._update(from, to, value - 1);
            return;
        }
        super._update(from, to, value);
        if (moves && trick == Trick.Reenters) _reenter();
    }

    function _reenter() private {
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool success, bytes memory reason) = target.call(calls[i]);
            ++attempts;
            if (!success && bytes4(reason) == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector) {
                ++refusals;
            }
        }
    }
}
