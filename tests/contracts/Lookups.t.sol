// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {BatchHeader, Opening} from "../../contracts/interfaces/ISettlement.sol";
import {Lookups, TreeRoot} from "../../contracts/libraries/Lookups.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Base} from "./support/Base.sol";
import {BatchModel, Leaves} from "./support/BatchModel.sol";
import {Tree as Sums, Trees} from "./support/Trees.sol";

contract Looker {
    using Lookups for TreeRoot;

    function find(
        TreeRoot calldata root,
        bytes32 key,
        Lookup calldata lookup) external pure returns (uint128,
        uint128
    ) {
        TreeRoot memory tree = root;
        return tree.find(key, lookup);
    }

    function treeOf(BatchHeader calldata header, Tree tree) external pure returns (TreeRoot memory) {
        return Lookups.treeOf(header, tree);
    }
}

contract LookupsTest is Base {
    using BatchModel for *;
    using Trees for Sums;

    Looker private _looker = new Looker();

    function test_every_key_is_found_with_value_and_prefix(uint256 seed, uint256 count, uint256 i) external view {
        Leaves memory leaves = _leaves(seed, bound(count, 1, 40));
        bytes32 key = leaves.keys[i % leaves.keys.length];
        _expectFound(leaves, key);
    }

    function test_absence_can_be_proved_for_any_key(uint256 seed, uint256 count, bytes32 key) external view {
        Leaves memory leaves = _leaves(seed, bound(count, 1, 40));
        _expectFound(leaves, key);
        // Next to a leaf, and beyond both edges.
        uint256 near = uint256(leaves.keys[uint256(key) % leaves.keys.length]);
        _expectFound(leaves, bytes32(near - 1));
        _expectFound(leaves, bytes32(near + 1));
        _expectFound(leaves, bytes32(0));
        _expectFound(leaves, bytes32(type(uint256).max));
    }

    /// @dev With any leaves opened in any order, the look-up returns the right value or reverts.
    function test_no_openings_prove_a_wrong_value(
        uint256 seed,
        uint256 i,
        uint256 j,
        uint256 near,
        uint256 kind
    ) external {
        Leaves memory leaves = _leaves(seed, 1 + (seed % 9));
        uint256 count = leaves.keys.length;
        bytes32 key = bytes32(uint256(leaves.keys[near % count]) + (kind % 3) - 1);
        bytes32 tag = MerkleSum.ENTRIES;
        Lookup memory lookup = leaves.pair(tag, i % count, j % count);
        if (kind % 2 == 0) lookup = leaves.single(tag, i % count);
        try _looker.find(_root(leaves), key, lookup) returns (uint128 value, uint128 prefix) {
            vm.assertEq(value, leaves.valueOf(key));
            vm.assertEq(prefix, leaves.prefixOf(key));
        } catch (bytes memory reason) {
            vm.assertEq(reason, abi.encodeWithSelector(Lookups.LookupMismatch.selector, key));
        }
    }

    function test_leaves_in_between_cannot_be_skipped(uint256 seed, uint256 count, uint256 i, uint256 j) external {
        count = bound(count, 3, 40);
        Leaves memory leaves = _leaves(seed, count);
        i = bound(i, 0, count - 3);
        j = bound(j, i + 2, count - 1);
        _expectMismatch(leaves, leaves.keys[i + 1], leaves.pair(MerkleSum.ENTRIES, i, j));
    }

    function test_an_existing_leaf_cannot_be_proved_absent(uint256 seed, uint256 count, uint256 i) external {
        count = bound(count, 2, 40);
        Leaves memory leaves = _leaves(seed, count);
        i = bound(i, 1, count - 1);
        Lookup memory lookup = leaves.pair(MerkleSum.ENTRIES, i - 1, i);
        _expectMismatch(leaves, leaves.keys[i - 1], lookup);
        _expectMismatch(leaves, leaves.keys[i], lookup);
        _expectMismatch(leaves, leaves.keys[i], leaves.single(MerkleSum.ENTRIES, i - 1));
        _expectMismatch(leaves, leaves.keys[i - 1], leaves.single(MerkleSum.ENTRIES, i));
    }

    function test_a_lookup_opens_one_or_two_leaves(uint256 seed) external {
        Leaves memory leaves = _leaves(seed, 3);
        Lookup memory lookup;
        _expectMismatch(leaves, leaves.keys[0], lookup);
        lookup = leaves.pair(MerkleSum.ENTRIES, 0, 1);
        lookup.keys = new bytes32[](1);
        _expectMismatch(leaves, leaves.keys[0], lookup);
        (lookup.keys, lookup.openings) = (new bytes32[](3), new Opening[](3));
        _expectMismatch(leaves, leaves.keys[0], lookup);
    }

    function test_openings_of_another_tree_are_refused(uint256 seed, uint256 count, uint256 i, uint256 kind) external {
        count = bound(count, 1, 40);
        Leaves memory leaves = _leaves(seed, count);
        TreeRoot memory root = _root(leaves);
        i %= count;
        Lookup memory lookup = leaves.single(MerkleSum.ENTRIES, i);
        bytes4 error = Lookups.LeafNotInTree.selector;
        kind %= 4;
        if (kind == 0) root.tag = MerkleSum.BALANCES;
        if (kind == 1) root.root = keccak256("other");
        if (kind == 2) root.sum += 1;
        if (kind == 3) (lookup.openings[0].index, error) = (uint32(count), MerkleSum.IndexOutOfRange.selector);
        vm.expectPartialRevert(error);
        _looker.find(root, leaves.keys[i], lookup);
    }

    /// @dev The right neighbour must be in the tree; a matching index is not enough.
    function test_a_made_up_neighbour_is_refused(uint256 seed, uint256 count, uint256 i) external {
        count = bound(count, 2, 40);
        Leaves memory leaves = _leaves(seed, count);
        i = bound(i, 1, count - 1);
        Lookup memory lookup = leaves.pair(MerkleSum.ENTRIES, i - 1, i);
        lookup.keys[1] = bytes32(uint256(leaves.keys[i]) + 1);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        _looker.find(_root(leaves), leaves.keys[i], lookup);
    }

    function test_trees_are_as_the_header_commits_to_them(BatchHeader calldata header) external view {
        (bytes32 root, uint32 count) = (header.receiptsRoot, header.receiptsCount);
        _expectTree(header, Tree.Receipts, TreeRoot(MerkleSum.RECEIPTS, root, count, header.total));
        (root, count) = (header.entriesRoot, header.entriesCount);
        _expectTree(header, Tree.Entries, TreeRoot(MerkleSum.ENTRIES, root, count, header.total));
        (root, count) = (header.balancesRoot, header.balancesCount);
        TreeRoot memory balances = TreeRoot(MerkleSum.BALANCES, root, count, header.cumulativeTotal);
        _expectTree(header, Tree.Balances, balances);
        _expectTree(header, Tree.ParentBalances, balances);
    }

    // --- internal ---

    function _expectTree(BatchHeader calldata header, Tree tree, TreeRoot memory expected) private view {
        bytes memory found = abi.encode(_looker.treeOf(header, tree));
        vm.assertEq(found, abi.encode(expected));
    }

    function _expectFound(Leaves memory leaves, bytes32 key) private view {
        (uint128 value, uint128 prefix) = _looker.find(_root(leaves), key, leaves.lookUp(MerkleSum.ENTRIES, key));
        vm.assertEq(value, leaves.valueOf(key));
        vm.assertEq(prefix, leaves.prefixOf(key));
    }

    function _expectMismatch(Leaves memory leaves, bytes32 key, Lookup memory lookup) private {
        TreeRoot memory root = _root(leaves);
        vm.expectRevert(abi.encodeWithSelector(Lookups.LookupMismatch.selector, key));
        _looker.find(root, key, lookup);
    }

    function _root(Leaves memory leaves) private pure returns (TreeRoot memory) {
        Sums memory tree = leaves.sums(MerkleSum.ENTRIES);
        return TreeRoot(MerkleSum.ENTRIES, tree.rootOf(), uint32(leaves.keys.length), tree.sumOf());
    }

    /// @dev Ascending keys with gaps of one to four.
    function _leaves(uint256 seed, uint256 count) private pure returns (Leaves memory leaves) {
        leaves = BatchModel.newLeaves(count);
        uint256 key = 1 + uint256(uint128(seed));
        for (uint256 i = 0; i < count; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            key += 1 + (draw % 4);
            (leaves.keys[i], leaves.values[i]) = (bytes32(key), 1 + uint64(draw >> 128));
        }
    }
}
