// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PODVault} from "../src/PODVault.sol";
import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {HostileToken} from "./utils/HostileToken.sol";
import {Ledger} from "./utils/Ledger.sol";
import {TestBase} from "./utils/TestBase.sol";
import {VaultHandler} from "./utils/VaultHandler.sol";

/// @title The five promises, under random calls by everyone, at any time, on a token that plays tricks
contract InvariantsTest is TestBase {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    VaultHandler private handler;
    PODVault private vault;
    HostileToken private token;
    Ledger private ledger;

    function setUp() public {
        handler = new VaultHandler();
        handler.setUp();
        (vault, token, ledger) = (handler.theVault(), handler.token(), handler.ledger());
    }

    /// @dev Read by forge: whom it calls.
    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// @dev Read by forge: what it calls there. A step is what happens most.
    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](12);
        selectors[0] = VaultHandler.create.selector;
        selectors[1] = VaultHandler.create.selector;
        selectors[2] = VaultHandler.createAgain.selector;
        selectors[3] = VaultHandler.step.selector;
        selectors[4] = VaultHandler.step.selector;
        selectors[5] = VaultHandler.step.selector;
        selectors[6] = VaultHandler.warp.selector;
        selectors[7] = VaultHandler.withdraw.selector;
        selectors[8] = VaultHandler.withdrawCredit.selector;
        selectors[9] = VaultHandler.administer.selector;
        selectors[10] = VaultHandler.rotate.selector;
        selectors[11] = VaultHandler.give.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    /// @dev All of them in one, for forge plays a whole campaign for each function of this kind.
    function invariant_the_five_promises_hold() public view {
        theVaultHoldsWhatItOwes();
        eachTaskPaysItsAmountOnce();
        tasksMoveAsTabled();
        onlyConsentDebitsAPayer();
    }

    /// @dev The fourth promise, called by forge at the end of every run.
    function afterInvariant() public {
        handler.emptyByAStranger();
        vm.assertEq(ledger.totalLocked(), 0, "nothing is locked");
        vm.assertEq(ledger.totalCredits(), 0, "no credit is left");
        vm.assertEq(vault.availableBalance(), 0, "no earnings are left");
        vm.assertEq(token.balanceOf(address(vault)), handler.gifts(), "gifts, and nothing else");
    }

    /// @dev A campaign in which nothing ever happens would hold any promise.
    function test_random_calls_take_every_step_of_the_table() public {
        for (uint256 i = 0; i < 1_000; ++i) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            if (i % 5 == 0) handler.create(seed, seed >> 8, seed >> 16, seed >> 24, seed >> 32, seed >> 40);
            else if (i % 15 == 1) handler.warp(seed, seed >> 16);
            else handler.step(seed, seed >> 32, seed >> 64, uint96(seed >> 128));
        }
        for (uint256 i = 0; i <= uint256(type(VaultHandler.Step).max); ++i) {
            vm.assertTrue(handler.taken(VaultHandler.Step(i)) > 0, "a step never taken");
        }
        afterInvariant();
    }

    function theVaultHoldsWhatItOwes() private view {
        uint256 owed = ledger.totalLocked() + ledger.totalCredits() + ledger.available();
        vm.assertEq(token.balanceOf(address(vault)), owed + handler.gifts(), "balance");
        vm.assertEq(vault.availableBalance(), ledger.available(), "availableBalance by the events");
        vm.assertEq(vault.totalEarnings(), ledger.earned(), "totalEarnings by the events");
        vm.assertEq(vault.totalTasks(), ledger.completed(), "totalTasks by the events");
        uint256 credits = 0;
        for (uint256 i = 0; i < handler.countPeople(); ++i) {
            address who = handler.people(i);
            vm.assertEq(vault.credits(who), ledger.credits(who), "credits by the events");
            credits += vault.credits(who);
        }
        vm.assertEq(credits, ledger.totalCredits(), "credits of all");
    }

    function eachTaskPaysItsAmountOnce() private view {
        for (uint256 i = 0; i < handler.countIds(); ++i) {
            bytes32 taskId = handler.ids(i);
            (uint96 amount,, IPODVault.State state,,) = vault.tasks(taskId);
            bool ended = state >= IPODVault.State.Completed;
            vm.assertEq(ledger.ends(taskId), ended ? 1 : 0, "ends");
            vm.assertEq(ledger.locked(taskId), ended ? 0 : amount, "locked");
        }
    }

    function tasksMoveAsTabled() private view {
        for (uint256 i = 0; i < handler.countIds(); ++i) {
            bytes32 taskId = handler.ids(i);
            (,, IPODVault.State state,, uint40 deadline) = vault.tasks(taskId);
            (IPODVault.State expected, uint256 expectedDeadline) = handler.model(taskId);
            vm.assertEq(uint256(state), uint256(expected), "state");
            vm.assertEq(deadline, expectedDeadline, "deadline");
        }
    }

    function onlyConsentDebitsAPayer() private view {
        for (uint256 i = 0; i < 3; ++i) {
            address payer = handler.people(i);
            vm.assertEq(token.balanceOf(payer), handler.expectedHolding(payer), "holding");
        }
    }
}
