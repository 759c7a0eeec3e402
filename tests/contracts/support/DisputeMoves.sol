// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parameters} from "../../../contracts/Parameters.sol";
import {BalanceWitness, Demand, IDisputes, Lookup, Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {Stake} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {BatchHeader, OperatorState} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {BatchModel, Leaves} from "./BatchModel.sol";
import {OperatorMoves} from "./OperatorMoves.sol";
import {PatientParameters} from "./PatientParameters.sol";
import {Trees, Tree as PlainTree} from "./Trees.sol";
import {Flaw, SmallBatch} from "./SmallBatches.sol";

/// @notice A demand for one leaf, with the data of its batch.
struct SentDemand {
    Tree tree;
    bytes32 key;
    Demand demand;
    uint256 demandedAt;
    SmallBatch batch;
    SmallBatch parent;
}

/// @notice What challengers do, and what is done about them. Every flaw is proved by its own proof, and no proof holds
/// against a batch without one.
abstract contract DisputeMoves is OperatorMoves {
    using Trees for PlainTree;

    bytes[] internal sentDemands;
    mapping(bytes32 leafId => bool) private _isDemanded;
    address internal challenger;

    function setUp() public virtual override {
        super.setUp();
        challenger = accountOf("challenger");
        vm.deal(challenger, 1e12 ether);
        vm.fee(10 gwei);
    }

    /// @dev With seconds for answers between other moves.
    function newParameters() internal override returns (Parameters) {
        return new PatientParameters(address(access), vault, firstSet());
    }

    function demand(uint256 operatorIndex, uint256 number, uint256 tree, uint256 key, uint256 surplus) external move {
        if (!_choosePending(operatorIndex)) return;
        SentDemand memory next;
        number = bound(number, _firstPending(), chains[operator].length);
        next.batch = batchAt(number);
        if (number > 1) next.parent = batchAt(number - 1);
        next.tree = Tree(tree % (number == 1 ? 3 : 4));
        BatchHeader memory header = next.batch.header;
        (, uint64 finality, ) = disputes.demandsOn(Hashing.batch(header));
        if (finality < header.finalAt) finality = header.finalAt;
        if (block.timestamp + 2 * disputes.answerSeconds() > finality) return;
        bytes32[] memory keys = _keysOf(next, key, 1 + (key % 3));
        uint256 bonds = disputes.bondOf(header.operator, next.tree, keys.length, block.basefee);
        vm.prank(challenger);
        uint32 count = disputes.demand{value: bonds + (surplus % 1 ether)}(header, next.tree, keys);
        _recordDemands(next, keys, count);
        _done();
    }

    function answer(uint256 which) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || block.timestamp > sent.demand.deadline) return;
        if (!settlement.isPending(sent.batch.header)) return;
        operator = sent.batch.header.operator;
        if (sent.tree == Tree.Receipts) {
            if (!_answerReceipt(sent)) return;
        } else {
            Lookup memory lookup = _lookupIn(sent, sent.key);
            disputes.answer(sent.batch.header, sent.tree, sent.key, sent.parent.header, lookup);
        }
        _done();
    }

    function convictForSilence(uint256 which) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || !settlement.isPending(sent.batch.header)) return;
        if (block.timestamp <= sent.demand.deadline) vm.warp(sent.demand.deadline + 1);
        operator = sent.batch.header.operator;
        Stake memory before = operators.stakeOf(operator);
        disputes.voidUnanswered(sent.batch.header, sent.tree, sent.key);
        _recordVoid(sent.batch, before);
        _done();
    }

    function returnBond(uint256 which) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || settlement.isPending(sent.batch.header)) return;
        disputes.returnBond(sent.batch.header, sent.tree, sent.key);
        _done();
    }

    function withdrawCredit(uint256 which) external move {
        address account = which % 3 == 0 ? challenger : operatorAt(which % 3 - 1);
        if (disputes.creditOf(account) == 0) return;
        vm.prank(account);
        disputes.withdrawCredit(payable(account));
        _done();
    }

    function convict(uint256 operatorIndex, uint256 reserved) external move {
        if (!_choosePending(operatorIndex)) return;
        SmallBatch memory batch;
        uint256 number;
        for (number = _firstPending(); number <= chains[operator].length; ++number) {
            batch = batchAt(number);
            if (batch.flaw != Flaw.None && batch.flaw != Flaw.Withheld) break;
        }
        if (number > chains[operator].length) return;
        bytes memory proof = _proofOf(batch);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1 + (reserved % 2));
        Stake memory before = operators.stakeOf(operator);
        vm.prank(challenger);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
        _recordVoid(batch, before);
        _done();
    }

    function accuseFalsely(uint256 operatorIndex, uint256 number) external move {
        if (!_choosePending(operatorIndex)) return;
        SmallBatch memory batch = batchAt(bound(number, _firstPending(), chains[operator].length));
        if (batch.flaw != Flaw.None) return;
        for (uint256 i = 1; i < uint256(Flaw.Withheld); ++i) {
            batch.flaw = Flaw(i);
            (bool isHeld, ) = address(prover).call(_proofOf(batch));
            vm.assertFalse(isHeld);
        }
        _done();
    }

    function refund(uint256 operatorIndex) external move {
        chooseOperator(operatorIndex);
        uint256 count = voided[operator].length;
        if (count == 0) return;
        SmallBatch memory batch = abi.decode(voided[operator][count - 1], (SmallBatch));
        Stake memory before = operators.stakeOf(operator);
        vm.prank(accountOf("anyone"));
        settlement.refund(batch.header, batch.spans);
        _checkSlash(batch.header, before);
        voided[operator].pop();
        for (uint256 i = 0; i < batch.spans.length; ++i) {
            recordSpan(batch.spans[i], true);
        }
        _done();
    }

    // --- demands, internal ---

    function _choosePending(uint256 operatorIndex) private returns (bool) {
        chooseOperator(operatorIndex);
        if (_firstPending() > chains[operator].length) chooseOperator(operatorIndex % 2 + 1);
        return _firstPending() <= chains[operator].length;
    }

    function _firstPending() private view returns (uint256) {
        return settlement.stateOf(operator).finalised + 1;
    }

    /// @dev Keys that were demanded before were skipped.
    function _recordDemands(SentDemand memory next, bytes32[] memory keys, uint256 count) private {
        next.demandedAt = block.timestamp;
        bytes32 batchHash = Hashing.batch(next.batch.header);
        for (uint256 i = 0; i < keys.length; ++i) {
            next.key = keys[i];
            bytes32 leafId = keccak256(abi.encode(batchHash, next.tree, keys[i]));
            if (_isDemanded[leafId]) continue;
            _isDemanded[leafId] = true;
            next.demand = disputes.demandOf(batchHash, next.tree, keys[i]);
            vm.assertEq(next.demand.challenger, challenger);
            sentDemands.push(abi.encode(next));
            --count;
        }
        vm.assertEq(count, 0);
    }

    /// @dev Keys of leaves, and keys between, before and after them.
    function _keysOf(SentDemand memory next, uint256 seed, uint256 count) private pure returns (bytes32[] memory keys) {
        keys = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (next.tree == Tree.Receipts) {
                keys[i] = bytes32(seed % next.batch.receipts.length);
            } else {
                bytes32[] memory existing = _columnOf(next).keys;
                keys[i] = seed % 3 == 0 ? bytes32(seed) : existing[(seed >> 8) % existing.length];
                if (seed % 3 == 1) keys[i] = bytes32(uint256(keys[i]) ^ 1);
            }
        }
    }

    function _columnOf(SentDemand memory sent) private pure returns (Leaves memory) {
        if (sent.tree == Tree.Entries) return sent.batch.entries;
        return sent.tree == Tree.Balances ? sent.batch.balances : sent.parent.balances;
    }

    function _lookupIn(SentDemand memory sent, bytes32 key) private pure returns (Lookup memory) {
        bytes32 tag = sent.tree == Tree.Entries ? MerkleSum.ENTRIES : MerkleSum.BALANCES;
        return BatchModel.lookUp(_columnOf(sent), tag, key);
    }

    /// @dev Withheld and faulty receipts cannot be answered.
    function _answerReceipt(SentDemand memory sent) private returns (bool) {
        uint256 index = uint256(sent.key);
        bool isFaulty = sent.batch.flaw == Flaw.Price && index == 0;
        if (sent.batch.flaw == Flaw.Withheld || isFaulty) return false;
        bytes32 digest = settlement.receiptDigest(sent.batch.receipts[index]);
        bytes memory signature = sign(receiptKeyAt(operator == operatorAt(0) ? 0 : 1), digest);
        disputes.answerReceipt(sent.batch.header, witnessOf(sent.batch, index), signature);
        return true;
    }

    /// @dev Returns the next open demand from index `which` on.
    function _openDemand(uint256 which) private view returns (bool isFound, SentDemand memory sent) {
        for (uint256 i = 0; i < sentDemands.length; ++i) {
            sent = abi.decode(sentDemands[(which % sentDemands.length + i) % sentDemands.length], (SentDemand));
            bytes32 batchHash = Hashing.batch(sent.batch.header);
            if (disputes.demandOf(batchHash, sent.tree, sent.key).challenger != address(0)) return (true, sent);
        }
    }

    // --- proofs, internal ---

    /// @dev Returns the call that proves the batch's flaw.
    function _proofOf(SmallBatch memory batch) private view returns (bytes memory) {
        BatchHeader memory header = batch.header;
        if (batch.flaw == Flaw.ZeroLeaf) {
            PlainTree memory tree = balancesTree(batch);
            return abi.encodeCall(IDisputes.proveZeroLeaf, (header, Tree.Balances, tree.leaves[0], tree.open(0)));
        }
        if (batch.flaw == Flaw.Price) {
            return abi.encodeCall(IDisputes.proveBadReceipt, (header, witnessOf(batch, 0), ""));
        }
        if (batch.flaw == Flaw.Balance) {
            return abi.encodeCall(IDisputes.proveWrongBalance, (header, _balanceWitness(batch)));
        }
        bytes32 key = Hashing.entryKey(contributors[0], 0, 0, VICTIM_PART);
        Lookup memory lookup = BatchModel.lookUp(batch.entries, MerkleSum.ENTRIES, key);
        return abi.encodeCall(IDisputes.proveWrongEntry, (header, witnessOf(batch, 0), victimPlace(), lookup));
    }

    function _balanceWitness(SmallBatch memory batch) private view returns (BalanceWitness memory witness) {
        uint256 key = uint256(Hashing.account(contributors[0]));
        witness.account = contributors[0];
        witness.later = BatchModel.lookUp(batch.balances, MerkleSum.BALANCES, bytes32(key));
        witness.entriesFrom = BatchModel.lookUp(batch.entries, MerkleSum.ENTRIES, bytes32(key << 64));
        witness.entriesUntil = BatchModel.lookUp(batch.entries, MerkleSum.ENTRIES, bytes32((key + 1) << 64));
        if (batch.header.number == 1) return witness;
        SmallBatch memory parent = batchAt(batch.header.number - 1);
        witness.parent = parent.header;
        witness.earlier = BatchModel.lookUp(parent.balances, MerkleSum.BALANCES, bytes32(key));
    }

    /// @dev The slashes rise to what the batch's header states, and the stake pays for it.
    function _checkSlash(BatchHeader memory header, Stake memory before) private view {
        Stake memory left = operators.stakeOf(operator);
        vm.assertEq(left.slashed, header.slashUpTo > before.slashed ? header.slashUpTo : before.slashed);
        vm.assertEq(left.stake + left.slashed, before.stake + before.slashed);
    }

    /// @dev Records that all pending batches are voided. None awaited a refund before, or nothing would be pending.
    function _recordVoid(SmallBatch memory convicted, Stake memory before) private {
        bytes[] storage chain = chains[operator];
        _checkSlash(convicted.header, before);
        vm.assertEq(voided[operator].length, 0);
        uint256 finalised = settlement.stateOf(operator).finalised;
        for (uint256 i = finalised; i < chain.length; ++i) {
            voided[operator].push(chain[i]);
        }
        while (chain.length > finalised) chain.pop();
    }
}
