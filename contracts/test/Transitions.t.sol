// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title The life of a task, row by row of the table in README.md
contract TransitionsTest is VaultFixture {
    // -------------------------------------------------------------------------------------------------- submit

    function test_the_agent_submits_before_the_deadline() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.warp(terms.submitBy - 1);
        uint256 reviewBy = block.timestamp + 2 days;
        vm.expectEmit(address(vault));
        emit IPODVault.TaskSubmitted(taskId, agent, RESULT, reviewBy);
        vm.prank(agent);
        vault.submit(terms, RESULT);
        assertState(taskId, IPODVault.State.Submitted, reviewBy);
    }

    function test_an_operator_submits_too() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.prank(operator);
        vault.submit(terms, RESULT);
        assertState(taskId, IPODVault.State.Submitted, NOW + 2 days);
    }

    function test_nobody_else_submits() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        expectUnauthorized(owner, IPODVault.Role.AgentOrOperator);
        vm.prank(owner);
        vault.submit(terms, RESULT);
    }

    function test_a_result_at_the_deadline_is_too_late() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.warp(terms.submitBy);
        expectDeadlinePassed(taskId, terms.submitBy);
        vm.prank(agent);
        vault.submit(terms, RESULT);
    }

    // ------------------------------------------------------------------------------------------------- decline

    function test_the_agent_declines_and_the_creator_is_credited() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskDeclined(taskId, agent);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskRefunded(taskId, 100e6);
        vm.expectEmit(address(vault));
        emit IPODVault.Credited(creator, 100e6, taskId);
        vm.prank(agent);
        vault.decline(terms);
        assertState(taskId, IPODVault.State.Refunded, 0);
        assertBalances(0, 100e6, 0);
    }

    function test_an_operator_does_not_decline() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        expectUnauthorized(operator, IPODVault.Role.Agent);
        vm.prank(operator);
        vault.decline(terms);
    }

    // -------------------------------------------------------------------------------------------------- refund

    function test_anyone_refunds_at_the_deadline() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.warp(terms.submitBy);
        vm.prank(stranger);
        vault.refund(terms);
        assertState(taskId, IPODVault.State.Refunded, 0);
        assertBalances(0, 100e6, 0);
    }

    function test_nobody_refunds_before_the_deadline() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.warp(terms.submitBy - 1);
        expectDeadlineNotReached(taskId, terms.submitBy);
        vm.prank(creator);
        vault.refund(terms);
    }

    // ------------------------------------------------------------------------------------------------ complete

    function test_the_creator_completes_in_whole() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.expectEmit(address(vault));
        emit IPODVault.Credited(feeRecipient, 2.5e6, taskId);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskCompleted(taskId, 97.5e6);
        vm.prank(creator);
        vault.completeTask(terms, 100e6);
        assertState(taskId, IPODVault.State.Completed, 0);
        assertBalances(97.5e6, 0, 2.5e6);
        vm.assertEq(vault.totalTasks(), 1, "totalTasks");
    }

    function test_the_evaluator_completes_in_part_and_the_rest_goes_back() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.expectEmit(address(vault));
        emit IPODVault.Credited(feeRecipient, 1e6, taskId);
        vm.expectEmit(address(vault));
        emit IPODVault.Credited(creator, 60e6, taskId);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskCompleted(taskId, 39e6);
        vm.prank(evaluator);
        vault.completeTask(terms, 40e6);
        assertBalances(39e6, 60e6, 1e6);
    }

    function test_a_credit_of_nothing_is_not_spoken_of() public {
        IPODVault.Terms memory terms = someTerms();
        terms.amount = terms.minPaid = 1;
        submitted(terms);
        vm.recordLogs();
        vm.prank(creator);
        vault.completeTask(terms, 1);
        vm.assertEq(vm.getRecordedLogs().length, 1, "TaskCompleted alone: no fee of one unit, no rest");
    }

    function test_a_completion_after_the_review_is_as_good() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.warp(NOW + 30 days);
        vm.prank(creator);
        vault.completeTask(terms, 100e6);
        assertState(taskId, IPODVault.State.Completed, 0);
    }

    function test_the_agent_does_not_complete() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        expectUnauthorized(agent, IPODVault.Role.CreatorOrEvaluator);
        vm.prank(agent);
        vault.completeTask(terms, 100e6);
    }

    function test_pay_outside_what_was_agreed_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        expectOutOfBounds(IPODVault.Field.Paid, 40e6 - 1, 40e6, 100e6);
        vm.prank(creator);
        vault.completeTask(terms, 40e6 - 1);
        expectOutOfBounds(IPODVault.Field.Paid, 100e6 + 1, 40e6, 100e6);
        vm.prank(creator);
        vault.completeTask(terms, 100e6 + 1);
    }

    // ------------------------------------------------------------------------------------------------- dispute

    function test_the_creator_disputes_before_the_review_ends() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.warp(NOW + 2 days - 1);
        uint256 arbiterBy = block.timestamp + 3 days;
        vm.expectEmit(address(vault));
        emit IPODVault.TaskDisputed(taskId, REASON, arbiterBy);
        vm.prank(creator);
        vault.dispute(terms, REASON);
        assertState(taskId, IPODVault.State.Disputed, arbiterBy);
    }

    function test_the_evaluator_does_not_dispute() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        expectUnauthorized(evaluator, IPODVault.Role.Creator);
        vm.prank(evaluator);
        vault.dispute(terms, REASON);
    }

    function test_a_dispute_at_the_end_of_the_review_is_too_late() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.warp(NOW + 2 days);
        expectDeadlinePassed(taskId, NOW + 2 days);
        vm.prank(creator);
        vault.dispute(terms, REASON);
    }

    // --------------------------------------------------------------------------------------------------- claim

    function test_anyone_claims_for_the_pod_once_the_review_has_ended() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.warp(NOW + 2 days);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskClaimed(taskId, stranger);
        vm.prank(stranger);
        vault.claim(terms);
        assertState(taskId, IPODVault.State.Completed, 0);
        assertBalances(97.5e6, 0, 2.5e6);
    }

    function test_nobody_claims_during_the_review() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = submitted(terms);
        vm.warp(NOW + 2 days - 1);
        expectDeadlineNotReached(taskId, NOW + 2 days);
        vm.prank(agent);
        vault.claim(terms);
    }

    // ------------------------------------------------------------------------------------------------- resolve

    function test_the_arbiter_splits_the_amount() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = disputed(terms);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskResolved(taskId, 19.5e6, false);
        vm.prank(arbiter);
        vault.resolve(terms, 20e6);
        assertState(taskId, IPODVault.State.Resolved, 0);
        assertBalances(19.5e6, 80e6, 0.5e6);
        vm.assertEq(vault.totalTasks(), 0, "not a completed task");
    }

    function test_the_arbiter_gives_all_or_nothing() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        vm.prank(arbiter);
        vault.resolve(terms, 0);
        assertBalances(0, 100e6, 0);
        terms.salt = keccak256("another");
        disputed(terms);
        vm.prank(arbiter);
        vault.resolve(terms, 100e6);
        assertBalances(97.5e6, 100e6, 2.5e6);
    }

    function test_the_arbiter_gives_no_more_than_there_is() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        expectOutOfBounds(IPODVault.Field.AgentAmount, 100e6 + 1, 0, 100e6);
        vm.prank(arbiter);
        vault.resolve(terms, 100e6 + 1);
    }

    function test_nobody_else_resolves() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        expectUnauthorized(owner, IPODVault.Role.Arbiter);
        vm.prank(owner);
        vault.resolve(terms, 100e6);
    }

    function test_a_resolution_at_the_end_of_the_arbiters_time_is_too_late() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = disputed(terms);
        vm.warp(NOW + 3 days);
        expectDeadlinePassed(taskId, NOW + 3 days);
        vm.prank(arbiter);
        vault.resolve(terms, 50e6);
    }

    // ------------------------------------------------------------------------------------------ defaultResolve

    function test_anyone_applies_the_default_once_the_arbiters_time_has_ended() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = disputed(terms);
        vm.warp(NOW + 3 days);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskResolved(taskId, 58.5e6, true);
        vm.prank(stranger);
        vault.defaultResolve(terms);
        assertState(taskId, IPODVault.State.Resolved, 0);
        assertBalances(58.5e6, 40e6, 1.5e6);
    }

    function test_nobody_applies_the_default_during_the_arbiters_time() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = disputed(terms);
        vm.warp(NOW + 3 days - 1);
        expectDeadlineNotReached(taskId, NOW + 3 days);
        vm.prank(stranger);
        vault.defaultResolve(terms);
    }

    // ---------------------------------------------------------------------------------------------- all others

    function test_terms_of_no_task_lead_nowhere() public {
        refusedEverywhere(someTerms(), IPODVault.State.None);
    }

    function test_altered_terms_are_those_of_no_task() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        terms.minPaid = 0;
        bytes32 taskId = vault.taskIdOf(terms);
        expectWrongState(taskId, IPODVault.State.None, IPODVault.State.Submitted);
        vm.prank(creator);
        vault.completeTask(terms, 0);
    }

    function test_a_funded_task_takes_no_step_of_a_later_state() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        refusedFromSubmitted(terms, IPODVault.State.Funded);
        refusedFromDisputed(terms, IPODVault.State.Funded);
    }

    function test_a_submitted_task_takes_no_step_of_another_state() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        refusedFromFunded(terms, IPODVault.State.Submitted);
        refusedFromDisputed(terms, IPODVault.State.Submitted);
    }

    function test_a_disputed_task_takes_no_step_of_an_earlier_state() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        refusedFromFunded(terms, IPODVault.State.Disputed);
        refusedFromSubmitted(terms, IPODVault.State.Disputed);
    }

    function test_a_refunded_task_takes_no_step() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        vm.prank(agent);
        vault.decline(terms);
        refusedEverywhere(terms, IPODVault.State.Refunded);
    }

    function test_a_completed_task_takes_no_step() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        vm.prank(creator);
        vault.completeTask(terms, terms.amount);
        refusedEverywhere(terms, IPODVault.State.Completed);
    }

    function test_a_resolved_task_takes_no_step() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        vm.prank(arbiter);
        vault.resolve(terms, 1);
        refusedEverywhere(terms, IPODVault.State.Resolved);
    }

    // ----------------------------------------------------------------------------------------------- snapshots

    function test_new_settings_do_not_reach_a_live_task() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: stranger, feeRecipient: stranger, feeBps: 1_000}));
        expectUnauthorized(stranger, IPODVault.Role.Arbiter);
        vm.prank(stranger);
        vault.resolve(terms, 0);
        vm.prank(arbiter);
        vault.resolve(terms, 100e6);
        assertBalances(97.5e6, 0, 2.5e6);
        vm.assertEq(vault.credits(stranger), 0, "the new recipient");
    }

    function test_a_pause_stops_no_exit() public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        vm.prank(owner);
        vault.setPaused(true);
        vm.prank(arbiter);
        vault.resolve(terms, 50e6);
        vm.prank(creator);
        vault.withdrawCredit(creator, 50e6);
        vm.prank(owner);
        vault.withdraw(owner, 1e6);
    }

    // ------------------------------------------------------------------------------------------------------ help

    function refusedEverywhere(IPODVault.Terms memory terms, IPODVault.State state) private {
        refusedFromFunded(terms, state);
        refusedFromSubmitted(terms, state);
        refusedFromDisputed(terms, state);
    }

    function refusedFromFunded(IPODVault.Terms memory terms, IPODVault.State state) private {
        refused(state, IPODVault.State.Funded, agent, terms, abi.encodeCall(IPODVault.submit, (terms, RESULT)));
        refused(state, IPODVault.State.Funded, agent, terms, abi.encodeCall(IPODVault.decline, (terms)));
        refused(state, IPODVault.State.Funded, stranger, terms, abi.encodeCall(IPODVault.refund, (terms)));
    }

    function refusedFromSubmitted(IPODVault.Terms memory terms, IPODVault.State state) private {
        bytes memory complete = abi.encodeCall(IPODVault.completeTask, (terms, terms.amount));
        refused(state, IPODVault.State.Submitted, creator, terms, complete);
        refused(state, IPODVault.State.Submitted, creator, terms, abi.encodeCall(IPODVault.dispute, (terms, REASON)));
        refused(state, IPODVault.State.Submitted, stranger, terms, abi.encodeCall(IPODVault.claim, (terms)));
    }

    function refusedFromDisputed(IPODVault.Terms memory terms, IPODVault.State state) private {
        refused(state, IPODVault.State.Disputed, arbiter, terms, abi.encodeCall(IPODVault.resolve, (terms, 1)));
        refused(state, IPODVault.State.Disputed, stranger, terms, abi.encodeCall(IPODVault.defaultResolve, (terms)));
    }

    function refused(
        IPODVault.State actual,
        IPODVault.State required,
        address caller,
        IPODVault.Terms memory terms,
        bytes memory data
    ) private {
        bytes32 taskId = vault.taskIdOf(terms);
        vm.prank(caller);
        (bool success, bytes memory reason) = address(vault).call(data);
        vm.assertFalse(success, "a step not in the table");
        bytes memory expected = abi.encodeWithSelector(IPODVault.WrongState.selector, taskId, actual, required);
        vm.assertEq(keccak256(reason), keccak256(expected), "reason");
    }

    function assertBalances(uint256 available, uint256 ofCreator, uint256 ofFeeRecipient) private view {
        vm.assertEq(vault.availableBalance(), available, "availableBalance");
        vm.assertEq(vault.totalEarnings(), available, "totalEarnings");
        vm.assertEq(vault.credits(creator), ofCreator, "credit of the creator");
        vm.assertEq(vault.credits(feeRecipient), ofFeeRecipient, "credit of the fee recipient");
        vm.assertEq(usdc.balanceOf(address(vault)), available + ofCreator + ofFeeRecipient, "what the vault holds");
    }

    function expectDeadlinePassed(bytes32 taskId, uint256 deadline) private {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.DeadlinePassed.selector, taskId, deadline, block.timestamp));
    }

    function expectDeadlineNotReached(bytes32 taskId, uint256 deadline) private {
        vm.expectRevert(
            abi.encodeWithSelector(IPODVault.DeadlineNotReached.selector, taskId, deadline, block.timestamp)
        );
    }
}
