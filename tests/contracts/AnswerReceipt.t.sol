// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, Fault, IDisputes, ReceiptWitness, SliceWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {BatchData, BatchModel, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract AnswerReceiptTest is Disputed {
    using BatchModel for *;

    address private _answerer;

    function setUp() public override {
        super.setUp();
        _answerer = accountOf("answerer");
    }

    function test_the_operator_is_credited_for_a_receipt(uint256 i) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        uint256 bond = _demand(batch, i).bond;
        ReceiptWitness memory witness = batch.witnessOf(i);
        bytes memory signature = signReceipt(witness.receipt);
        bytes memory call = abi.encodeCall(IDisputes.answerReceipt, (batch.header, witness, signature));
        bytes32 leaf = leafOf(batch, Tree.Receipts, bytes32(i));
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(leaf, operator, Hashing.batch(batch.header), call);
        vm.prank(_answerer);
        (bool isTaken, ) = address(disputes).call(bytes.concat(call, "suffix"));
        vm.assertTrue(isTaken);
        vm.assertEq(disputes.creditOf(operator), bond - bond / 4);
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    function test_all_receipts_are_demanded_and_answered_at_once() external {
        BatchData memory batch = committedBatch();
        bytes32[] memory keys = new bytes32[](7);
        for (uint256 i = 0; i < 7; ++i) {
            keys[i] = bytes32(6 - i);
        }
        demandMany(batch, Tree.Receipts, keys);
        for (uint256 i = 0; i < 7; ++i) {
            vm.assertTrue(hasOpenDemand(batch.header));
            answerReceipt(batch, i);
        }
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    function test_the_only_receipt_of_the_first_batch_is_answered() external {
        BatchData memory batch = firstBatch();
        _demand(batch, 0);
        answerReceipt(batch, 0);
    }

    function test_an_unsigned_receipt_answers_nothing(uint256 key) external {
        BatchData memory batch = committedBatch();
        _demand(batch, 3);
        ReceiptWitness memory witness = batch.witnessOf(3);
        bytes4 selector = IDisputes.NotSignedBy.selector;
        bytes memory error = abi.encodeWithSelector(selector, operator, address(0));
        _expectError(batch, witness, "", error);
        _expectError(batch, witness, malleate(signReceipt(witness.receipt)), error);
        key = bound(key, 1, CURVE_ORDER - 1);
        vm.assume(key != keyOf("receipt key"));
        bytes memory signature = sign(key, settlement.receiptDigest(witness.receipt));
        error = abi.encodeWithSelector(selector, operator, vm.addr(key));
        _expectError(batch, witness, signature, error);
    }

    function test_another_receipt_answers_nothing(uint256 i, uint256 j) external {
        BatchData memory batch = committedBatch();
        (i, j) = (bound(i, 0, 6), bound(j, 0, 6));
        vm.assume(i != j);
        _demand(batch, i);
        ReceiptWitness memory witness = batch.witnessOf(j);
        bytes memory signature = signReceipt(witness.receipt);
        bytes32 leaf = leafOf(batch, Tree.Receipts, bytes32(j));
        _expectError(batch, witness, signature, abi.encodeWithSelector(IDisputes.NotDemanded.selector, leaf));
        witness.opening = batch.witnessOf(i).opening;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answerReceipt(batch.header, witness, signature);
    }

    function test_a_faulty_receipt_answers_nothing(uint256 kind) external {
        BatchData memory batch = validBatch();
        Served memory served = batch.served[1];
        kind %= 6;
        Fault fault = [Fault.Value, Fault.ZeroCharge, Fault.Slices, Fault.Version, Fault.List, Fault.Price][kind];
        uint128 charge = served.receipt.charge;
        if (kind == 1) served.receipt.charge = 0;
        if (kind == 2) (served.slices[35], served.slices[71]) = (0, 0);
        if (kind == 3) served.parts[1].record.name = "unknown";
        if (kind == 4) served.parts[0].list = "";
        if (kind == 5) served.receipt.promptTokens += 1;
        if (kind == 2) served.rehash();
        else served.repack();
        batch.fillReceipts();
        if (kind == 0) batch.receipts.shift(1, 2, 1);
        if (kind == 1) batch.receipts.values[2] += charge;
        commitBatch(batch);
        _demand(batch, 1);
        ReceiptWitness memory witness = batch.witnessOf(1);
        bytes memory error = abi.encodeWithSelector(IDisputes.ReceiptIsFaulty.selector, fault);
        _expectError(batch, witness, signReceipt(witness.receipt), error);
    }

    function test_hidden_preimages_answer_nothing(uint256 kind) external {
        BatchData memory batch = committedBatch();
        _demand(batch, 6);
        ReceiptWitness memory witness = batch.witnessOf(6);
        bytes memory signature = signReceipt(witness.receipt);
        kind %= 4;
        if (kind == 0) witness.slices = "";
        if (kind == 1) witness.attribution = "";
        if (kind == 2) witness.parts[1].list = "";
        if (kind == 3) witness.parts[0].record.creatorPpm += 1;
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.answerReceipt(batch.header, witness, signature);
    }

    function test_parts_beyond_the_slices_answer_nothing() external {
        BatchData memory batch = committedBatch();
        _demand(batch, 0);
        ReceiptWitness memory witness = batch.witnessOf(0);
        SliceWitness[] memory parts = new SliceWitness[](witness.parts.length + 1);
        for (uint256 i = 0; i < witness.parts.length; ++i) parts[i] = witness.parts[i];
        bytes memory signature = signReceipt(witness.receipt);
        witness.parts = parts;
        bytes4 selector = IDisputes.WrongPartCount.selector;
        _expectError(batch, witness, signature, abi.encodeWithSelector(selector, parts.length, parts.length - 1));
    }

    function test_a_misplaced_receipt_is_answered_and_then_convicted() external {
        BatchData memory batch = validBatch();
        batch.served[4].receipt.cumulative += 1;
        batch.fillReceipts();
        commitBatch(batch);
        _demand(batch, 4);
        answerReceipt(batch, 4);
        prover.proveBadReceipt(batch.header, batch.witnessOf(4), batch.spans);
        assertVoid(batch);
    }

    function test_a_contribution_outside_its_snapshot_is_answered_and_then_convicted() external {
        BatchData memory batch = validBatch();
        batch.served[1].parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        batch.served[1].repack();
        batch.fillReceipts();
        commitBatch(batch);
        _demand(batch, 1);
        answerReceipt(batch, 1);
        prover.proveBadPosition(batch.header, batch.witnessOf(1), 0, 0, snapshotBehind[snapshots[0]]);
        assertVoid(batch);
    }

    function test_an_answer_is_due_to_the_second() external {
        BatchData memory batch = committedBatch();
        uint64 deadline = _demand(batch, 2).deadline;
        ReceiptWitness memory witness = batch.witnessOf(2);
        bytes memory signature = signReceipt(witness.receipt);
        vm.warp(deadline + 1);
        bytes memory late = abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, deadline, 0);
        _expectError(batch, witness, signature, late);
        vm.warp(deadline);
        answerReceipt(batch, 2);
        bytes32 leaf = leafOf(batch, Tree.Receipts, bytes32(uint256(2)));
        _expectError(batch, witness, signature, abi.encodeWithSelector(IDisputes.DemandClosed.selector, leaf));
    }

    function test_leaves_of_other_trees_need_another_function() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Entries, 0);
        ReceiptWitness memory witness = batch.witnessOf(0);
        bytes32 leaf = leafOf(batch, Tree.Receipts, 0);
        bytes memory error = abi.encodeWithSelector(IDisputes.NotDemanded.selector, leaf);
        _expectError(batch, witness, signReceipt(witness.receipt), error);
    }

    // --- internal ---

    function _demand(BatchData memory batch, uint256 i) private returns (Demand memory) {
        return demand(batch, Tree.Receipts, bytes32(i));
    }

    function _expectError(
        BatchData memory batch,
        ReceiptWitness memory witness,
        bytes memory signature,
        bytes memory error
    ) private {
        vm.expectRevert(error);
        disputes.answerReceipt(batch.header, witness, signature);
    }
}
