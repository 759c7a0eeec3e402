// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {BalanceWitness, Demand, IDisputes, Lookup, Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {Stake} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {BatchHeader, OperatorState} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {BatchModel, Leaves} from "./BatchModel.sol";
import {OperatorMoves} from "./OperatorMoves.sol";
import {Trees, Tree as PlainTree} from "./Trees.sol";
import {Flaw, SmallBatch} from "./SmallBatches.sol";

/// @notice A sent demand with the data of its batch.
struct SentDemand {
    Demand demand;
    address operator;
    SmallBatch batch;
    SmallBatch parent;
}

/// @notice What challengers do, and what is done about them. Every flaw is proved by its own proof, and no proof holds
/// against a batch without one.
abstract contract DisputeMoves is OperatorMoves {
    using Trees for PlainTree;

    bytes[] internal sentDemands;
    address internal challenger;

    function setUp() public virtual override {
        super.setUp();
        challenger = accountOf("challenger");
        vm.prank(challenger);
        usd.approve(address(disputes), type(uint256).max);
    }

    function demand(uint256 operatorIndex, uint256 number, uint256 tree, uint256 key, uint256 count) external move {
        if (!_choosePending(operatorIndex)) return;
        SentDemand memory next = _newDemand(bound(number, _firstPending(), chains[operator].length));
        next.demand.tree = Tree(tree % (next.batch.header.parent == 0 ? 3 : 4));
        next.demand.keys = _keysOf(next, key, bound(count, 1, count % 16 == 0 ? 64 : 3));
        BatchHeader memory header = next.batch.header;
        if (block.timestamp > header.finalAt - 2 * disputes.answerSeconds(header)) return;
        next.demand.deadline = uint64(block.timestamp) + disputes.answerSeconds(header);
        if (disputes.unansweredOf(keccak256(abi.encode(next.demand))) != 0) return;
        usd.mint(challenger, next.demand.bondUnits * next.demand.keys.length);
        vm.prank(challenger);
        bytes32 id = disputes.demand(header, next.demand.tree, next.demand.keys);
        vm.assertEq(id, keccak256(abi.encode(next.demand)));
        sentDemands.push(abi.encode(next));
        _done();
    }

    function answer(uint256 which, uint256 i) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || block.timestamp > sent.demand.deadline) return;
        if (!settlement.isPending(sent.batch.header)) return;
        uint256 open = disputes.unansweredOf(keccak256(abi.encode(sent.demand)));
        i = bound(i, 0, sent.demand.keys.length - 1);
        while ((open >> i) & 1 == 0) i = (i + 1) % sent.demand.keys.length;
        operator = sent.operator;
        if (sent.demand.tree == Tree.Receipts) {
            if (!_answerReceipt(sent, i)) return;
        } else {
            Lookup memory lookup = _lookupIn(sent, sent.demand.keys[i]);
            vm.prank(operator);
            disputes.answer(sent.demand, i, sent.batch.header, sent.parent.header, lookup);
        }
        _done();
    }

    function convictForSilence(uint256 which) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || !settlement.isPending(sent.batch.header)) return;
        if (block.timestamp <= sent.demand.deadline) vm.warp(sent.demand.deadline + 1);
        operator = sent.operator;
        Stake memory before = operators.stakeOf(operator);
        disputes.voidUnanswered(sent.demand, sent.batch.header);
        _recordVoid(sent.batch, before);
        _done();
    }

    function returnBond(uint256 which) external move {
        (bool isFound, SentDemand memory sent) = _openDemand(which);
        if (!isFound || settlement.isPending(sent.batch.header)) return;
        disputes.returnBond(sent.demand, sent.batch.header);
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
        if (reserved % 2 == 1) {
            disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
            vm.roll(block.number + 1);
        }
        Stake memory before = operators.stakeOf(operator);
        uint256 rewarded = usd.balanceOf(challenger);
        vm.prank(challenger);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
        if (reserved % 2 == 0) vm.assertEq(usd.balanceOf(challenger), rewarded);
        _recordVoid(batch, before);
        _done();
    }

    function accuseFalsely(uint256 operatorIndex, uint256 number) external move {
        if (!_choosePending(operatorIndex)) return;
        SmallBatch memory batch = batchAt(bound(number, _firstPending(), chains[operator].length));
        if (batch.flaw != Flaw.None) return;
        for (uint256 i = 1; i < uint256(Flaw.Withheld); ++i) {
            batch.flaw = Flaw(i);
            (bool isHeld, ) = address(disputes).call(_proofOf(batch));
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

    function _newDemand(uint256 number) private view returns (SentDemand memory next) {
        (next.operator, next.batch) = (operator, batchAt(number));
        if (number > 1) next.parent = batchAt(number - 1);
        next.demand.batchHash = settlement.hashBatch(next.batch.header);
        next.demand.challenger = challenger;
        uint256 bond = parameters.setAt(next.batch.header.parameterSet).demandBond;
        next.demand.bondUnits = (bond + MICRO - 1) / MICRO;
    }

    /// @dev Keys of leaves, and keys between, before and after them.
    function _keysOf(SentDemand memory next, uint256 seed, uint256 count) private pure returns (bytes32[] memory keys) {
        keys = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (next.demand.tree == Tree.Receipts) {
                keys[i] = bytes32(seed % next.batch.receipts.length);
            } else {
                bytes32[] memory existing = _columnOf(next).keys;
                keys[i] = seed % 3 == 0 ? bytes32(seed) : existing[(seed >> 8) % existing.length];
                if (seed % 3 == 1) keys[i] = bytes32(uint256(keys[i]) ^ 1);
            }
        }
    }

    function _columnOf(SentDemand memory sent) private pure returns (Leaves memory) {
        if (sent.demand.tree == Tree.Entries) return sent.batch.entries;
        return sent.demand.tree == Tree.Balances ? sent.batch.balances : sent.parent.balances;
    }

    function _lookupIn(SentDemand memory sent, bytes32 key) private pure returns (Lookup memory) {
        bytes32 tag = sent.demand.tree == Tree.Entries ? MerkleSum.ENTRIES : MerkleSum.BALANCES;
        return BatchModel.lookUp(_columnOf(sent), tag, key);
    }

    /// @dev Withheld and faulty receipts cannot be answered.
    function _answerReceipt(SentDemand memory sent, uint256 i) private returns (bool) {
        uint256 index = uint256(sent.demand.keys[i]);
        bool isFaulty = sent.batch.flaw == Flaw.Price && index == 0;
        if (sent.batch.flaw == Flaw.Withheld || isFaulty) return false;
        bytes32 digest = settlement.receiptDigest(sent.batch.receipts[index]);
        bytes memory signature = sign(receiptKeyAt(operator == operatorAt(0) ? 0 : 1), digest);
        vm.prank(operator);
        disputes.answerReceipt(sent.demand, i, sent.batch.header, witnessOf(sent.batch, index), signature);
        return true;
    }

    /// @dev Returns the next open demand from index `which` on.
    function _openDemand(uint256 which) private view returns (bool isFound, SentDemand memory sent) {
        for (uint256 i = 0; i < sentDemands.length; ++i) {
            sent = abi.decode(sentDemands[(which % sentDemands.length + i) % sentDemands.length], (SentDemand));
            if (disputes.unansweredOf(keccak256(abi.encode(sent.demand))) != 0) return (true, sent);
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

    /// @dev Records that batches from `first` on are voided.
    function _recordVoid(SmallBatch memory first, Stake memory before) private {
        bytes[] storage chain = chains[operator];
        _checkSlash(first.header, before);
        // Batches voided earlier come after these, because refunds go from the newest down.
        bytes[] memory earlier = voided[operator];
        delete voided[operator];
        for (uint256 i = first.header.number - 1; i < chain.length; ++i) {
            voided[operator].push(chain[i]);
        }
        for (uint256 i = 0; i < earlier.length; ++i) {
            voided[operator].push(earlier[i]);
        }
        while (chain.length >= first.header.number) chain.pop();
    }
}
