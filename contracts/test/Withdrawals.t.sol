// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {TestUSDC} from "../src/testing/TestUSDC.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title Who pulls what
contract WithdrawalsTest is VaultFixture {
    function setUp() public override {
        super.setUp();
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        vm.prank(creator);
        vault.completeTask(terms, 80e6);
    }

    // ------------------------------------------------------------------------------------------------ earnings

    function test_the_owner_withdraws_earnings_to_anyone() public {
        vm.expectEmit(address(vault));
        emit IPODVault.EarningsWithdrawn(70e6, stranger);
        vm.prank(owner);
        vault.withdraw(stranger, 70e6);
        vm.assertEq(usdc.balanceOf(stranger), 70e6, "sent");
        vm.assertEq(vault.availableBalance(), 8e6, "left");
        vm.assertEq(vault.totalEarnings(), 78e6, "earned in all");
    }

    function test_nobody_else_withdraws_earnings() public {
        expectUnauthorized(agent, IPODVault.Role.Owner);
        vm.prank(agent);
        vault.withdraw(agent, 1);
    }

    function test_the_owner_withdraws_no_more_than_the_earnings() public {
        expectInsufficient(78e6, 78e6 + 1);
        vm.prank(owner);
        vault.withdraw(owner, 78e6 + 1);
    }

    function test_the_owner_never_reaches_what_is_locked() public {
        IPODVault.Terms memory terms = someTerms();
        terms.salt = keccak256("another");
        funded(terms);
        vm.prank(owner);
        vault.withdraw(owner, 78e6);
        expectInsufficient(0, 1);
        vm.prank(owner);
        vault.withdraw(owner, 1);
    }

    // ------------------------------------------------------------------------------------------------- credits

    function test_each_party_withdraws_its_own_credit() public {
        vm.expectEmit(address(vault));
        emit IPODVault.CreditWithdrawn(creator, 15e6, stranger);
        vm.prank(creator);
        vault.withdrawCredit(stranger, 15e6);
        vm.prank(feeRecipient);
        vault.withdrawCredit(feeRecipient, 2e6);
        vm.assertEq(usdc.balanceOf(stranger), 15e6, "to whom the creator said");
        vm.assertEq(usdc.balanceOf(feeRecipient), 2e6, "fee");
        vm.assertEq(vault.credits(creator), 5e6, "left to the creator");
        vm.assertEq(vault.credits(feeRecipient), 0, "left to the fee recipient");
    }

    function test_nobody_withdraws_more_than_their_credit() public {
        expectInsufficient(20e6, 20e6 + 1);
        vm.prank(creator);
        vault.withdrawCredit(creator, 20e6 + 1);
        expectInsufficient(0, 1);
        vm.prank(stranger);
        vault.withdrawCredit(stranger, 1);
    }

    // ---------------------------------------------------------------------------------------------------- both

    function test_nothing_goes_to_nobody_or_to_the_vault_itself() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidAddress.selector, address(0)));
        vm.prank(owner);
        vault.withdraw(address(0), 1);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidAddress.selector, address(vault)));
        vm.prank(creator);
        vault.withdrawCredit(address(vault), 1);
    }

    function test_a_withdrawal_of_nothing_is_refused() public {
        vm.expectRevert(IPODVault.ZeroAmount.selector);
        vm.prank(owner);
        vault.withdraw(owner, 0);
        vm.expectRevert(IPODVault.ZeroAmount.selector);
        vm.prank(stranger);
        vault.withdrawCredit(stranger, 0);
    }

    function test_a_withdrawal_the_token_refuses_changes_nothing() public {
        usdc.setPaused(true);
        vm.expectRevert(TestUSDC.TokenPaused.selector);
        vm.prank(owner);
        vault.withdraw(owner, 78e6);
        vm.assertEq(vault.availableBalance(), 78e6, "still there");
    }

    function expectInsufficient(uint256 available, uint256 requested) private {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InsufficientBalance.selector, available, requested));
    }
}
