// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parameters} from "../../contracts/Parameters.sol";
import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Demands} from "../../contracts/libraries/Demands.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";
import {BlockParameters} from "./support/PatientParameters.sol";

/// @notice A chain whose profile counts blocks: a halt moves its time, but neither its deadlines nor its finality.
contract HaltsTest is Disputed {
    using BatchModel for *;

    uint64 private constant _BLOCK_SECONDS = 2;

    function newParameters() internal override returns (Parameters) {
        return new BlockParameters(address(access), vault, firstSet());
    }

    function test_a_halt_does_not_convict(uint32 halt) external {
        BatchData memory batch = committedBatch();
        uint256 number = block.number;
        Demand memory demand_ = demand(batch, Tree.Entries, 0);
        vm.assertEq(demand_.deadlineBlock, number + PERIOD / _BLOCK_SECONDS);
        vm.warp(uint256(demand_.deadline) + 1 + halt);
        vm.roll(demand_.deadlineBlock);
        bytes4 selector = IDisputes.DeadlineNotPassed.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, demand_.deadline, demand_.deadlineBlock));
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        answer(batch, Tree.Entries, 0);
        // The late answer still leaves time for a proof.
        vm.assertLe(block.timestamp + PERIOD, finalityOf(batch));
    }

    function test_silence_convicts_once_time_and_blocks_have_passed() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, 0);
        vm.roll(demand_.deadlineBlock + 1);
        vm.warp(demand_.deadline);
        vm.expectRevert();
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        vm.warp(demand_.deadline + 1);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        bytes4 selector = IDisputes.AnswerTooLate.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, demand_.deadline, demand_.deadlineBlock));
        disputes.answer(batch.header, Tree.Entries, 0, batch.parent, lookup);
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        assertVoid(batch);
    }

    /// @dev A halt of days ends shortly before the block of finality: withheld data can be demanded for as long as
    /// blocks remain for an answer and a proof.
    function test_a_halt_does_not_end_demands() external {
        BatchData memory batch = committedBatch();
        vm.warp(uint256(batch.header.finalAt) + 1 days);
        vm.roll(batch.header.finalBlock - 2 * PERIOD / _BLOCK_SECONDS);
        Demand memory demand_ = demand(batch, Tree.Entries, 0);
        vm.assertEq(demand_.deadline, block.timestamp + PERIOD);
        vm.assertEq(finalityOf(batch), block.timestamp + 2 * PERIOD);
        answer(batch, Tree.Entries, 0);
        vm.roll(batch.header.finalBlock);
        uint64 finality = finalityOf(batch);
        vm.warp(finality - 1);
        finalise(batch.parent);
        bytes4 selector = ISettlement.NotYetFinal.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, finality, batch.header.finalBlock));
        finalise(batch.header);
        vm.warp(finality);
        finalise(batch.header);
    }

    function test_demands_end_when_neither_time_nor_blocks_remain() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD + 1);
        vm.roll(batch.header.finalBlock - 2 * PERIOD / _BLOCK_SECONDS + 1);
        uint256 bond = bondsOf(Tree.Entries, 1);
        vm.expectRevert(abi.encodeWithSelector(Demands.TooLateToDemand.selector, batch.header.finalAt));
        vm.prank(challenger);
        disputes.demand{value: bond}(batch.header, Tree.Entries, oneKey(0));
    }
}
