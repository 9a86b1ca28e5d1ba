// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

import {TestUSDC} from "../src/testing/TestUSDC.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title The stand-in for the token does what the real one does
contract TestUSDCTest is VaultFixture {
    bytes32 private constant NONCE = keccak256("nonce");

    function test_it_has_the_real_tokens_name_decimals_and_domain() public view {
        vm.assertEq(usdc.name(), "Bridged USDC (Stargate)", "name");
        vm.assertEq(usdc.symbol(), "USDC.e", "symbol");
        vm.assertEq(usdc.decimals(), 6, "decimals");
        vm.assertEq(usdc.version(), "1", "version");
        bytes32 domain = domainOf("Bridged USDC (Stargate)", "1", CRONOS, address(usdc));
        vm.assertEq(usdc.DOMAIN_SEPARATOR(), domain, "domain");
    }

    function test_its_version_is_part_of_its_domain() public {
        TestUSDC other = new TestUSDC("2", address(this));
        vm.assertEq(other.version(), "2", "version");
        bytes32 domain = domainOf("Bridged USDC (Stargate)", "2", CRONOS, address(other));
        vm.assertEq(other.DOMAIN_SEPARATOR(), domain, "domain");
    }

    function test_only_its_minter_mints_blocklists_and_pauses() public {
        expectNotMinter();
        vm.prank(stranger);
        usdc.mint(stranger, 1);
        expectNotMinter();
        vm.prank(stranger);
        usdc.setBlacklisted(creator, true);
        expectNotMinter();
        vm.prank(stranger);
        usdc.setPaused(true);
    }

    function test_a_blocklisted_account_neither_sends_nor_receives() public {
        usdc.setBlacklisted(stranger, true);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.Blacklisted.selector, stranger));
        vm.prank(creator);
        usdc.transfer(stranger, 1);
        usdc.setBlacklisted(stranger, false);
        vm.prank(creator);
        usdc.transfer(stranger, 1);
        usdc.setBlacklisted(stranger, true);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.Blacklisted.selector, stranger));
        vm.prank(stranger);
        usdc.transfer(creator, 1);
    }

    function test_nothing_moves_while_it_is_paused() public {
        usdc.setPaused(true);
        vm.expectRevert(TestUSDC.TokenPaused.selector);
        vm.prank(creator);
        usdc.transfer(stranger, 1);
    }

    function test_a_permit_of_the_owner_is_good_once() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(creatorKey, permitDigest(NOW));
        usdc.permit(creator, stranger, 7, NOW, v, r, s);
        vm.assertEq(usdc.allowance(creator, stranger), 7, "allowance");
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.InvalidPermit.selector, creator));
        usdc.permit(creator, stranger, 7, NOW, v, r, s);
    }

    function test_a_permit_past_its_deadline_is_refused() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(creatorKey, permitDigest(NOW - 1));
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.PermitExpired.selector, NOW - 1));
        usdc.permit(creator, stranger, 7, NOW - 1, v, r, s);
    }

    function test_only_the_payee_uses_an_authorization_to_receive() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(creatorKey, receiveDigest());
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, stranger));
        vm.prank(creator);
        usdc.receiveWithAuthorization(creator, stranger, 7, 0, NOW + 1, NONCE, v, r, s);
        vm.prank(stranger);
        usdc.receiveWithAuthorization(creator, stranger, 7, 0, NOW + 1, NONCE, v, r, s);
        vm.assertEq(usdc.balanceOf(stranger), 7, "received");
    }

    function test_an_authorization_by_another_is_refused() public {
        bytes memory signature = signed(strangerKey, receiveDigest());
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        vm.prank(stranger);
        usdc.receiveWithAuthorization(creator, stranger, 7, 0, NOW + 1, NONCE, signature);
    }

    function permitDigest(uint256 deadline) private view returns (bytes32) {
        bytes32 structHash =
            keccak256(abi.encode(PERMIT_TYPEHASH, creator, stranger, uint256(7), usdc.nonces(creator), deadline));
        return typedDigest(usdc.DOMAIN_SEPARATOR(), structHash);
    }

    function receiveDigest() private view returns (bytes32) {
        bytes32 structHash =
            keccak256(abi.encode(RECEIVE_TYPEHASH, creator, stranger, uint256(7), uint256(0), uint256(NOW + 1), NONCE));
        return typedDigest(usdc.DOMAIN_SEPARATOR(), structHash);
    }

    function expectNotMinter() private {
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.NotMinter.selector, stranger));
    }
}
