// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Lookup, Tree} from "../interfaces/IDisputes.sol";
import {BatchHeader, Opening} from "../interfaces/ISettlement.sol";
import {MerkleSum} from "./MerkleSum.sol";

/// @notice A tree as a header commits to it.
struct TreeRoot {
    bytes32 tag;
    bytes32 root;
    uint32 count;
    uint128 sum;
}

/// @title Lookups
/// @notice The value under a key of a tree whose leaves stand in rising order of key, absence included.
library Lookups {
    error LeafNotInTree(bytes32 root, uint128 sum);
    error LookupMismatch(bytes32 key);

    /// @notice The tree that a header commits to.
    function treeOf(BatchHeader calldata header, Tree tree) internal pure returns (TreeRoot memory) {
        if (tree == Tree.Receipts) {
            return TreeRoot(MerkleSum.RECEIPTS, header.receiptsRoot, header.receiptsCount, header.total);
        }
        if (tree == Tree.Entries) {
            return TreeRoot(MerkleSum.ENTRIES, header.entriesRoot, header.entriesCount, header.total);
        }
        uint128 sum = header.cumulativeTotal;
        return TreeRoot(MerkleSum.BALANCES, header.balancesRoot, header.balancesCount, sum);
    }

    /// @notice Opens the leaf `key`; reverts if it does not stand there.
    /// @return prefix The sum of the leaves left of it.
    function openKey(
        TreeRoot memory tree,
        bytes32 key,
        Opening calldata opening
    ) internal pure returns (uint128 prefix) {
        return openLeaf(tree, MerkleSum.leafHash(tree.tag, key), opening);
    }

    /// @notice As `openKey`, of a leaf whose key may be unknown.
    function openLeaf(
        TreeRoot memory tree,
        bytes32 leaf,
        Opening calldata opening
    ) internal pure returns (uint128 prefix) {
        bytes32 root;
        uint128 sum;
        (root, sum, prefix) = MerkleSum.open(leaf, tree.count, opening);
        require(root == tree.root && sum == tree.sum, LeafNotInTree(root, sum));
    }

    /// @notice The value under `key`: of the leaf with that key; zero if the lookup shows two neighbours around it, or
    /// the first leaf above or the last one below it.
    /// @return value The leaf's value.
    /// @return prefix The sum of the leaves left of the key's place.
    function find(
        TreeRoot memory tree,
        bytes32 key,
        Lookup calldata lookup
    ) internal pure returns (uint128 value, uint128 prefix) {
        uint256 count = lookup.openings.length;
        require(count == lookup.keys.length && (count == 1 || count == 2), LookupMismatch(key));
        (bytes32 left, Opening calldata first) = (lookup.keys[0], lookup.openings[0]);
        prefix = openKey(tree, left, first);
        if (count == 2) return (0, _between(tree, key, lookup));
        if (left == key) return (first.value, prefix);
        if (left > key) {
            require(first.index == 0, LookupMismatch(key));
            return (0, 0);
        }
        require(uint256(first.index) + 1 == tree.count, LookupMismatch(key));
        return (0, tree.sum);
    }

    function _between(
        TreeRoot memory tree,
        bytes32 key,
        Lookup calldata lookup
    ) private pure returns (uint128 prefix) {
        (bytes32 left, bytes32 right) = (lookup.keys[0], lookup.keys[1]);
        bool isBracket = left < key && key < right;
        bool isNext = uint256(lookup.openings[0].index) + 1 == lookup.openings[1].index;
        require(isBracket && isNext, LookupMismatch(key));
        return openKey(tree, right, lookup.openings[1]);
    }
}
