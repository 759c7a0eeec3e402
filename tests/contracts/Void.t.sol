// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Collection, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment, ISettlement, OperatorState} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";

contract VoidTest is Batches {
    address private _account;

    function setUp() public override {
        super.setUp();
        _account = accountOf("contributor");
    }

    function test_voiding_a_batch_voids_all_later_ones(uint256 count, uint256 first) external {
        count = bound(count, 1, 9);
        first = bound(first, 1, count);
        BatchHeader[] memory headers = _commitMany(count);
        bytes32 hash = settlement.hashBatch(headers[first - 1]);
        OperatorState memory before = settlement.stateOf(operator);
        vm.expectEmit(address(settlement));
        emit ISettlement.BatchesVoided(operator, uint64(first), uint64(count), hash);
        voidFrom(headers[first - 1]);
        OperatorState memory state = settlement.stateOf(operator);
        vm.assertEq(state.last, first - 1);
        vm.assertEq(state.toRefund, count - first + 1);
        // The amount is still in the pot.
        vm.assertEq(state.cumulativeTotal, before.cumulativeTotal);
        for (uint256 i = 0; i < count; ++i) {
            vm.assertEq(settlement.isPending(headers[i]), i + 1 < first);
            vm.assertEq(settlement.batchHashAt(operator, uint64(i + 1)) == 0, i + 1 >= first);
        }
    }

    function test_an_earlier_batch_can_be_voided_later() external {
        BatchHeader[] memory headers = _commitMany(5);
        voidFrom(headers[3]);
        voidFrom(headers[1]);
        OperatorState memory state = settlement.stateOf(operator);
        vm.assertEq(state.last, 1);
        vm.assertEq(state.toRefund, 4);
        for (uint256 i = 4; i >= 1; --i) {
            _refund(headers[i], uint128(i));
        }
        vm.assertEq(settlement.stateOf(operator).toRefund, 0);
        vm.assertEq(settlement.stateOf(operator).cumulativeTotal, 1);
    }

    function test_only_the_disputes_void(address caller) external {
        vm.assume(caller != address(disputes));
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDisputes.selector, caller));
        vm.prank(caller);
        settlement.voidFrom(header, caller);
    }

    function test_a_final_batch_cannot_be_voided() external {
        BatchHeader[] memory headers = _commitMany(2);
        vm.warp(headers[1].finalAt);
        settlement.finalise(headers);
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ISettlement.AlreadyFinal.selector, i + 1));
            voidFrom(headers[i]);
        }
    }

    /// @dev The time is past its `finalAt`, but it was not finalised.
    function test_a_pending_batch_can_be_voided_at_any_time(uint32 late) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(uint256(header.finalAt) + late);
        voidFrom(header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(header)));
        finalise(header);
    }

    function test_a_batch_is_convicted_only_once() external {
        BatchHeader[] memory headers = _commitMany(2);
        voidFrom(headers[0]);
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 hash = settlement.hashBatch(headers[i]);
            vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, hash));
            voidFrom(headers[i]);
        }
    }

    function test_nothing_is_committed_while_refunds_are_outstanding() external {
        BatchHeader[] memory headers = _commitMany(3);
        voidFrom(headers[1]);
        Commitment memory c = commitmentOf(1, oneBalance(_account, 2));
        Collection[] memory all = collections(1);
        bytes4 selector = ISettlement.RefundsOutstanding.selector;
        expectCommitError(c, all, abi.encodeWithSelector(selector, operator, 2));
        _refund(headers[2], 2);
        expectCommitError(c, all, abi.encodeWithSelector(selector, operator, 1));
        _refund(headers[1], 1);
        BatchHeader memory again = commit(1, oneBalance(_account, 2));
        vm.assertEq(again.number, 2);
        vm.assertEq(again.parent, settlement.hashBatch(headers[0]));
        vm.assertEq(again.cumulativeTotal, 2);
    }

    function test_batches_before_a_voided_one_become_final() external {
        BatchHeader[] memory headers = _commitMany(2);
        voidFrom(headers[1]);
        vm.warp(headers[0].finalAt);
        finalise(headers[0]);
        vm.assertEq(settlement.stateOf(operator).finalised, 1);
        _refund(headers[1], 1);
    }

    function test_a_voided_batch_does_not_pass_for_its_replacement() external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        voidFrom(header);
        _refund(header, 0);
        vm.warp(block.timestamp + 1);
        BatchHeader memory again = commit(5, oneBalance(_account, 5));
        bytes32 hash = settlement.hashBatch(header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, hash));
        voidFrom(header);
        vm.assertTrue(settlement.isPending(again));
    }

    function test_many_voided_batches_are_refunded() external {
        BatchHeader[] memory headers = _commitMany(300);
        voidFrom(headers[0]);
        vm.assertEq(settlement.stateOf(operator).toRefund, 300);
        for (uint256 i = 300; i >= 1; --i) _refund(headers[i - 1], uint128(i - 1));
        vm.assertEq(settlement.stateOf(operator).cumulativeTotal, 0);
        vm.assertEq(commit(1, oneBalance(_account, 1)).number, 1);
    }

    // --- the stake ---

    function test_a_stake_is_paid_after_a_void_once_all_is_refunded() external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.prank(operator);
        operators.startUnstake(MICRO);
        voidFrom(header);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 1));
        vm.prank(operator);
        operators.unstake();
        _refund(header, 0);
        vm.prank(operator);
        vm.assertEq(operators.unstake(), MICRO);
    }

    /// @dev An unstake that starts between void and refund waits for the refunds, which may slash more.
    function test_a_stake_waits_for_refunds_that_were_outstanding() external {
        BatchHeader[] memory headers = _commitMany(3);
        voidFrom(headers[1]);
        vm.prank(operator);
        operators.startUnstake(uint128(STAKE_UNITS - 2) * MICRO);
        vm.assertEq(operators.stakeOf(operator).lockedByBatch, 3);
        vm.warp(headers[0].finalAt);
        finalise(headers[0]);
        bytes memory locked = abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 3);
        vm.expectRevert(locked);
        vm.prank(operator);
        operators.unstake();
        _refund(headers[2], 2);
        vm.expectRevert(locked);
        vm.prank(operator);
        operators.unstake();
        _refund(headers[1], 1);
        vm.prank(operator);
        operators.unstake();
    }

    function test_a_stake_waits_for_the_replacement_of_a_voided_batch() external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.prank(operator);
        operators.startUnstake(MICRO);
        voidFrom(header);
        _refund(header, 0);
        header = commit(5, oneBalance(_account, 5));
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 1));
        vm.prank(operator);
        operators.unstake();
        vm.warp(header.finalAt);
        finalise(header);
        vm.prank(operator);
        operators.unstake();
    }

    // --- internal ---

    /// @dev Batches of one micro-unit each.
    function _commitMany(uint256 count) private returns (BatchHeader[] memory headers) {
        headers = new BatchHeader[](count);
        for (uint256 i = 0; i < count; ++i) {
            headers[i] = commit(1, oneBalance(_account, uint128(i + 1)));
        }
    }

    function _refund(BatchHeader memory header, uint128 before) private {
        Refund[] memory refunds = new Refund[](1);
        refunds[0] = Refund(payer, before, before, before + header.total);
        settlement.refund(header, refunds);
    }
}
