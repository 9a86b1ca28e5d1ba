// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {ContractAccount} from "./utils/ContractAccount.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title Creation, by its three ways
contract CreateTaskTest is VaultFixture {
    // --------------------------------------------------------------------------------------------- by allowance

    function test_the_creator_locks_the_amount() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 expected = vault.taskIdOf(terms);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskCreated(expected, 100e6, creator);
        vm.expectEmit(address(vault));
        emit IPODVault.TaskTerms(expected, terms, METADATA);
        bytes32 taskId = funded(terms);

        vm.assertEq(taskId, expected, "id");
        (uint96 amount, address payer, IPODVault.State state, uint40 timestamp, uint40 deadline) = vault.tasks(taskId);
        vm.assertEq(amount, 100e6, "amount");
        vm.assertEq(payer, creator, "creator");
        vm.assertEq(uint256(state), uint256(IPODVault.State.Funded), "state");
        vm.assertEq(timestamp, NOW, "timestamp");
        vm.assertEq(deadline, terms.submitBy, "deadline");
        vm.assertEq(usdc.balanceOf(address(vault)), 100e6, "locked");
        vm.assertEq(usdc.balanceOf(creator), 999_900e6, "paid");
        vm.assertEq(vault.availableBalance() + vault.totalEarnings() + vault.totalTasks(), 0, "nothing earned yet");
    }

    function test_nobody_creates_a_task_for_another_payer() public {
        IPODVault.Terms memory terms = someTerms();
        expectUnauthorized(stranger, IPODVault.Role.Creator);
        vm.prank(stranger);
        vault.createTask(terms, METADATA);
    }

    function test_the_same_terms_make_no_second_task() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.TaskExists.selector, taskId));
        vm.prank(creator);
        vault.createTask(terms, METADATA);
    }

    function test_the_terms_of_an_ended_task_make_no_second_task() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.prank(agent);
        vault.decline(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.TaskExists.selector, taskId));
        vm.prank(creator);
        vault.createTask(terms, METADATA);
    }

    function test_another_salt_makes_another_task() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 first = funded(terms);
        terms.salt = keccak256("another");
        vm.assertTrue(funded(terms) != first, "another id");
    }

    function test_a_pause_stops_creation() public {
        vm.prank(owner);
        vault.setPaused(true);
        vm.expectRevert(IPODVault.CreationIsPaused.selector);
        vm.prank(creator);
        vault.createTask(someTerms(), METADATA);
    }

    function test_without_an_allowance_the_token_refuses() public {
        vm.prank(creator);
        usdc.approve(address(vault), 1);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(vault), 1, 100e6)
        );
        vm.prank(creator);
        vault.createTask(someTerms(), METADATA);
    }

    // --------------------------------------------------------------------------------------------------- bounds

    function test_an_amount_of_zero_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        (terms.amount, terms.minPaid) = (0, 0);
        refused(terms, IPODVault.Field.Amount, 0, 1, type(uint96).max);
    }

    function test_a_floor_above_the_amount_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.minPaid = terms.amount + 1;
        refused(terms, IPODVault.Field.MinPaid, 100e6 + 1, 0, 100e6);
    }

    function test_a_time_to_submit_outside_its_bounds_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.submitBy = uint40(NOW + 1 minutes - 1);
        refused(terms, IPODVault.Field.SubmitBy, terms.submitBy, NOW + 1 minutes, NOW + 365 days);
        terms.submitBy = uint40(NOW + 365 days + 1);
        refused(terms, IPODVault.Field.SubmitBy, terms.submitBy, NOW + 1 minutes, NOW + 365 days);
    }

    function test_a_review_outside_its_bounds_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.reviewPeriod = 1 minutes - 1;
        refused(terms, IPODVault.Field.ReviewPeriod, terms.reviewPeriod, 1 minutes, 30 days);
        terms.reviewPeriod = 30 days + 1;
        refused(terms, IPODVault.Field.ReviewPeriod, terms.reviewPeriod, 1 minutes, 30 days);
    }

    function test_an_arbiters_time_outside_its_bounds_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.arbiterPeriod = 1 minutes - 1;
        refused(terms, IPODVault.Field.ArbiterPeriod, terms.arbiterPeriod, 1 minutes, 90 days);
        terms.arbiterPeriod = 90 days + 1;
        refused(terms, IPODVault.Field.ArbiterPeriod, terms.arbiterPeriod, 1 minutes, 90 days);
    }

    function test_a_default_of_more_than_all_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.defaultAgentBps = 10_001;
        refused(terms, IPODVault.Field.DefaultAgentBps, 10_001, 0, 10_000);
    }

    function test_the_bounds_themselves_are_accepted() public {
        IPODVault.Terms memory terms = someTerms();
        (terms.amount, terms.minPaid, terms.defaultAgentBps) = (1, 1, 10_000);
        (terms.submitBy, terms.reviewPeriod, terms.arbiterPeriod) = (uint40(NOW + 1 minutes), 1 minutes, 1 minutes);
        assertState(funded(terms), IPODVault.State.Funded, terms.submitBy);
        (terms.minPaid, terms.defaultAgentBps) = (0, 0);
        (terms.submitBy, terms.reviewPeriod, terms.arbiterPeriod) = (uint40(NOW + 365 days), 30 days, 90 days);
        assertState(funded(terms), IPODVault.State.Funded, terms.submitBy);
    }

    function test_terms_with_another_arbiter_or_fee_than_the_vaults_are_refused() public {
        IPODVault.Terms memory terms = someTerms();
        terms.arbiter = stranger;
        refusedForSettings(terms);
        terms = someTerms();
        terms.feeRecipient = stranger;
        refusedForSettings(terms);
        terms = someTerms();
        terms.feeBps = 0;
        refusedForSettings(terms);
    }

    function test_metadata_of_another_hash_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        vm.expectRevert(
            abi.encodeWithSelector(IPODVault.MetadataMismatch.selector, terms.metadataHash, keccak256("other"))
        );
        vm.prank(creator);
        vault.createTask(terms, "other");
    }

    function test_metadata_over_its_cap_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        string memory longest = string(new bytes(1_024));
        terms.metadataHash = keccak256(bytes(longest));
        vm.prank(creator);
        vault.createTask(terms, longest);

        string memory tooLong = string(new bytes(1_025));
        expectOutOfBounds(IPODVault.Field.MetadataLength, 1_025, 0, 1_024);
        vm.prank(creator);
        vault.createTask(otherSalt(terms), tooLong);
    }

    // ------------------------------------------------------------------------------------------------ by permit

    function test_the_creator_brings_a_permit_of_their_own() public {
        IPODVault.Terms memory terms = withoutAllowance();
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        vm.prank(creator);
        bytes32 taskId = vault.createTaskWithPermit(terms, METADATA, NOW, permit, "");
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
        vm.assertEq(usdc.balanceOf(address(vault)), 100e6, "locked");
    }

    function test_anyone_brings_the_creators_permit_and_signed_terms() public {
        IPODVault.Terms memory terms = withoutAllowance();
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        bytes memory consent = signed(creatorKey, vault.taskIdOf(terms));
        vm.prank(stranger);
        bytes32 taskId = vault.createTaskWithPermit(terms, METADATA, NOW, permit, consent);
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
    }

    function test_a_contract_accounts_signed_terms_are_accepted() public {
        ContractAccount payer = new ContractAccount();
        IPODVault.Terms memory terms = someTerms();
        terms.creator = address(payer);
        usdc.mint(address(payer), 100e6);
        vm.prank(address(payer));
        usdc.approve(address(vault), 100e6);
        payer.accept(vault.taskIdOf(terms), "yes");
        vm.prank(stranger);
        bytes32 taskId = vault.createTaskWithPermit(terms, METADATA, NOW, "", "yes");
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
    }

    function test_a_permit_alone_moves_nothing() public {
        IPODVault.Terms memory terms = withoutAllowance();
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        expectInvalidCreatorSignature(terms);
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, permit, "");
    }

    function test_terms_signed_by_another_are_refused() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory consent = signed(strangerKey, vault.taskIdOf(terms));
        expectInvalidCreatorSignature(terms);
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, "", consent);
    }

    function test_a_signature_over_other_terms_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory consent = signed(creatorKey, vault.taskIdOf(terms));
        terms.minPaid = 0;
        expectInvalidCreatorSignature(terms);
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, "", consent);
    }

    function test_a_permit_that_is_no_good_leaves_it_to_the_allowance() public {
        IPODVault.Terms memory terms = withoutAllowance();
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(vault), 0, 100e6)
        );
        vm.prank(creator);
        vault.createTaskWithPermit(terms, METADATA, NOW, "no permit", "");
    }

    // ----------------------------------------------------------------------------------------- by authorization

    function test_anyone_brings_the_creators_authorization() public {
        IPODVault.Terms memory terms = withoutAllowance();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        vm.prank(stranger);
        bytes32 taskId = vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
        vm.assertEq(usdc.balanceOf(address(vault)), 100e6, "locked");
        vm.assertTrue(usdc.authorizationState(creator, taskId), "the nonce is the task's id");
    }

    function test_a_contract_accounts_authorization_is_accepted() public {
        ContractAccount payer = new ContractAccount();
        IPODVault.Terms memory terms = someTerms();
        terms.creator = address(payer);
        usdc.mint(address(payer), 100e6);
        payer.accept(authorizationDigest(terms, 0, NOW + 1 hours), "of any length");
        vm.prank(stranger);
        bytes32 taskId = vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, "of any length");
        assertState(taskId, IPODVault.State.Funded, terms.submitBy);
    }

    function test_an_authorization_past_its_time_is_refused() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory authorization = authorizationBy(creatorKey, terms);
        vm.warp(NOW + 1 hours);
        vm.expectRevert();
        vm.prank(stranger);
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, authorization);
    }

    // --------------------------------------------------------------------------------------------------- the id

    function test_the_id_is_the_typed_digest_of_the_terms() public view {
        IPODVault.Terms memory terms = someTerms();
        bytes32 structHash = keccak256(
            bytes.concat(
                abi.encode(
                    vault.TERMS_TYPEHASH(),
                    terms.creator,
                    terms.evaluator,
                    terms.arbiter,
                    terms.feeRecipient,
                    terms.amount,
                    terms.minPaid
                ),
                abi.encode(
                    terms.submitBy,
                    terms.reviewPeriod,
                    terms.arbiterPeriod,
                    terms.defaultAgentBps,
                    terms.feeBps,
                    terms.metadataHash,
                    terms.salt
                )
            )
        );
        vm.assertEq(vault.hashTerms(terms), structHash, "struct hash");
        bytes32 domain = domainOf("PODVault", "1", block.chainid, address(vault));
        vm.assertEq(vault.taskIdOf(terms), typedDigest(domain, structHash), "digest");
    }

    // ------------------------------------------------------------------------------------------------------ help

    function refused(IPODVault.Terms memory terms, IPODVault.Field field, uint256 value, uint256 min, uint256 max)
        private
    {
        expectOutOfBounds(field, value, min, max);
        vm.prank(creator);
        vault.createTask(terms, METADATA);
    }

    function refusedForSettings(IPODVault.Terms memory terms) private {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.SettingsMismatch.selector, arbiter, feeRecipient, 250));
        vm.prank(creator);
        vault.createTask(terms, METADATA);
    }

    function expectInvalidCreatorSignature(IPODVault.Terms memory terms) private {
        bytes32 taskId = vault.taskIdOf(terms);
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidCreatorSignature.selector, terms.creator, taskId));
    }

    function withoutAllowance() private returns (IPODVault.Terms memory) {
        vm.prank(creator);
        usdc.approve(address(vault), 0);
        return someTerms();
    }

    function otherSalt(IPODVault.Terms memory terms) private pure returns (IPODVault.Terms memory) {
        terms.salt = keccak256("other");
        return terms;
    }
}
