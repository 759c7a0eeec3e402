// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IAdapterRegistry, VersionRecord} from "./interfaces/IAdapterRegistry.sol";
import {ContributionRecord, IDatasetRegistry} from "./interfaces/IDatasetRegistry.sol";
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
import {IParameters, ParameterSet} from "./interfaces/IParameters.sol";
import {ChannelId} from "./interfaces/IPaymentVault.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {ReceiptRules} from "./libraries/ReceiptRules.sol";
import {Spans} from "./libraries/Spans.sol";
import {Parts, Split} from "./libraries/Split.sol";
import {Units} from "./libraries/Units.sol";

/// @title Disputes
/// @notice See `IDisputes`.
contract Disputes is IDisputes, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Lookups for TreeRoot;

    uint256 private constant _MAX_KEYS = 64;
    /// @dev An answer may take this part of the dispute window; finding a leaf in a hidden tree takes a few of them.
    uint64 private constant _ANSWERS_IN_WINDOW = 8;
    uint256 private constant _ITEM = 8;
    uint256 private constant _FIRST_CONTRIBUTOR = 3;

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
    IERC20 public immutable override token;

    /// @inheritdoc IDisputes
    mapping(bytes32 id => uint256 bits) public override unansweredOf;
    /// @inheritdoc IDisputes
    mapping(bytes32 batchHash => uint256 count) public override numOpenDemands;
    /// @inheritdoc IDisputes
    mapping(bytes32 hash => uint256 blockNumber) public override reservedAt;

    /// @notice Part of a generation: see `Generation`.
    /// @param settlement_ The batches.
    /// @param operators_ The stakes.
    /// @param adapters_ The versions' records; they name the contributions.
    constructor(ISettlement settlement_, IOperatorRegistry operators_, IAdapterRegistry adapters_) {
        settlement = settlement_;
        operators = operators_;
        parameters = settlement_.parameters();
        adapters = adapters_;
        datasets = adapters_.datasets();
        token = operators_.token();
    }

    // --- proofs ---

    /// @inheritdoc IDisputes
    function reserve(bytes32 hash) external {
        require(reservedAt[hash] == 0, AlreadyReserved(hash));
        reservedAt[hash] = block.number;
        emit Reserved(hash);
    }

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

    // --- demands ---

    /// @inheritdoc IDisputes
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external nonReentrant returns (bytes32 id) {
        _checkKeys(header, tree, keys);
        uint64 period = answerSeconds(header);
        uint64 until = header.finalAt - 2 * period;
        require(block.timestamp <= until, TooLateToDemand(until));
        Demand memory asked = Demand({
            batchHash: settlement.hold(header),
            tree: tree,
            keys: keys,
            challenger: msg.sender,
            deadline: uint64(block.timestamp) + period,
            bondUnits: Math.ceilDiv(parameters.setAt(header.parameterSet).demandBond, Units.MICRO)
        });
        id = keccak256(abi.encode(asked));
        require(unansweredOf[id] == 0, DemandExists(id));
        unansweredOf[id] = (1 << keys.length) - 1;
        ++numOpenDemands[asked.batchHash];
        emit Demanded(id, header.operator, asked.batchHash, asked);
        _take(msg.sender, asked.bondUnits * keys.length);
    }

    /// @inheritdoc IDisputes
    function answer(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external nonReentrant {
        bytes32 id = _checkOpen(asked, i, header);
        require(asked.tree != Tree.Receipts, WrongTree(asked.tree));
        _checkReadable(abi.encodeCall(this.answer, (asked, i, header, parent, lookup)));
        if (asked.tree == Tree.ParentBalances) {
            _checkHeader(parent, header.parent);
            Lookups.treeOf(parent, asked.tree).find(asked.keys[i], lookup);
        } else {
            Lookups.treeOf(header, asked.tree).find(asked.keys[i], lookup);
        }
        _settleAnswer(asked, id, i, header);
    }

    /// @inheritdoc IDisputes
    function answerReceipt(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        bytes32 id = _checkOpen(asked, i, header);
        require(asked.tree == Tree.Receipts, WrongTree(asked.tree));
        _checkReadable(abi.encodeCall(this.answerReceipt, (asked, i, header, witness, signature)));
        uint256 index = witness.opening.index;
        require(index == uint256(asked.keys[i]), KeyOutOfRange(bytes32(index), header.receiptsCount));
        _openReceipt(header, witness.receipt, witness.opening);
        _checkSigned(header.operator, witness.receipt, signature);
        Fault fault = _faultOf(header, witness);
        require(fault == Fault.None, ReceiptIsFaulty(fault));
        _settleAnswer(asked, id, i, header);
    }

    /// @inheritdoc IDisputes
    function unanswered(Demand calldata asked, BatchHeader calldata header) external {
        _checkDemand(asked, header);
        require(block.timestamp > asked.deadline, AnswerNotDue(asked.deadline));
        _void(header, asked.challenger);
    }

    /// @inheritdoc IDisputes
    function returnBond(Demand calldata asked, BatchHeader calldata header) external nonReentrant {
        bytes32 id = _checkDemand(asked, header);
        require(!settlement.isPending(header), BatchStands(asked.batchHash));
        uint256 units = _count(unansweredOf[id]) * asked.bondUnits;
        unansweredOf[id] = 0;
        --numOpenDemands[asked.batchHash];
        emit BondReturned(id, asked.challenger, units);
        token.safeTransfer(asked.challenger, units);
    }

    // --- views ---

    /// @inheritdoc IDisputes
    function answerSeconds(BatchHeader calldata header) public view returns (uint64) {
        uint64 part = parameters.setAt(header.parameterSet).disputeWindow / _ANSWERS_IN_WINDOW;
        return part == 0 ? 1 : part;
    }

    // --- receipts, inside ---

    /// @notice Reverts unless the receipt stands in the batch's tree.
    /// @return prefix The sum of the receipts left of it.
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

    function _checkSigned(address operator, Receipt calldata receipt, bytes calldata signature) private view {
        (address signer, , ) = ECDSA.tryRecoverCalldata(settlement.receiptDigest(receipt), signature);
        bool isSigned = signer != address(0) && operators.operatorOfKey(signer) == operator;
        require(isSigned, NotSignedBy(operator, signer));
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

    // --- demands, inside ---

    function _checkKeys(BatchHeader calldata header, Tree tree, bytes32[] calldata keys) private pure {
        require(keys.length != 0 && keys.length <= _MAX_KEYS, InvalidKeyCount(keys.length, _MAX_KEYS));
        require(tree != Tree.ParentBalances || header.parent != 0, NoParent());
        if (tree != Tree.Receipts) return;
        for (uint256 i = 0; i < keys.length; ++i) {
            require(uint256(keys[i]) < header.receiptsCount, KeyOutOfRange(keys[i], header.receiptsCount));
        }
    }

    function _checkHeader(BatchHeader calldata header, bytes32 expected) private pure {
        bytes32 found = Hashing.batch(header);
        require(found == expected, HeaderMismatch(expected, found));
    }

    function _checkDemand(Demand calldata asked, BatchHeader calldata header) private view returns (bytes32 id) {
        id = keccak256(abi.encode(asked));
        require(unansweredOf[id] != 0, DemandUnknown(id));
        _checkHeader(header, asked.batchHash);
    }

    function _checkOpen(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header
    ) private view returns (bytes32 id) {
        id = _checkDemand(asked, header);
        // Once the batch is void its bonds are the challengers' again.
        require(settlement.isPending(header), BatchIsVoid(asked.batchHash));
        require(block.timestamp <= asked.deadline, AnswerTooLate(asked.deadline));
        require((unansweredOf[id] >> i) & 1 == 1, AlreadyAnswered(id, i));
    }

    /// @dev The compiler's decoder takes encodings that others refuse; an answer is for everybody to read.
    function _checkReadable(bytes memory canonical) private pure {
        require(keccak256(msg.data) == keccak256(canonical), NotCanonical());
    }

    function _settleAnswer(Demand calldata asked, bytes32 id, uint256 i, BatchHeader calldata header) private {
        uint256 left = unansweredOf[id] & ~(1 << i);
        unansweredOf[id] = left;
        if (left == 0 && --numOpenDemands[asked.batchHash] == 0) settlement.release(header);
        emit Answered(id, i, msg.sender, msg.data);
        token.safeTransfer(msg.sender, asked.bondUnits);
    }

    function _take(address from, uint256 units) private {
        uint256 expected = token.balanceOf(address(this)) + units;
        token.safeTransferFrom(from, address(this), units);
        uint256 held = token.balanceOf(address(this));
        require(held == expected, UnexpectedTransfer(expected, held));
    }

    /// @dev Whether a node beside the path is worth nothing: then so are all leaves below it.
    function _hasZeroSibling(bytes calldata path) private pure returns (bool) {
        for (uint256 at = 0; at < path.length; at += MerkleSum.SIBLING) {
            if (bytes16(path[at:at + 16]) == 0) return true;
        }
        return false;
    }

    function _count(uint256 bits) private pure returns (uint256 count) {
        for (; bits != 0; bits &= bits - 1) ++count;
    }

    // --- convictions, inside ---

    function _convictReceipt(BatchHeader calldata header, ReceiptWitness calldata witness, Fault fault) private {
        emit ReceiptFaulty(Hashing.batch(header), witness.opening.index, fault);
        _convict(header);
    }

    /// @dev The reward is the caller's if they reserved this very call in an earlier block.
    function _convict(BatchHeader calldata header) private {
        uint256 at = reservedAt[keccak256(abi.encode(msg.sender, keccak256(msg.data)))];
        _void(header, at != 0 && at < block.number ? msg.sender : address(0));
    }

    function _void(BatchHeader calldata header, address challenger) private {
        ParameterSet memory terms = parameters.setAt(header.parameterSet);
        address operator = header.operator;
        uint128 pot = settlement.vault().potOf(address(settlement), operator);
        uint256 cover = Units.mulPpmDown(pot, terms.stakeCoverPpm);
        uint256 slashed = Math.min(cover, operators.stakeOf(operator).stake);
        uint32 challengerPpm = challenger == address(0) ? 0 : terms.challengerPpm;
        emit BatchConvicted(operator, header.number, Hashing.batch(header), msg.sig, challenger);
        settlement.voidFrom(header);
        operators.slash(operator, uint128(slashed), challenger, challengerPpm, terms.treasury);
    }
}
