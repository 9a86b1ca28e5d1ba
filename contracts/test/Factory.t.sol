// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {PODVault} from "../src/PODVault.sol";
import {PODVaultFactory} from "../src/PODVaultFactory.sol";
import {IPODVaultFactory} from "../src/interfaces/IPODVaultFactory.sol";
import {ContractAccount} from "./utils/ContractAccount.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title How vaults are made, and told from impostors
contract FactoryTest is VaultFixture {
    string private constant OTHER_POD = "agent-124";

    // -------------------------------------------------------------------------------------------------- making

    function test_the_owner_makes_a_vault_where_it_was_foretold() public {
        address expected = factory.vaultOf(OTHER_POD, owner);
        vm.expectEmit(address(factory));
        emit IPODVaultFactory.VaultCreated(expected, owner, agent, OTHER_POD);
        vm.prank(owner);
        PODVault made = PODVault(factory.createPODVault(OTHER_POD, owner, agent, 0, ""));
        vm.assertEq(address(made), expected, "address");
        vm.assertEq(made.podId(), OTHER_POD, "podId");
        vm.assertEq(made.owner(), owner, "owner");
        vm.assertEq(made.agentWallet(), agent, "agentWallet");
    }

    function test_anyone_makes_a_vault_with_the_owners_signature() public {
        bytes memory signature = consentBy(ownerKey, OTHER_POD, owner, agent, NOW);
        vm.prank(stranger);
        PODVault made = PODVault(factory.createPODVault(OTHER_POD, owner, agent, NOW, signature));
        vm.assertEq(made.owner(), owner, "owner");
        vm.assertEq(made.agentWallet(), agent, "agentWallet");
    }

    function test_an_owner_that_is_a_contract_signs_too() public {
        ContractAccount safe = new ContractAccount();
        bytes32 structHash = keccak256(
            abi.encode(factory.CREATE_VAULT_TYPEHASH(), keccak256(bytes(OTHER_POD)), address(safe), agent, uint256(NOW))
        );
        safe.accept(typedDigest(domainOf("PODVaultFactory", "1", CRONOS, address(factory)), structHash), "yes");
        vm.prank(stranger);
        address made = factory.createPODVault(OTHER_POD, address(safe), agent, NOW, "yes");
        vm.assertEq(PODVault(made).owner(), address(safe), "owner");
    }

    function test_the_same_pod_of_another_owner_is_another_vault() public {
        vm.prank(stranger);
        address made = factory.createPODVault(POD_ID, stranger, agent, 0, "");
        vm.assertTrue(made != address(vault), "another address");
        vm.assertTrue(factory.isVault(made), "a vault as well");
    }

    function test_a_second_vault_of_the_same_pod_and_owner_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.VaultExists.selector, address(vault)));
        vm.prank(owner);
        factory.createPODVault(POD_ID, owner, stranger, 0, "");
    }

    function test_without_the_owners_signature_nobody_makes_a_vault() public {
        expectInvalidSignature();
        vm.prank(stranger);
        factory.createPODVault(OTHER_POD, owner, agent, NOW, "");
        bytes memory signature = consentBy(strangerKey, OTHER_POD, owner, agent, NOW);
        expectInvalidSignature();
        vm.prank(stranger);
        factory.createPODVault(OTHER_POD, owner, agent, NOW, signature);
    }

    function test_a_signature_for_another_pod_agent_or_time_is_refused() public {
        bytes memory signature = consentBy(ownerKey, OTHER_POD, owner, agent, NOW);
        expectInvalidSignature();
        vm.prank(stranger);
        factory.createPODVault("agent-125", owner, agent, NOW, signature);
        expectInvalidSignature();
        vm.prank(stranger);
        factory.createPODVault(OTHER_POD, owner, stranger, NOW, signature);
        expectInvalidSignature();
        vm.prank(stranger);
        factory.createPODVault(OTHER_POD, owner, agent, NOW + 1, signature);
    }

    function test_a_signature_past_its_deadline_is_refused() public {
        bytes memory signature = consentBy(ownerKey, OTHER_POD, owner, agent, NOW - 1);
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.SignatureExpired.selector, NOW - 1, NOW));
        vm.prank(stranger);
        factory.createPODVault(OTHER_POD, owner, agent, NOW - 1, signature);
    }

    function test_a_pod_without_a_name_or_with_an_endless_one_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidPodIdLength.selector, 0, 64));
        vm.prank(owner);
        factory.createPODVault("", owner, agent, 0, "");
        string memory tooLong = string(new bytes(65));
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidPodIdLength.selector, 65, 64));
        vm.prank(owner);
        factory.createPODVault(tooLong, owner, agent, 0, "");
        vm.prank(owner);
        factory.createPODVault(string(new bytes(64)), owner, agent, 0, "");
    }

    function test_a_pod_without_an_agent_wallet_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidAddress.selector, address(0)));
        vm.prank(owner);
        factory.createPODVault(OTHER_POD, owner, address(0), 0, "");
    }

    function test_a_factory_needs_a_token_and_a_forwarder_that_exist() public {
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidAddress.selector, stranger));
        new PODVaultFactory(IERC20(stranger), address(forwarder));
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidAddress.selector, stranger));
        new PODVaultFactory(usdc, stranger);
    }

    // ---------------------------------------------------------------------------------------------- telling apart

    function test_a_vault_is_known_by_its_address_and_code() public view {
        vm.assertTrue(factory.isVault(address(vault)), "isVault");
        vm.assertEq(address(vault).codehash, factory.vaultCodeHash(POD_ID, owner), "code hash");
        vm.assertEq(address(vault), factory.vaultOf(POD_ID, owner), "address");
    }

    function test_no_other_account_is_taken_for_a_vault() public view {
        vm.assertFalse(factory.isVault(address(0)), "nobody");
        vm.assertFalse(factory.isVault(stranger), "an account without code");
        vm.assertFalse(factory.isVault(address(usdc)), "another contract");
        vm.assertFalse(factory.isVault(factory.implementation()), "the code behind the vaults");
        vm.assertFalse(factory.isVault(factory.vaultOf(OTHER_POD, owner)), "a vault not made yet");
    }

    function test_a_vault_of_another_factory_is_an_impostor() public {
        PODVaultFactory other = new PODVaultFactory(usdc, address(forwarder));
        vm.prank(owner);
        address made = other.createPODVault(OTHER_POD, owner, agent, 0, "");
        vm.assertTrue(other.isVault(made), "there");
        vm.assertFalse(factory.isVault(made), "not here");
    }

    function test_the_same_code_at_another_address_is_an_impostor() public {
        address copy = Clones.cloneWithImmutableArgs(factory.implementation(), abi.encodePacked(owner, POD_ID));
        vm.assertEq(copy.codehash, address(vault).codehash, "the same code");
        vm.assertFalse(factory.isVault(copy), "another address");
    }

    function expectInvalidSignature() private {
        vm.expectRevert(abi.encodeWithSelector(IPODVaultFactory.InvalidOwnerSignature.selector, owner));
    }
}
