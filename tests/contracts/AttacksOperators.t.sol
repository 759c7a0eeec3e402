// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {EntryPlace, IDisputes, Lookup, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {IPaymentVault, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, Commitment, ISettlement, Opening} from "../../contracts/interfaces/ISettlement.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {BatchData, BatchModel, Leaves, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";
import {Tree as Sums, Trees} from "./support/Trees.sol";

/// @notice Attacks by operators: each batch here can be committed and is voided by one transaction.
contract AttacksOperatorsTest is Disputed {
    using BatchModel for *;
    using Trees for Sums;

    // --- contents of a batch ---

    /// @dev One receipt charges more than its tokens cost and the next one equally less, so that the sums match.
    function test_overcharge_is_convicted(uint128 amount) external {
        BatchData memory batch = validBatch();
        amount = uint128(bound(amount, 1, batch.served[1].receipt.charge - 1));
        batch.served[0].receipt.charge += amount;
        batch.served[0].receipt.cumulative += amount;
        batch.served[1].receipt.charge -= amount;
        batch.fillReceipts();
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(0);
        expectConviction(batch, IDisputes.proveBadReceipt.selector);
        prover.proveBadReceipt(batch.header, witness, "");
        assertVoid(batch);
    }

    /// @dev A receipt is listed twice and replaces another one of the same charge: the second one is misplaced.
    function test_a_double_listed_receipt_is_convicted() external {
        BatchData memory batch = validBatch();
        (batch.served[1], batch.receipts.keys[1]) = (batch.served[0], batch.receipts.keys[0]);
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(1);
        prover.proveBadReceipt(batch.header, witness, batch.spans);
        assertVoid(batch);
    }

    /// @dev Only the operator knows the preimage of the slices' hash: an answer must reveal it, or the batch is voided.
    function test_a_hidden_preimage_is_convicted_by_silence() external {
        BatchData memory batch = validBatch();
        batch.served[3].receipt.slicesHash = keccak256("known to the operator only");
        batch.fillReceipts();
        commitBatch(batch);
        bytes32 key = bytes32(uint256(3));
        uint64 deadline = demand(batch, Tree.Receipts, key).deadline;
        ReceiptWitness memory witness = batch.witnessOf(3);
        bytes memory signature = signReceipt(witness.receipt);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.answerReceipt(batch.header, witness, signature);
        vm.warp(deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Receipts, key);
        assertVoid(batch);
    }

    /// @dev The final parent's balances root has no preimage, so its child survives no demand for the parent's
    /// balances.
    function test_an_unopenable_parent_is_convicted_by_silence() external {
        BatchData memory parent = firstToRecommit();
        parent.balances = parent.balances.insert(0, keccak256("unknown"), 0);
        commitBatch(parent);
        vm.warp(parent.header.finalAt);
        finalise(parent.header);
        BatchData memory batch = validBatch();
        (batch.parent, batch.parentBalances) = (parent.header, firstBatch().balances);
        commitBatch(batch);
        bytes32 key = batch.balances.keys[0];
        uint64 deadline = demand(batch, Tree.ParentBalances, key).deadline;
        Lookup memory lookup = batch.lookUp(Tree.ParentBalances, key);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answer(batch.header, Tree.ParentBalances, key, batch.parent, lookup);
        vm.warp(deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.ParentBalances, key);
        assertVoid(batch);
    }

    /// @dev The sum is fixed, so the value of the spare leaf is missing in another entry, which the proof shows.
    function test_a_surplus_in_a_spare_leaf_is_convicted_by_the_shortfall(address spare, uint128 amount) external {
        BatchData memory batch = validBatch();
        EntryPlace memory place = placeOf(batch, 2, 0, 1);
        bytes32 key = keyOfPlace(batch, 2, 0, 1);
        bytes32 spareKey = bytes32(uint256(uint160(spare)) << 64 | type(uint64).max);
        amount = uint128(bound(amount, 1, batch.entries.valueOf(key) - 1));
        batch.entries = batch.entries.insert(batch.entries.placeOf(spareKey), spareKey, amount);
        batch.entries.values[batch.entries.placeOf(key)] -= amount;
        batch.fillBalances();
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(2);
        Lookup memory lookup = batch.lookUp(Tree.Entries, key);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
        assertVoid(batch);
    }

    /// @dev The list names a contributor that is not in the snapshot.
    function test_false_attribution_to_another_account_is_convicted() external {
        BatchData memory batch = validBatch();
        Served memory served = batch.served[6];
        // Its first slice is of the version with one snapshot, whose contribution 2 was rejected.
        served.parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        served.repack();
        batch.fillReceipts();
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(6);
        prover.proveBadPosition(batch.header, witness, 0, 0, snapshotBehind[snapshots[0]]);
        assertVoid(batch);
    }

    function test_over_allocated_balances_are_convicted() external {
        BatchData memory batch = validBatch();
        address robbed = address(uint160(uint256(batch.balances.keys[0])));
        batch.balances = _allTo(accountOf("accomplice"), _cumulative(batch));
        commitBatch(batch);
        prover.proveWrongBalance(batch.header, balanceWitness(batch, robbed));
        assertVoid(batch);
    }

    // --- void, refund and recommit ---

    /// @dev Channels, pot and chain of batches are exactly as before, and the vouchers can be collected again, once.
    function test_void_refund_and_recommit_restores_everything_exactly() external {
        finaliseFirst();
        bytes32 before = _moneyHash();
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.RefundsOutstanding.selector, operator, 1));
        this.commitHonest();
        settlement.refund(batch.header, batch.refunds);
        vm.assertEq(_moneyHash(), before);
        bytes4 selector = ISettlement.NotNextToRefund.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, bytes32(0), settlement.hashBatch(batch.header)));
        settlement.refund(batch.header, batch.refunds);
        BatchData memory again = committedBatch();
        vm.expectRevert(abi.encodeWithSelector(selector, bytes32(0), settlement.hashBatch(batch.header)));
        settlement.refund(batch.header, batch.refunds);
        vm.warp(again.header.finalAt);
        finalise(again.header);
        settlement.claim(_claimOf(again, 0));
    }

    /// @dev A proof against a batch does not apply to the batch that replaces it.
    function test_a_proof_replayed_after_recommit_convicts_nothing() external {
        finaliseFirst();
        BatchData memory batch = invalidBatch();
        bytes memory proof = proofOf(batch);
        convict(batch, challenger);
        settlement.refund(batch.header, batch.refunds);
        BatchData memory again = committedBatch();
        (bool isHeld, ) = address(prover).call(proof);
        vm.assertFalse(isHeld);
        vm.assertTrue(settlement.isPending(again.header));
    }

    /// @dev Demands do not outlive their batch: its replacement has none, and answers to old demands or their deadlines
    /// have no effect on it.
    function test_void_and_recommit_of_the_same_number_inherits_no_demand() external {
        finaliseFirst();
        BatchData memory batch = invalidBatch();
        bytes32 key = batch.entries.keys[0];
        demand(batch, Tree.Entries, key);
        convict(batch, challenger);
        settlement.refund(batch.header, batch.refunds);
        vm.warp(block.timestamp + 1);
        BatchData memory again = committedBatch();
        vm.assertFalse(hasOpenDemand(again.header));
        demand(again, Tree.Entries, key);
        disputes.returnBond(batch.header, Tree.Entries, key);
        vm.assertTrue(hasOpenDemand(again.header));
        answer(again, Tree.Entries, key);
        vm.assertFalse(hasOpenDemand(again.header));
    }

    /// @dev The slash in between changes `slashUpTo` and with it the hash of a batch that is committed, voided and
    /// committed again within one block, so its replacement has no demand.
    function test_void_and_recommit_of_the_same_batch_in_one_block_inherits_no_demand() external {
        finaliseFirst();
        BatchData memory batch = invalidBatch();
        bytes32 batchHash = settlement.hashBatch(batch.header);
        uint64 deadline = demand(batch, Tree.Receipts, 0).deadline;
        convict(batch, challenger);
        settlement.refund(batch.header, batch.refunds);
        BatchData memory again = invalidBatch();
        vm.assertNotEq(settlement.hashBatch(again.header), batchHash);
        vm.warp(deadline + 1);
        bytes4 selector = ISettlement.BatchUnknown.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, batchHash));
        disputes.voidUnanswered(batch.header, Tree.Receipts, 0);
        vm.assertTrue(settlement.isPending(again.header));
        disputes.returnBond(batch.header, Tree.Receipts, 0);
        vm.assertEq(disputes.creditOf(challenger), address(disputes).balance);
    }

    function test_refund_of_other_spans_is_refused(uint256 field, uint64 change) external {
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        Refund[] memory forged = batch.refunds;
        vm.assume(change != 0);
        if (field % 4 == 0) forged[0].payer = address(uint160(forged[0].payer) ^ change);
        if (field % 4 == 1) forged[0].before = forged[0].before ^ change;
        if (field % 4 == 2) forged[0].from = forged[0].from ^ change;
        if (field % 4 == 3) (forged[0], forged[1]) = (forged[1], forged[0]);
        vm.expectRevert();
        settlement.refund(batch.header, forged);
    }

    // --- pots ---

    function test_pot_raid_across_operators_reaches_nothing() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
        uint128 pot = vault.potOf(collector, operator);
        address victim = operator;
        // The raider's batch credits the amount of the victim's pot to an accomplice, whose claim then reverts.
        operator = accountOf("raider");
        deposit(5);
        addStake(operator, STAKE_UNITS);
        Sums memory balances = oneBalance(accountOf("accomplice"), pot);
        settle(5 * MICRO, balances);
        Claim memory request = claimOf(accountOf("accomplice"), balances, 0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        settlement.claim(request);
        request.header.operator = victim;
        vm.expectPartialRevert(ISettlement.BatchUnknown.selector);
        settlement.claim(request);
        request.header = batch.header;
        vm.expectPartialRevert(MerkleSum.InvalidPathLength.selector);
        settlement.claim(request);
        vm.assertEq(vault.potOf(collector, victim), pot);
    }

    /// @dev A forged collector can only access its own pot.
    function test_pot_raid_by_a_forged_collector_reaches_nothing(address forger, uint128 amount) external {
        vm.assume(forger != collector && forger != address(0) && forger != address(vault));
        BatchData memory batch = committedBatch();
        amount = uint128(bound(amount, 1, vault.potOf(collector, operator)));
        Refund[] memory refunds = batch.refunds;
        vm.startPrank(forger);
        vm.expectPartialRevert(IPaymentVault.CollectedMismatch.selector);
        vault.refund(operator, refunds);
        vm.expectPartialRevert(IPaymentVault.InsufficientPot.selector);
        vault.payOut(operator, forger, amount / MICRO + 1, type(uint128).max);
        vm.stopPrank();
    }

    // --- shapes of trees ---

    function test_merkle_second_preimage_of_a_node_opens_as_no_leaf() external {
        BatchData memory batch = committedBatch();
        Sums memory tree = batch.sums(Tree.Balances);
        bytes32 node = keccak256(
            abi.encodePacked(tree.values[0], tree.leaves[0], tree.values[1], tree.leaves[1])
        );
        Opening memory opening = tree.open(0);
        bytes memory rest = _tail(opening.path, 48);
        (opening.value, opening.path) = (tree.values[0] + tree.values[1], rest);
        vm.expectPartialRevert(MerkleSum.InvalidPathLength.selector);
        prover.proveZeroLeaf(batch.header, Tree.Balances, node, opening);
        // Padded to the required length, it gives another root.
        opening.path = bytes.concat(new bytes(48), rest);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveZeroLeaf(batch.header, Tree.Balances, node, opening);
    }

    function test_wrong_depth_is_refused(uint16 length) external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
        Claim memory request = _claimOf(batch, 0);
        vm.assume(length != request.opening.path.length);
        request.opening.path = new bytes(length);
        vm.expectPartialRevert(MerkleSum.InvalidPathLength.selector);
        settlement.claim(request);
        request = _claimOf(batch, 0);
        ++request.header.balancesCount;
        vm.expectPartialRevert(ISettlement.BatchUnknown.selector);
        settlement.claim(request);
    }

    /// @dev Two balances whose sum wraps around to the batch's total: no opening is valid, in a claim or in an answer.
    function test_sum_overflow_is_refused() external {
        BatchData memory batch = validBatch();
        uint128 cumulative = _cumulative(batch);
        Sums memory tree = Sums(new bytes32[](2), new uint128[](2));
        (tree.leaves[0], tree.leaves[1]) = (_leaf(accountOf("thief")), _leaf(operator));
        (tree.values[0], tree.values[1]) = (type(uint128).max, cumulative + 1);
        bytes32 root = keccak256(abi.encodePacked(tree.values[0], tree.leaves[0], tree.values[1], tree.leaves[1]));
        BatchHeader memory header = _commitBalances(batch, root, 2);
        vm.warp(header.finalAt);
        finalise(batch.parent, header);
        Opening memory opening = Opening(0, type(uint128).max, abi.encodePacked(tree.values[1], tree.leaves[1]));
        vm.expectRevert(abi.encodeWithSelector(MerkleSum.SumOverflow.selector));
        settlement.claim(Claim(header, accountOf("thief"), opening));
    }

    // --- internal ---

    function commitHonest() external {
        commitBatch(validBatch());
    }

    function _commitBalances(
        BatchData memory batch,
        bytes32 root,
        uint32 count
    ) private returns (BatchHeader memory) {
        Sums memory none = oneBalance(operator, 1);
        Commitment memory c = commitmentOf(batch.total, none);
        (c.balancesRoot, c.balancesCount) = (root, count);
        return commit(c, batch.collections);
    }

    function _claimOf(BatchData memory batch, uint256 i) private pure returns (Claim memory) {
        address account = address(uint160(uint256(batch.balances.keys[i])));
        return Claim(batch.header, account, batch.open(Tree.Balances, i));
    }

    function _cumulative(BatchData memory batch) private view returns (uint128) {
        return settlement.stateOf(operator).cumulativeTotal + batch.total;
    }

    function _allTo(address account, uint128 amount) private pure returns (Leaves memory leaves) {
        leaves = BatchModel.newLeaves(1);
        (leaves.keys[0], leaves.values[0]) = (bytes32(uint256(uint160(account))), amount);
    }

    function _leaf(address account) private pure returns (bytes32) {
        return MerkleSum.leafHash(MerkleSum.BALANCES, bytes32(uint256(uint160(account))));
    }

    function _tail(bytes memory data, uint256 from) private pure returns (bytes memory tail) {
        tail = new bytes(data.length - from);
        for (uint256 i = 0; i < tail.length; ++i) tail[i] = data[from + i];
    }

    /// @dev Channels, pot and total.
    function _moneyHash() private returns (bytes32 hash) {
        hash = keccak256(abi.encode(vault.potOf(collector, operator), settlement.stateOf(operator).cumulativeTotal));
        for (uint256 i = 0; i < 3; ++i) {
            payer = accountOf(payers[i]);
            hash = keccak256(abi.encode(hash, vault.channelOf(channel())));
        }
        payer = accountOf("payer");
    }
}
