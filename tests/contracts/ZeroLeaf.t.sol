// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Opening} from "../../contracts/interfaces/ISettlement.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Book, Books, Leaves} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract ZeroLeafTest is Disputed {
    using Books for *;

    function test_a_leaf_of_value_zero_convicts(uint256 tree, uint256 at, bytes32 key) external {
        Tree which = Tree(tree % 3);
        Book memory book = validBook();
        Leaves memory leaves = book.leavesOf(which);
        at = bound(at, 0, leaves.keys.length);
        leaves = leaves.insert(at, key, 0);
        if (which == Tree.Receipts) book.receipts = leaves;
        if (which == Tree.Entries) book.entries = leaves;
        if (which == Tree.Balances) book.balances = leaves;
        commitBook(book);
        Opening memory opening = book.open(which, at);
        expectConviction(book, IDisputes.proveZeroLeaf.selector);
        disputes.proveZeroLeaf(book.header, which, _leaf(which, key), opening);
        assertVoid(book);
    }

    /// @dev The hash of a leaf is enough; its key may be unknown.
    function test_a_zero_leaf_with_an_unknown_key_convicts(bytes32 key) external {
        Book memory book = validBook();
        book.entries = book.entries.insert(0, key, 0);
        commitBook(book);
        bytes32 leaf = book.sums(Tree.Entries).leaves[0];
        disputes.proveZeroLeaf(book.header, Tree.Entries, leaf, book.open(Tree.Entries, 0));
        assertVoid(book);
    }

    /// @dev Two adjacent zero leaves form a zero node, which is a sibling in the path of their neighbour.
    function test_zero_leaves_are_visible_in_the_path_of_a_sibling() external {
        Book memory book = validBook();
        book.entries = book.entries.insert(2, bytes32(uint256(1)), 0).insert(3, bytes32(uint256(2)), 0);
        commitBook(book);
        Opening memory opening = book.open(Tree.Entries, 0);
        bytes32 leaf = _leaf(Tree.Entries, book.leavesOf(Tree.Entries).keys[0]);
        expectConviction(book, IDisputes.proveZeroLeaf.selector);
        disputes.proveZeroLeaf(book.header, Tree.Entries, leaf, opening);
        assertVoid(book);
    }

    function test_leaves_of_a_valid_batch_have_positive_value(uint256 tree, uint256 i) external {
        Tree which = Tree(tree % 3);
        Book memory book = committed();
        Leaves memory leaves = book.leavesOf(which);
        i = bound(i, 0, leaves.keys.length - 1);
        Opening memory opening = book.open(which, i);
        bytes memory error = abi.encodeWithSelector(IDisputes.LeafHasValue.selector, opening.value);
        vm.expectRevert(error);
        disputes.proveZeroLeaf(book.header, which, _leaf(which, leaves.keys[i]), opening);
        opening.value = 0;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.proveZeroLeaf(book.header, which, _leaf(which, leaves.keys[i]), opening);
    }

    function test_a_node_above_leaves_does_not_pass_for_one(uint256 tree) external {
        Tree which = Tree(tree % 3);
        Book memory book = committed();
        Opening memory opening = book.open(which, 0);
        bytes memory path = new bytes(opening.path.length - 48);
        for (uint256 i = 0; i < path.length; ++i) {
            path[i] = opening.path[48 + i];
        }
        opening.path = path;
        vm.expectPartialRevert(MerkleSum.InvalidPathLength.selector);
        disputes.proveZeroLeaf(book.header, which, keccak256("node"), opening);
    }

    function test_a_single_leaf_has_the_total() external {
        Book memory book = first();
        Opening memory opening = book.open(Tree.Receipts, 0);
        opening.value = 0;
        vm.expectRevert(abi.encodeWithSelector(Lookups.LeafNotInTree.selector, book.header.receiptsRoot, 0));
        disputes.proveZeroLeaf(book.header, Tree.Receipts, book.header.receiptsRoot, opening);
    }

    function test_the_parents_leaves_are_another_batchs() external {
        Book memory book = committed();
        Opening memory opening = book.open(Tree.ParentBalances, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.ParentBalances));
        disputes.proveZeroLeaf(book.header, Tree.ParentBalances, keccak256("leaf"), opening);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 tree, uint256 i, uint256 seed) external {
        Tree which = Tree(tree % 3);
        Book memory book = committed();
        Leaves memory leaves = book.leavesOf(which);
        i = bound(i, 0, leaves.keys.length - 1);
        bytes32 leaf = _leaf(which, leaves.keys[i]);
        bytes memory call = abi.encodeCall(IDisputes.proveZeroLeaf, (book.header, which, leaf, book.open(which, i)));
        expectAcquittal(book, call, seed);
    }

    function _leaf(Tree tree, bytes32 key) private pure returns (bytes32) {
        return MerkleSum.leafHash(Books.tagOf(tree), key);
    }
}
