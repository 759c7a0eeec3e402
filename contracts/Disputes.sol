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
/// @notice See `IDisputes`. Here are the proofs from data at hand; `Demands` forces out what is withheld, and both
/// convict by `Verdicts`.
contract Disputes is Demands {
    using Lookups for TreeRoot;

    uint256 private constant _ITEM = 8;
    uint256 private constant _FIRST_CONTRIBUTOR = 3;

    /// @inheritdoc IDisputes
    IDatasetRegistry public immutable override datasets;

    /// @notice Part of a generation: see `Generation`.
    /// @param settlement_ The batches.
    /// @param operators_ The stakes.
    /// @param adapters_ The versions' records; they name the contributions.
    constructor(
        ISettlement settlement_,
        IOperatorRegistry operators_,
        IAdapterRegistry adapters_
    ) Demands(settlement_, operators_, adapters_) {
        datasets = adapters_.datasets();
    }

    // --- proofs ---

    /// @inheritdoc IDisputes
    function badReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata spans
    ) external {
        uint128 prefix = _openReceipt(header, witness.receipt, witness.opening);
        Fault fault = spans.length == 0 ? _faultOf(header, witness) : _placeOf(header, witness.receipt, spans, prefix);
        require(fault != Fault.None, NoFault());
        _convictReceipt(header, witness, fault);
    }

    /// @inheritdoc IDisputes
    function badPosition(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        uint256 slice,
        uint256 item,
        SnapshotWitness calldata snapshot
    ) external {
        _openReceipt(header, witness.receipt, witness.opening);
        ReceiptRules.checkPreimages(witness);
        SliceWitness calldata part = ReceiptRules.checkedSlice(witness, slice);
        (uint256 number, uint32 index) = ReceiptRules.positionAt(part.list, item);
        require(!ReceiptRules.isInSnapshot(part.record, number, index, snapshot), NoFault());
        _convictReceipt(header, witness, Fault.Position);
    }

    /// @inheritdoc IDisputes
    function wrongEntry(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        Lookup calldata lookup
    ) external {
        _openReceipt(header, witness.receipt, witness.opening);
        ReceiptRules.checkPreimages(witness);
        ReceiptRules.checkedSlice(witness, place.slice);
        (address account, uint128 expected) = _earned(header, witness, place);
        bytes32 key = Hashing.entryKey(account, witness.opening.index, place.slice, place.part);
        (uint128 value, ) = Lookups.treeOf(header, Tree.Entries).find(key, lookup);
        require(value != expected, ValueIsRight(key, value));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function wrongBalance(BatchHeader calldata header, BalanceWitness calldata witness) external {
        bytes32 key = Hashing.account(witness.account);
        uint256 expected = _earlierBalance(header, witness, key);
        TreeRoot memory entries = Lookups.treeOf(header, Tree.Entries);
        (, uint128 from) = entries.find(bytes32(uint256(key) << 64), witness.entriesFrom);
        (, uint128 until) = entries.find(bytes32((uint256(key) + 1) << 64), witness.entriesUntil);
        (uint128 value, ) = Lookups.treeOf(header, Tree.Balances).find(key, witness.later);
        // Entries in order cannot lie the other way round.
        bool isRight = until >= from && expected + (until - from) == value;
        require(!isRight, ValueIsRight(key, value));
        _convict(header);
    }

    /// @inheritdoc IDisputes
    function wrongOrder(BatchHeader calldata header, Tree tree, Lookup calldata leaves) external {
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
    function zeroLeaf(
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
    function equivocation(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        Receipt calldata other,
        bytes calldata signature
    ) external {
        _openReceipt(header, receipt, opening);
        _checkSigned(header.operator, other, signature);
        _checkConflict(receipt, other);
        _convict(header);
    }

    // --- receipts, inside ---

    function _placeOf(
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
        // An empty interval within another one covers no money.
        bool isMoney = receipt.charge != 0 && other.charge != 0;
        require(isOverlap && isMoney, IntervalsApart(from, receipt.cumulative, otherFrom, other.cumulative));
    }

    // --- earnings, inside ---

    /// @notice Who earns a part of a slice, and what, by the split of the batch's parameter set.
    function _earned(
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
            require(j == 0, NotInvolved(place.part, _FIRST_CONTRIBUTOR + 1));
            return (terms.treasury, parts.contributors);
        }
        bytes calldata list = witness.parts[place.slice].list;
        require(j < list.length / _ITEM, NotInvolved(place.part, _FIRST_CONTRIBUTOR + list.length / _ITEM));
        account = _contributor(record, list, j, place);
        amount = Split.contributorPart(parts.contributors, list, j);
    }

    /// @notice The contributor of entry `j` of a list, as the registry recorded them.
    function _contributor(
        VersionRecord calldata record,
        bytes calldata list,
        uint256 j,
        EntryPlace calldata place
    ) private view returns (address) {
        (uint256 number, uint32 index) = ReceiptRules.positionAt(list, j);
        require(ReceiptRules.isInSnapshot(record, number, index, place.snapshot), NoFault());
        ContributionRecord memory kept = datasets.contributionOf(place.snapshot.datanetId, place.contentHash);
        bool isIt = kept.contributor != address(0) && kept.index == index;
        require(isIt, NotTheContributor(place.contentHash, index, kept.index));
        return kept.contributor;
    }

    /// @notice The account's balance in the parent; zero before the first batch.
    function _earlierBalance(
        BatchHeader calldata header,
        BalanceWitness calldata witness,
        bytes32 key
    ) private pure returns (uint128 value) {
        if (header.parent == 0) return 0;
        _checkHeader(witness.parent, header.parent);
        (value, ) = Lookups.treeOf(witness.parent, Tree.Balances).find(key, witness.earlier);
    }

    /// @dev Whether a node beside the path is worth nothing: then so are all leaves below it.
    function _hasZeroSibling(bytes calldata path) private pure returns (bool) {
        for (uint256 at = 0; at < path.length; at += MerkleSum.SIBLING) {
            if (bytes16(path[at:at + 16]) == 0) return true;
        }
        return false;
    }

    function _convictReceipt(BatchHeader calldata header, ReceiptWitness calldata witness, Fault fault) private {
        emit ReceiptFaulty(Hashing.batch(header), witness.opening.index, fault);
        _convict(header);
    }
}
