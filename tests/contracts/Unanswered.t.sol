// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract UnansweredTest is Disputed {
    function test_an_unanswered_demand_voids_from_the_second_after_the_deadline(uint32 late, uint256 tree) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(tree % 4);
        uint64 deadline = demand(batch, which, 0).deadline;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DeadlineNotPassed.selector, deadline, 0));
        disputes.voidUnanswered(batch.header, which, 0);
        vm.warp(uint256(deadline) + 1 + late);
        expectConviction(batch, IDisputes.voidUnanswered.selector, challenger);
        disputes.voidUnanswered(batch.header, which, 0);
        assertVoid(batch);
    }

    /// @dev Any account may send it, without a reservation.
    function test_the_challengers_share_goes_to_the_demands_challenger(address sender) external {
        vm.assume(sender != challenger && sender != address(timelock) && sender != address(0));
        BatchData memory batch = committedBatch();
        vm.warp(demand(batch, Tree.Entries, 0).deadline + 1);
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
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        vm.assertEq(usd.balanceOf(challenger), units / 4);
    }

    function test_one_unanswered_leaf_of_64_is_enough(uint256 silent) external {
        BatchData memory batch = committedBatch();
        silent = bound(silent, 1, 64);
        demandMany(batch, Tree.Entries, absentKeys(64));
        for (uint256 i = 1; i <= 64; ++i) {
            if (i != silent) answer(batch, Tree.Entries, bytes32(i));
        }
        vm.warp(demandOf(batch, Tree.Entries, bytes32(silent)).deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Entries, bytes32(silent));
        assertVoid(batch);
    }

    function test_an_answered_demand_voids_nothing() external {
        BatchData memory batch = committedBatch();
        uint64 deadline = demand(batch, Tree.Entries, 0).deadline;
        answer(batch, Tree.Entries, 0);
        vm.warp(deadline + 1);
        bytes32 leaf = leafOf(batch, Tree.Entries, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandClosed.selector, leaf));
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        vm.assertTrue(settlement.isPending(batch.header));
    }

    /// @dev An open demand holds the batch, so an unanswered one can be punished at any later time.
    function test_an_open_demand_outlasts_the_window() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        demand(batch, Tree.Balances, 0);
        vm.warp(uint256(batch.header.finalAt) + 1 days);
        bytes4 selector = ISettlement.DemandsOpen.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, Hashing.batch(batch.header), 1));
        finalise(batch.parent, batch.header);
        disputes.voidUnanswered(batch.header, Tree.Balances, 0);
        assertVoid(batch);
    }

    function test_a_demand_of_the_first_of_two_voids_both() external {
        BatchData memory batch = firstBatch();
        uint64 deadline = demand(batch, Tree.Balances, 0).deadline;
        committedBatch();
        vm.warp(deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Balances, 0);
        vm.assertEq(settlement.stateOf(operator).last, 0);
        vm.assertEq(settlement.stateOf(operator).toRefund, 2);
    }

    function test_a_batch_is_convicted_only_once() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Balances, 0);
        vm.warp(demand(batch, Tree.Entries, 0).deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Balances, 0);
        bytes memory unknown = abi.encodeWithSelector(ISettlement.BatchUnknown.selector, Hashing.batch(batch.header));
        vm.expectRevert(unknown);
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
    }

    function test_what_was_not_demanded_voids_nothing(uint256 field, bytes32 key) external {
        BatchData memory batch = committedBatch();
        vm.warp(demand(batch, Tree.Entries, 0).deadline + 1);
        BatchData memory other = field % 3 == 0 ? firstBatch() : batch;
        Tree tree = field % 3 == 1 ? Tree.Balances : Tree.Entries;
        if (field % 3 != 2) key = 0;
        vm.assume(field % 3 != 2 || key != 0);
        bytes4 selector = IDisputes.NotDemanded.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, leafOf(other, tree, key)));
        disputes.voidUnanswered(other.header, tree, key);
    }
}
