// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, Fault, IDisputes, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {Book, Books, Served} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract AnswerReceiptTest is Disputed {
    using Books for *;

    address private _answerer;

    function setUp() public override {
        super.setUp();
        _answerer = who("answerer");
    }

    function test_the_answerer_of_a_receipt_earns_the_bond(uint256 i) external {
        Book memory book = committed();
        i = bound(i, 0, 6);
        Demand memory asked = _demand(book, i);
        ReceiptWitness memory witness = book.witnessOf(i);
        bytes memory signature = signed(witness.receipt);
        bytes memory call = abi.encodeCall(IDisputes.answerReceipt, (asked, 0, book.header, witness, signature));
        bytes32 id = idOf(asked);
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(id, 0, _answerer, call);
        vm.prank(_answerer);
        disputes.answerReceipt(asked, 0, book.header, witness, signature);
        vm.assertEq(usd.balanceOf(_answerer), BOND);
        vm.assertEq(disputes.unansweredOf(id), 0);
        vm.assertFalse(settlement.isHeld(operator, 2));
    }

    function test_all_receipts_are_demanded_and_answered_at_once() external {
        Book memory book = committed();
        bytes32[] memory keys = new bytes32[](7);
        for (uint256 i = 0; i < 7; ++i) {
            keys[i] = bytes32(6 - i);
        }
        Demand memory asked = demand(book, Tree.Receipts, keys);
        for (uint256 i = 0; i < 7; ++i) {
            vm.assertTrue(settlement.isHeld(operator, 2));
            _answer(book, asked, i, 6 - i);
        }
        vm.assertEq(usd.balanceOf(_answerer), 7 * BOND);
        vm.assertFalse(settlement.isHeld(operator, 2));
    }

    function test_the_only_receipt_of_the_first_batch_is_answered() external {
        Book memory book = first();
        _answer(book, _demand(book, 0), 0, 0);
    }

    function test_an_unsigned_receipt_answers_nothing(uint256 key) external {
        Book memory book = committed();
        Demand memory asked = _demand(book, 3);
        ReceiptWitness memory witness = book.witnessOf(3);
        bytes4 selector = IDisputes.NotSignedBy.selector;
        bytes memory error = abi.encodeWithSelector(selector, operator, address(0));
        _expectError(book, asked, witness, "", error);
        _expectError(book, asked, witness, malleate(signed(witness.receipt)), error);
        key = bound(key, 1, CURVE_ORDER - 1);
        vm.assume(key != keyOf("receipt key"));
        bytes memory signature = sign(key, settlement.receiptDigest(witness.receipt));
        error = abi.encodeWithSelector(selector, operator, vm.addr(key));
        _expectError(book, asked, witness, signature, error);
    }

    function test_another_receipt_answers_nothing(uint256 i, uint256 j) external {
        Book memory book = committed();
        (i, j) = (bound(i, 0, 6), bound(j, 0, 6));
        vm.assume(i != j);
        Demand memory asked = _demand(book, i);
        ReceiptWitness memory witness = book.witnessOf(j);
        bytes memory signature = signed(witness.receipt);
        bytes4 selector = IDisputes.KeyOutOfRange.selector;
        _expectError(book, asked, witness, signature, abi.encodeWithSelector(selector, j, 7));
        witness.opening = book.witnessOf(i).opening;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answerReceipt(asked, 0, book.header, witness, signature);
    }

    function test_a_faulty_receipt_answers_nothing(uint256 kind) external {
        Book memory book = validBook();
        Served memory served = book.served[1];
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
        book.fillReceipts();
        if (kind == 0) book.receipts.shift(1, 2, 1);
        if (kind == 1) book.receipts.values[2] += charge;
        commitBook(book);
        Demand memory asked = _demand(book, 1);
        ReceiptWitness memory witness = book.witnessOf(1);
        bytes memory error = abi.encodeWithSelector(IDisputes.ReceiptIsFaulty.selector, fault);
        _expectError(book, asked, witness, signed(witness.receipt), error);
    }

    function test_hidden_preimages_answer_nothing(uint256 kind) external {
        Book memory book = committed();
        Demand memory asked = _demand(book, 6);
        ReceiptWitness memory witness = book.witnessOf(6);
        bytes memory signature = signed(witness.receipt);
        kind %= 4;
        if (kind == 0) witness.slices = "";
        if (kind == 1) witness.attribution = "";
        if (kind == 2) witness.parts[1].list = "";
        if (kind == 3) witness.parts[0].record.creatorPpm += 1;
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.answerReceipt(asked, 0, book.header, witness, signature);
    }

    function test_a_misplaced_receipt_is_answered_and_then_convicted() external {
        Book memory book = validBook();
        book.served[4].receipt.cumulative += 1;
        book.fillReceipts();
        commitBook(book);
        _answer(book, _demand(book, 4), 0, 4);
        disputes.proveBadReceipt(book.header, book.witnessOf(4), book.spans);
        assertVoid(book);
    }

    function test_a_contribution_outside_its_snapshot_is_answered_and_then_convicted() external {
        Book memory book = validBook();
        book.served[1].parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        book.served[1].repack();
        book.fillReceipts();
        commitBook(book);
        _answer(book, _demand(book, 1), 0, 1);
        disputes.proveBadPosition(book.header, book.witnessOf(1), 0, 0, snapshotBehind[snapshots[0]]);
        assertVoid(book);
    }

    function test_an_answer_is_due_to_the_second() external {
        Book memory book = committed();
        Demand memory asked = _demand(book, 2);
        ReceiptWitness memory witness = book.witnessOf(2);
        bytes memory signature = signed(witness.receipt);
        vm.warp(asked.deadline + 1);
        bytes memory late = abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, asked.deadline);
        _expectError(book, asked, witness, signature, late);
        vm.warp(asked.deadline);
        _answer(book, asked, 0, 2);
        bytes memory unknown = abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked));
        _expectError(book, asked, witness, signature, unknown);
    }

    function test_leaves_of_other_trees_need_another_function() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        ReceiptWitness memory witness = book.witnessOf(0);
        bytes memory error = abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.Entries);
        _expectError(book, asked, witness, signed(witness.receipt), error);
    }

    // --- internal ---

    function _demand(Book memory book, uint256 i) private returns (Demand memory) {
        return demand(book, Tree.Receipts, oneKey(bytes32(i)));
    }

    function _answer(Book memory book, Demand memory asked, uint256 n, uint256 i) private {
        ReceiptWitness memory witness = book.witnessOf(i);
        bytes memory signature = signed(witness.receipt);
        vm.prank(_answerer);
        disputes.answerReceipt(asked, n, book.header, witness, signature);
    }

    function _expectError(
        Book memory book,
        Demand memory asked,
        ReceiptWitness memory witness,
        bytes memory signature,
        bytes memory error
    ) private {
        vm.expectRevert(error);
        disputes.answerReceipt(asked, 0, book.header, witness, signature);
    }
}
