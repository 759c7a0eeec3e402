// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionId, VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {Lookup, ReceiptWitness, SliceWitness, Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {ChannelId, Collection, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Opening, Receipt} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {Split} from "../../../contracts/libraries/Split.sol";
import {Tree as Sums, Trees} from "./Trees.sol";

/// @notice The leaves of a tree in order.
struct Leaves {
    bytes32[] keys;
    uint128[] values;
}

/// @notice The share of one version in an answer.
struct Part {
    VersionRecord record;
    uint32 weightPpm;
    bytes list;
}

/// @notice A receipt with the preimages of its hashes.
struct Served {
    Receipt receipt;
    bytes slices;
    bytes attribution;
    SliceWitness[] parts;
}

/// @notice The complete data of a batch. Tests corrupt a part of it before the commit; the rest stays unchanged.
struct BatchData {
    Served[] served;
    Collection[] collections;
    Refund[] refunds;
    bytes spans;
    Leaves receipts;
    Leaves entries;
    Leaves balances;
    uint128 total;
    BatchHeader header;
    BatchHeader parent;
    Leaves parentBalances;
}

/// @notice A simple reference implementation of receipts, leaves and look-ups in memory.
library BatchModel {
    using Trees for Sums;

    // --- receipts ---

    /// @notice Creates an answer on `channel` whose interval starts at `begin`, charged by the records' prices.
    function serve(
        ChannelId channel,
        uint128 begin,
        uint32 tokens,
        Part[] memory parts
    ) internal pure returns (Served memory served) {
        served.parts = new SliceWitness[](parts.length);
        served.attribution = abi.encode(bytes32("test"));
        Receipt memory receipt = served.receipt;
        (receipt.promptTokens, receipt.completionTokens) = (tokens, tokens / 2);
        for (uint256 i = 0; i < parts.length; ++i) {
            Part memory part = parts[i];
            served.parts[i] = SliceWitness(part.record, part.list);
            served.slices = abi.encodePacked(served.slices, Hashing.versionId(part.record), part.weightPpm);
            served.attribution = abi.encodePacked(served.attribution, keccak256(part.list));
            receipt.charge += chargeOf(receipt, part.record, part.weightPpm);
        }
        (receipt.channelId, receipt.cumulative) = (channel, begin + receipt.charge);
        receipt.requestHash = keccak256(abi.encode("request", channel, begin));
        receipt.responseHash = keccak256(abi.encode("response", channel, begin));
        receipt.servedAt = 1_800_000_000;
        rehash(served);
    }

    /// @notice Repacks slices and lists after a change of records or lists.
    function repack(Served memory served) internal pure {
        bytes memory slices;
        bytes memory attribution = abi.encode(bytes32("test"));
        for (uint256 i = 0; i < served.parts.length; ++i) {
            bytes32 id = VersionId.unwrap(Hashing.versionId(served.parts[i].record));
            slices = abi.encodePacked(slices, id, weightOf(served, i));
            attribution = abi.encodePacked(attribution, keccak256(served.parts[i].list));
        }
        (served.slices, served.attribution) = (slices, attribution);
        rehash(served);
    }

    /// @notice Recomputes the receipt's hashes after a change of their preimages.
    function rehash(Served memory served) internal pure {
        served.receipt.slicesHash = keccak256(served.slices);
        served.receipt.attributionHash = keccak256(served.attribution);
    }

    function chargeOf(
        Receipt memory receipt,
        VersionRecord memory record,
        uint32 weightPpm
    ) internal pure returns (uint128) {
        (uint32 prompt, uint32 completion) = (receipt.promptTokens, receipt.completionTokens);
        return Split.sliceCharge(weightPpm, prompt, completion, record.promptPrice, record.completionPrice);
    }

    function weightOf(Served memory served, uint256 slice) internal pure returns (uint32) {
        return uint32(bytesAt(served.slices, slice * 36 + 32));
    }

    /// @notice Reads four bytes of `data` as a number.
    function bytesAt(bytes memory data, uint256 at) internal pure returns (uint256 value) {
        for (uint256 i = at; i < at + 4; ++i) {
            value = (value << 8) | uint8(data[i]);
        }
    }

    function witnessOf(BatchData memory batch, uint256 i) internal pure returns (ReceiptWitness memory witness) {
        Served memory served = batch.served[i];
        witness.receipt = served.receipt;
        witness.opening = sums(batch, Tree.Receipts).open(i);
        (witness.slices, witness.attribution, witness.parts) = (served.slices, served.attribution, served.parts);
    }

    /// @notice Computes the leaves of the receipts tree.
    function fillReceipts(BatchData memory batch) internal pure {
        batch.receipts = newLeaves(batch.served.length);
        for (uint256 i = 0; i < batch.served.length; ++i) {
            Receipt memory receipt = batch.served[i].receipt;
            (batch.receipts.keys[i], batch.receipts.values[i]) = (Hashing.receipt(receipt), receipt.charge);
        }
    }

    /// @notice Computes the balances from the parent's balances and the entries.
    function fillBalances(BatchData memory batch) internal pure {
        (Leaves memory entries, Leaves memory old) = (batch.entries, batch.parentBalances);
        Leaves memory merged = newLeaves(entries.keys.length + old.keys.length);
        (uint256 i, uint256 j, uint256 count) = (0, 0, 0);
        while (i < entries.keys.length || j < old.keys.length) {
            bytes32 fresh = i < entries.keys.length ? entries.keys[i] >> 64 : bytes32(type(uint256).max);
            bytes32 previous = j < old.keys.length ? old.keys[j] : bytes32(type(uint256).max);
            bytes32 account = fresh < previous ? fresh : previous;
            merged.keys[count] = account;
            if (previous == account) merged.values[count] += old.values[j++];
            for (; i < entries.keys.length && entries.keys[i] >> 64 == account; ++i) {
                merged.values[count] += entries.values[i];
            }
            ++count;
        }
        truncate(merged, count);
        batch.balances = merged;
    }

    // --- leaves ---

    function newLeaves(uint256 count) internal pure returns (Leaves memory) {
        return Leaves(new bytes32[](count), new uint128[](count));
    }

    function truncate(Leaves memory leaves, uint256 count) internal pure {
        (bytes32[] memory keys, uint128[] memory values) = (leaves.keys, leaves.values);
        assembly ("memory-safe") {
            mstore(keys, count)
            mstore(values, count)
        }
    }

    function sort(Leaves memory leaves) internal pure {
        for (uint256 i = 1; i < leaves.keys.length; ++i) {
            for (uint256 j = i; j != 0 && leaves.keys[j] < leaves.keys[j - 1]; --j) {
                swap(leaves, j - 1, j);
            }
        }
    }

    function swap(Leaves memory leaves, uint256 i, uint256 j) internal pure {
        (leaves.keys[i], leaves.keys[j]) = (leaves.keys[j], leaves.keys[i]);
        (leaves.values[i], leaves.values[j]) = (leaves.values[j], leaves.values[i]);
    }

    /// @notice Returns a copy with an additional leaf at index `at`.
    function insert(
        Leaves memory leaves,
        uint256 at,
        bytes32 key,
        uint128 value
    ) internal pure returns (Leaves memory more) {
        more = newLeaves(leaves.keys.length + 1);
        for (uint256 i = 0; i < more.keys.length; ++i) {
            if (i == at) (more.keys[i], more.values[i]) = (key, value);
            else (more.keys[i], more.values[i]) = (leaves.keys[i < at ? i : i - 1], leaves.values[i < at ? i : i - 1]);
        }
    }

    /// @notice Returns a copy without the leaf at index `at`.
    function remove(Leaves memory leaves, uint256 at) internal pure returns (Leaves memory less) {
        less = newLeaves(leaves.keys.length - 1);
        for (uint256 i = 0; i < less.keys.length; ++i) {
            uint256 from = i < at ? i : i + 1;
            (less.keys[i], less.values[i]) = (leaves.keys[from], leaves.values[from]);
        }
    }

    /// @notice Moves `amount` from one leaf to another, which keeps the sum.
    function shift(Leaves memory leaves, uint256 from, uint256 to, uint128 amount) internal pure {
        leaves.values[from] -= amount;
        leaves.values[to] += amount;
    }

    /// @notice Returns the index of the first leaf whose key is not below `key`.
    function placeOf(Leaves memory leaves, bytes32 key) internal pure returns (uint256 i) {
        while (i < leaves.keys.length && leaves.keys[i] < key) ++i;
    }

    /// @notice A fuzzed key of, or next to, one of the leaves.
    function keyNear(Leaves memory leaves, bytes32 draw) internal pure returns (bytes32) {
        uint256 key = uint256(leaves.keys[uint128(uint256(draw)) % leaves.keys.length]);
        return bytes32(key + ((uint256(draw) >> 128) % 3) - 1);
    }

    function valueOf(Leaves memory leaves, bytes32 key) internal pure returns (uint128) {
        uint256 i = placeOf(leaves, key);
        return i < leaves.keys.length && leaves.keys[i] == key ? leaves.values[i] : 0;
    }

    function prefixOf(Leaves memory leaves, bytes32 key) internal pure returns (uint128 prefix) {
        for (uint256 i = 0; i < placeOf(leaves, key); ++i) {
            prefix += leaves.values[i];
        }
    }

    // --- trees ---

    function tagOf(Tree tree) internal pure returns (bytes32) {
        if (tree == Tree.Receipts) return MerkleSum.RECEIPTS;
        return tree == Tree.Entries ? MerkleSum.ENTRIES : MerkleSum.BALANCES;
    }

    function leavesOf(BatchData memory batch, Tree tree) internal pure returns (Leaves memory) {
        if (tree == Tree.Receipts) return batch.receipts;
        if (tree == Tree.Entries) return batch.entries;
        return tree == Tree.Balances ? batch.balances : batch.parentBalances;
    }

    function sums(Leaves memory leaves, bytes32 tag) internal pure returns (Sums memory tree) {
        tree.values = leaves.values;
        tree.leaves = new bytes32[](leaves.keys.length);
        for (uint256 i = 0; i < leaves.keys.length; ++i) {
            tree.leaves[i] = MerkleSum.leafHash(tag, leaves.keys[i]);
        }
    }

    function sums(BatchData memory batch, Tree tree) internal pure returns (Sums memory) {
        return sums(leavesOf(batch, tree), tagOf(tree));
    }

    function open(BatchData memory batch, Tree tree, uint256 i) internal pure returns (Opening memory) {
        return sums(batch, tree).open(i);
    }

    /// @notice Opens the leaves `i` and `j`, in this order.
    function pair(BatchData memory batch, Tree tree, uint256 i, uint256 j) internal pure returns (Lookup memory) {
        return pair(leavesOf(batch, tree), tagOf(tree), i, j);
    }

    function pair(
        Leaves memory leaves,
        bytes32 tag,
        uint256 i,
        uint256 j
    ) internal pure returns (Lookup memory lookup) {
        Sums memory tree = sums(leaves, tag);
        (lookup.keys, lookup.openings) = (new bytes32[](2), new Opening[](2));
        (lookup.keys[0], lookup.keys[1]) = (leaves.keys[i], leaves.keys[j]);
        (lookup.openings[0], lookup.openings[1]) = (tree.open(i), tree.open(j));
    }

    /// @notice Opens the leaf `i`.
    function single(Leaves memory leaves, bytes32 tag, uint256 i) internal pure returns (Lookup memory lookup) {
        (lookup.keys, lookup.openings) = (new bytes32[](1), new Opening[](1));
        (lookup.keys[0], lookup.openings[0]) = (leaves.keys[i], sums(leaves, tag).open(i));
    }

    function single(BatchData memory batch, Tree tree, uint256 i) internal pure returns (Lookup memory) {
        return single(leavesOf(batch, tree), tagOf(tree), i);
    }

    /// @notice Returns the look-up of `key`: its leaf, the two leaves around it, or the first or last leaf.
    function lookUp(BatchData memory batch, Tree tree, bytes32 key) internal pure returns (Lookup memory) {
        return lookUp(leavesOf(batch, tree), tagOf(tree), key);
    }

    function lookUp(Leaves memory leaves, bytes32 tag, bytes32 key) internal pure returns (Lookup memory) {
        uint256 i = placeOf(leaves, key);
        uint256 count = leaves.keys.length;
        if (i == count) return single(leaves, tag, count - 1);
        if (leaves.keys[i] == key || i == 0) return single(leaves, tag, i);
        return pair(leaves, tag, i - 1, i);
    }
}
