// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPODVault} from "../../src/interfaces/IPODVault.sol";
import {Vm} from "./Vm.sol";

/// @title Every balance of a vault, rebuilt from its events alone, as an indexer would
contract Ledger {
    uint256 public available;
    uint256 public earned;
    uint256 public completed;
    uint256 public totalLocked;
    uint256 public totalCredits;
    mapping(bytes32 taskId => uint256) public locked;
    mapping(bytes32 taskId => uint256) public ends;
    mapping(address account => uint256) public credits;

    /// @notice Takes in what a vault said.
    function absorb(Vm.Log calldata log) external {
        bytes32 kind = log.topics[0];
        if (kind == IPODVault.TaskCreated.selector) _created(log);
        else if (kind == IPODVault.TaskRefunded.selector) ++ends[log.topics[1]];
        else if (kind == IPODVault.TaskCompleted.selector) _completed(log);
        else if (kind == IPODVault.TaskResolved.selector) _resolved(log);
        else if (kind == IPODVault.Credited.selector) _credited(log);
        else if (kind == IPODVault.CreditWithdrawn.selector) _creditWithdrawn(log);
        else if (kind == IPODVault.EarningsWithdrawn.selector) _earningsWithdrawn(log);
    }

    function _created(Vm.Log calldata log) private {
        (uint256 amount,) = abi.decode(log.data, (uint256, address));
        locked[log.topics[1]] += amount;
        totalLocked += amount;
    }

    function _completed(Vm.Log calldata log) private {
        ++completed;
        _end(log.topics[1], abi.decode(log.data, (uint256)));
    }

    function _resolved(Vm.Log calldata log) private {
        (uint256 amount,) = abi.decode(log.data, (uint256, bool));
        _end(log.topics[1], amount);
    }

    function _end(bytes32 taskId, uint256 amount) private {
        ++ends[taskId];
        available += amount;
        earned += amount;
        _unlock(taskId, amount);
    }

    function _credited(Vm.Log calldata log) private {
        uint256 amount = abi.decode(log.data, (uint256));
        credits[address(uint160(uint256(log.topics[1])))] += amount;
        totalCredits += amount;
        _unlock(log.topics[2], amount);
    }

    function _unlock(bytes32 taskId, uint256 amount) private {
        locked[taskId] -= amount;
        totalLocked -= amount;
    }

    function _creditWithdrawn(Vm.Log calldata log) private {
        (uint256 amount,) = abi.decode(log.data, (uint256, address));
        credits[address(uint160(uint256(log.topics[1])))] -= amount;
        totalCredits -= amount;
    }

    function _earningsWithdrawn(Vm.Log calldata log) private {
        (uint256 amount,) = abi.decode(log.data, (uint256, address));
        available -= amount;
    }
}
