// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC2771Forwarder} from "@openzeppelin/contracts/metatx/ERC2771Forwarder.sol";

import {PODVault} from "../../src/PODVault.sol";
import {PODVaultFactory} from "../../src/PODVaultFactory.sol";
import {IPODVault} from "../../src/interfaces/IPODVault.sol";
import {TestUSDC} from "../../src/testing/TestUSDC.sol";
import {TestBase} from "./TestBase.sol";

/// @title One vault with its people, and the steps of a task's life
abstract contract VaultFixture is TestBase {
    uint256 internal constant CRONOS = 25;
    uint256 internal constant NOW = 1_800_000_000;
    string internal constant POD_ID = "agent-123";
    string internal constant METADATA = "{\"job\":\"summary\"}";
    bytes32 internal constant RESULT = keccak256("result");
    bytes32 internal constant REASON = keccak256("reason");

    bytes32 internal constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 internal constant RECEIVE_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 internal constant FORWARD_TYPEHASH = keccak256(
        "ForwardRequest(address from,address to,uint256 value,uint256 gas,uint256 nonce,uint48 deadline,bytes data)"
    );

    TestUSDC internal usdc;
    ERC2771Forwarder internal forwarder;
    PODVaultFactory internal factory;
    PODVault internal vault;

    address internal owner;
    address internal agent;
    address internal operator;
    address internal creator;
    address internal evaluator;
    address internal arbiter;
    address internal feeRecipient;
    address internal stranger;
    uint256 internal ownerKey;
    uint256 internal agentKey;
    uint256 internal creatorKey;
    uint256 internal strangerKey;

    function setUp() public virtual {
        vm.chainId(CRONOS);
        vm.warp(NOW);
        (owner, ownerKey) = account("owner");
        (agent, agentKey) = account("agent");
        (creator, creatorKey) = account("creator");
        (stranger, strangerKey) = account("stranger");
        (operator,) = account("operator");
        (evaluator,) = account("evaluator");
        (arbiter,) = account("arbiter");
        (feeRecipient,) = account("fee recipient");

        usdc = deployToken();
        forwarder = new ERC2771Forwarder("PalatineForwarder");
        factory = new PODVaultFactory(usdc, address(forwarder));
        vm.prank(owner);
        vault = PODVault(factory.createPODVault(POD_ID, owner, agent, 0, ""));
        vm.prank(owner);
        vault.setSettings(IPODVault.Settings({arbiter: arbiter, feeRecipient: feeRecipient, feeBps: 250}));
        vm.prank(owner);
        vault.setOperator(operator, true);
        usdc.mint(creator, 1_000_000e6);
        vm.prank(creator);
        usdc.approve(address(vault), type(uint256).max);
    }

    function deployToken() internal virtual returns (TestUSDC) {
        return new TestUSDC("1", address(this));
    }

    // ------------------------------------------------------------------------------------------- terms and steps

    function someTerms() internal view returns (IPODVault.Terms memory) {
        return IPODVault.Terms({
            creator: creator,
            evaluator: evaluator,
            arbiter: arbiter,
            feeRecipient: feeRecipient,
            amount: 100e6,
            minPaid: 40e6,
            submitBy: uint40(NOW + 1 days),
            reviewPeriod: 2 days,
            arbiterPeriod: 3 days,
            defaultAgentBps: 6_000,
            feeBps: 250,
            metadataHash: keccak256(bytes(METADATA)),
            salt: keccak256("salt")
        });
    }

    function funded(IPODVault.Terms memory terms) internal returns (bytes32 taskId) {
        vm.prank(terms.creator);
        return vault.createTask(terms, METADATA);
    }

    function submitted(IPODVault.Terms memory terms) internal returns (bytes32 taskId) {
        taskId = funded(terms);
        vm.prank(agent);
        vault.submit(terms, RESULT);
    }

    function disputed(IPODVault.Terms memory terms) internal returns (bytes32 taskId) {
        taskId = submitted(terms);
        vm.prank(terms.creator);
        vault.dispute(terms, REASON);
    }

    // ----------------------------------------------------------------------------------------------- signatures

    function permitBy(uint256 key, IPODVault.Terms memory terms, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        address payer = vm.addr(key);
        bytes32 structHash =
            keccak256(abi.encode(PERMIT_TYPEHASH, payer, address(vault), terms.amount, usdc.nonces(payer), deadline));
        return signed(key, typedDigest(usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function authorizationDigest(IPODVault.Terms memory terms, uint256 validAfter, uint256 validBefore)
        internal
        view
        returns (bytes32)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                RECEIVE_TYPEHASH,
                terms.creator,
                address(vault),
                uint256(terms.amount),
                validAfter,
                validBefore,
                vault.taskIdOf(terms)
            )
        );
        return typedDigest(usdc.DOMAIN_SEPARATOR(), structHash);
    }

    function authorizationBy(uint256 key, IPODVault.Terms memory terms) internal view returns (bytes memory) {
        return signed(key, authorizationDigest(terms, 0, NOW + 1 hours));
    }

    function consentBy(uint256 key, string memory podId, address owner_, address agentWallet_, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(factory.CREATE_VAULT_TYPEHASH(), keccak256(bytes(podId)), owner_, agentWallet_, deadline)
        );
        bytes32 domain = domainOf("PODVaultFactory", "1", block.chainid, address(factory));
        return signed(key, typedDigest(domain, structHash));
    }

    function forwardRequest(uint256 key, bytes memory data)
        internal
        view
        returns (ERC2771Forwarder.ForwardRequestData memory)
    {
        address from = vm.addr(key);
        uint48 deadline = uint48(block.timestamp + 1 hours);
        bytes32 structHash = keccak256(
            abi.encode(
                FORWARD_TYPEHASH,
                from,
                address(vault),
                uint256(0),
                uint256(1_000_000),
                forwarder.nonces(from),
                deadline,
                keccak256(data)
            )
        );
        bytes32 domain = domainOf("PalatineForwarder", "1", block.chainid, address(forwarder));
        return ERC2771Forwarder.ForwardRequestData({
            from: from,
            to: address(vault),
            value: 0,
            gas: 1_000_000,
            deadline: deadline,
            data: data,
            signature: signed(key, typedDigest(domain, structHash))
        });
    }

    // ----------------------------------------------------------------------------------------------- expectations

    function assertState(bytes32 taskId, IPODVault.State expected, uint256 expectedDeadline) internal view {
        (,, IPODVault.State state,, uint40 deadline) = vault.tasks(taskId);
        vm.assertEq(uint256(state), uint256(expected), "state");
        vm.assertEq(deadline, expectedDeadline, "deadline");
    }

    function expectUnauthorized(address caller, IPODVault.Role role) internal {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.Unauthorized.selector, caller, role));
    }

    function expectWrongState(bytes32 taskId, IPODVault.State actual, IPODVault.State required) internal {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.WrongState.selector, taskId, actual, required));
    }

    function expectOutOfBounds(IPODVault.Field field, uint256 value, uint256 min, uint256 max) internal {
        vm.expectRevert(abi.encodeWithSelector(IPODVault.OutOfBounds.selector, field, value, min, max));
    }
}
