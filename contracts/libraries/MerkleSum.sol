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

    uint256 private constant _STEP = 48;

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
        require(opening.index < count, IndexOutOfRange(opening.index, count));
        root = leaf;
        uint256 wideSum = opening.value;
        uint256 widePrefix = 0;
        uint256 index = opening.index;
        uint256 used = 0;
        for (uint256 width = count; width > 1; width = (width + 1) >> 1) {
            bool isPromoted = index == width - 1 && index & 1 == 0;
            if (!isPromoted) {
                uint256 siblingSum;
                (root, siblingSum) = _join(root, wideSum, index, opening.path, used);
                wideSum += siblingSum;
                if (index & 1 == 1) widePrefix += siblingSum;
                used += _STEP;
            }
            index >>= 1;
        }
        require(opening.path.length == used, WrongPathLength(opening.path.length, used));
        // Sums only grow towards the root: if the last one fits, no node was hashed with a truncated one.
        require(wideSum <= type(uint128).max, SumOverflow());
        return (root, uint128(wideSum), uint128(widePrefix));
    }

    /// @dev Reads the sibling at `offset` of the path (whose length the caller checks) and hashes the node above.
    function _join(
        bytes32 hash,
        uint256 sum,
        uint256 index,
        bytes calldata path,
        uint256 offset
    ) private pure returns (bytes32 node, uint256 siblingSum) {
        // Memory beyond the free pointer serves as scratch: four fields of 16, 32, 16 and 32 bytes, written in order,
        // each overwriting the zeros behind the one before.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let at := add(path.offset, offset)
            siblingSum := shr(128, calldataload(at))
            let siblingHash := calldataload(add(at, 16))
            let buffer := mload(0x40)
            switch and(index, 1)
            case 0 {
                mstore(buffer, shl(128, sum))
                mstore(add(buffer, 16), hash)
                mstore(add(buffer, 48), shl(128, siblingSum))
                mstore(add(buffer, 64), siblingHash)
            }
            default {
                mstore(buffer, shl(128, siblingSum))
                mstore(add(buffer, 16), siblingHash)
                mstore(add(buffer, 48), shl(128, sum))
                mstore(add(buffer, 64), hash)
            }
            node := keccak256(buffer, 96)
        }
    }
}
