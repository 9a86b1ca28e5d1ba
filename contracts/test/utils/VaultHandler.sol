// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PODVault} from "../../src/PODVault.sol";
import {IPODVault} from "../../src/interfaces/IPODVault.sol";
import {TestUSDC} from "../../src/testing/TestUSDC.sol";
import {HostileToken} from "./HostileToken.sol";
import {Ledger} from "./Ledger.sol";
import {VaultFixture} from "./VaultFixture.sol";
import {Vm} from "./Vm.sol";

/// @title A vault under random calls, beside a model of it
/// @dev Every call is made whether or not the model allows it, and must then succeed or fail as the model says. So a
/// handler never reverts but for a broken promise.
contract VaultHandler is VaultFixture {
    enum Step {
        Submit,
        Decline,
        Refund,
        Complete,
        Dispute,
        Claim,
        Resolve,
        DefaultResolve
    }

    enum Way {
        Allowance,
        Permit,
        PermitAlone,
        PermitOfAnother,
        Authorization,
        AuthorizationOfAnother,
        AuthorizationOfOtherTerms
    }

    struct Model {
        IPODVault.State state;
        uint256 deadline;
    }

    uint256 private constant PAYERS = 3;
    uint256 private constant NEWEST = 4;
    uint256 private constant MINTED = 1_000_000e6;

    HostileToken public token;
    Ledger public ledger;

    /// @notice All who act, the payers first.
    address[] public people;
    mapping(address => uint256) private _keys;
    address private _heir;
    address private _secondAgent;

    bytes32[] public ids;
    mapping(bytes32 taskId => IPODVault.Terms) private _terms;
    mapping(bytes32 taskId => Model) public model;

    /// @notice What the vault was given unasked.
    uint256 public gifts;
    /// @notice What each payer must hold, had nothing but consent and withdrawals moved it.
    mapping(address => uint256) public expectedHolding;
    /// @notice How often each step was taken, to see that the fuzzer gets about.
    mapping(Step => uint256) public taken;

    function setUp() public override {
        super.setUp();
        ledger = new Ledger();
        (address second, uint256 secondKey) = account("second creator");
        (address third, uint256 thirdKey) = account("third creator");
        (_heir,) = account("heir");
        (_secondAgent,) = account("second agent");
        people = [
            creator,
            second,
            third,
            evaluator,
            arbiter,
            feeRecipient,
            agent,
            operator,
            owner,
            stranger,
            _heir,
            _secondAgent
        ];
        (_keys[creator], _keys[second], _keys[third]) = (creatorKey, secondKey, thirdKey);
        for (uint256 i = 0; i < PAYERS; ++i) {
            token.mint(people[i], MINTED - token.balanceOf(people[i]));
            _approve(people[i]);
            expectedHolding[people[i]] = MINTED;
        }
    }

    function deployToken() internal override returns (TestUSDC) {
        token = new HostileToken(address(this));
        return token;
    }

    function theVault() external view returns (PODVault) {
        return vault;
    }

    function countIds() external view returns (uint256) {
        return ids.length;
    }

    function countPeople() external view returns (uint256) {
        return people.length;
    }

    // ------------------------------------------------------------------------------------------------- creation

    function create(uint256 seed, uint256 amount, uint256 times, uint256 by, uint256 wayChosen, uint256 trickSeed)
        external
    {
        IPODVault.Terms memory terms = _someNewTerms(seed, amount, times);
        Way way = Way(wayChosen % 7);
        address caller = by % 2 == 0 ? terms.creator : people[by % people.length];
        // A permit leaves an allowance of its amount only; most payers then give a new one.
        if (seed % 8 > 0) _approve(terms.creator);
        bytes memory data = _creation(way, terms);
        bytes32 taskId = vault.taskIdOf(terms);

        bool allowed = _consented(way, terms, caller) && _sound(terms) && !vault.paused();
        bool delivers = _trick(trickSeed);
        allowed = allowed && delivers && !token.isBlacklisted(terms.creator)
            && token.balanceOf(terms.creator) >= terms.amount
            && (way != Way.Allowance || token.allowance(terms.creator, address(vault)) >= terms.amount);
        _must(allowed, caller, data);
        if (!allowed) return;
        ids.push(taskId);
        _terms[taskId] = terms;
        model[taskId] = Model(IPODVault.State.Funded, terms.submitBy);
        expectedHolding[terms.creator] -= terms.amount;
    }

    function createAgain(uint256 which, uint256 by, uint256 wayChosen) external {
        if (ids.length == 0) return;
        IPODVault.Terms memory terms = _terms[ids[which % ids.length]];
        _must(false, by % 2 == 0 ? terms.creator : people[by % people.length], _creation(Way(wayChosen % 7), terms));
    }

    // ---------------------------------------------------------------------------------------------- transitions

    function step(uint256 which, uint256 stepChosen, uint256 by, uint96 amount) external {
        if (ids.length == 0) return;
        bytes32 taskId = _pick(which);
        IPODVault.Terms memory terms = _terms[taskId];
        Model memory before = model[taskId];
        // Three times of four a step of this very state, and an actor who may take it.
        Step chosen = stepChosen % 4 == 0 ? Step((stepChosen >> 8) % 8) : _stepFrom(before.state, stepChosen >> 8);
        address caller = by % 4 == 0 ? people[(by >> 8) % people.length] : _actorOf(chosen, terms, by >> 8);
        if (amount % 8 != 0) amount = uint96(within(amount, terms.minPaid, terms.amount));

        bool allowed = _allows(chosen, before, terms, caller, amount);
        _must(allowed, caller, _callOf(chosen, terms, amount));
        if (!allowed) return;
        ++taken[chosen];
        model[taskId] = _next(chosen, terms);
    }

    // ---------------------------------------------------------------------------------------------- withdrawals

    function withdraw(uint256 by, uint256 to, uint256 amount, uint256 trickSeed) external {
        address caller = by % 4 == 0 ? people[(by >> 8) % people.length] : vault.owner();
        address recipient = people[to % people.length];
        amount = within(amount, 0, vault.availableBalance() + 1);
        bool allowed = caller == vault.owner() && amount > 0 && amount <= vault.availableBalance();
        _send(allowed, caller, recipient, amount, trickSeed, abi.encodeCall(IPODVault.withdraw, (recipient, amount)));
    }

    function withdrawCredit(uint256 by, uint256 to, uint256 amount, uint256 trickSeed) external {
        address caller = people[by % people.length];
        address recipient = to % 2 == 0 ? caller : people[to % people.length];
        amount = within(amount, 0, vault.credits(caller) + 1);
        bool allowed = amount > 0 && amount <= vault.credits(caller);
        bytes memory data = abi.encodeCall(IPODVault.withdrawCredit, (recipient, amount));
        _send(allowed, caller, recipient, amount, trickSeed, data);
    }

    // ------------------------------------------------------------------------------------------ everything else

    function warp(uint256 seconds_, uint256 which) external {
        uint256 deadline = ids.length == 0 ? 0 : model[_pick(which)].deadline;
        // Often to a deadline, or to the second before it.
        if (seconds_ % 4 > 0 && deadline > block.timestamp + 1) vm.warp(deadline - seconds_ % 2);
        else vm.warp(block.timestamp + seconds_ % 1 days);
    }

    function administer(uint256 what, uint256 whom, uint256 by) external {
        address caller = by % 4 == 0 ? people[(by >> 8) % people.length] : vault.owner();
        address subject = people[whom % people.length];
        bool allowed = caller == vault.owner();
        if (what % 4 == 0) {
            IPODVault.Settings memory next = IPODVault.Settings(subject, feeRecipient, uint16(whom % 1_001));
            _must(allowed, caller, abi.encodeCall(IPODVault.setSettings, (next)));
        } else if (what % 4 == 1) {
            _must(allowed, caller, abi.encodeCall(IPODVault.setOperator, (subject, whom % 3 > 0)));
        } else if (what % 4 == 2) {
            _must(allowed, caller, abi.encodeCall(IPODVault.setPaused, (whom % 8 == 0)));
        } else {
            token.setBlacklisted(subject, whom % 3 == 0);
        }
    }

    function rotate(uint256 by, bool ofAgent) external {
        address former = ofAgent ? vault.agentWallet() : vault.owner();
        address next = ofAgent ? (former == agent ? _secondAgent : agent) : (former == owner ? _heir : owner);
        bytes memory offer = ofAgent
            ? abi.encodeCall(IPODVault.proposeAgentWallet, (next))
            : abi.encodeCall(IPODVault.transferOwnership, (next));
        bytes memory acceptance =
            ofAgent ? abi.encodeCall(IPODVault.acceptAgentWallet, ()) : abi.encodeCall(IPODVault.acceptOwnership, ());
        _must(false, next, acceptance);
        _must(true, vault.owner(), offer);
        address other = people[by % people.length];
        if (other != next) _must(false, other, acceptance);
        _must(true, next, acceptance);
    }

    function give(uint256 by, uint256 amount) external {
        address giver = people[by % PAYERS];
        if (token.isBlacklisted(giver)) return;
        amount = within(amount, 0, token.balanceOf(giver) / 100);
        vm.prank(giver);
        token.transfer(address(vault), amount);
        gifts += amount;
        expectedHolding[giver] -= amount;
    }

    /// @notice Past all deadlines a stranger ends every task, and then everyone can take what is theirs.
    function emptyByAStranger() external {
        vm.warp(block.timestamp + 1_000 days);
        for (uint256 i = 0; i < ids.length; ++i) {
            IPODVault.Terms memory terms = _terms[ids[i]];
            IPODVault.State state = model[ids[i]].state;
            if (state == IPODVault.State.Funded) _must(true, stranger, abi.encodeCall(IPODVault.refund, (terms)));
            if (state == IPODVault.State.Submitted) _must(true, stranger, abi.encodeCall(IPODVault.claim, (terms)));
            if (state == IPODVault.State.Disputed) {
                _must(true, stranger, abi.encodeCall(IPODVault.defaultResolve, (terms)));
            }
        }
        address safe = address(0x5afe);
        for (uint256 i = 0; i < people.length; ++i) {
            uint256 credit = vault.credits(people[i]);
            if (credit > 0) _must(true, people[i], abi.encodeCall(IPODVault.withdrawCredit, (safe, credit)));
        }
        uint256 earnings = vault.availableBalance();
        if (earnings > 0) _must(true, vault.owner(), abi.encodeCall(IPODVault.withdraw, (safe, earnings)));
    }

    // ------------------------------------------------------------------------------------------------ the model

    function _allows(Step chosen, Model memory task, IPODVault.Terms memory terms, address caller, uint256 amount)
        private
        view
        returns (bool)
    {
        bool early = block.timestamp < task.deadline;
        if (task.state != _from(chosen)) return false;
        if (chosen == Step.Submit) {
            return early && (caller == vault.agentWallet() || vault.authorizedOperators(caller));
        }
        if (chosen == Step.Decline) return caller == vault.agentWallet();
        if (chosen == Step.Complete) {
            return
                (caller == terms.creator || caller == terms.evaluator) && amount >= terms.minPaid
                    && amount <= terms.amount;
        }
        if (chosen == Step.Dispute) return early && caller == terms.creator;
        if (chosen == Step.Resolve) return early && caller == terms.arbiter && amount <= terms.amount;
        return !early;
    }

    /// @dev Mostly one of the newest tasks, which alone have a life before them.
    function _pick(uint256 which) private view returns (bytes32) {
        uint256 choice =
            which % 4 > 0 && ids.length > NEWEST ? ids.length - 1 - (which >> 8) % NEWEST : (which >> 8) % ids.length;
        return ids[choice];
    }

    function _from(Step chosen) private pure returns (IPODVault.State) {
        if (chosen <= Step.Refund) return IPODVault.State.Funded;
        return chosen <= Step.Claim ? IPODVault.State.Submitted : IPODVault.State.Disputed;
    }

    function _next(Step chosen, IPODVault.Terms memory terms) private view returns (Model memory) {
        if (chosen == Step.Submit) return Model(IPODVault.State.Submitted, block.timestamp + terms.reviewPeriod);
        if (chosen == Step.Dispute) return Model(IPODVault.State.Disputed, block.timestamp + terms.arbiterPeriod);
        if (chosen == Step.Decline || chosen == Step.Refund) return Model(IPODVault.State.Refunded, 0);
        if (chosen == Step.Complete || chosen == Step.Claim) return Model(IPODVault.State.Completed, 0);
        return Model(IPODVault.State.Resolved, 0);
    }

    function _stepFrom(IPODVault.State state, uint256 seed) private pure returns (Step) {
        if (state == IPODVault.State.Funded) return seed % 8 < 6 ? Step.Submit : Step(seed % 3);
        if (state == IPODVault.State.Submitted) return Step(3 + seed % 3);
        if (state == IPODVault.State.Disputed) return Step(6 + seed % 2);
        return Step(seed % 8);
    }

    function _actorOf(Step chosen, IPODVault.Terms memory terms, uint256 seed) private view returns (address) {
        if (chosen == Step.Submit) return seed % 2 == 0 ? vault.agentWallet() : operator;
        if (chosen == Step.Decline) return vault.agentWallet();
        if (chosen == Step.Complete) return seed % 2 == 0 ? terms.creator : terms.evaluator;
        if (chosen == Step.Dispute) return terms.creator;
        if (chosen == Step.Resolve) return terms.arbiter;
        return people[seed % people.length];
    }

    function _callOf(Step chosen, IPODVault.Terms memory terms, uint96 amount) private pure returns (bytes memory) {
        if (chosen == Step.Submit) return abi.encodeCall(IPODVault.submit, (terms, RESULT));
        if (chosen == Step.Decline) return abi.encodeCall(IPODVault.decline, (terms));
        if (chosen == Step.Refund) return abi.encodeCall(IPODVault.refund, (terms));
        if (chosen == Step.Complete) return abi.encodeCall(IPODVault.completeTask, (terms, amount));
        if (chosen == Step.Dispute) return abi.encodeCall(IPODVault.dispute, (terms, REASON));
        if (chosen == Step.Claim) return abi.encodeCall(IPODVault.claim, (terms));
        if (chosen == Step.Resolve) return abi.encodeCall(IPODVault.resolve, (terms, amount));
        return abi.encodeCall(IPODVault.defaultResolve, (terms));
    }

    // ------------------------------------------------------------------------------------------------- creation

    function _someNewTerms(uint256 seed, uint256 amount, uint256 times)
        private
        view
        returns (IPODVault.Terms memory terms)
    {
        IPODVault.Settings memory settings = vault.settings();
        terms.creator = people[seed % PAYERS];
        terms.evaluator = seed % 5 == 0 ? address(0) : evaluator;
        terms.arbiter = settings.arbiter;
        terms.feeRecipient = settings.feeRecipient;
        // Now and then terms of settings that are not the vault's.
        terms.feeBps = seed % 16 == 0 ? settings.feeBps + 1 : settings.feeBps;
        terms.amount = uint96(within(amount, seed % 16 == 1 ? 0 : 1, MINTED / 20));
        terms.minPaid = uint96(within(amount >> 96, 0, terms.amount));
        terms.submitBy = uint40(block.timestamp + within(times, seed % 16 == 2 ? 0 : 1 minutes, 5 days));
        terms.reviewPeriod = uint32(within(times >> 64, 1 minutes, 5 days));
        terms.arbiterPeriod = uint32(within(times >> 128, 1 minutes, 5 days));
        terms.defaultAgentBps = uint16(within(times >> 192, 0, 10_000));
        terms.metadataHash = keccak256(bytes(METADATA));
        terms.salt = bytes32(ids.length);
    }

    function _sound(IPODVault.Terms memory terms) private view returns (bool) {
        return terms.amount > 0 && terms.submitBy >= block.timestamp + 1 minutes
            && terms.feeBps == vault.settings().feeBps && model[vault.taskIdOf(terms)].state == IPODVault.State.None;
    }

    function _consented(Way way, IPODVault.Terms memory terms, address caller) private pure returns (bool) {
        if (way == Way.Permit || way == Way.Authorization) return true;
        bool isBySignatureOfAnother = way == Way.AuthorizationOfAnother || way == Way.AuthorizationOfOtherTerms;
        return !isBySignatureOfAnother && caller == terms.creator;
    }

    function _creation(Way way, IPODVault.Terms memory terms) private view returns (bytes memory) {
        if (way == Way.Allowance) return abi.encodeCall(IPODVault.createTask, (terms, METADATA));
        uint256 key = _keys[terms.creator];
        uint256 until = block.timestamp + 1 hours;
        if (way <= Way.PermitOfAnother) {
            bytes memory permit = permitBy(key, terms, until);
            bytes memory consent = way == Way.PermitAlone
                ? bytes("")
                : signed(way == Way.Permit ? key : strangerKey, vault.taskIdOf(terms));
            return abi.encodeCall(IPODVault.createTaskWithPermit, (terms, METADATA, until, permit, consent));
        }
        bytes memory signature;
        if (way == Way.AuthorizationOfOtherTerms) {
            IPODVault.Terms memory other = abi.decode(abi.encode(terms), (IPODVault.Terms));
            other.defaultAgentBps = terms.defaultAgentBps ^ 1;
            signature = signed(key, authorizationDigest(other, 0, until));
        } else {
            bool good = way == Way.Authorization;
            signature = signed(good ? key : strangerKey, authorizationDigest(terms, 0, until));
        }
        return abi.encodeCall(IPODVault.createTaskWithAuthorization, (terms, METADATA, 0, until, signature));
    }

    // --------------------------------------------------------------------------------------------------- calls

    /// @dev Sets the token's trick for one call, and says whether what is asked of it arrives nevertheless.
    function _trick(uint256 seed) private returns (bool delivers) {
        HostileToken.Trick trick = seed % 2 == 0 ? HostileToken.Trick.None : HostileToken.Trick((seed >> 8) % 5);
        if (trick == HostileToken.Trick.Reenters) {
            bytes[] memory calls = new bytes[](2);
            calls[0] = abi.encodeCall(IPODVault.withdrawCredit, (stranger, 1));
            calls[1] = ids.length == 0
                ? abi.encodeCall(IPODVault.withdraw, (stranger, 1))
                : abi.encodeCall(IPODVault.refund, (_terms[ids[seed % ids.length]]));
            token.setReentry(address(vault), calls);
        }
        token.setTrick(trick);
        return trick == HostileToken.Trick.None || trick == HostileToken.Trick.Reenters;
    }

    function _approve(address payer) private {
        vm.prank(payer);
        token.approve(address(vault), type(uint256).max);
    }

    function _send(
        bool allowed,
        address caller,
        address recipient,
        uint256 amount,
        uint256 trickSeed,
        bytes memory data
    ) private {
        bool delivers = _trick(trickSeed);
        HostileToken.Trick trick = token.trick();
        bool pretends = trick == HostileToken.Trick.Pretends;
        allowed = allowed && trick != HostileToken.Trick.ReturnsFalse && (pretends || !token.isBlacklisted(recipient));
        uint256 before = token.balanceOf(recipient);
        _must(allowed, caller, data);
        if (!allowed) return;
        // What a lying token did not send stays with the vault, which owes it to nobody any more.
        if (pretends) gifts += amount;
        else vm.assertTrue(!delivers || token.balanceOf(recipient) == before + amount, "sent in whole");
        expectedHolding[recipient] += token.balanceOf(recipient) - before;
    }

    function _must(bool succeed, address caller, bytes memory data) private {
        vm.recordLogs();
        vm.prank(caller);
        (bool success,) = address(vault).call(data);
        token.setTrick(HostileToken.Trick.None);
        vm.assertTrue(success == succeed, succeed ? "refused, though the table allows it" : "not in the table");
        vm.assertEq(token.attempts(), token.refusals(), "a re-entry got through");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        // forge records what a reverted call logged as well; a chain does not.
        if (!success) return;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(vault)) ledger.absorb(logs[i]);
        }
    }
}
