// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demands} from "./Demands.sol";
import {IAdapterRegistry, VersionRecord} from "./interfaces/IAdapterRegistry.sol";
import {ContributionRecord, IDatasetRegistry} from "./interfaces/IDatasetRegistry.sol";
import {
    BalanceWitness,
    EntryPlace,
    Fault,
    IDisputes,
    Lookup,
    ReceiptWitness,
    SliceWitness,
    SnapshotWitness,
    Tree
} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {ParameterSet} from "./interfaces/IParameters.sol";
import {ChannelId} from "./interfaces/IPaymentVault.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {ReceiptRules} from "./libraries/ReceiptRules.sol";
import {Spans} from "./libraries/Spans.sol";
import {Parts, Split} from "./libraries/Split.sol";

/// @title Disputes
/// @notice See `IDisputes`. This contract implements the proofs; `Demands` forces operators to reveal withheld data,
/// and both convict batches through `Verdicts`.
contract Disputes is Demands {
    using Lookups for TreeRoot;

    uint256 private constant _ITEM_SIZE = 8;
    uint256 private constant _FIRST_CONTRIBUTOR = 3;

    /// @inheritdoc IDisputes
    IDatasetRegistry public immutable override datasets;

    /// @notice Deployed as part of a `Generation`.
    /// @param settlement_ The settlement, which stores the batches.
    /// @param operators_ The registry of stakes and receipt keys.
    /// @param adapters_ The registry of adapter versions; it names the registry of contributions.
    constructor(
        ISettlement settlement_,
        IOperatorRegistry operators_,
        IAdapterRegistry adapters_
    ) Demands(settlement_, operators_, adapters_) {
        datasets = adapters_.datasets();
    }

    // --- proofs ---

    /// @inheritdoc IDisputes
    function proveBadReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata spans
    ) external {
        uint128 prefix = _openReceipt(header, witness.receipt, witness.opening);
        Fault fault = spans.length == 0
            ? _faultOf(header, witness)
            : _placementFault(header, witness.receipt, spans, prefix);
        require(fault != Fault.None, NoFault());
        _convictReceipt(header, witness, fault);
    }

    /// @inheritdoc IDisputes
    function proveBadPosition(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        uint256 slice,
        uint256 item,
        SnapshotWitness calldata snapshot
    ) external {
        _openReceipt(header, witness.receipt, witness.opening);
        ReceiptRules.checkPreimages(witness);
        SliceWitness calldata checked = ReceiptRules.checkedSlice(witness, slice);
        (uint256 number, uint32 index) = ReceiptRules.positionAt(checked.list, item);
        require(!ReceiptRules.isInSnapshot(checked.record, number, index, snapshot), NoFault());
        _convictReceipt(header, witness, Fault.Position);
    }

    /// @inheritdoc IDisputes
    function proveWrongEntry(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        Lookup calldata lookup
    ) external {
        _openReceipt(header, witness.receipt, witness.opening);
        ReceiptRules.checkPreimages(witness);
        ReceiptRules.checkedSlice(witness, place.slice);
        (address account, uint128 expected) = _earningOf(header, witness, place);
        bytes32 key = Hashing.entryKey(account, witness.opening.index, place.slice, place.part);
        (uint128 value, ) = Lookups.treeOf(header, Tree.Entries).find(key, lookup);
        require(value != expected, ValueMatches(key, value));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function proveWrongBalance(BatchHeader calldata header, BalanceWitness calldata witness) external {
        bytes32 key = Hashing.account(witness.account);
        uint256 expected = _parentBalance(header, witness, key);
        TreeRoot memory entries = Lookups.treeOf(header, Tree.Entries);
        (, uint128 from) = entries.find(bytes32(uint256(key) << 64), witness.entriesFrom);
        (, uint128 until) = entries.find(bytes32((uint256(key) + 1) << 64), witness.entriesUntil);
        (uint128 value, ) = Lookups.treeOf(header, Tree.Balances).find(key, witness.later);
        // `until < from` is possible only if the entries are out of order, so it convicts too.
        bool isCorrect = until >= from && expected + (until - from) == value;
        require(!isCorrect, ValueMatches(key, value));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function proveWrongOrder(BatchHeader calldata header, Tree tree, Lookup calldata leaves) external {
        require(tree == Tree.Entries || tree == Tree.Balances, WrongTree(tree));
        TreeRoot memory root = Lookups.treeOf(header, tree);
        (bytes32 left, bytes32 right) = (leaves.keys[0], leaves.keys[1]);
        root.openKey(left, leaves.openings[0]);
        root.openKey(right, leaves.openings[1]);
        bool isOrdered = leaves.openings[0].index >= leaves.openings[1].index || left < right;
        require(!isOrdered, LeavesInOrder(left, right));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function proveZeroLeaf(
        BatchHeader calldata header,
        Tree tree,
        bytes32 leafHash,
        Opening calldata opening
    ) external {
        require(tree != Tree.ParentBalances, WrongTree(tree));
        Lookups.treeOf(header, tree).openLeaf(leafHash, opening);
        require(opening.value == 0 || _hasZeroSibling(opening.path), LeafHasValue(opening.value));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function proveEquivocation(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        Receipt calldata other,
        bytes calldata signature
    ) external {
        _openReceipt(header, receipt, opening);
        _checkSigned(header, other, signature);
        _checkConflict(receipt, other);
        _convict(header);
    }

    // --- receipts, internal ---

    function _placementFault(
        BatchHeader calldata header,
        Receipt calldata receipt,
        bytes calldata spans,
        uint128 prefix
    ) private pure returns (Fault) {
        _checkSpans(header, spans);
        bytes32 channel = ChannelId.unwrap(receipt.channelId);
        bool isMisplaced = Spans.isMisplaced(spans, channel, receipt.cumulative, receipt.charge, prefix);
        return isMisplaced ? Fault.Place : Fault.None;
    }

    function _checkSpans(BatchHeader calldata header, bytes calldata spans) private pure {
        bytes32 found = keccak256(spans);
        require(found == header.spansHash, ReceiptRules.WitnessMismatch(header.spansHash, found));
    }

    /// @dev Two receipts conflict if they differ and their intervals of one channel overlap.
    function _checkConflict(Receipt calldata receipt, Receipt calldata other) private pure {
        bytes32 receiptHash = Hashing.receipt(receipt);
        require(receiptHash != Hashing.receipt(other), SameReceipt(receiptHash));
        require(ChannelId.unwrap(receipt.channelId) == ChannelId.unwrap(other.channelId), ChannelMismatch());
        (uint128 from, uint128 otherFrom) = (receipt.cumulative - receipt.charge, other.cumulative - other.charge);
        bool isOverlap = from < other.cumulative && otherFrom < receipt.cumulative;
        // An empty interval overlaps nothing, although it can lie within another one.
        bool hasAmounts = receipt.charge != 0 && other.charge != 0;
        require(isOverlap && hasAmounts, IntervalsDisjoint(from, receipt.cumulative, otherFrom, other.cumulative));
    }

    // --- earnings, internal ---

    /// @notice Returns the account that earns a part of a slice and the amount, by the split of the batch's parameter
    /// set.
    function _earningOf(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place
    ) private view returns (address account, uint128 amount) {
        ParameterSet memory terms = parameters.setAt(header.parameterSet);
        VersionRecord calldata record = witness.parts[place.slice].record;
        uint128 charge = ReceiptRules.chargeOf(witness, place.slice);
        Parts memory parts = Split.partsOf(charge, terms.feePpm, record.operatorPpm, record.creatorPpm);
        if (place.part == 0) return (terms.treasury, parts.fee);
        if (place.part == 1) return (header.operator, parts.operator);
        if (place.part == 2) return (record.creator, parts.creator);
        uint256 j = place.part - _FIRST_CONTRIBUTOR;
        if (record.snapshots.length == 0) {
            require(j == 0, PartOutOfRange(place.part, _FIRST_CONTRIBUTOR + 1));
            return (terms.treasury, parts.contributors);
        }
        bytes calldata list = witness.parts[place.slice].list;
        uint256 count = list.length / _ITEM_SIZE;
        require(j < count, PartOutOfRange(place.part, _FIRST_CONTRIBUTOR + count));
        account = _contributorOf(record, list, j, place);
        amount = Split.contributorPart(parts.contributors, list, j);
    }

    /// @notice Returns the registered contributor of entry `j` of a list.
    function _contributorOf(
        VersionRecord calldata record,
        bytes calldata list,
        uint256 j,
        EntryPlace calldata place
    ) private view returns (address) {
        (uint256 number, uint32 index) = ReceiptRules.positionAt(list, j);
        require(ReceiptRules.isInSnapshot(record, number, index, place.snapshot), NoFault());
        ContributionRecord memory stored = datasets.contributionOf(place.snapshot.datanetId, place.contentHash);
        bool isMatch = stored.isAdmitted && stored.index == index;
        require(isMatch, ContributionMismatch(place.contentHash, index, stored.index));
        return stored.contributor;
    }

    /// @notice Returns the account's balance in the parent batch; zero for the first batch.
    function _parentBalance(
        BatchHeader calldata header,
        BalanceWitness calldata witness,
        bytes32 key
    ) private pure returns (uint128 value) {
        if (header.parent == 0) return 0;
        _checkHeader(witness.parent, header.parent);
        (value, ) = Lookups.treeOf(witness.parent, Tree.Balances).find(key, witness.earlier);
    }

    /// @dev Returns whether a sibling on the path has sum zero, which means that all leaves below it have value zero.
    function _hasZeroSibling(bytes calldata path) private pure returns (bool) {
        for (uint256 at = 0; at < path.length; at += MerkleSum.SIBLING_SIZE) {
            if (bytes16(path[at:at + 16]) == 0) return true;
        }
        return false;
    }

    function _convictReceipt(BatchHeader calldata header, ReceiptWitness calldata witness, Fault fault) private {
        emit ReceiptFaulty(Hashing.batch(header), witness.opening.index, fault);
        _convict(header);
    }
}
