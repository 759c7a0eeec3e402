// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Claims} from "./Claims.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Bounds, IParameters} from "./interfaces/IParameters.sol";
import {Collection, Refund} from "./interfaces/IPaymentVault.sol";
import {
    BatchHeader,
    Commitment,
    EntryKey,
    ISettlement,
    Opening,
    OperatorState,
    Receipt
} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {Units} from "./libraries/Units.sol";

/// @title Settlement
/// @notice See `ISettlement`. This contract implements batches; `Claims` implements claims and payout wallets.
contract Settlement is Claims {
    uint32 private constant _RING_SIZE = 256;
    /// @dev One slot is reserved for the latest final batch, which stays verifiable until a later one is final.
    uint32 private constant _MAX_PENDING = _RING_SIZE - 1;
    uint256 private constant _MAX_SPANS = 256;

    /// @inheritdoc ISettlement
    IParameters public immutable override parameters;
    /// @inheritdoc ISettlement
    IOperatorRegistry public immutable override operators;
    /// @inheritdoc ISettlement
    address public immutable override disputes;

    mapping(address operator => OperatorState) private _states;
    mapping(address operator => bytes32[_RING_SIZE]) private _rings;
    /// @dev Bit `number % 256` is set while an open demand holds the batch.
    mapping(address operator => uint256 bits) private _held;

    /// @notice Deployed as part of a `Generation`.
    /// @param parameters_ The governed parameters; they name the vault against which their bounds were checked.
    /// @param operators_ The operator registry of the same generation.
    /// @param disputes_ The fraud proofs of the same generation.
    constructor(
        IParameters parameters_,
        IOperatorRegistry operators_,
        address disputes_
    ) Claims(parameters_.vault()) {
        Bounds memory bounds = parameters_.bounds();
        uint256 reach = uint256(_MAX_PENDING) * bounds.minSettlementInterval;
        require(reach >= bounds.maxDisputeWindow, RingTooSmall(reach, bounds.maxDisputeWindow));
        parameters = parameters_;
        operators = operators_;
        disputes = disputes_;
    }

    // --- batches ---

    /// @inheritdoc ISettlement
    function commit(
        Commitment memory commitment,
        Collection[] calldata collections
    ) external returns (uint64 number, bytes32 batchHash) {
        OperatorState storage stored = _states[msg.sender];
        OperatorState memory state = stored;
        _checkCommitment(commitment, collections.length, state);
        (uint32 window, uint32 coverPpm) = parameters.commitTerms(commitment.parameterSet);
        // `collect` makes no external calls, so calling it before the effects below allows no reentrancy.
        (uint128 total, bytes32 spansHash, uint128 pot) = vault.collect(msg.sender, collections);
        require(total == commitment.total, TotalMismatch(total, commitment.total));
        _checkCover(pot, coverPpm);

        BatchHeader memory header = _headerOf(commitment, spansHash, state, window);
        batchHash = Hashing.batch(header);
        number = header.number;
        _rings[msg.sender][number % _RING_SIZE] = batchHash;
        stored.last = uint32(number);
        stored.finalAt = uint40(header.finalAt);
        stored.cumulativeTotal = header.cumulativeTotal;
        emit BatchCommitted(msg.sender, number, batchHash, header);
    }

    /// @inheritdoc ISettlement
    function refund(BatchHeader calldata header, Refund[] calldata refunds) external {
        address operator = header.operator;
        OperatorState storage state = _states[operator];
        (uint32 last, uint24 toRefund) = (state.last, state.toRefund);
        bytes32 batchHash = Hashing.batch(header);
        bytes32 next = toRefund == 0 ? bytes32(0) : _rings[operator][(uint256(last) + toRefund) % _RING_SIZE];
        require(batchHash == next, NotNextToRefund(next, batchHash));
        state.toRefund = toRefund - 1;
        state.cumulativeTotal -= header.total;
        emit BatchRefunded(operator, header.number, batchHash, header.total);
        (, bytes32 spansHash) = vault.refund(operator, refunds);
        require(spansHash == header.spansHash, SpansMismatch(header.spansHash, spansHash));
    }

    /// @inheritdoc ISettlement
    function finalise(BatchHeader calldata header) external {
        bytes32 batchHash = _checkKnown(header);
        (address operator, uint64 number) = (header.operator, header.number);
        require(number > _states[operator].finalised, AlreadyFinal(number));
        require(block.timestamp >= header.finalAt, NotYetFinal(header.finalAt));
        require(_held[operator] & _ringBits(_states[operator].finalised + 1, number) == 0, BatchHeld(operator, number));
        _states[operator].finalised = uint32(number);
        balancesHashOf[operator] = Hashing.balances(
            header.balancesRoot,
            header.balancesCount,
            header.cumulativeTotal
        );
        emit BatchFinalised(operator, number, batchHash, header.cumulativeTotal);
    }

    // --- disputes ---

    /// @inheritdoc ISettlement
    function voidFrom(BatchHeader calldata header) external {
        bytes32 batchHash = _checkDisputable(header);
        (address operator, uint32 first) = (header.operator, uint32(header.number));
        OperatorState storage state = _states[operator];
        uint32 last = state.last;
        // `cumulativeTotal` decreases with each refund. `finalAt` never decreases; otherwise a later batch could be
        // final before its parent.
        state.last = first - 1;
        state.toRefund += uint24(last - first + 1);
        _held[operator] &= ~_ringBits(first, last);
        emit BatchesVoided(operator, first, last, batchHash);
    }

    /// @inheritdoc ISettlement
    function hold(BatchHeader calldata header) external returns (bytes32 batchHash) {
        batchHash = _checkDisputable(header);
        _held[header.operator] |= _ringBits(header.number, header.number);
    }

    /// @inheritdoc ISettlement
    function release(BatchHeader calldata header) external {
        require(msg.sender == disputes, NotDisputes(msg.sender));
        if (isPending(header)) _held[header.operator] &= ~_ringBits(header.number, header.number);
    }

    // --- views ---

    /// @inheritdoc ISettlement
    function verifyReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        bytes calldata signature
    ) external view returns (bool) {
        _checkKnown(header);
        bytes32 structHash = Hashing.receipt(receipt);
        (address signer, , ) = ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature);
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.RECEIPTS, structHash);
        (bytes32 root, uint128 sum, ) = MerkleSum.open(leaf, header.receiptsCount, opening);
        return
            root == header.receiptsRoot &&
            sum == header.total &&
            opening.value == receipt.charge &&
            operators.isReceiptKey(signer, header.operator, header.committedAt);
    }

    /// @inheritdoc ISettlement
    function verifyEntry(
        BatchHeader calldata header,
        EntryKey calldata key,
        Opening calldata opening
    ) external view returns (bool) {
        _checkKnown(header);
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.ENTRIES, Hashing.entry(key));
        (bytes32 root, uint128 sum, ) = MerkleSum.open(leaf, header.entriesCount, opening);
        return root == header.entriesRoot && sum == header.total;
    }

    /// @inheritdoc ISettlement
    function isPending(BatchHeader calldata header) public view returns (bool) {
        return header.number > _states[header.operator].finalised && _isInRing(header, Hashing.batch(header));
    }

    /// @inheritdoc ISettlement
    function isHeld(address operator, uint64 number) external view returns (bool) {
        OperatorState memory state = _states[operator];
        bool isOpen = number > state.finalised && number <= state.last;
        return isOpen && _held[operator] & _ringBits(number, number) != 0;
    }

    /// @inheritdoc ISettlement
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(Hashing.receipt(receipt));
    }

    /// @inheritdoc ISettlement
    function stateOf(address operator) external view returns (OperatorState memory) {
        return _states[operator];
    }

    /// @inheritdoc ISettlement
    function batchHashAt(address operator, uint64 number) external view returns (bytes32) {
        uint64 last = _states[operator].last;
        bool isKept = number != 0 && number <= last && last - number < _RING_SIZE;
        return isKept ? _rings[operator][number % _RING_SIZE] : bytes32(0);
    }

    /// @inheritdoc ISettlement
    function ringSize() external pure returns (uint32) {
        return _RING_SIZE;
    }

    /// @inheritdoc ISettlement
    function hashBatch(BatchHeader calldata header) external pure returns (bytes32) {
        return Hashing.batch(header);
    }

    /// @inheritdoc ISettlement
    function hashReceipt(Receipt calldata receipt) external pure returns (bytes32) {
        return Hashing.receipt(receipt);
    }

    // --- internal ---

    function _checkCommitment(
        Commitment memory commitment,
        uint256 numSpans,
        OperatorState memory state
    ) private view {
        require(numSpans != 0 && numSpans <= _MAX_SPANS, InvalidSpanCount(numSpans, _MAX_SPANS));
        require(
            commitment.receiptsCount != 0 && commitment.entriesCount != 0 && commitment.balancesCount != 0,
            EmptyTree()
        );
        require(state.toRefund == 0, RefundsOutstanding(msg.sender, state.toRefund));
        require(state.last - state.finalised < _MAX_PENDING, RingFull(state.last, state.finalised));
        // Before the first batch the slot is zero, which is the parent that a first batch names.
        bytes32 parent = _rings[msg.sender][state.last % _RING_SIZE];
        require(parent == commitment.parent, ParentMismatch(parent, commitment.parent));
    }

    function _checkCover(uint128 pot, uint32 coverPpm) private view {
        uint256 needed = Units.mulPpmDown(pot, coverPpm);
        uint128 cover = operators.coverOf(msg.sender);
        require(cover >= needed, StakeTooLow(cover, needed));
    }

    function _headerOf(
        Commitment memory commitment,
        bytes32 spansHash,
        OperatorState memory state,
        uint32 window
    ) private view returns (BatchHeader memory header) {
        uint64 finalAt = uint64(block.timestamp) + window;
        header.operator = msg.sender;
        header.number = state.last + 1;
        header.parent = commitment.parent;
        header.parameterSet = commitment.parameterSet;
        header.committedAt = uint64(block.timestamp);
        header.finalAt = finalAt > state.finalAt ? finalAt : state.finalAt;
        header.total = commitment.total;
        header.cumulativeTotal = state.cumulativeTotal + commitment.total;
        header.spansHash = spansHash;
        header.receiptsRoot = commitment.receiptsRoot;
        header.receiptsCount = commitment.receiptsCount;
        header.entriesRoot = commitment.entriesRoot;
        header.entriesCount = commitment.entriesCount;
        header.balancesRoot = commitment.balancesRoot;
        header.balancesCount = commitment.balancesCount;
        header.dataDigest = commitment.dataDigest;
    }

    function _checkKnown(BatchHeader calldata header) private view returns (bytes32 batchHash) {
        batchHash = Hashing.batch(header);
        require(_isInRing(header, batchHash), BatchUnknown(batchHash));
    }

    function _checkDisputable(BatchHeader calldata header) private view returns (bytes32 batchHash) {
        require(msg.sender == disputes, NotDisputes(msg.sender));
        batchHash = _checkKnown(header);
        require(header.number > _states[header.operator].finalised, AlreadyFinal(header.number));
    }

    /// @dev Slots after the latest batch may hold hashes of voided batches, which do not count.
    function _isInRing(BatchHeader calldata header, bytes32 batchHash) private view returns (bool) {
        (address operator, uint64 number) = (header.operator, header.number);
        return number <= _states[operator].last && _rings[operator][number % _RING_SIZE] == batchHash;
    }

    /// @dev Returns the bits of batches `first` to `last`, at most 255, in a word that wraps around as the ring does.
    function _ringBits(uint256 first, uint256 last) private pure returns (uint256) {
        uint256 ones = (1 << (last - first + 1)) - 1;
        uint256 shift = first % _RING_SIZE;
        return (ones << shift) | (ones >> (_RING_SIZE - shift));
    }
}
