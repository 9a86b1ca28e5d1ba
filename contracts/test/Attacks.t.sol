// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC2771Forwarder} from "@openzeppelin/contracts/metatx/ERC2771Forwarder.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {PODVault} from "../src/PODVault.sol";
import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {IPODVaultFactory} from "../src/interfaces/IPODVaultFactory.sol";
import {TestUSDC} from "../src/testing/TestUSDC.sol";
import {HostileToken} from "./utils/HostileToken.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title Attacks on signatures, ids and the forwarder, each by name
contract AttacksTest is VaultFixture {
    // ------------------------------------------------------------------------------------------- authorizations

    function test_front_run_an_authorization_taken_out_of_the_mempool_is_of_no_use_at_the_token() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = vault.taskIdOf(terms);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(creatorKey, authorizationDigest(terms, 0, NOW + 1 hours));
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(vault)));
        vm.prank(stranger);
        usdc.receiveWithAuthorization(creator, address(vault), 100e6, 0, NOW + 1 hours, taskId, v, r, s);
        vm.expectRevert();
        vm.prank(stranger);
        usdc.transferWithAuthorization(creator, address(vault), 100e6, 0, NOW + 1 hours, taskId, v, r, s);
        vm.assertEq(usdc.balanceOf(address(vault)), 0, "nothing is stranded");
    }

    function test_front_run_an_authorization_makes_no_task_of_other_terms() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        terms.evaluator = stranger;
        refusedByTheToken(terms, authorization);
        terms = someTerms();
        terms.defaultAgentBps = 10_000;
        refusedByTheToken(terms, authorization);
        terms = someTerms();
        terms.salt = keccak256("another");
        refusedByTheToken(terms, authorization);
    }

    function test_front_run_a_creation_by_authorization_is_the_creation_asked_for() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        vm.prank(stranger);
        bytes32 taskId = vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
        (, address payer,,,) = vault.tasks(taskId);
        vm.assertEq(payer, creator, "the stranger paid the gas, and that is all");
    }

    function test_replay_an_authorization_is_good_once() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
        bytes32 taskId = vault.taskIdOf(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.TaskExists.selector, taskId));
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
        vm.prank(agent);
        vault.decline(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.TaskExists.selector, taskId));
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
    }

    function test_replay_signed_terms_are_good_once() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = vault.taskIdOf(terms);
        bytes memory consent = signed(creatorKey, taskId);
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, "", consent);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.TaskExists.selector, taskId));
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, "", consent);
    }

    function test_cross_chain_signatures_of_one_chain_are_no_good_on_another() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        bytes memory consent = signed(creatorKey, vault.taskIdOf(terms));
        bytes32 here = vault.taskIdOf(terms);
        vm.chainId(338);
        vm.assertTrue(vault.taskIdOf(terms) != here, "another chain, another id");
        refusedByTheToken(terms, authorization);
        bytes32 there = vault.taskIdOf(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidCreatorSignature.selector, creator, there));
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, "", consent);
    }

    function test_cross_vault_signatures_for_one_vault_are_no_good_at_another() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        vm.prank(owner);
        vault = PODVault(factory.createPODVault("agent-124", owner, agent, 0, ""));
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: feeRecipient, feeBps: 250}));
        refusedByTheToken(terms, authorization);
    }

    function test_cross_chain_an_owners_consent_is_no_good_on_another_chain() public {
        bytes memory signature = consentBy(ownerKey, "agent-124", owner, agent, NOW);
        vm.chainId(338);
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidOwnerSignature.selector, owner));
        vm.prank(stranger);
        factory.createPODVault("agent-124", owner, agent, NOW, signature);
    }

    // ------------------------------------------------------------------------------------------------- permits

    function test_griefing_a_permit_used_by_another_first_does_no_harm() public {
        vm.prank(creator);
        usdc.approve(address(vault), 0);
        IPODVault.Terms memory terms = someTerms();
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        (uint8 v, bytes32 r, bytes32 s) = parts(permit);
        vm.prank(stranger);
        usdc.permit(creator, address(vault), 100e6, NOW, v, r, s);
        vm.prank(creator);
        bytes32 taskId = vault.createTaskWithPermit(terms, METADATA, NOW, permit, "");
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
    }

    function test_squatting_a_permit_taken_by_another_pays_for_no_task_of_theirs() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        terms.evaluator = stranger;
        terms.minPaid = 0;
        bytes memory consent = signed(strangerKey, vault.taskIdOf(terms));
        bytes32 taskId = vault.taskIdOf(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidCreatorSignature.selector, creator, taskId));
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, permit, consent);
    }

    // ----------------------------------------------------------------------------------------------------- ids

    function test_squatting_nobody_takes_the_id_of_anothers_task() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = vault.taskIdOf(terms);
        IPODVault.Terms memory copy = someTerms();
        copy.creator = stranger;
        usdc.mint(stranger, 100e6);
        vm.prank(stranger);
        usdc.approve(address(vault), 100e6);
        bytes32 squatted = funded(copy);
        vm.assertTrue(squatted != taskId, "an id of their own");
        vm.assertEq(funded(terms), taskId, "the creator's is still free");
    }

    // ----------------------------------------------------------------------------------------------- forwarder

    function test_the_forwarder_brings_a_signed_call() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        ERC2771Forwarder.ForwardRequestData memory request =
            forwardRequest(agentKey, abi.encodeCall(IPODVault.submit, (terms, RESULT)));
        vm.expectEmit(address(vault));
        emit IPODVault.TaskSubmitted(taskId, agent, RESULT, NOW + 2 days);
        vm.prank(stranger);
        forwarder.execute(request);
    }

    function test_forged_sender_an_untrusted_forwarder_speaks_for_itself_only() public {
        ERC2771Forwarder untrusted = new ERC2771Forwarder("PalatineForwarder");
        bytes memory forged = abi.encodePacked(abi.encodeCall(IPODVault.setPaused, (true)), owner);
        vm.prank(address(untrusted));
        (bool success, bytes memory reason) = address(vault).call(forged);
        vm.assertFalse(success, "twenty bytes at the end are not a sender");
        bytes memory expected =
            abi.encodeWithSelector(IPODVault.Unauthorized.selector, address(untrusted), IPODVault.Role.Owner);
        vm.assertEq(keccak256(reason), keccak256(expected), "reason");
    }

    function test_forged_sender_a_request_signed_by_another_is_not_forwarded() public {
        ERC2771Forwarder.ForwardRequestData memory request =
            forwardRequest(strangerKey, abi.encodeCall(IPODVault.setPaused, (true)));
        request.from = owner;
        vm.expectRevert();
        vm.prank(stranger);
        forwarder.execute(request);
        vm.assertFalse(vault.paused(), "not paused");
    }

    function test_forged_sender_bytes_a_signer_appends_do_not_change_the_sender() public {
        bytes memory data = abi.encodePacked(abi.encodeCall(IPODVault.setPaused, (true)), owner);
        ERC2771Forwarder.ForwardRequestData memory request = forwardRequest(strangerKey, data);
        vm.expectRevert();
        vm.prank(stranger);
        forwarder.execute(request);
        vm.assertFalse(vault.paused(), "not paused");
    }

    function test_forged_sender_the_vault_cannot_be_made_to_call_itself() public {
        (bool success,) = address(vault).call(abi.encodeWithSignature("multicall(bytes[])", new bytes[](1)));
        vm.assertFalse(success, "there is no multicall");
    }

    function test_replay_a_forwarded_request_is_good_once() public {
        ERC2771Forwarder.ForwardRequestData memory request =
            forwardRequest(ownerKey, abi.encodeCall(IPODVault.setPaused, (true)));
        forwarder.execute(request);
        vm.expectRevert();
        forwarder.execute(request);
    }

    // -------------------------------------------------------------------------------------------- blocked parties

    function test_a_blocklisted_creator_locks_nobody_else() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        usdc.setBlacklisted(creator, true);
        vm.prank(evaluator);
        vault.completeTask(terms, 40e6);
        vm.prank(owner);
        vault.withdraw(owner, 39e6);
        vm.prank(feeRecipient);
        vault.withdrawCredit(feeRecipient, 1e6);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.Blacklisted.selector, creator));
        vm.prank(creator);
        vault.withdrawCredit(creator, 60e6);
        vm.assertEq(vault.credits(creator), 60e6, "kept for the day it can be sent");
    }

    function test_a_blocklisted_fee_recipient_locks_nobody_else() public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        usdc.setBlacklisted(feeRecipient, true);
        vm.prank(creator);
        vault.completeTask(terms, 100e6);
        vm.prank(owner);
        vault.withdraw(owner, 97.5e6);
        vm.assertEq(vault.credits(feeRecipient), 2.5e6, "kept");
    }

    // ---------------------------------------------------------------------------------------------------- gifts

    function test_a_gift_of_tokens_is_nobodys_earnings() public {
        vm.prank(creator);
        usdc.transfer(address(vault), 5e6);
        vm.assertEq(vault.availableBalance(), 0, "not earned");
        assertState(funded(someTerms()), IPODVault.State.Funded, NOW + 1 days);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InsufficientBalance.selector, 0, 1));
        vm.prank(owner);
        vault.withdraw(owner, 1);
    }

    function refusedByTheToken(IPODVault.Terms memory terms, bytes memory authorization) private {
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        vm.prank(stranger);
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
    }

    function parts(bytes memory signature) private pure returns (uint8 v, bytes32 r, bytes32 s) {
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
            v := byte(0, mload(add(signature, 0x60)))
        }
    }
}

/// @title Attacks by the token itself
contract HostileTokenTest is VaultFixture {
    HostileToken private hostile;

    function deployToken() internal override returns (TestUSDC) {
        hostile = new HostileToken(address(this));
        return hostile;
    }

    function test_a_token_that_returns_false_funds_nothing() public {
        hostile.setTrick(HostileToken.Trick.ReturnsFalse);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(hostile)));
        funded(someTerms());
    }

    function test_a_token_that_only_pretends_to_move_funds_nothing() public {
        hostile.setTrick(HostileToken.Trick.Pretends);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.UnexpectedBalance.selector, 100e6, 0));
        funded(someTerms());

        bytes memory authorization = authorizationBy(creatorKey, someTerms());
        vm.expectRevert(abi.encodeWithSelector(IPODVault.UnexpectedBalance.selector, 100e6, 0));
        vault.createTaskWithAuthorization(someTerms(), METADATA, 0, NOW + 1 hours, authorization);
    }

    function test_a_token_that_takes_a_fee_funds_nothing() public {
        hostile.setTrick(HostileToken.Trick.TakesFee);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.UnexpectedBalance.selector, 100e6, 100e6 - 1));
        funded(someTerms());
    }

    function test_a_token_that_returns_false_takes_no_balance_away() public {
        completed();
        hostile.setTrick(HostileToken.Trick.ReturnsFalse);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(hostile)));
        vm.prank(owner);
        vault.withdraw(owner, 1e6);
        vm.assertEq(vault.availableBalance(), 39e6, "still there");
    }

    function test_a_token_that_reenters_a_withdrawal_gets_nothing_more() public {
        completed();
        reenterWith(someTerms());
        vm.prank(creator);
        vault.withdrawCredit(creator, 10e6);
        vm.assertEq(hostile.attempts(), 13, "it tried them all");
        vm.assertEq(hostile.refusals(), 13, "in vain");
        vm.assertEq(vault.credits(creator), 50e6, "once");
    }

    function test_a_token_that_reenters_a_creation_gets_nothing() public {
        IPODVault.Terms memory terms = someTerms();
        reenterWith(terms);
        assertState(funded(terms), IPODVault.State.Funded, terms.submitBy);
        vm.assertEq(hostile.attempts(), 13, "it tried them all");
        vm.assertEq(hostile.refusals(), 13, "in vain");
    }

    function completed() private {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        vm.prank(creator);
        vault.completeTask(terms, 40e6);
    }

    /// @dev Everything that moves or assigns money, called by a token that has the agent's role.
    function reenterWith(IPODVault.Terms memory terms) private {
        vm.prank(owner);
        vault.proposeAgentWallet(address(hostile));
        vm.prank(address(hostile));
        vault.acceptAgentWallet();
        IPODVault.Terms memory another = someTerms();
        another.salt = keccak256("re-entry");
        bytes[] memory calls = new bytes[](13);
        calls[0] = abi.encodeCall(IPODVault.submit, (terms, RESULT));
        calls[1] = abi.encodeCall(IPODVault.decline, (terms));
        calls[2] = abi.encodeCall(IPODVault.refund, (terms));
        calls[3] = abi.encodeCall(IPODVault.completeTask, (terms, terms.amount));
        calls[4] = abi.encodeCall(IPODVault.claim, (terms));
        calls[5] = abi.encodeCall(IPODVault.resolve, (terms, 0));
        calls[6] = abi.encodeCall(IPODVault.defaultResolve, (terms));
        calls[7] = abi.encodeCall(IPODVault.withdrawCredit, (stranger, 1));
        calls[8] = abi.encodeCall(IPODVault.withdraw, (stranger, 1));
        calls[9] = abi.encodeCall(
            IPODVault.createTaskWithPermit, (another, METADATA, NOW, "", signed(creatorKey, vault.taskIdOf(another)))
        );
        calls[10] = abi.encodeCall(IPODVault.dispute, (terms, REASON));
        calls[11] = abi.encodeCall(
            IPODVault.createTaskWithAuthorization,
            (another, METADATA, 0, NOW + 1 hours, authorizationBy(creatorKey, another))
        );
        calls[12] = abi.encodeCall(IPODVault.createTask, (another, METADATA));
        hostile.setReentry(address(vault), calls);
        hostile.setTrick(HostileToken.Trick.Reenters);
    }
}
