// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes} from "../../contracts/interfaces/IDisputes.sol";
import {IParameters} from "../../contracts/interfaces/IParameters.sol";
import {BatchHeader, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";

contract FinaliseTest is Batches {
    address private _account;

    function setUp() public override {
        super.setUp();
        _account = accountOf("contributor");
    }

    function test_anyone_finalises_from_final_at_on(uint32 late) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(uint256(header.finalAt) + late);
        vm.expectEmit(address(settlement));
        emit ISettlement.BatchFinalised(operator, 1, settlement.hashBatch(header), 5);
        vm.prank(accountOf("anyone"));
        finalise(header);
        vm.assertEq(settlement.stateOf(operator).finalTotal, 5);
        vm.assertEq(settlement.stateOf(operator).finalised, 1);
    }

    function test_nothing_is_final_within_the_window(uint64 early) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        early = uint64(bound(early, 1, WINDOW));
        vm.warp(header.finalAt - early);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotYetFinal.selector, header.finalAt, 0));
        finalise(header);
    }

    /// @dev A chain that halts makes up for it in time, but not in blocks.
    function test_nothing_is_final_before_its_block(uint32 windowBlocks) external {
        windowBlocks = uint32(bound(windowBlocks, 1, type(uint32).max));
        vm.mockCall(
            address(parameters),
            abi.encodeCall(IParameters.commitTerms, (0)),
            abi.encode(WINDOW, windowBlocks, 250_000)
        );
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(header.finalAt + 30 days);
        vm.roll(header.finalBlock - 1);
        vm.expectRevert(
            abi.encodeWithSelector(ISettlement.NotYetFinal.selector, header.finalAt, header.finalBlock)
        );
        finalise(header);
        vm.roll(header.finalBlock);
        finalise(header);
    }

    function test_batches_become_final_in_order() external {
        BatchHeader[] memory headers = _commitMany(3);
        vm.warp(headers[2].finalAt);
        bytes4 selector = ISettlement.NotNextToFinalise.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, 1, 2));
        finalise(headers[1]);
        finalise(headers[0]);
        vm.expectRevert(abi.encodeWithSelector(selector, 2, 1));
        finalise(headers[0]);
        vm.expectRevert(abi.encodeWithSelector(selector, 2, 3));
        finalise(headers[2], headers[1]);
        finalise(headers[1], headers[2]);
        vm.assertEq(settlement.stateOf(operator).finalised, 3);
        vm.assertEq(settlement.stateOf(operator).finalTotal, 3);
    }

    /// @dev A batch under a shorter window waits for its parent.
    function test_no_batch_is_final_before_its_parent() external {
        BatchHeader memory one = commit(5, oneBalance(_account, 5));
        setDisputeWindow(4);
        BatchHeader memory two = commit(5, oneBalance(_account, 10));
        vm.warp(two.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotNextToFinalise.selector, 1, 2));
        finalise(two);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotYetFinal.selector, one.finalAt, 0));
        finalise(one, two);
        vm.warp(one.finalAt);
        finalise(one, two);
    }

    function test_a_header_that_was_never_committed_is_refused(uint256 field, uint64 change) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(header.finalAt);
        vm.assume(change != 0);
        _change(header, field % 8, change);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(header)));
        finalise(header);
    }

    function test_a_voided_batch_is_not_finalised() external {
        BatchHeader memory first = commit(5, oneBalance(_account, 5));
        vm.warp(first.finalAt);
        finalise(first);
        BatchHeader memory voided = commit(5, oneBalance(_account, 10));
        voidPending(voided);
        vm.warp(voided.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(voided)));
        finalise(voided);
    }

    // --- demands, as the disputes report them ---

    function test_a_batch_with_open_demands_and_those_after_it_are_not_final(uint32 open) external {
        vm.assume(open != 0);
        BatchHeader[] memory headers = _commitMany(3);
        bytes32 second = settlement.hashBatch(headers[1]);
        _mockDemands(second, open, 0);
        vm.warp(headers[2].finalAt + 30 days);
        finalise(headers[0]);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DemandsOpen.selector, second, open));
        finalise(headers[1], headers[2]);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotNextToFinalise.selector, 2, 3));
        finalise(headers[2]);
        _mockDemands(second, 0, 0);
        finalise(headers[1], headers[2]);
    }

    function test_answers_leave_time_for_proofs(uint32 extension) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        uint64 proofsUntil = header.finalAt + extension;
        _mockDemands(settlement.hashBatch(header), 0, proofsUntil);
        vm.warp(proofsUntil - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotYetFinal.selector, proofsUntil, 0));
        finalise(header);
        vm.warp(proofsUntil);
        finalise(header);
    }

    // --- internal ---

    /// @dev Batches of one micro-unit each.
    function _commitMany(uint256 count) private returns (BatchHeader[] memory headers) {
        headers = new BatchHeader[](count);
        for (uint256 i = 0; i < count; ++i) {
            headers[i] = commit(1, oneBalance(_account, uint128(i + 1)));
        }
    }

    function _mockDemands(bytes32 batchHash, uint32 open, uint64 proofsUntil) private {
        bytes memory call = abi.encodeCall(IDisputes.demandsOn, (batchHash));
        vm.mockCall(address(disputes), call, abi.encode(open, 0, proofsUntil));
    }

    function _change(BatchHeader memory header, uint256 field, uint64 change) private pure {
        if (field == 0) header.finalAt ^= change;
        if (field == 1) header.number ^= change;
        if (field == 2) header.balancesRoot ^= bytes32(uint256(change));
        if (field == 3) header.cumulativeTotal ^= change;
        if (field == 4) header.operator = address(uint160(header.operator) ^ change);
        if (field == 5) header.parent ^= bytes32(uint256(change));
        if (field == 6) header.slashUpTo ^= change;
        if (field == 7) header.finalBlock ^= change;
    }
}
