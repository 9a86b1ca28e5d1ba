// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC2771Forwarder} from "@openzeppelin/contracts/metatx/ERC2771Forwarder.sol";

import {IPODVault} from "../src/interfaces/IPODVault.sol";
import {SeedPODVault} from "./baseline/SeedPODVault.sol";
import {VaultFixture} from "./utils/VaultFixture.sol";

/// @title Deploys what it is handed
/// @dev forge does not measure a creation by itself; a call whose calldata is the creation code costs the same but for
/// what is taken off in the test.
contract Deployer {
    function deploy(bytes calldata code) external {
        bytes memory copy = code;
        assembly ("memory-safe") {
            if iszero(create(0, add(copy, 0x20), mload(copy))) { revert(0, 0) }
        }
    }
}

/// @title The bars on gas, against the seed's contract on the same token
/// @dev Every call is a transaction of its own here: what is measured holds the 21,000 and the calldata, and no slot is
/// warm. Both vaults have seen a task before, so that sums go from one non-zero value to another, as they do in life.
/// forge-config: default.isolate = true
contract GasTest is VaultFixture {
    /// @dev More than a call of the deployer costs beyond the creation itself, so that the bar is the stricter for it.
    uint256 private constant DEPLOYER_OVERHEAD = 5_000;

    SeedPODVault private seed;

    function setUp() public override {
        super.setUp();
        seed = new SeedPODVault(POD_ID, owner, agent, address(usdc));
        vm.prank(creator);
        usdc.approve(address(seed), type(uint256).max);
        seedTask(keccak256("first"));
        IPODVault.Terms memory terms = someTerms();
        terms.salt = keccak256("first");
        task(terms);
    }

    function test_a_deployment_costs_at_most_a_quarter_of_the_seed() public {
        bytes memory args = abi.encode("agent-124", owner, agent, address(usdc));
        new Deployer().deploy(bytes.concat(type(SeedPODVault).creationCode, args));
        uint256 whole = measured("deploy: seed") - DEPLOYER_OVERHEAD;

        vm.prank(owner);
        factory.createPODVault("agent-124", owner, agent, 0, "");
        vm.assertLe(4 * measured("deploy: by the owner"), whole, "by the owner");

        bytes memory signature = consentBy(ownerKey, "agent-125", owner, agent, NOW);
        vm.prank(stranger);
        factory.createPODVault("agent-125", owner, agent, NOW, signature);
        vm.assertLe(4 * measured("deploy: by anyone, with the owner's signature"), whole, "by signature");
    }

    function test_creation_and_completion_cost_at_most_thirteen_tenths_of_the_seed() public {
        (uint256 seedCreate, uint256 seedComplete) = seedTask(keccak256("second"));
        (uint256 create, uint256 submit, uint256 complete) = task(someTerms());
        print("seed: create + complete", seedCreate + seedComplete);
        print("vault: create + complete", create + complete);
        print("vault: create + submit + complete", create + submit + complete);
        vm.assertLe(10 * (create + complete), 13 * (seedCreate + seedComplete), "createTask and completeTask");
        vm.assertLe(10 * (create + submit + complete), 13 * (seedCreate + seedComplete), "with the result handed in");
    }

    function test_creation_by_signature() public {
        IPODVault.Terms memory terms = someTerms();
        bytes memory signature = authorizationBy(creatorKey, terms);
        vm.prank(stranger);
        vault.createTaskWithAuthorization(terms, METADATA, 0, NOW + 1 hours, signature);
        measured("createTaskWithAuthorization");

        terms.salt = keccak256("permit");
        bytes memory permit = permitBy(creatorKey, terms, NOW);
        bytes memory consent = signed(creatorKey, vault.taskIdOf(terms));
        vm.prank(stranger);
        vault.createTaskWithPermit(terms, METADATA, NOW, permit, consent);
        measured("createTaskWithPermit, by anyone");
    }

    function test_the_other_ways_a_task_ends() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        vm.warp(terms.submitBy);
        vm.prank(stranger);
        vault.refund(terms);
        measured("refund");

        vm.warp(NOW);
        terms.salt = keccak256("declined");
        funded(terms);
        vm.prank(agent);
        vault.decline(terms);
        measured("decline");

        terms.salt = keccak256("claimed");
        submitted(terms);
        vm.warp(NOW + 2 days);
        vm.prank(stranger);
        vault.claim(terms);
        measured("claim");

        vm.warp(NOW);
        terms.salt = keccak256("resolved");
        submitted(terms);
        vm.prank(creator);
        vault.dispute(terms, REASON);
        measured("dispute");
        vm.prank(arbiter);
        vault.resolve(terms, 50e6);
        measured("resolve");
    }

    function test_withdrawals() public {
        vm.prank(owner);
        vault.withdraw(owner, 1e6);
        measured("withdraw");
        vm.prank(feeRecipient);
        vault.withdrawCredit(feeRecipient, 1e6);
        measured("withdrawCredit");
    }

    function test_a_call_through_the_forwarder() public {
        IPODVault.Terms memory terms = someTerms();
        funded(terms);
        ERC2771Forwarder.ForwardRequestData memory request =
            forwardRequest(agentKey, abi.encodeCall(IPODVault.submit, (terms, RESULT)));
        vm.prank(stranger);
        forwarder.execute(request);
        measured("submit, forwarded");
    }

    function seedTask(bytes32 taskId) private returns (uint256 create, uint256 complete) {
        vm.prank(creator);
        seed.createTask(taskId, 100e6, METADATA);
        create = measured("seed: createTask");
        vm.prank(agent);
        seed.completeTask(taskId);
        complete = measured("seed: completeTask");
    }

    function task(IPODVault.Terms memory terms) private returns (uint256 create, uint256 submit, uint256 complete) {
        vm.prank(creator);
        vault.createTask(terms, METADATA);
        create = measured("createTask");
        vm.prank(agent);
        vault.submit(terms, RESULT);
        submit = measured("submit");
        vm.prank(creator);
        vault.completeTask(terms, terms.amount);
        complete = measured("completeTask");
    }

    function measured(string memory what) private view returns (uint256 gas) {
        gas = vm.lastCallGas().gasTotalUsed;
        print(what, gas);
    }
}
