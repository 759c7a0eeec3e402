// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Contribution, Review} from "../../../contracts/interfaces/IDatasetRegistry.sol";
import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {
    EntryPlace,
    ReceiptWitness,
    SliceWitness,
    SnapshotWitness
} from "../../../contracts/interfaces/IDisputes.sol";
import {ParameterSet} from "../../../contracts/interfaces/IParameters.sol";
import {ChannelId, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment, Receipt} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {Parts, Split} from "../../../contracts/libraries/Split.sol";
import {BatchModel, Leaves} from "./BatchModel.sol";
import {EventLedger} from "./EventLedger.sol";
import {Tree, Trees} from "./Trees.sol";

/// @notice The deliberate flaws of batches.
enum Flaw {
    None,
    ZeroLeaf, // a balance of nothing
    Price, // a receipt that charges more than its tokens cost
    Entry, // a contributor's entry under another account
    Balance, // all balances under one account
    Withheld // receipts that are not revealed
}

/// @notice A batch with its complete data.
struct SmallBatch {
    BatchHeader header;
    Refund[] spans;
    Receipt[] receipts;
    Leaves entries;
    Leaves balances;
    Flaw flaw;
}

/// @notice Builds small batches, valid ones and ones with a flaw. Charges can be as low as one micro-unit, by a version
/// whose tokens cost one micro-unit or 2^32 of them, trained on two contributions.
abstract contract SmallBatches is EventLedger {
    using BatchModel for Leaves;
    using Trees for Tree;

    uint64 private constant _LARGE_PRICE = 1 << 32;
    uint16 internal constant VICTIM_PART = 3;

    address internal creator;
    address internal thief;
    address[2] internal contributors;
    VersionRecord internal record;

    function setUp() public virtual override {
        super.setUp();
        (creator, thief) = (accountOf("creator"), accountOf("thief"));
        contributors = [accountOf("first contributor"), accountOf("second contributor")];
        uint64 datanetId = datasets.createDatanet("small", keccak256("description"));
        Review[] memory reviews = new Review[](2);
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(contributors[i]);
            datasets.contribute(Contribution(datanetId, _content(i), keccak256("folder"), "MIT", 1));
            reviews[i] = Review(_content(i), true, 0);
        }
        vm.prank(curator);
        datasets.review(datanetId, reviews);
        record.snapshots.push(datasets.freeze(datanetId, 2));
        (record.creator, record.name, record.baseModel) = (creator, "small", keccak256("model"));
        (record.adapterDigest, record.cidDigest) = (keccak256("adapter"), keccak256("folder"));
        (record.promptPrice, record.completionPrice) = (1, _LARGE_PRICE);
        (record.operatorPpm, record.creatorPpm) = (300_000, 200_000);
        vm.prank(creator);
        adapters.register(record);
    }

    // --- building ---

    /// @notice Builds the data of a batch that collects `spans` on top of `parent`.
    function buildSmallBatch(
        Refund[] memory spans,
        Leaves memory parent,
        Flaw flaw
    ) internal view returns (SmallBatch memory batch) {
        (batch.spans, batch.flaw) = (spans, flaw);
        batch.receipts = _receiptsOf(spans);
        batch.entries = _entriesOf(batch.receipts, flaw);
        batch.balances = _balancesOf(batch.entries, parent, flaw);
        if (flaw == Flaw.Price) batch.receipts[0].promptTokens ^= 1;
    }

    /// @notice Returns its commitment.
    function commitmentOf(SmallBatch memory batch) internal view returns (Commitment memory c) {
        uint128 total = receiptsTree(batch).sumOf();
        c = commitmentOf(total, balancesTree(batch));
        (c.receiptsRoot, c.receiptsCount) = (receiptsTree(batch).rootOf(), uint32(batch.receipts.length));
        (c.entriesRoot, c.entriesCount) = (entriesTree(batch).rootOf(), uint32(batch.entries.keys.length));
        if (batch.flaw == Flaw.Withheld) c.receiptsRoot = keccak256(abi.encode(c.receiptsRoot));
    }

    function receiptsTree(SmallBatch memory batch) internal pure returns (Tree memory tree) {
        uint256 count = batch.receipts.length;
        (tree.leaves, tree.values) = (new bytes32[](count), new uint128[](count));
        for (uint256 i = 0; i < count; ++i) {
            tree.leaves[i] = MerkleSum.leafHash(MerkleSum.RECEIPTS, Hashing.receipt(batch.receipts[i]));
            tree.values[i] = batch.receipts[i].charge;
        }
    }

    function entriesTree(SmallBatch memory batch) internal pure returns (Tree memory) {
        return batch.entries.sums(MerkleSum.ENTRIES);
    }

    function balancesTree(SmallBatch memory batch) internal pure returns (Tree memory) {
        return batch.balances.sums(MerkleSum.BALANCES);
    }

    // --- witnesses ---

    /// @notice Returns a receipt with all its preimages.
    function witnessOf(SmallBatch memory batch, uint256 i) internal view returns (ReceiptWitness memory witness) {
        witness.receipt = batch.receipts[i];
        witness.opening = receiptsTree(batch).open(i);
        (witness.slices, witness.attribution) = (_slices(), _attribution());
        witness.parts = new SliceWitness[](1);
        witness.parts[0] = SliceWitness(record, _list());
    }

    /// @notice The part that a batch with a wrong entry reduces.
    function victimPlace() internal view returns (EntryPlace memory) {
        return EntryPlace(0, VICTIM_PART, SnapshotWitness(datasets.numDatanets(), 2, _accepted()), _content(0));
    }

    /// @notice Returns the packed spans, the preimage of `spansHash`.
    function packedSpans(SmallBatch memory batch) internal view returns (bytes memory packed) {
        for (uint256 i = 0; i < batch.spans.length; ++i) {
            Refund memory span = batch.spans[i];
            ChannelId id = vault.channelIdOf(span.payer, batch.header.operator, collector);
            packed = abi.encodePacked(packed, id, span.before, span.from, span.until);
        }
    }

    // --- internal ---

    /// @dev One receipt per span, or two if the span can be divided.
    function _receiptsOf(Refund[] memory spans) private view returns (Receipt[] memory receipts) {
        uint256 count = 0;
        receipts = new Receipt[](2 * spans.length);
        for (uint256 i = 0; i < spans.length; ++i) {
            ChannelId id = vault.channelIdOf(spans[i].payer, operator, collector);
            uint128 first = (spans[i].until - spans[i].from) / 3;
            if (first != 0) receipts[count++] = _receipt(id, spans[i].from + first, first);
            uint128 rest = spans[i].until - spans[i].from - first;
            receipts[count++] = _receipt(id, spans[i].until, rest);
        }
        assembly ("memory-safe") {
            mstore(receipts, count)
        }
    }

    function _receipt(ChannelId id, uint128 cumulative, uint128 charge) private view returns (Receipt memory r) {
        (r.channelId, r.cumulative, r.charge) = (id, cumulative, charge);
        (r.promptTokens, r.completionTokens) = (uint32(charge), uint32(charge >> 32));
        (r.requestHash, r.responseHash) = (keccak256("request"), keccak256("response"));
        (r.slicesHash, r.attributionHash) = (keccak256(_slices()), keccak256(_attribution()));
        r.servedAt = uint64(block.timestamp);
    }

    function _entriesOf(Receipt[] memory receipts, Flaw flaw) private view returns (Leaves memory leaves) {
        ParameterSet memory terms = parameters.current();
        leaves = _newLeaves(5 * receipts.length);
        for (uint256 i = 0; i < receipts.length; ++i) {
            Parts memory p = Split.partsOf(receipts[i].charge, terms.feePpm, record.operatorPpm, record.creatorPpm);
            uint128 second = (p.contributors * 400_000) / 1_000_000;
            address victim = flaw == Flaw.Entry && i == 0 ? thief : contributors[0];
            _add(leaves, Hashing.entryKey(terms.treasury, uint32(i), 0, 0), p.fee);
            _add(leaves, Hashing.entryKey(operator, uint32(i), 0, 1), p.operator);
            _add(leaves, Hashing.entryKey(creator, uint32(i), 0, 2), p.creator);
            // The first contributor, whose part is larger, receives the remainder.
            _add(leaves, Hashing.entryKey(victim, uint32(i), 0, VICTIM_PART), p.contributors - second);
            _add(leaves, Hashing.entryKey(contributors[1], uint32(i), 0, VICTIM_PART + 1), second);
        }
    }

    function _balancesOf(
        Leaves memory entries,
        Leaves memory parent,
        Flaw flaw
    ) private view returns (Leaves memory leaves) {
        leaves = _newLeaves(parent.keys.length + entries.keys.length + 1);
        bytes32 thiefs = Hashing.account(thief);
        for (uint256 i = 0; i < parent.keys.length; ++i) {
            _add(leaves, flaw == Flaw.Balance ? thiefs : parent.keys[i], parent.values[i]);
        }
        for (uint256 i = 0; i < entries.keys.length; ++i) {
            _add(leaves, flaw == Flaw.Balance ? thiefs : entries.keys[i] >> 64, entries.values[i]);
        }
        // No account has a smaller key.
        if (flaw == Flaw.ZeroLeaf) _insert(leaves, 0, bytes32(0), 0);
    }

    function _newLeaves(uint256 room) private pure returns (Leaves memory leaves) {
        leaves = BatchModel.newLeaves(room);
        leaves.truncate(0);
    }

    /// @dev Adds to the value under `key`; it creates no zero leaves.
    function _add(Leaves memory leaves, bytes32 key, uint128 value) private pure {
        if (value == 0) return;
        uint256 place = leaves.placeOf(key);
        if (place == leaves.keys.length || leaves.keys[place] != key) _insert(leaves, place, key, 0);
        leaves.values[place] += value;
    }

    /// @dev `_newLeaves` allocated the space.
    function _insert(Leaves memory leaves, uint256 place, bytes32 key, uint128 value) private pure {
        leaves.truncate(leaves.keys.length + 1);
        for (uint256 i = leaves.keys.length - 1; i > place; --i) {
            (leaves.keys[i], leaves.values[i]) = (leaves.keys[i - 1], leaves.values[i - 1]);
        }
        (leaves.keys[place], leaves.values[place]) = (key, value);
    }

    function _slices() private view returns (bytes memory) {
        return abi.encodePacked(Hashing.versionId(record), uint32(1_000_000));
    }

    function _attribution() private pure returns (bytes memory) {
        return abi.encodePacked(bytes32("method"), keccak256(_list()));
    }

    function _list() private pure returns (bytes memory) {
        return abi.encodePacked(uint32(0), uint32(600_000), uint32(1), uint32(400_000));
    }

    function _accepted() private pure returns (bytes memory) {
        return abi.encodePacked(uint256(3));
    }

    function _content(uint256 i) private pure returns (bytes32) {
        return keccak256(abi.encode("content", i));
    }
}
