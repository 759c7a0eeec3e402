// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {Bounds, IParameters, ParameterSet} from "../../contracts/interfaces/IParameters.sol";
import {Collection, IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";

/// @notice Attacks by and on governance and the guardian.
contract AttacksGovernanceTest is Batches {
    string private constant _DESCRIPTION = "Raise the protocol fee to 20 %";

    address private _attacker;
    address[] private _targets;
    uint256[] private _values;
    bytes[] private _calls;

    function setUp() public override {
        super.setUp();
        _attacker = accountOf("attacker");
        vm.prank(holder);
        token.delegate(holder);
        vm.prank(_attacker);
        token.delegate(_attacker);
        vm.warp(block.timestamp + 1);
        _targets.push(address(parameters));
        _values.push(0);
        ParameterSet memory set = firstSet();
        set.feePpm = 200_000;
        _calls.push(abi.encodeCall(IParameters.append, (0, set)));
    }

    /// @dev Votes borrowed after the proposal do not count, and borrowed votes cannot propose, because both read the
    /// past.
    function test_flash_loaned_votes_neither_propose_nor_count(uint256 borrowed) external {
        borrowed = bound(borrowed, 1e18, SUPPLY);
        _move(holder, _attacker, borrowed);
        bytes4 selector = IGovernor.GovernorInsufficientProposerVotes.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, _attacker, 0, 1e18));
        vm.prank(_attacker);
        governor.propose(_targets, _values, _calls, _DESCRIPTION);
        _move(_attacker, holder, borrowed);
        vm.warp(block.timestamp + 1);
        uint256 id = _propose(holder);
        vm.warp(governor.proposalSnapshot(id) + 1);
        _move(holder, _attacker, borrowed);
        vm.prank(_attacker);
        vm.assertEq(governor.castVote(id, 1), 0);
        _move(_attacker, holder, borrowed);
        vm.warp(governor.proposalDeadline(id) + 1);
        vm.assertTrue(governor.state(id) == IGovernor.ProposalState.Defeated);
    }

    /// @dev A quorum reached in the last second extends the vote, so that other voters can respond to a late whale.
    function test_a_late_swing_leaves_time_for_an_answer() external {
        _move(holder, _attacker, SUPPLY / 10);
        vm.warp(block.timestamp + 1);
        uint256 id = _propose(_attacker);
        uint256 deadline = governor.proposalDeadline(id);
        vm.warp(deadline);
        vm.prank(_attacker);
        governor.castVote(id, 1);
        vm.warp(deadline + 1);
        vm.assertTrue(governor.state(id) == IGovernor.ProposalState.Active);
        vm.prank(holder);
        governor.castVote(id, 0);
        vm.warp(governor.proposalDeadline(id) + 1);
        vm.assertTrue(governor.state(id) == IGovernor.ProposalState.Defeated);
    }

    /// @dev A change won by a late swing waits in the timelock, and a commit names the set that it was split by.
    function test_a_parameter_race_reverts_and_reprices_nothing(uint128 amount) external {
        amount = uint128(bound(amount, 1, DEPOSIT_UNITS * MICRO / 2));
        BatchHeader memory earlier = commit(amount, oneBalance(operator, amount));
        Commitment memory c = commitmentOf(amount, oneBalance(operator, 2 * amount));
        Collection[] memory vouchers = collections(amount);
        uint256 id = _propose(holder);
        vm.warp(governor.proposalSnapshot(id) + 1);
        vm.prank(holder);
        governor.castVote(id, 1);
        _execute(id);
        expectCommitError(c, vouchers, abi.encodeWithSelector(IParameters.ParameterSetNotCurrent.selector, 0, 1));
        vm.assertEq(parameters.setAt(earlier.parameterSet).feePpm, firstSet().feePpm);
        c.parameterSet = 1;
        commit(c, vouchers);
    }

    /// @dev The worst schedule: payers thaw everything just before the longest pause. The pause ends before the thaw by
    /// more than an interval, a window and the margin, and no second pause can begin within the thaw.
    function test_pause_until_payers_have_left_ends_before_they_can(uint32 duration, uint128 served) external {
        Bounds memory b = parameters.bounds();
        served = uint128(bound(served, 1, DEPOSIT_UNITS * MICRO));
        Collection[] memory vouchers = collections(served);
        vm.prank(payer);
        vault.thaw(operator, collector, uint128(DEPOSIT_UNITS) * MICRO);
        uint256 thawedAt = block.timestamp + THAW;
        _pause(uint32(bound(duration, 0, b.maxPause)));
        uint64 until = parameters.pausedUntil();
        vm.assertLe(until + b.maxSettlementInterval + b.maxDisputeWindow + b.margin + 1, thawedAt);
        vm.warp(until + b.maxSettlementInterval);
        vm.expectRevert(
            abi.encodeWithSelector(IParameters.PauseCoolingDown.selector, until + b.pauseCoolDown)
        );
        _pause(1);
        vm.assertLe(thawedAt, until + b.pauseCoolDown);
        commit(commitmentOf(served, oneBalance(operator, served)), vouchers);
        vm.assertEq(vault.potOf(collector, operator), served);
    }

    /// @dev A pause delays only commits: committed batches can be finalised, claimed and disputed.
    function test_pause_until_payers_have_left_stops_no_payer() external {
        vm.prank(payer);
        vault.thaw(operator, collector, MICRO);
        vm.warp(block.timestamp + THAW);
        _pause(parameters.bounds().maxPause);
        vm.prank(payer);
        vm.assertEq(vault.withdraw(operator, collector), MICRO);
        Commitment memory c = commitmentOf(5, oneBalance(operator, 5));
        bytes4 selector = IParameters.CommitsArePaused.selector;
        expectCommitError(c, collections(5), abi.encodeWithSelector(selector, parameters.pausedUntil()));
    }

    // --- internal ---

    function _pause(uint32 duration) private {
        vm.prank(guardian);
        parameters.pauseCommits(duration);
    }

    function _move(address from, address to, uint256 votes) private {
        vm.prank(from);
        token.transfer(to, votes);
    }

    function _propose(address proposer) private returns (uint256) {
        vm.prank(proposer);
        return governor.propose(_targets, _values, _calls, _DESCRIPTION);
    }

    function _execute(uint256 id) private {
        vm.warp(governor.proposalDeadline(id) + 1);
        governor.queue(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
        vm.warp(governor.proposalEta(id));
        governor.execute(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
    }
}
