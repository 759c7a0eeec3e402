// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Demand, IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract DemandTest is Disputed {
    function test_demanding_a_leaf_costs_a_bond(uint256 tree, uint256 count) external {
        BatchData memory batch = committedBatch();
        bytes32[] memory keys = _keys(bound(count, 1, 64));
        Demand memory demand_ = demandOf(batch, Tree(tree % 4), keys);
        bytes32 id = idOf(demand_);
        fundChallenger(keys.length * BOND);
        vm.expectEmit(address(disputes));
        emit IDisputes.Demanded(id, operator, demand_.batchHash, demand_);
        vm.prank(challenger);
        vm.assertEq(disputes.demand(batch.header, demand_.tree, keys), id);
        vm.assertEq(disputes.unansweredOf(id), (1 << keys.length) - 1);
        vm.assertEq(disputes.numOpenDemands(demand_.batchHash), 1);
        vm.assertTrue(hasOpenDemand(batch.header));
        vm.assertEq(usd.balanceOf(address(disputes)), keys.length * BOND);
        vm.assertEq(usd.balanceOf(challenger), 0);
    }

    function test_one_to_64_keys_are_demanded_at_once() external {
        BatchData memory batch = committedBatch();
        bytes4 selector = IDisputes.InvalidKeyCount.selector;
        _expectError(batch, Tree.Entries, _keys(0), abi.encodeWithSelector(selector, 0, 64));
        _expectError(batch, Tree.Entries, _keys(65), abi.encodeWithSelector(selector, 65, 64));
        demand(batch, Tree.Entries, _keys(64));
    }

    function test_receipts_are_demanded_by_index(uint256 index) external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Receipts, oneKey(bytes32(uint256(6))));
        bytes32 key = bytes32(bound(index, 7, type(uint256).max));
        bytes4 selector = IDisputes.KeyOutOfRange.selector;
        _expectError(batch, Tree.Receipts, oneKey(key), abi.encodeWithSelector(selector, key, 7));
        bytes32[] memory keys = _keys(8);
        keys[7] = bytes32(uint256(7));
        _expectError(batch, Tree.Receipts, keys, abi.encodeWithSelector(selector, 7, 7));
    }

    function test_the_first_batch_has_no_parent_to_demand() external {
        BatchData memory batch = firstBatch();
        _expectError(batch, Tree.ParentBalances, _keys(1), abi.encodeWithSelector(IDisputes.NoParent.selector));
        demand(batch, Tree.Balances, _keys(1));
    }

    function test_demands_end_two_answers_before_the_batch_is_final(uint64 early) external {
        BatchData memory batch = committedBatch();
        uint64 until = batch.header.finalAt - 2 * PERIOD;
        vm.warp(until - bound(early, 0, until - block.timestamp));
        demand(batch, Tree.Entries, _keys(1));
        vm.warp(until);
        demand(batch, Tree.Balances, _keys(2));
        vm.warp(until + 1);
        bytes4 selector = IDisputes.TooLateToDemand.selector;
        _expectError(batch, Tree.Entries, _keys(1), abi.encodeWithSelector(selector, until));
    }

    /// @dev Before the end there is time for the last answer and for a proof after it, one period each.
    function test_the_last_answer_is_due_one_period_before_the_end() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        Demand memory demand_ = demand(batch, Tree.Entries, _keys(1));
        vm.assertEq(demand_.deadline, batch.header.finalAt - PERIOD);
    }

    function test_an_answer_may_take_an_eighth_of_the_window_and_at_least_a_second(uint32 window) external {
        window = uint32(bound(window, 3, 120));
        setDisputeWindow(window);
        BatchData memory batch = committedBatch();
        vm.assertEq(disputes.answerSeconds(batch.header), window < 8 ? 1 : window / 8);
        // The batch's parameter set applies, not the current one.
        vm.assertEq(disputes.answerSeconds(firstBatch().header), PERIOD);
    }

    function test_the_same_is_demanded_twice_in_different_instants_only() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, _keys(3));
        fundChallenger(3 * BOND);
        bytes memory exists = abi.encodeWithSelector(IDisputes.DemandExists.selector, idOf(demand_));
        vm.expectRevert(exists);
        vm.prank(challenger);
        disputes.demand(batch.header, Tree.Entries, _keys(3));
        vm.warp(block.timestamp + 1);
        demand(batch, Tree.Entries, _keys(3));
        vm.assertEq(disputes.numOpenDemands(demand_.batchHash), 2);
    }

    function test_another_account_can_demand_the_same_in_the_same_block() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, _keys(1));
        challenger = accountOf("another challenger");
        vm.assertNotEq(idOf(demand(batch, Tree.Entries, _keys(1))), idOf(demand_));
    }

    function test_a_bond_is_rounded_up_to_whole_units(uint128 bond) external {
        bond = uint128(bound(bond, 1e9, 1e15));
        setDisputeTerms(250_000, bond);
        BatchData memory batch = committedBatch();
        uint256 units = (uint256(bond) + 999_999) / MICRO;
        fundChallenger(2 * units);
        vm.prank(challenger);
        disputes.demand(batch.header, Tree.Entries, _keys(2));
        vm.assertEq(usd.balanceOf(address(disputes)), 2 * units);
    }

    function test_only_pending_batches_take_demands() external {
        BatchData memory batch = committedBatch();
        bytes32 hash = Hashing.batch(batch.header);
        batch.header.total += 1;
        bytes memory unknown = abi.encodeWithSelector(IDisputes.BatchNotPending.selector, Hashing.batch(batch.header));
        _expectError(batch, Tree.Entries, _keys(1), unknown);
        batch.header.total -= 1;
        voidFrom(batch.header);
        unknown = abi.encodeWithSelector(IDisputes.BatchNotPending.selector, hash);
        _expectError(batch, Tree.Entries, _keys(1), unknown);
    }

    function test_a_header_with_a_later_end_is_refused() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
        bytes4 notPending = IDisputes.BatchNotPending.selector;
        bytes memory final_ = abi.encodeWithSelector(notPending, Hashing.batch(batch.header));
        _expectError(batch, Tree.Entries, _keys(1), final_);
        batch.header.finalAt += 100;
        bytes memory unknown = abi.encodeWithSelector(IDisputes.BatchNotPending.selector, Hashing.batch(batch.header));
        _expectError(batch, Tree.Entries, _keys(1), unknown);
    }

    function test_a_demand_needs_its_bond() external {
        BatchData memory batch = committedBatch();
        vm.prank(challenger);
        vm.expectRevert();
        disputes.demand(batch.header, Tree.Entries, _keys(1));
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    /// @dev A fee-on-transfer token delivers less than the bond.
    function test_a_bond_that_does_not_arrive_is_refused() external {
        BatchData memory batch = committedBatch();
        vm.mockCall(address(usd), abi.encodeWithSelector(IERC20.transferFrom.selector), abi.encode(true));
        bytes4 selector = ExactTransfer.UnexpectedTransfer.selector;
        _expectError(batch, Tree.Entries, _keys(1), abi.encodeWithSelector(selector, BOND, 0));
    }

    function test_disputes_name_their_generation() external view {
        vm.assertEq(address(disputes.settlement()), address(settlement));
        vm.assertEq(address(disputes.operators()), address(operators));
        vm.assertEq(address(disputes.parameters()), address(parameters));
        vm.assertEq(address(disputes.adapters()), address(adapters));
        vm.assertEq(address(disputes.datasets()), address(datasets));
        vm.assertEq(address(disputes.token()), address(usd));
    }

    function _expectError(BatchData memory batch, Tree tree, bytes32[] memory keys, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(challenger);
        disputes.demand(batch.header, tree, keys);
    }

    function _keys(uint256 count) private pure returns (bytes32[] memory keys) {
        keys = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            // The indices of all receipts, and then the first one again.
            keys[i] = bytes32(i % 7);
        }
    }
}
