// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Opening} from "../../../contracts/interfaces/ISettlement.sol";

struct Tree {
    bytes32[] leaves;
    uint128[] values;
}

/// @notice Builds Merkle-sum trees level by level, as the reference for `MerkleSum.open`.
library Trees {
    function rootOf(Tree memory tree) internal pure returns (bytes32 root) {
        (root, ) = _rootAndPath(tree, 0);
    }

    function open(Tree memory tree, uint256 index) internal pure returns (Opening memory) {
        (, bytes memory path) = _rootAndPath(tree, index);
        return Opening(uint32(index), tree.values[index], path);
    }

    function sumOf(Tree memory tree) internal pure returns (uint128 sum) {
        for (uint256 i = 0; i < tree.values.length; ++i) {
            sum += tree.values[i];
        }
    }

    function _rootAndPath(Tree memory tree, uint256 index) private pure returns (bytes32 root, bytes memory path) {
        (bytes32[] memory hashes, uint128[] memory sums) = (tree.leaves, tree.values);
        while (hashes.length > 1) {
            uint256 sibling = index ^ 1;
            if (sibling < hashes.length) path = abi.encodePacked(path, sums[sibling], hashes[sibling]);
            (hashes, sums) = _nextLevel(hashes, sums);
            index >>= 1;
        }
        return (hashes[0], path);
    }

    function _nextLevel(
        bytes32[] memory hashes,
        uint128[] memory sums
    ) private pure returns (bytes32[] memory upperHashes, uint128[] memory upperSums) {
        uint256 width = (hashes.length + 1) / 2;
        (upperHashes, upperSums) = (new bytes32[](width), new uint128[](width));
        for (uint256 i = 0; i < width; ++i) {
            (uint256 left, uint256 right) = (2 * i, 2 * i + 1);
            if (right == hashes.length) {
                (upperHashes[i], upperSums[i]) = (hashes[left], sums[left]);
            } else {
                upperHashes[i] = keccak256(abi.encodePacked(sums[left], hashes[left], sums[right], hashes[right]));
                upperSums[i] = sums[left] + sums[right];
            }
        }
    }
}
