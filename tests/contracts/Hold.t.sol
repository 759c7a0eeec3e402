// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";

abstract contract Holds is Batches {
    BatchHeader[] internal _headers;

    function _commitUpTo(uint256 count) internal {
        while (_headers.length < count) {
            _headers.push(commit(1, oneBalance(operator, settlement.stateOf(operator).cumulativeTotal + 1)));
        }
    }

    function _hold(uint256 number) internal {
        vm.prank(address(disputes));
        settlement.hold(_headers[number - 1]);
    }

    function _release(uint256 number) internal {
        vm.prank(address(disputes));
        settlement.release(_headers[number - 1]);
    }

    function _expectHeld(uint256 number) internal {
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchHeld.selector, operator, number));
        settlement.finalise(_headers[number - 1]);
    }
}

contract HoldTest is Holds {
    function test_a_held_batch_and_those_after_it_do_not_become_final() external {
        _commitUpTo(3);
        _hold(2);
        vm.assertTrue(settlement.isHeld(operator, 2));
        vm.warp(lastHeader.finalAt);
        _expectHeld(2);
        _expectHeld(3);
        settlement.finalise(_headers[0]);
        _expectHeld(3);
        _release(2);
        settlement.finalise(_headers[2]);
    }

    function test_hold_returns_the_batch_hash() external {
        _commitUpTo(1);
        vm.prank(address(disputes));
        vm.assertEq(settlement.hold(_headers[0]), settlement.hashBatch(_headers[0]));
    }

    function test_only_the_disputes_hold_or_release(address caller) external {
        vm.assume(caller != address(disputes));
        _commitUpTo(1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDisputes.selector, caller));
        vm.prank(caller);
        settlement.hold(_headers[0]);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotDisputes.selector, caller));
        vm.prank(caller);
        settlement.release(_headers[0]);
    }

    function test_a_final_or_unknown_batch_cannot_be_held() external {
        _commitUpTo(2);
        vm.warp(lastHeader.finalAt);
        settlement.finalise(_headers[0]);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.AlreadyFinal.selector, 1));
        _hold(1);
        BatchHeader memory unknown = _headers[1];
        unknown.total += 1;
        bytes32 hash = settlement.hashBatch(unknown);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, hash));
        vm.prank(address(disputes));
        settlement.hold(unknown);
    }

    function test_only_pending_batches_are_reported_as_held(uint64 number) external {
        _commitUpTo(3);
        _hold(3);
        vm.assertEq(settlement.isHeld(operator, number), number == 3);
        vm.assertFalse(settlement.isHeld(operator, 3 + 256));
        vm.assertFalse(settlement.isHeld(accountOf("other operator"), 3));
    }

    function test_a_release_of_a_voided_batch_does_not_release_its_replacement() external {
        _commitUpTo(1);
        _hold(1);
        voidFrom(_headers[0]);
        Refund[] memory refunds = new Refund[](1);
        refunds[0] = Refund(payer, 0, 0, 1);
        settlement.refund(_headers[0], refunds);
        vm.warp(block.timestamp + 1);
        _commitUpTo(2);
        _hold(2);
        vm.assertEq(_headers[1].number, 1);
        _release(1);
        vm.assertTrue(settlement.isHeld(operator, 1));
        _release(2);
        vm.assertFalse(settlement.isHeld(operator, 1));
    }
}

/// @notice 200 final and 200 pending batches, which wrap around the ring of 256.
contract HoldAroundTheRingTest is Holds {
    function setUp() public override {
        super.setUp();
        _commitUpTo(200);
        vm.warp(lastHeader.finalAt);
        settlement.finalise(lastHeader);
        _commitUpTo(400);
    }

    function test_holds_wrap_around_with_the_ring(uint256 held, uint256 other) external {
        held = bound(held, 201, 400);
        other = bound(other, 201, 400);
        _hold(held);
        vm.assertEq(settlement.isHeld(operator, uint64(other)), held == other);
        vm.warp(lastHeader.finalAt);
        if (other < held) {
            settlement.finalise(_headers[other - 1]);
            _expectHeld(400);
        } else {
            _expectHeld(other);
            voidFrom(_headers[other - 1]);
            // Voided batches lose their holds; the others keep them.
            vm.assertEq(settlement.isHeld(operator, uint64(held)), other != held);
        }
    }
}
