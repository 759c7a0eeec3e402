// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
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

    /// @notice Bytes of a sibling in a path: sum 16, hash 32.
    uint256 internal constant SIBLING = 48;

    error IndexOutOfRange(uint32 index, uint32 count);
    error WrongPathLength(uint256 length, uint256 expected);
    error SumOverflow();

    /// @notice The hash of the leaf `key` of a tree.
    function leafHash(bytes32 tag, bytes32 key) internal pure returns (bytes32) {
        return Hashes.efficientKeccak256(tag, key);
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
        (root, wideSum, widePrefix, used) = _climb(leaf, opening.value, index, count - 1, path);
        require(path.length == used, WrongPathLength(path.length, used));
        // Sums only grow towards the root: if the last one fits, no node was hashed with a truncated one.
        require(wideSum <= type(uint128).max, SumOverflow());
        return (root, uint128(wideSum), uint128(widePrefix));
    }

    /// @dev Climbs to the root; `last` is the level's last index. Reads beyond a path that is too short, which the
    /// caller refuses by `used`.
    function _climb(
        bytes32 leaf,
        uint256 value,
        uint256 index,
        uint256 last,
        bytes calldata path
    ) private pure returns (bytes32 hash, uint256 sum, uint256 prefix, uint256 used) {
        (hash, sum) = (leaf, value);
        // Memory beyond the free pointer serves as scratch for a node, two halves of sum 16 and hash 32: our own first
        // or, if we are the right one, second; the sibling's, as it stands in the path, in the other place. A sum is
        // written as a word, whose upper 16 bytes lie before its half: before the node or where the sibling's follows.
        // A promoted node, the last of an odd level, has no sibling.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let scratch := mload(0x40)
            let node := add(scratch, 16)
            let right := add(node, 48)
            let sibling := path.offset
            for {} last { last := shr(1, last) index := shr(1, index) } {
                if iszero(gt(xor(index, 1), last)) {
                    let offset := mul(48, and(index, 1))
                    let siblingSum := shr(128, calldataload(sibling))
                    mstore(add(scratch, offset), sum)
                    mstore(add(add(node, offset), 16), hash)
                    calldatacopy(sub(right, offset), sibling, 48)
                    hash := keccak256(node, 96)
                    prefix := add(prefix, mul(offset, siblingSum))
                    sum := add(sum, siblingSum)
                    sibling := add(sibling, 48)
                }
            }
            prefix := div(prefix, 48)
            used := sub(sibling, path.offset)
        }
    }
}
