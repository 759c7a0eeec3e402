// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Opening} from "../interfaces/ISettlement.sol";

/// @title Merkle-sum trees
/// @notice Opens a leaf of an unpadded tree whose nodes carry the sums of their leaves.
///
/// `leaf = keccak256(tag 32 | key 32)`, `node = keccak256(left sum 16 | left hash 32 | right sum 16 | right hash 32)`.
/// An odd last node is promoted unchanged, so the shape follows from the count. A leaf's preimage is shorter than a
/// node's, so neither passes for the other. A leaf's value stands in its parent; whoever stores a root stores its sum
/// and count too.
library MerkleSum {
    bytes32 internal constant RECEIPTS = keccak256("loraledger.receipts");
    bytes32 internal constant ENTRIES = keccak256("loraledger.entries");
    bytes32 internal constant BALANCES = keccak256("loraledger.balances");

    error IndexOutOfRange(uint32 index, uint32 count);
    error WrongPathLength(uint256 length, uint256 expected);
    error SumOverflow();

    /// @notice The hash of the leaf `key` of a tree.
    function leafHash(bytes32 tag, bytes32 key) internal pure returns (bytes32) {
        return keccak256(abi.encode(tag, key));
    }

    /// @notice Opens a leaf of a tree of `count` leaves.
    /// @return root The hash that the opening leads to.
    /// @return sum The sum of all leaves.
    /// @return prefix The sum of the leaves left of this one.
    function open(
        bytes32 leaf,
        uint32 count,
        Opening calldata opening
    ) internal pure returns (bytes32 root, uint128 sum, uint128 prefix) {
        (uint256 index, bytes calldata path) = (opening.index, opening.path);
        require(index < count, IndexOutOfRange(opening.index, count));
        uint256 used;
        uint256 wideSum;
        uint256 widePrefix;
        (root, wideSum, widePrefix, used) = _climb(leaf, opening.value, index, count, path);
        require(path.length == used, WrongPathLength(path.length, used));
        // Sums only grow towards the root: if the last one fits, no node was hashed with a truncated one.
        require(wideSum <= type(uint128).max, SumOverflow());
        return (root, uint128(wideSum), uint128(widePrefix));
    }

    /// @dev Climbs to the root. Reads beyond a path that is too short, which the caller refuses by `used`.
    function _climb(
        bytes32 leaf,
        uint256 value,
        uint256 index,
        uint256 width,
        bytes calldata path
    ) private pure returns (bytes32 hash, uint256 sum, uint256 prefix, uint256 used) {
        (hash, sum) = (leaf, value);
        // Memory beyond the free pointer serves as scratch for a node: 16, 32, 16 and 32 bytes, written in order, each
        // field overwriting the zeros behind the one before. A promoted node, the last of an odd level, has no
        // sibling.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let node := mload(0x40)
            for {} gt(width, 1) { width := shr(1, add(width, 1)) index := shr(1, index) } {
                let isRight := and(index, 1)
                if or(isRight, lt(add(index, 1), width)) {
                    let sibling := add(path.offset, used)
                    let siblingSum := shr(128, calldataload(sibling))
                    switch isRight
                    case 0 {
                        mstore(node, shl(128, sum))
                        mstore(add(node, 16), hash)
                        calldatacopy(add(node, 48), sibling, 48)
                    }
                    default {
                        calldatacopy(node, sibling, 48)
                        mstore(add(node, 48), shl(128, sum))
                        mstore(add(node, 64), hash)
                        prefix := add(prefix, siblingSum)
                    }
                    hash := keccak256(node, 96)
                    sum := add(sum, siblingSum)
                    used := add(used, 48)
                }
            }
        }
    }
}
