// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Opening} from "../../contracts/interfaces/ISettlement.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {BatchData, BatchModel, Leaves} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract ZeroLeafTest is Disputed {
    using BatchModel for *;

    function test_a_leaf_of_value_zero_convicts(uint256 tree, uint256 at, bytes32 key) external {
        Tree which = Tree(tree % 3);
        BatchData memory batch = validBatch();
        Leaves memory leaves = batch.leavesOf(which);
        at = bound(at, 0, leaves.keys.length);
        leaves = leaves.insert(at, key, 0);
        if (which == Tree.Receipts) batch.receipts = leaves;
        if (which == Tree.Entries) batch.entries = leaves;
        if (which == Tree.Balances) batch.balances = leaves;
        commitBatch(batch);
        Opening memory opening = batch.open(which, at);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector);
        prover.proveZeroLeaf(batch.header, which, _leaf(which, key), opening);
        assertVoid(batch);
    }

    /// @dev The hash of a leaf is enough; its key may be unknown.
    function test_a_zero_leaf_with_an_unknown_key_convicts(bytes32 key) external {
        BatchData memory batch = validBatch();
        batch.entries = batch.entries.insert(0, key, 0);
        commitBatch(batch);
        bytes32 leaf = batch.sums(Tree.Entries).leaves[0];
        prover.proveZeroLeaf(batch.header, Tree.Entries, leaf, batch.open(Tree.Entries, 0));
        assertVoid(batch);
    }

    /// @dev Two adjacent zero leaves form a zero node, which is a sibling in the path of their neighbour.
    function test_zero_leaves_are_visible_in_the_path_of_a_sibling() external {
        BatchData memory batch = validBatch();
        batch.entries = batch.entries.insert(2, bytes32(uint256(1)), 0).insert(3, bytes32(uint256(2)), 0);
        commitBatch(batch);
        Opening memory opening = batch.open(Tree.Entries, 0);
        bytes32 leaf = _leaf(Tree.Entries, batch.leavesOf(Tree.Entries).keys[0]);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector);
        prover.proveZeroLeaf(batch.header, Tree.Entries, leaf, opening);
        assertVoid(batch);
    }

    function test_leaves_of_a_valid_batch_have_positive_value(uint256 tree, uint256 i) external {
        Tree which = Tree(tree % 3);
        BatchData memory batch = committedBatch();
        Leaves memory leaves = batch.leavesOf(which);
        i = bound(i, 0, leaves.keys.length - 1);
        Opening memory opening = batch.open(which, i);
        bytes memory error = abi.encodeWithSelector(IDisputes.LeafHasValue.selector, opening.value);
        vm.expectRevert(error);
        prover.proveZeroLeaf(batch.header, which, _leaf(which, leaves.keys[i]), opening);
        opening.value = 0;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveZeroLeaf(batch.header, which, _leaf(which, leaves.keys[i]), opening);
    }

    function test_a_node_above_leaves_does_not_pass_for_one(uint256 tree) external {
        Tree which = Tree(tree % 3);
        BatchData memory batch = committedBatch();
        Opening memory opening = batch.open(which, 0);
        bytes memory path = new bytes(opening.path.length - 48);
        for (uint256 i = 0; i < path.length; ++i) {
            path[i] = opening.path[48 + i];
        }
        opening.path = path;
        vm.expectPartialRevert(MerkleSum.InvalidPathLength.selector);
        prover.proveZeroLeaf(batch.header, which, keccak256("node"), opening);
    }

    function test_a_single_leaf_has_the_total() external {
        BatchData memory batch = firstBatch();
        Opening memory opening = batch.open(Tree.Receipts, 0);
        opening.value = 0;
        vm.expectRevert(abi.encodeWithSelector(Lookups.LeafNotInTree.selector, batch.header.receiptsRoot, 0));
        prover.proveZeroLeaf(batch.header, Tree.Receipts, batch.header.receiptsRoot, opening);
    }

    function test_the_parents_leaves_are_another_batchs() external {
        BatchData memory batch = committedBatch();
        Opening memory opening = batch.open(Tree.ParentBalances, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.ParentBalances));
        prover.proveZeroLeaf(batch.header, Tree.ParentBalances, keccak256("leaf"), opening);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 tree, uint256 i, uint256 seed) external {
        Tree which = Tree(tree % 3);
        BatchData memory batch = committedBatch();
        Leaves memory leaves = batch.leavesOf(which);
        i = bound(i, 0, leaves.keys.length - 1);
        bytes32 leaf = _leaf(which, leaves.keys[i]);
        bytes memory call = abi.encodeCall(IDisputes.proveZeroLeaf, (batch.header, which, leaf, batch.open(which, i)));
        expectAcquittal(batch, call, seed);
    }

    function _leaf(Tree tree, bytes32 key) private pure returns (bytes32) {
        return MerkleSum.leafHash(BatchModel.tagOf(tree), key);
    }
}
