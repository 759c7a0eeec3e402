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

    function test_a_leaf_worth_nothing_convicts(uint256 tree, uint256 at, bytes32 key) external {
        Tree which = Tree(tree % 3);
        Book memory book = honest();
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

    /// @dev A leaf's hash is enough: its key may be hidden.
    function test_a_leaf_whose_key_nobody_knows_convicts(bytes32 key) external {
        Book memory book = honest();
        book.entries = book.entries.insert(0, key, 0);
        commitBook(book);
        bytes32 leaf = book.sums(Tree.Entries).leaves[0];
        disputes.proveZeroLeaf(book.header, Tree.Entries, leaf, book.open(Tree.Entries, 0));
        assertVoid(book);
    }

    /// @dev Two worthless leaves side by side are one worthless node beside the path of their neighbour.
    function test_worthless_leaves_show_in_the_path_beside_them() external {
        Book memory book = honest();
        book.entries = book.entries.insert(2, bytes32(uint256(1)), 0).insert(3, bytes32(uint256(2)), 0);
        commitBook(book);
        Opening memory opening = book.open(Tree.Entries, 0);
        bytes32 leaf = _leaf(Tree.Entries, book.leavesOf(Tree.Entries).keys[0]);
        expectConviction(book, IDisputes.proveZeroLeaf.selector);
        disputes.proveZeroLeaf(book.header, Tree.Entries, leaf, opening);
        assertVoid(book);
    }

    function test_leaves_of_a_right_batch_have_value(uint256 tree, uint256 i) external {
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

    function test_the_only_leaf_has_the_value_of_all() external {
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

    function test_a_right_batch_survives_any_change_of_a_proof(uint256 tree, uint256 i, uint256 seed) external {
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
