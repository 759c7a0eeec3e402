// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

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
        settlement.finalise(header);
        bytes32 expected = keccak256(abi.encode(header.balancesRoot, header.balancesCount, header.cumulativeTotal));
        vm.assertEq(settlement.balancesHashOf(operator), expected);
        vm.assertEq(settlement.stateOf(operator).finalised, 1);
    }

    function test_nothing_is_final_within_the_window(uint64 early) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        early = uint64(bound(early, 1, WINDOW));
        vm.warp(header.finalAt - early);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotYetFinal.selector, header.finalAt));
        settlement.finalise(header);
    }

    function test_finalising_a_batch_finalises_all_earlier_ones() external {
        BatchHeader memory one = commit(5, oneBalance(_account, 5));
        vm.warp(block.timestamp + 1);
        BatchHeader memory two = commit(5, oneBalance(_account, 10));
        vm.warp(two.finalAt);
        settlement.finalise(two);
        vm.assertEq(settlement.stateOf(operator).finalised, 2);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.AlreadyFinal.selector, 1));
        settlement.finalise(one);
    }

    function test_a_header_that_was_never_committed_is_refused(uint256 field, uint64 change) external {
        BatchHeader memory header = commit(5, oneBalance(_account, 5));
        vm.warp(header.finalAt);
        vm.assume(change != 0);
        _change(header, field % 6, change);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(header)));
        settlement.finalise(header);
    }

    function test_a_slot_left_stale_by_a_void_is_not_finalised() external {
        commit(5, oneBalance(_account, 5));
        BatchHeader memory voided = commit(5, oneBalance(_account, 10));
        voidFrom(voided);
        vm.warp(voided.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(voided)));
        settlement.finalise(voided);
    }

    function _change(BatchHeader memory header, uint256 field, uint64 change) private pure {
        if (field == 0) header.finalAt ^= change;
        if (field == 1) header.number ^= change;
        if (field == 2) header.balancesRoot ^= bytes32(uint256(change));
        if (field == 3) header.cumulativeTotal ^= change;
        if (field == 4) header.operator = address(uint160(header.operator) ^ change);
        if (field == 5) header.parent ^= bytes32(uint256(change));
    }
}
