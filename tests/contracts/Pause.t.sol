// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {Bounds, IParameters} from "../../contracts/interfaces/IParameters.sol";
import {BatchHeader, Commitment} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";
import {Tree} from "./support/Trees.sol";

contract PauseTest is Batches {
    Bounds private _limits;

    function setUp() public override {
        super.setUp();
        _limits = parameters.bounds();
    }

    function test_a_pause_stops_commits_and_ends_by_itself(uint32 duration) external {
        duration = uint32(bound(duration, 1, _limits.maxPause));
        uint64 until = uint64(block.timestamp) + duration;
        vm.expectEmit(address(parameters));
        emit IParameters.CommitsPaused(guardian, until);
        _pause(duration);
        vm.warp(until - 1);
        Commitment memory c = commitmentOf(5, oneBalance(operator, 5));
        expectCommitError(c, collections(5), abi.encodeWithSelector(IParameters.CommitsArePaused.selector, until));
        vm.warp(until);
        commit(c, collections(5));
    }

    function test_a_pause_stops_nothing_else() external {
        Tree memory balances = oneBalance(operator, 5 * MICRO);
        BatchHeader memory header = commit(5 * MICRO, balances);
        _pause(_limits.maxPause);
        deposit(5);
        vm.startPrank(payer);
        vault.thaw(operator, collector, MICRO);
        vm.warp(header.finalAt);
        finalise(header);
        settlement.claim(claimOf(operator, balances, 0));
        vm.stopPrank();
        vm.assertEq(usd.balanceOf(operator), 5);
    }

    function test_a_pause_is_bounded() external {
        bytes4 selector = IParameters.PauseTooLong.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, _limits.maxPause + 1, _limits.maxPause));
        _pause(_limits.maxPause + 1);
    }

    function test_a_pause_cools_down(uint32 wait) external {
        _pause(_limits.maxPause);
        uint64 coolUntil = parameters.pausedUntil() + _limits.pauseCoolDown;
        wait = uint32(bound(wait, 0, 2 * (_limits.maxPause + _limits.pauseCoolDown)));
        vm.warp(block.timestamp + wait);
        if (block.timestamp < coolUntil) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.PauseCoolingDown.selector, coolUntil));
        }
        _pause(1);
    }

    function test_payers_cannot_leave_during_a_pause() external {
        // Attack: pause until payers have withdrawn. The thaw outlasts the pause, and the operator collects after it.
        vm.prank(payer);
        vault.thaw(operator, collector, uint128(DEPOSIT_UNITS) * MICRO);
        uint256 thawedAt = block.timestamp + THAW;
        _pause(_limits.maxPause);
        vm.warp(parameters.pausedUntil());
        vm.assertTrue(block.timestamp + _limits.maxSettlementInterval + _limits.margin < thawedAt);
        commit(5, oneBalance(operator, 5));
    }

    function test_only_the_guardian_pauses(address caller) external {
        vm.assume(caller != guardian);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller));
        vm.prank(caller);
        parameters.pauseCommits(1);
    }

    function _pause(uint32 duration) private {
        vm.prank(guardian);
        parameters.pauseCommits(duration);
    }
}
