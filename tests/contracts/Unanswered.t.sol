// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract UnansweredTest is Disputed {
    using BatchModel for *;

    function test_an_unanswered_demand_voids_from_the_second_after_the_deadline(uint32 late, uint256 tree) external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree(tree % 4), oneKey(0));
        vm.warp(demand_.deadline);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DeadlineNotPassed.selector, demand_.deadline));
        disputes.voidUnanswered(demand_, batch.header);
        vm.warp(uint256(demand_.deadline) + 1 + late);
        expectConviction(batch, IDisputes.voidUnanswered.selector, challenger);
        disputes.voidUnanswered(demand_, batch.header);
        assertVoid(batch);
    }

    /// @dev Any account may send it, without a reservation.
    function test_the_challengers_share_goes_to_the_demands_challenger(address sender) external {
        vm.assume(sender != challenger && sender != address(timelock) && sender != address(0));
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        vm.warp(demand_.deadline + 1);
        uint256 units = batch.header.slashUpTo / MICRO;
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Slashed(
            operator,
            challenger,
            uint128(units / 4) * MICRO,
            address(timelock),
            uint128(units - units / 4) * MICRO
        );
        vm.prank(sender);
        disputes.voidUnanswered(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), units / 4);
    }

    function test_one_unanswered_key_of_64_is_enough(uint256 silent) external {
        BatchData memory batch = committedBatch();
        silent %= 64;
        Demand memory demand_ = demand(batch, Tree.Entries, new bytes32[](64));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        for (uint256 i = 0; i < 64; ++i) {
            if (i != silent) disputes.answer(demand_, i, batch.header, batch.parent, lookup);
        }
        vm.assertEq(disputes.unansweredOf(idOf(demand_)), 1 << silent);
        vm.warp(demand_.deadline + 1);
        disputes.voidUnanswered(demand_, batch.header);
        assertVoid(batch);
    }

    function test_an_answered_demand_voids_nothing() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        disputes.answer(demand_, 0, batch.header, batch.parent, batch.lookUp(Tree.Entries, 0));
        vm.warp(demand_.deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_)));
        disputes.voidUnanswered(demand_, batch.header);
        vm.assertTrue(settlement.isPending(batch.header));
    }

    /// @dev An open demand holds the batch, so an unanswered one can be punished at any later time.
    function test_an_open_demand_outlasts_the_window() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        Demand memory demand_ = demand(batch, Tree.Balances, oneKey(0));
        vm.warp(uint256(batch.header.finalAt) + 1 days);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DemandsOpen.selector, demand_.batchHash, 1));
        finalise(batch.parent, batch.header);
        disputes.voidUnanswered(demand_, batch.header);
        assertVoid(batch);
    }

    function test_a_demand_of_the_first_of_two_voids_both() external {
        BatchData memory batch = firstBatch();
        Demand memory demand_ = demand(batch, Tree.Balances, oneKey(0));
        committedBatch();
        vm.warp(demand_.deadline + 1);
        disputes.voidUnanswered(demand_, batch.header);
        vm.assertEq(settlement.stateOf(operator).last, 0);
        vm.assertEq(settlement.stateOf(operator).toRefund, 2);
    }

    function test_a_batch_is_convicted_only_once() external {
        BatchData memory batch = committedBatch();
        Demand memory one = demand(batch, Tree.Balances, oneKey(0));
        Demand memory two = demand(batch, Tree.Entries, oneKey(0));
        vm.warp(one.deadline + 1);
        disputes.voidUnanswered(one, batch.header);
        bytes memory unknown = abi.encodeWithSelector(ISettlement.BatchUnknown.selector, Hashing.batch(batch.header));
        vm.expectRevert(unknown);
        disputes.voidUnanswered(two, batch.header);
    }

    function test_another_demand_or_batch_is_unknown(uint256 field) external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        vm.warp(demand_.deadline + 1);
        BatchData memory other = firstBatch();
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, demand_.batchHash, Hashing.batch(other.header)));
        disputes.voidUnanswered(demand_, other.header);
        field %= 3;
        if (field == 0) demand_.challenger = address(this);
        if (field == 1) demand_.deadline -= 1;
        if (field == 2) demand_.batchHash = Hashing.batch(other.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_)));
        disputes.voidUnanswered(demand_, other.header);
    }
}
