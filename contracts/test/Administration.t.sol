// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PODVault} from "../src/PODVault.sol";
import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title What the owner sets, and how keys are rotated
contract AdministrationTest is VaultFixture {
    // ------------------------------------------------------------------------------------------------- identity

    function test_a_new_vault_knows_its_pod_and_people() public view {
        vm.assertEq(vault.podId(), POD_ID, "podId");
        vm.assertEq(vault.owner(), owner, "owner");
        vm.assertEq(vault.agentWallet(), agent, "agentWallet");
        vm.assertEq(address(vault.usdc()), address(usdc), "usdc");
        vm.assertEq(vault.factory(), address(factory), "factory");
        vm.assertEq(vault.trustedForwarder(), address(forwarder), "forwarder");
        vm.assertEq(vault.pendingOwner(), address(0), "pendingOwner");
        vm.assertEq(vault.pendingAgentWallet(), address(0), "pendingAgentWallet");
        vm.assertFalse(vault.paused(), "paused");
    }

    function test_a_vault_states_its_typed_data_domain() public view {
        (bytes1 fields, string memory name, string memory version, uint256 chain, address verifier,,) =
            vault.eip712Domain();
        vm.assertEq(bytes32(fields), bytes32(hex"0f"), "fields");
        vm.assertEq(name, "PODVault", "name");
        vm.assertEq(version, "1", "version");
        vm.assertEq(chain, CRONOS, "chain");
        vm.assertEq(verifier, address(vault), "the vault, not the code behind it");
    }

    function test_only_the_factory_initializes() public {
        expectUnauthorized(owner, IPODVault.Role.Factory);
        vm.prank(owner);
        vault.initialize(owner, owner);
    }

    function test_the_code_behind_the_vaults_is_no_vault() public {
        PODVault implementation = PODVault(factory.implementation());
        vm.expectRevert(IPODVault.NotAVault.selector);
        implementation.podId();
        vm.expectRevert(IPODVault.CreationIsPaused.selector);
        vm.prank(creator);
        implementation.createTask(someTerms(), METADATA);
        expectUnauthorized(stranger, IPODVault.Role.Factory);
        vm.prank(stranger);
        implementation.initialize(stranger, stranger);
        expectUnauthorized(stranger, IPODVault.Role.Owner);
        vm.prank(stranger);
        implementation.setPaused(false);
        expectUnauthorized(stranger, IPODVault.Role.PendingOwner);
        vm.prank(stranger);
        implementation.acceptOwnership();
    }

    // ------------------------------------------------------------------------------------------------ operators

    function test_the_owner_sets_and_removes_an_operator() public {
        vm.expectEmit(address(vault));
        emit IPODVault.OperatorSet(stranger, true);
        vm.prank(owner);
        vault.setOperator(stranger, true);
        vm.assertTrue(vault.authorizedOperators(stranger), "set");
        vm.prank(owner);
        vault.setOperator(stranger, false);
        vm.assertFalse(vault.authorizedOperators(stranger), "removed");
    }

    function test_a_removed_operator_submits_no_more() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        vm.prank(owner);
        vault.setOperator(operator, false);
        expectUnauthorized(operator, IPODVault.Role.AgentOrOperator);
        vm.prank(operator);
        vault.submit(terms, RESULT);
    }

    // ------------------------------------------------------------------------------------------------- settings

    function test_the_owner_sets_arbiter_and_fee() public {
        IPODVault.Settings memory settings =
            IPODVault.Settings({arbiter: stranger, feeRecipient: creator, feeBps: 1_000});
        vm.expectEmit(address(vault));
        emit IPODVault.SettingsChanged(settings);
        vm.prank(owner);
        vault.setSettings(settings);
        IPODVault.Settings memory stored = vault.settings();
        vm.assertEq(stored.arbiter, stranger, "arbiter");
        vm.assertEq(stored.feeRecipient, creator, "feeRecipient");
        vm.assertEq(stored.feeBps, 1_000, "feeBps");
    }

    function test_a_vault_can_do_without_arbiter_and_fee() public {
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: address(0), feeRecipient: address(0), feeBps: 0}));
        IPODVault.Terms memory terms = someTerms();
        (terms.arbiter, terms.feeRecipient, terms.feeBps) = (address(0), address(0), 0);
        submitted(terms);
        vm.prank(creator);
        vault.completeTask(terms, 100e6);
        vm.assertEq(vault.availableBalance(), 100e6, "all of it");
    }

    function test_a_fee_over_its_cap_is_refused() public {
        expectOutOfBounds(IPODVault.Field.FeeBps, 1_001, 0, 1_000);
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: feeRecipient, feeBps: 1_001}));
    }

    function test_a_fee_for_nobody_or_for_the_vault_itself_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidAddress.selector, address(0)));
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: address(0), feeBps: 1}));
        vm.expectRevert(abi.encodeWithSelector(IPODVault.InvalidAddress.selector, address(vault)));
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: address(vault), feeBps: 0}));
    }

    function test_the_owner_stops_creation_and_allows_it_again() public {
        vm.expectEmit(address(vault));
        emit IPODVault.CreationPaused(true);
        vm.prank(owner);
        vault.setPaused(true);
        vm.assertTrue(vault.paused(), "paused");
        vm.prank(owner);
        vault.setPaused(false);
        assertState(funded(someTerms()), IPODVault.State.Funded, NOW + 1 days);
    }

    function test_nobody_else_sets_anything() public {
        expectUnauthorized(stranger, IPODVault.Role.Owner);
        vm.prank(stranger);
        vault.setOperator(stranger, true);
        expectUnauthorized(stranger, IPODVault.Role.Owner);
        vm.prank(stranger);
        vault.setSettings(IPODVault.Settings({arbiter: stranger, feeRecipient: stranger, feeBps: 1_000}));
        expectUnauthorized(agent, IPODVault.Role.Owner);
        vm.prank(agent);
        vault.setPaused(true);
        expectUnauthorized(stranger, IPODVault.Role.Owner);
        vm.prank(stranger);
        vault.transferOwnership(stranger);
        expectUnauthorized(agent, IPODVault.Role.Owner);
        vm.prank(agent);
        vault.proposeAgentWallet(agent);
    }

    // ------------------------------------------------------------------------------------------------- rotation

    function test_the_vault_changes_hands_in_two_steps() public {
        vm.expectEmit(address(vault));
        emit IPODVault.OwnershipTransferStarted(owner, stranger);
        vm.prank(owner);
        vault.transferOwnership(stranger);
        vm.assertEq(vault.owner(), owner, "not yet");
        vm.assertEq(vault.pendingOwner(), stranger, "offered");

        vm.expectEmit(address(vault));
        emit IPODVault.OwnershipTransferred(owner, stranger);
        vm.prank(stranger);
        vault.acceptOwnership();
        vm.assertEq(vault.owner(), stranger, "accepted");
        vm.assertEq(vault.pendingOwner(), address(0), "no offer left");
        expectUnauthorized(owner, IPODVault.Role.Owner);
        vm.prank(owner);
        vault.setPaused(true);
        vm.assertTrue(factory.isVault(address(vault)), "known by its first owner still");
    }

    function test_nobody_but_the_offered_takes_the_vault() public {
        vm.prank(owner);
        vault.transferOwnership(stranger);
        expectUnauthorized(agent, IPODVault.Role.PendingOwner);
        vm.prank(agent);
        vault.acceptOwnership();
    }

    function test_an_offer_taken_back_is_not_accepted() public {
        vm.prank(owner);
        vault.transferOwnership(stranger);
        vm.prank(owner);
        vault.transferOwnership(address(0));
        expectUnauthorized(stranger, IPODVault.Role.PendingOwner);
        vm.prank(stranger);
        vault.acceptOwnership();
    }

    function test_the_agent_wallet_is_rotated_in_two_steps() public {
        vm.expectEmit(address(vault));
        emit IPODVault.AgentWalletProposed(agent, stranger);
        vm.prank(owner);
        vault.proposeAgentWallet(stranger);
        vm.assertEq(vault.agentWallet(), agent, "not yet");
        vm.assertEq(vault.pendingAgentWallet(), stranger, "proposed");

        vm.expectEmit(address(vault));
        emit IPODVault.AgentWalletChanged(agent, stranger);
        vm.prank(stranger);
        vault.acceptAgentWallet();
        vm.assertEq(vault.agentWallet(), stranger, "accepted");
        vm.assertEq(vault.pendingAgentWallet(), address(0), "no proposal left");
    }

    function test_a_rotated_agent_loses_the_role_and_the_new_one_has_it_for_live_tasks() public {
        IPODVault.Terms memory terms = someTerms();
        bytes32 taskId = funded(terms);
        vm.prank(owner);
        vault.proposeAgentWallet(stranger);
        vm.prank(stranger);
        vault.acceptAgentWallet();
        expectUnauthorized(agent, IPODVault.Role.AgentOrOperator);
        vm.prank(agent);
        vault.submit(terms, RESULT);
        vm.prank(stranger);
        vault.submit(terms, RESULT);
        assertState(taskId, IPODVault.State.Submitted, NOW + 2 days);
    }

    function test_nobody_but_the_proposed_becomes_the_agent() public {
        vm.prank(owner);
        vault.proposeAgentWallet(stranger);
        expectUnauthorized(agent, IPODVault.Role.PendingAgent);
        vm.prank(agent);
        vault.acceptAgentWallet();
    }
}
