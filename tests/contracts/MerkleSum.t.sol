// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Opening} from "../../contracts/interfaces/ISettlement.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Base} from "./support/Base.sol";
import {Tree, Trees} from "./support/Trees.sol";

contract Opener {
    function open(
        bytes32 leaf,
        uint32 count,
        Opening calldata opening
    ) external pure returns (bytes32 root, uint128 sum, uint128 prefix) {
        return MerkleSum.open(leaf, count, opening);
    }
}

contract MerkleSumTest is Base {
    using Trees for Tree;

    Opener private _opener = new Opener();

    function test_every_leaf_opens_to_root_sum_and_prefix(uint256 seed, uint256 count, uint256 index) external view {
        count = bound(count, 1, 70);
        index = bound(index, 0, count - 1);
        Tree memory tree = _tree(seed, count);
        (bytes32 root, uint128 sum, uint128 prefix) = _opener.open(
            tree.leaves[index],
            uint32(count),
            tree.open(index)
        );
        vm.assertEq(root, tree.rootOf());
        vm.assertEq(sum, tree.sumOf());
        uint256 left = 0;
        for (uint256 i = 0; i < index; ++i) {
            left += tree.values[i];
        }
        vm.assertEq(prefix, left);
    }

    function test_another_value_gives_another_root_or_sum(uint256 seed, uint256 count, uint128 value) external view {
        count = bound(count, 1, 40);
        value = uint128(bound(value, 0, type(uint64).max));
        Tree memory tree = _tree(seed, count);
        uint256 index = seed % count;
        vm.assume(value != tree.values[index]);
        Opening memory opening = tree.open(index);
        opening.value = value;
        (bytes32 root, uint128 sum, ) = _opener.open(tree.leaves[index], uint32(count), opening);
        vm.assertTrue(root != tree.rootOf() || sum != tree.sumOf());
    }

    function test_a_path_of_another_length_is_refused(uint256 seed, uint256 count, uint16 length) external {
        count = bound(count, 1, 40);
        length = uint16(bound(length, 0, 480));
        uint256 index = seed % count;
        Opening memory opening = _tree(seed, count).open(index);
        uint256 expected = opening.path.length;
        vm.assume(length != expected);
        opening.path = new bytes(length);
        vm.expectRevert(abi.encodeWithSelector(MerkleSum.InvalidPathLength.selector, length, expected));
        _opener.open(bytes32(0), uint32(count), opening);
    }

    function test_an_index_beyond_the_count_is_refused(uint32 index, uint32 count) external {
        vm.assume(index >= count);
        vm.expectRevert(abi.encodeWithSelector(MerkleSum.IndexOutOfRange.selector, index, count));
        _opener.open(bytes32(0), count, Opening(index, 0, ""));
    }

    function test_sums_that_overflow_are_refused(uint128 value, uint128 sibling) external {
        value = uint128(bound(value, 1, type(uint128).max));
        sibling = uint128(bound(sibling, type(uint128).max - value + 1, type(uint128).max));
        bytes memory path = abi.encodePacked(sibling, bytes32(0));
        vm.expectRevert(abi.encodeWithSelector(MerkleSum.SumOverflow.selector));
        _opener.open(bytes32(0), 2, Opening(0, value, path));
        vm.expectRevert(abi.encodeWithSelector(MerkleSum.SumOverflow.selector));
        _opener.open(bytes32(0), 2, Opening(1, value, path));
    }

    function test_a_node_does_not_open_as_a_leaf(uint256 seed) external view {
        // Second preimage: the left inner node of four leaves, presented as a leaf of a tree of two.
        Tree memory tree = _tree(seed, 4);
        Opening memory batch = tree.open(0);
        bytes memory top = new bytes(48);
        for (uint256 i = 0; i < 48; ++i) {
            top[i] = batch.path[48 + i];
        }
        bytes32 inner = keccak256(
            abi.encodePacked(tree.values[0], tree.leaves[0], tree.values[1], tree.leaves[1])
        );
        Opening memory forged = Opening(0, tree.values[0] + tree.values[1], top);
        (bytes32 root, , ) = _opener.open(inner, 2, forged);
        vm.assertEq(root, tree.rootOf());
        // It would need the inner hash as a leaf's hash, but leaf hashes are of 64 bytes, not 96.
        (root, , ) = _opener.open(MerkleSum.leafHash(MerkleSum.BALANCES, inner), 2, forged);
        vm.assertNotEq(root, tree.rootOf());
    }

    /// @dev Values of 121 bits, so that sums use all bytes of their half of a node, and those of 70 leaves fit.
    function _tree(uint256 seed, uint256 count) private pure returns (Tree memory tree) {
        (tree.leaves, tree.values) = (new bytes32[](count), new uint128[](count));
        for (uint256 i = 0; i < count; ++i) {
            tree.leaves[i] = MerkleSum.leafHash(MerkleSum.ENTRIES, bytes32(seed ^ i));
            tree.values[i] = uint128(uint256(keccak256(abi.encode(seed, i))) >> 135);
        }
    }
}
