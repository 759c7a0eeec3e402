// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {BatchData, BatchModel, Leaves} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract WrongOrderTest is Disputed {
    using BatchModel for *;

    function test_two_swapped_leaves_convict(bool isBalances, uint256 i, uint256 j) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = validBatch();
        Leaves memory leaves = batch.leavesOf(tree);
        j = bound(j, 1, leaves.keys.length - 1);
        i = bound(i, 0, j - 1);
        leaves.swap(i, j);
        commitBatch(batch);
        Lookup memory shown = batch.pair(tree, i, j);
        expectConviction(batch, IDisputes.proveWrongOrder.selector);
        prover.proveWrongOrder(batch.header, tree, shown);
        assertVoid(batch);
    }

    function test_a_duplicate_key_convicts(bool isBalances, uint256 i) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = validBatch();
        Leaves memory leaves = batch.leavesOf(tree);
        i = bound(i, 0, leaves.keys.length - 1);
        vm.assume(leaves.values[i] > 1);
        leaves.values[i] -= 1;
        leaves = leaves.insert(i + 1, leaves.keys[i], 1);
        if (isBalances) batch.balances = leaves;
        else batch.entries = leaves;
        commitBatch(batch);
        prover.proveWrongOrder(batch.header, tree, batch.pair(tree, i, i + 1));
        assertVoid(batch);
    }

    function test_leaves_in_order_convict_in_neither_order(bool isBalances, uint256 i, uint256 j) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = committedBatch();
        Leaves memory leaves = batch.leavesOf(tree);
        (i, j) = (bound(i, 0, leaves.keys.length - 1), bound(j, 0, leaves.keys.length - 1));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.LeavesInOrder.selector, leaves.keys[i], leaves.keys[j]));
        prover.proveWrongOrder(batch.header, tree, batch.pair(tree, i, j));
    }

    function test_leaves_of_other_trees_are_refused(bool isBalances, uint256 i) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = committedBatch();
        i = bound(i, 1, batch.leavesOf(tree).keys.length - 1);
        Lookup memory shown = batch.pair(tree, i - 1, i);
        (shown.openings[0].index, shown.openings[1].index) = (shown.openings[1].index, shown.openings[0].index);
        // If the last leaf is promoted, its path has another length too.
        vm.expectRevert();
        prover.proveWrongOrder(batch.header, tree, shown);
        shown = batch.pair(tree, i - 1, i);
        (shown.keys[0], shown.keys[1]) = (shown.keys[1], shown.keys[0]);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveWrongOrder(batch.header, tree, shown);
    }

    function test_both_leaves_must_be_in_the_tree(bool isBalances, uint256 i, bool isLeft) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = committedBatch();
        i = bound(i, 1, batch.leavesOf(tree).keys.length - 1);
        Lookup memory shown = batch.pair(tree, i - 1, i);
        shown.keys[isLeft ? 0 : 1] = isLeft ? bytes32(type(uint256).max) : bytes32(0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveWrongOrder(batch.header, tree, shown);
    }

    function test_a_valid_batch_survives_any_changed_proof(bool isBalances, uint256 i, uint256 seed) external {
        Tree tree = _treeOf(isBalances);
        BatchData memory batch = committedBatch();
        i = bound(i, 1, batch.leavesOf(tree).keys.length - 1);
        bytes memory call = abi.encodeCall(IDisputes.proveWrongOrder, (batch.header, tree, batch.pair(tree, i, i - 1)));
        expectAcquittal(batch, call, seed);
    }

    function test_receipts_and_the_parents_balances_have_no_order_to_prove() external {
        BatchData memory batch = committedBatch();
        Lookup memory shown = batch.pair(Tree.Receipts, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.Receipts));
        prover.proveWrongOrder(batch.header, Tree.Receipts, shown);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.ParentBalances));
        prover.proveWrongOrder(batch.header, Tree.ParentBalances, shown);
    }

    function _treeOf(bool isBalances) private pure returns (Tree) {
        return isBalances ? Tree.Balances : Tree.Entries;
    }
}
