// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {Opening} from "../interfaces/ISettlement.sol";

/// @title Merkle-sum trees
/// @notice Verifies inclusion proofs of an unpadded Merkle tree whose nodes carry the sums of their leaves.
///
/// `leaf = keccak256(tag 32 | key 32)`, `node = keccak256(left sum 16 | left hash 32 | right sum 16 | right hash 32)`.
/// An odd last node is promoted unchanged, so the number of leaves determines the shape. The preimage of a leaf is
/// shorter than that of a node, so that neither can be passed off as the other. The hash of a leaf does not cover its
/// value; its parent does. A commitment to a tree therefore consists of root, sum and count.
library MerkleSum {
    bytes32 internal constant RECEIPTS = keccak256("loraledger.receipts");
    bytes32 internal constant ENTRIES = keccak256("loraledger.entries");
    bytes32 internal constant BALANCES = keccak256("loraledger.balances");

    /// @notice Size of a sibling in a path in bytes: sum 16, hash 32.
    uint256 internal constant SIBLING_SIZE = 48;

    error IndexOutOfRange(uint32 index, uint32 count);
    error InvalidPathLength(uint256 length, uint256 expected);
    error SumOverflow();

    /// @notice Returns the hash of the leaf with `key` in the tree with `tag`.
    function leafHash(bytes32 tag, bytes32 key) internal pure returns (bytes32) {
        return Hashes.efficientKeccak256(tag, key);
    }

    /// @notice Computes the root that the opening of a leaf implies in a tree of `count` leaves.
    /// @return root The implied root, which the caller compares.
    /// @return sum Sum of all leaves, which the caller compares.
    /// @return prefix Sum of the leaves with lower indices.
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
        (root, wideSum, widePrefix, used) = _climb(leaf, opening.value, index, count - 1, path);
        require(path.length == used, InvalidPathLength(path.length, used));
        // Sums never decrease towards the root: if the last one fits, no node was hashed with a truncated sum.
        require(wideSum <= type(uint128).max, SumOverflow());
        return (root, uint128(wideSum), uint128(widePrefix));
    }

    /// @dev Hashes from the leaf to the root; `last` is the last index of the level. It reads beyond the end of a path
    /// that is too short, which the caller detects by `used`.
    function _climb(
        bytes32 leaf,
        uint256 value,
        uint256 index,
        uint256 last,
        bytes calldata path
    ) private pure returns (bytes32 hash, uint256 sum, uint256 prefix, uint256 used) {
        (hash, sum) = (leaf, value);
        // Memory after the free memory pointer is scratch space for a node: two halves of sum 16 and hash 32. The
        // current hash goes into the left half if its index is even, else into the right one; the sibling is copied
        // from the path into the other half. A sum is written as a whole word, whose upper 16 bytes precede its half:
        // they lie before the node or in the left half, which the sibling then overwrites. A promoted node, the last of
        // an odd level, has no sibling.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let scratch := mload(0x40)
            let node := add(scratch, 16)
            let right := add(node, 48)
            let sibling := path.offset
            for {} last { last := shr(1, last) index := shr(1, index) } {
                if iszero(gt(xor(index, 1), last)) {
                    let isRight := and(index, 1)
                    let offset := mul(48, isRight)
                    let siblingSum := shr(128, calldataload(sibling))
                    mstore(add(scratch, offset), sum)
                    mstore(add(add(node, offset), 16), hash)
                    calldatacopy(sub(right, offset), sibling, 48)
                    hash := keccak256(node, 96)
                    prefix := add(prefix, mul(isRight, siblingSum))
                    sum := add(sum, siblingSum)
                    sibling := add(sibling, 48)
                }
            }
            used := sub(sibling, path.offset)
        }
    }
}
