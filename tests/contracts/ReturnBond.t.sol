// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract ReturnBondTest is Disputed {
    using BatchModel for *;

    function test_bonds_of_keys_that_a_void_left_unanswered_are_returned(uint256 count, uint64 answered) external {
        BatchData memory batch = committedBatch();
        count = bound(count, 1, 64);
        Demand memory demand_ = demand(batch, Tree.Entries, new bytes32[](count));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        uint256 left = 0;
        for (uint256 i = 0; i < count; ++i) {
            // The last one stays open.
            bool isAnswered = (answered >> i) & 1 == 1 && i + 1 != count;
            if (isAnswered) disputes.answer(demand_, i, batch.header, batch.parent, lookup);
            else ++left;
        }
        voidFrom(batch.header);
        vm.expectEmit(address(disputes));
        emit IDisputes.BondReturned(idOf(demand_), challenger, left * BOND);
        vm.prank(accountOf("anyone"));
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), left * BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.assertEq(disputes.unansweredOf(idOf(demand_)), 0);
        vm.assertEq(disputes.numOpenDemands(demand_.batchHash), 0);
    }

    function test_a_bond_is_returned_along_with_the_challengers_share() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        vm.warp(demand_.deadline + 1);
        disputes.voidUnanswered(demand_, batch.header);
        uint256 reward = usd.balanceOf(challenger);
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), reward + BOND);
    }

    function test_a_bond_is_returned_only_once() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        demand(batch, Tree.Balances, oneKey(0));
        voidFrom(batch.header);
        disputes.returnBond(demand_, batch.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_)));
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(address(disputes)), BOND);
        vm.assertEq(disputes.numOpenDemands(demand_.batchHash), 1);
    }

    function test_a_bond_is_not_returned_while_the_batch_is_pending(uint32 later) external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        vm.warp(block.timestamp + later);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BatchPending.selector, demand_.batchHash));
        disputes.returnBond(demand_, batch.header);
    }

    function test_demands_of_a_later_batch_return_too() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        voidFrom(batch.parent);
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), BOND);
    }

    function test_a_bond_is_returned_after_another_batch_took_the_number() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        voidFrom(batch.header);
        settlement.refund(batch.header, batch.refunds);
        vm.warp(block.timestamp + 1);
        BatchData memory again = committedBatch();
        Demand memory other = demand(again, Tree.Entries, oneKey(0));
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), BOND);
        // The new batch has a separate demand.
        vm.assertTrue(hasOpenDemand(again.header));
        vm.assertEq(disputes.unansweredOf(idOf(other)), 1);
    }

    function test_an_altered_demand_returns_nothing() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        voidFrom(batch.header);
        demand_.challenger = address(this);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_)));
        disputes.returnBond(demand_, batch.header);
        demand_.challenger = challenger;
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        bytes32 found = Hashing.batch(batch.parent);
        vm.expectRevert(abi.encodeWithSelector(selector, demand_.batchHash, found));
        disputes.returnBond(demand_, batch.parent);
    }
}
