// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Lookup, Tree} from "../interfaces/IDisputes.sol";
import {BatchHeader, Opening} from "../interfaces/ISettlement.sol";
import {MerkleSum} from "./MerkleSum.sol";

/// @notice The commitment of a header to a tree.
struct TreeRoot {
    bytes32 tag;
    bytes32 root;
    uint32 count;
    uint128 sum;
}

/// @title Lookups
/// @notice Verifies the value under a key, or its absence, in a tree whose leaves are in ascending order of key.
library Lookups {
    error LeafNotInTree(bytes32 root, uint128 sum);
    error LookupMismatch(bytes32 key);

    /// @notice Returns a header's commitment to a tree. `Tree.ParentBalances` selects the balances of the given header.
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

    /// @notice Verifies the opening of the leaf with `key`; reverts if it is invalid.
    /// @return prefix Sum of the leaves with lower indices.
    function openKey(
        TreeRoot memory tree,
        bytes32 key,
        Opening calldata opening
    ) internal pure returns (uint128 prefix) {
        return openLeaf(tree, MerkleSum.leafHash(tree.tag, key), opening);
    }

    /// @notice Verifies the opening of a leaf by its hash, for leaves whose key is unknown.
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

    /// @notice Verifies a look-up of `key`; see `Lookup`. Reverts if it is invalid.
    /// @return value Value of the leaf with `key`; zero if there is none.
    /// @return prefix Sum of the leaves with lower keys.
    function find(
        TreeRoot memory tree,
        bytes32 key,
        Lookup calldata lookup
    ) internal pure returns (uint128 value, uint128 prefix) {
        uint256 count = lookup.openings.length;
        require(count == lookup.keys.length && (count == 1 || count == 2), LookupMismatch(key));
        (bytes32 left, Opening calldata first) = (lookup.keys[0], lookup.openings[0]);
        prefix = openKey(tree, left, first);
        if (count == 2) return (0, _findBetween(tree, key, lookup));
        if (left == key) return (first.value, prefix);
        if (left > key) {
            require(first.index == 0, LookupMismatch(key));
            return (0, 0);
        }
        require(uint256(first.index) + 1 == tree.count, LookupMismatch(key));
        return (0, tree.sum);
    }

    function _findBetween(
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
