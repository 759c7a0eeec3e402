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

    function test_a_conviction_voids_all_pending_batches(uint256 count, uint256 finalised, uint256 convicted) external {
        count = bound(count, 1, 9);
        finalised = bound(finalised, 0, count - 1);
        BatchHeader[] memory headers = _commitMany(count);
        vm.warp(headers[0].finalAt);
        for (uint256 i = 0; i < finalised; ++i) finalise(headers[i]);
        BatchHeader memory header = headers[bound(convicted, finalised, count - 1)];
        bytes32 hash = settlement.hashBatch(header);
        OperatorState memory before = settlement.stateOf(operator);
        vm.expectEmit(address(settlement));
        emit ISettlement.BatchesVoided(operator, uint64(finalised + 1), uint64(count), hash);
        voidPending(header);
        OperatorState memory state = settlement.stateOf(operator);
        vm.assertEq(state.last, finalised);
        vm.assertEq(state.toRefund, count - finalised);
        // The amount is still in the pot.
        vm.assertEq(state.cumulativeTotal, before.cumulativeTotal);
        for (uint256 i = 0; i < count; ++i) {
            vm.assertFalse(settlement.isPending(headers[i]));
            vm.assertEq(settlement.batchHashAt(operator, uint64(i + 1)) == 0, i >= finalised);
        }
        for (uint256 i = count; i > finalised; --i) _refund(headers[i - 1], uint128(i - 1));
        vm.assertEq(settlement.stateOf(operator).toRefund, 0);
        vm.assertEq(settlement.stateOf(operator).cumulativeTotal, finalised);
    }

    function test_only_the_disputes_void(address caller) external {
        vm.assume(caller != address(disputes));
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDisputes.selector, caller));
        vm.prank(caller);
        settlement.voidPending(header, caller);
    }

    function test_a_final_batch_cannot_be_voided() external {
        BatchHeader[] memory headers = _commitMany(2);
        vm.warp(headers[1].finalAt);
        settlement.finalise(headers);
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ISettlement.AlreadyFinal.selector, i + 1));
            voidPending(headers[i]);
        }
    }

    /// @dev The time is past its `finalAt`, but it was not finalised.
    function test_a_pending_batch_can_be_voided_at_any_time(uint32 late) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(uint256(header.finalAt) + late);
        voidPending(header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(header)));
        finalise(header);
    }

    function test_no_batch_is_convicted_after_another_one(uint256 convicted) external {
        BatchHeader[] memory headers = _commitMany(2);
        voidPending(headers[convicted % 2]);
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 hash = settlement.hashBatch(headers[i]);
            vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, hash));
            voidPending(headers[i]);
        }
    }

    function test_nothing_is_committed_while_refunds_are_outstanding() external {
        BatchHeader[] memory headers = _commitMany(3);
        vm.warp(headers[0].finalAt);
        finalise(headers[0]);
        voidPending(headers[1]);
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

    function test_a_voided_batch_does_not_pass_for_its_replacement() external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        voidPending(header);
        _refund(header, 0);
        vm.warp(block.timestamp + 1);
        BatchHeader memory again = commit(5, oneBalance(_account, 5));
        bytes32 hash = settlement.hashBatch(header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, hash));
        voidPending(header);
        vm.assertTrue(settlement.isPending(again));
    }

    function test_many_voided_batches_are_refunded() external {
        BatchHeader[] memory headers = _commitMany(300);
        voidPending(headers[0]);
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
        voidPending(header);
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
        vm.warp(headers[0].finalAt);
        finalise(headers[0]);
        voidPending(headers[1]);
        vm.prank(operator);
        operators.startUnstake(uint128(STAKE_UNITS - 2) * MICRO);
        vm.assertEq(operators.stakeOf(operator).lockedByBatch, 3);
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
        voidPending(header);
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
