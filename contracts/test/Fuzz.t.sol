// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PODVault} from "../src/PODVault.sol";
import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title What holds for any amount, time, terms and signature
contract FuzzTest is VaultFixture {
    // ------------------------------------------------------------------------------------------------- amounts

    function testFuzz_a_completion_pays_out_the_amount_to_the_last_unit(uint96 amount, uint96 paid, uint16 feeBps)
        public
    {
        IPODVault.Terms memory terms = termsOf(amount, feeBps);
        terms.minPaid = 0;
        paid = uint96(within(paid, 0, terms.amount));
        submitted(terms);
        vm.prank(creator);
        vault.completeTask(terms, paid);
        assertPaidOut(terms, paid);
    }

    function testFuzz_a_resolution_pays_out_the_amount_to_the_last_unit(uint96 amount, uint96 share, uint16 feeBps)
        public
    {
        IPODVault.Terms memory terms = termsOf(amount, feeBps);
        share = uint96(within(share, 0, terms.amount));
        disputed(terms);
        vm.prank(arbiter);
        vault.resolve(terms, share);
        assertPaidOut(terms, share);
    }

    function testFuzz_the_default_pays_out_the_amount_to_the_last_unit(uint96 amount, uint16 bps, uint16 feeBps)
        public
    {
        IPODVault.Terms memory terms = termsOf(amount, feeBps);
        terms.defaultAgentBps = uint16(within(bps, 0, 10_000));
        disputed(terms);
        vm.warp(NOW + terms.arbiterPeriod);
        vault.defaultResolve(terms);
        assertPaidOut(terms, uint256(terms.amount) * terms.defaultAgentBps / 10_000);
    }

    // -------------------------------------------------------------------------------------------------- times

    function testFuzz_at_any_time_a_funded_task_is_submitted_or_refunded_and_never_both(uint40 time) public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        vm.warp(within(time, NOW, NOW + 10 days));
        bool early = block.timestamp < terms.submitBy;
        exactlyOne(
            early, agent, abi.encodeCall(IPODVault.submit, (terms, RESULT)), abi.encodeCall(IPODVault.refund, (terms))
        );
    }

    function testFuzz_at_any_time_a_result_is_disputed_or_claimed_and_never_both(uint40 time) public {
        IPODVault.Terms memory terms = someTerms();
        submitted(terms);
        vm.warp(within(time, NOW, NOW + 10 days));
        bool early = block.timestamp < NOW + terms.reviewPeriod;
        exactlyOne(
            early, creator, abi.encodeCall(IPODVault.dispute, (terms, REASON)), abi.encodeCall(IPODVault.claim, (terms))
        );
    }

    function testFuzz_at_any_time_a_dispute_is_the_arbiters_or_the_defaults_and_never_both(uint40 time) public {
        IPODVault.Terms memory terms = someTerms();
        disputed(terms);
        vm.warp(within(time, NOW, NOW + 10 days));
        bool early = block.timestamp < NOW + terms.arbiterPeriod;
        exactlyOne(
            early,
            arbiter,
            abi.encodeCall(IPODVault.resolve, (terms, 1)),
            abi.encodeCall(IPODVault.defaultResolve, (terms))
        );
    }

    // ----------------------------------------------------------------------------------------------- signatures

    function testFuzz_no_forged_signature_debits_the_creator(bytes calldata forged, address sender) public {
        vm.assume(sender != creator && sender != address(forwarder) && uint160(sender) > 0xffff);
        IPODVault.Terms memory terms = someTerms();
        vm.prank(sender);
        (bool success,) =
            address(vault).call(abi.encodeCall(IPODVault.createTaskWithPermit, (terms, METADATA, NOW, forged, forged)));
        vm.assertFalse(success, "by permit");
        vm.prank(sender);
        (success,) = address(vault)
            .call(abi.encodeCall(IPODVault.createTaskWithAuthorization, (terms, METADATA, 0, NOW + 1 hours, forged)));
        vm.assertFalse(success, "by authorization");
        vm.assertEq(usdc.balanceOf(creator), 1_000_000e6, "balance");
    }

    function testFuzz_any_change_of_the_terms_changes_the_id(uint256 field, uint256 change) public view {
        bytes memory encoded = abi.encode(someTerms());
        IPODVault.Terms memory terms = abi.decode(encoded, (IPODVault.Terms));
        bytes32 before = vault.taskIdOf(terms);
        uint256 offset = 32 * (1 + field % 13);
        // One bit, of those that every type here has.
        uint256 bit = 1 << (change % 16);
        assembly ("memory-safe") {
            let word := add(encoded, offset)
            mstore(word, xor(mload(word), bit))
        }
        vm.assertTrue(vault.taskIdOf(abi.decode(encoded, (IPODVault.Terms))) != before, "another id");
    }

    // -------------------------------------------------------------------------------------------------- vaults

    function testFuzz_every_vault_is_where_it_was_foretold_and_known_there(bytes32 name, uint8 length, address owner_)
        public
    {
        vm.assume(owner_ != address(0));
        bytes memory id = new bytes(within(length, 1, 64));
        for (uint256 i = 0; i < id.length; ++i) {
            id[i] = name[i % 32];
        }
        string memory podId = string(id);
        address expected = factory.vaultOf(podId, owner_);
        vm.assertFalse(factory.isVault(expected), "not yet");
        vm.prank(owner_);
        vm.assertEq(factory.createPODVault(podId, owner_, agent, 0, ""), expected, "address");
        vm.assertTrue(factory.isVault(expected), "isVault");
        vm.assertEq(PODVault(expected).podId(), podId, "podId");
    }

    // ----------------------------------------------------------------------------------------------------- help

    function termsOf(uint96 amount, uint16 feeBps) private returns (IPODVault.Terms memory terms) {
        terms = someTerms();
        terms.amount = uint96(within(amount, 1, type(uint96).max));
        terms.minPaid = 0;
        terms.feeBps = uint16(within(feeBps, 0, 1_000));
        usdc.mint(creator, terms.amount);
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: feeRecipient, feeBps: terms.feeBps}));
    }

    function assertPaidOut(IPODVault.Terms memory terms, uint256 paid) private view {
        uint256 fee = paid * terms.feeBps / 10_000;
        vm.assertEq(vault.availableBalance(), paid - fee, "earned");
        vm.assertEq(vault.credits(feeRecipient), fee, "fee");
        vm.assertEq(vault.credits(creator), terms.amount - paid, "rest");
        vm.assertEq(usdc.balanceOf(address(vault)), terms.amount, "all of it still here");
    }

    function exactlyOne(bool early, address caller, bytes memory before, bytes memory afterwards) private {
        (bytes memory good, bytes memory bad) = early ? (before, afterwards) : (afterwards, before);
        vm.prank(caller);
        (bool success,) = address(vault).call(bad);
        vm.assertFalse(success, "out of its time");
        vm.prank(caller);
        (success,) = address(vault).call(good);
        vm.assertTrue(success, "in its time");
    }
}
