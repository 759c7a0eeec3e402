// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {IDatasetRegistry} from "./interfaces/IDatasetRegistry.sol";
import {
    BalanceWitness,
    Demand,
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
import {Bounds, IParameters, ParameterSet} from "./interfaces/IParameters.sol";
import {ChannelId} from "./interfaces/IPaymentVault.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./interfaces/ISettlement.sol";
import {BatchDemands, DemandTerms, Demands, Queue} from "./libraries/Demands.sol";
import {Earnings} from "./libraries/Earnings.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {ReceiptRules} from "./libraries/ReceiptRules.sol";
import {Spans} from "./libraries/Spans.sol";

/// @title Disputes
/// @notice See `IDisputes`.
contract Disputes is IDisputes {
    using Lookups for TreeRoot;
    using Demands for DemandTerms;
    using Demands for Demand;

    /// @inheritdoc IDisputes
    ISettlement public immutable override settlement;
    /// @inheritdoc IDisputes
    IOperatorRegistry public immutable override operators;
    /// @inheritdoc IDisputes
    IParameters public immutable override parameters;
    /// @inheritdoc IDisputes
    IAdapterRegistry public immutable override adapters;
    /// @inheritdoc IDisputes
    IDatasetRegistry public immutable override datasets;

    /// @inheritdoc IDisputes
    uint64 public immutable override answerSeconds;
    /// @dev The other fields of `DemandTerms`.
    uint64 private immutable _secondsPerAnswer;
    uint64 private immutable _maxExtension;
    uint64 private immutable _maxBlockSeconds;
    uint256 private immutable _bondFee;

    /// @inheritdoc IDisputes
    mapping(bytes32 hash => uint256 blockNumber) public override reservedAt;
    /// @inheritdoc IDisputes
    mapping(bytes32 batchHash => BatchDemands) public override demandsOn;
    /// @inheritdoc IDisputes
    mapping(address operator => uint64 time) public override answersDueUntil;
    /// @inheritdoc IDisputes
    mapping(address account => uint256 amount) public override creditOf;
    mapping(bytes32 leafId => Demand) private _demands;

    /// @notice Deployed as part of a `Generation`.
    /// @param settlement_ The settlement, which stores the batches.
    /// @param operators_ The registry of stakes and receipt keys.
    /// @param adapters_ The registry of adapter versions; it names the registry of contributions.
    constructor(ISettlement settlement_, IOperatorRegistry operators_, IAdapterRegistry adapters_) {
        settlement = settlement_;
        operators = operators_;
        parameters = settlement_.parameters();
        adapters = adapters_;
        datasets = adapters_.datasets();
        Bounds memory bounds = parameters.bounds();
        answerSeconds = bounds.answerSeconds;
        _secondsPerAnswer = bounds.secondsPerAnswer;
        _maxExtension = bounds.maxExtension;
        _maxBlockSeconds = bounds.maxBlockSeconds;
        _bondFee = bounds.bondFee;
    }

    // --- proofs ---

    /// @inheritdoc IDisputes
    function reserve(bytes32 hash) external {
        if (reservedAt[hash] != 0) return;
        reservedAt[hash] = block.number;
        emit Reserved(hash);
    }

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
        ParameterSet memory terms = parameters.setAt(header.parameterSet);
        (address account, uint128 expected) = Earnings.earningOf(witness, place, header.operator, terms, datasets);
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
    function proveBelowClaimed(BatchHeader calldata header, address account, Lookup calldata lookup) external {
        bytes32 key = Hashing.account(account);
        (uint128 value, ) = Lookups.treeOf(header, Tree.Balances).find(key, lookup);
        uint128 claimed = settlement.claimedOf(header.operator, account);
        require(value < claimed, NotBelowClaimed(key, value, claimed));
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

    // --- demands ---

    /// @inheritdoc IDisputes
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external payable returns (uint32 count) {
        require(tree != Tree.ParentBalances || header.parent != 0, NoParent());
        bytes32 batchHash = _checkPending(header);
        address operator = header.operator;
        BatchDemands memory batch = demandsOn[batchHash];
        Queue memory queue = Queue(batch.open, batch.demandsUntil, batch.proofsUntil, answersDueUntil[operator]);
        _terms().checkTimeLeft(header, batch.demandsUntil);
        uint256 bonds = 0;
        for (uint256 i = 0; i < keys.length; ++i) {
            bonds += _demandLeaf(header, batchHash, tree, keys[i], queue);
        }
        demandsOn[batchHash] = BatchDemands(queue.open, queue.demandsUntil, queue.proofsUntil);
        answersDueUntil[operator] = queue.answersDueUntil;
        count = queue.open - batch.open;
        uint256 funds = creditOf[msg.sender] + msg.value;
        require(funds >= bonds, BondTooLow(funds, bonds));
        _setCredit(msg.sender, funds - bonds);
    }

    /// @inheritdoc IDisputes
    function answer(
        BatchHeader calldata header,
        Tree tree,
        bytes32 key,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external {
        require(tree != Tree.Receipts, WrongTree(tree));
        bytes32 batchHash = _checkPending(header);
        bytes32 leafId = _leafId(batchHash, tree, key);
        _checkInTime(leafId);
        if (tree == Tree.ParentBalances) {
            _checkHeader(parent, header.parent);
            Lookups.treeOf(parent, tree).find(key, lookup);
        } else {
            Lookups.treeOf(header, tree).find(key, lookup);
        }
        _recordAnswer(header.operator, batchHash, leafId);
        bytes memory call = abi.encodeCall(this.answer, (header, tree, key, parent, lookup));
        emit Answered(leafId, header.operator, batchHash, call);
    }

    /// @inheritdoc IDisputes
    function answerReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external {
        bytes32 batchHash = _checkPending(header);
        bytes32 leafId = _leafId(batchHash, Tree.Receipts, bytes32(uint256(witness.opening.index)));
        _checkInTime(leafId);
        _openReceipt(header, witness.receipt, witness.opening);
        _checkSigned(header, witness.receipt, signature);
        Fault fault = _faultOf(header, witness);
        require(fault == Fault.None, ReceiptIsFaulty(fault));
        // Parts beyond the receipt's slices are checked by nothing, and readers of the answer would see them.
        uint256 numSlices = ReceiptRules.numSlices(witness);
        require(witness.parts.length == numSlices, WrongPartCount(witness.parts.length, numSlices));
        _recordAnswer(header.operator, batchHash, leafId);
        bytes memory call = abi.encodeCall(this.answerReceipt, (header, witness, signature));
        emit Answered(leafId, header.operator, batchHash, call);
    }

    /// @inheritdoc IDisputes
    function voidUnanswered(BatchHeader calldata header, Tree tree, bytes32 key) external {
        Demand memory demand_ = _checkOpen(_leafId(Hashing.batch(header), tree, key));
        require(demand_.isPast(), DeadlineNotPassed(demand_.deadline, demand_.deadlineBlock));
        _void(header, demand_.challenger);
    }

    /// @inheritdoc IDisputes
    function returnBond(BatchHeader calldata header, Tree tree, bytes32 key) external {
        bytes32 batchHash = Hashing.batch(header);
        bytes32 leafId = _leafId(batchHash, tree, key);
        (address challenger, uint256 bond) = _close(batchHash, leafId);
        // A batch with an open demand is never final: it is pending or voided.
        require(!settlement.isPending(header), BatchPending(batchHash));
        _setCredit(challenger, creditOf[challenger] + bond);
        emit BondReturned(leafId, challenger, bond);
    }

    /// @inheritdoc IDisputes
    function withdrawCredit(address payable to) external returns (uint256 amount) {
        amount = creditOf[msg.sender];
        require(amount != 0, NoCredit(msg.sender));
        creditOf[msg.sender] = 0;
        emit CreditWithdrawn(msg.sender, to, amount);
        Address.sendValue(to, amount);
    }

    // --- views ---

    /// @inheritdoc IDisputes
    function bondOf(address operator, Tree tree, uint256 count, uint256 baseFee) external view returns (uint256) {
        return _terms().bondOf(tree, answersDueUntil[operator], count, baseFee);
    }

    /// @inheritdoc IDisputes
    function demandOf(bytes32 batchHash, Tree tree, bytes32 key) external view returns (Demand memory) {
        return _demands[_leafId(batchHash, tree, key)];
    }

    // --- demands, internal ---

    function _terms() private view returns (DemandTerms memory) {
        return DemandTerms(answerSeconds, _secondsPerAnswer, _maxExtension, _maxBlockSeconds, _bondFee);
    }

    /// @notice Demands a leaf, unless it was demanded before, and adds it to the queue.
    /// @return bond The bond in wei; zero if the leaf was demanded before.
    function _demandLeaf(
        BatchHeader calldata header,
        bytes32 batchHash,
        Tree tree,
        bytes32 key,
        Queue memory queue
    ) private returns (uint256 bond) {
        bool isLeaf = tree != Tree.Receipts || uint256(key) < header.receiptsCount;
        require(isLeaf, KeyOutOfRange(key, header.receiptsCount));
        bytes32 leafId = _leafId(batchHash, tree, key);
        if (_demands[leafId].deadline != 0) return 0;
        Demand memory next = _terms().add(queue, header.finalAt, tree);
        _demands[leafId] = next;
        emit Demanded(leafId, header.operator, batchHash, tree, key, next);
        return next.bond;
    }

    function _leafId(bytes32 batchHash, Tree tree, bytes32 key) private pure returns (bytes32) {
        return keccak256(abi.encode(batchHash, tree, key));
    }

    function _checkOpen(bytes32 leafId) private view returns (Demand memory demand_) {
        demand_ = _demands[leafId];
        require(demand_.deadline != 0, NotDemanded(leafId));
        require(demand_.challenger != address(0), DemandClosed(leafId));
    }

    function _checkInTime(bytes32 leafId) private view {
        Demand memory demand_ = _checkOpen(leafId);
        require(!demand_.isPast(), AnswerTooLate(demand_.deadline, demand_.deadlineBlock));
    }

    function _recordAnswer(address operator, bytes32 batchHash, bytes32 leafId) private {
        (, uint256 bond) = _close(batchHash, leafId);
        BatchDemands storage batch = demandsOn[batchHash];
        uint64 proofsUntil = uint64(block.timestamp) + answerSeconds;
        // Only if the answer is later than its deadline's time, in a block that still counts.
        if (proofsUntil > batch.proofsUntil) batch.proofsUntil = proofsUntil;
        _setCredit(operator, creditOf[operator] + Demands.creditOf(bond));
    }

    function _setCredit(address account, uint256 credit) private {
        if (creditOf[account] == credit) return;
        creditOf[account] = credit;
        emit CreditChanged(account, credit);
    }

    function _close(bytes32 batchHash, bytes32 leafId) private returns (address challenger, uint256 bond) {
        Demand memory demand_ = _checkOpen(leafId);
        (_demands[leafId].challenger, _demands[leafId].bond) = (address(0), 0);
        --demandsOn[batchHash].open;
        return (demand_.challenger, demand_.bond);
    }

    // --- receipts, internal ---

    /// @notice Reverts unless the batch includes the receipt.
    /// @return prefix Sum of the receipts with lower indices.
    function _openReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening
    ) private pure returns (uint128 prefix) {
        return Lookups.treeOf(header, Tree.Receipts).openKey(Hashing.receipt(receipt), opening);
    }

    function _faultOf(BatchHeader calldata header, ReceiptWitness calldata witness) private view returns (Fault) {
        return ReceiptRules.faultOf(witness, witness.opening.value, header.committedAt, adapters);
    }

    /// @dev Which keys count depends on the time of the commit, not of the call: a retirement takes no evidence away.
    function _checkSigned(
        BatchHeader calldata header,
        Receipt calldata receipt,
        bytes calldata signature
    ) private view {
        (address signer, , ) = ECDSA.tryRecoverCalldata(settlement.receiptDigest(receipt), signature);
        bool isSigned = operators.isReceiptKey(signer, header.operator, header.committedAt);
        require(isSigned, NotSignedBy(header.operator, signer));
    }

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

    // --- balances, internal ---

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

    // --- batches, internal ---

    function _checkHeader(BatchHeader calldata header, bytes32 expected) private pure {
        bytes32 found = Hashing.batch(header);
        require(found == expected, HeaderMismatch(expected, found));
    }

    function _checkPending(BatchHeader calldata header) private view returns (bytes32 batchHash) {
        batchHash = Hashing.batch(header);
        require(settlement.isPending(header), BatchNotPending(batchHash));
    }

    function _convictReceipt(BatchHeader calldata header, ReceiptWitness calldata witness, Fault fault) private {
        emit ReceiptFaulty(Hashing.batch(header), witness.opening.index, fault);
        _convict(header);
    }

    /// @dev Without the reservation, a copy of a pending proof could convict first, and the challenger would have
    /// neither its share nor a proof that succeeds.
    function _convict(BatchHeader calldata header) private {
        bytes32 hash = keccak256(abi.encode(msg.sender, keccak256(msg.data)));
        uint256 at = reservedAt[hash];
        require(at != 0 && at < block.number, NotReserved(hash));
        _void(header, msg.sender);
    }

    /// @dev No leaf of the operator stays to be answered, and the bonds of open ones are returned. The queue ends with
    /// them: otherwise an operator would fill it for gas alone, with demands on batches that it convicts itself.
    function _void(BatchHeader calldata header, address challenger) private {
        answersDueUntil[header.operator] = 0;
        emit BatchConvicted(header.operator, header.number, Hashing.batch(header), msg.sig, challenger);
        settlement.voidPending(header, challenger);
    }
}
