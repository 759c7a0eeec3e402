// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {BatchHeader} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {Book, Books, Leaves} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract AnswerTest is Disputed {
    using Books for *;

    address private _answerer;

    function setUp() public override {
        super.setUp();
        _answerer = who("answerer");
    }

    function test_the_answerer_earns_the_bond(uint256 tree, bytes32 key, bool isPresent) external {
        Book memory book = committed();
        Tree which = Tree(1 + (tree % 3));
        Leaves memory leaves = book.leavesOf(which);
        if (isPresent) key = leaves.keys[uint256(key) % leaves.keys.length];
        Demand memory asked = demand(book, which, oneKey(key));
        Lookup memory lookup = book.look(which, key);
        bytes memory call = abi.encodeCall(IDisputes.answer, (asked, 0, book.header, book.parent, lookup));
        bytes32 id = idOf(asked);
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(id, 0, _answerer, call);
        vm.prank(_answerer);
        disputes.answer(asked, 0, book.header, book.parent, lookup);
        vm.assertEq(usd.balanceOf(_answerer), BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.assertEq(disputes.unansweredOf(id), 0);
        vm.assertEq(disputes.numOpenDemands(asked.batchHash), 0);
        vm.assertFalse(settlement.isHeld(operator, 2));
    }

    /// @dev A non-canonical encoding that only Solidity's decoder accepts would hide the answer from other readers.
    function test_an_answer_must_be_canonically_encoded() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        bytes memory call = abi.encodeCall(IDisputes.answer, (asked, 0, book.header, book.parent, lookup));
        (bool isTaken, bytes memory error) = address(disputes).call(abi.encodePacked(call, uint8(0)));
        vm.assertFalse(isTaken);
        vm.assertEq(error, abi.encodeWithSelector(IDisputes.NotCanonical.selector));
    }

    function test_a_voided_batch_takes_no_answers() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        voidFrom(book.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BatchNotPending.selector, asked.batchHash));
        _answer(book, asked, 0);
    }

    function test_keys_beyond_both_edges_are_answered() external {
        Book memory book = committed();
        bytes32[] memory keys = new bytes32[](3);
        (keys[1], keys[2]) = (bytes32(type(uint256).max), bytes32(uint256(1)));
        for (uint256 tree = 1; tree < 4; ++tree) {
            Demand memory asked = demand(book, Tree(tree), keys);
            for (uint256 i = 0; i < 3; ++i) {
                _answer(book, asked, i);
            }
            vm.assertEq(disputes.unansweredOf(idOf(asked)), 0);
        }
    }

    function test_each_key_is_answered_separately_and_once(uint256 order) external {
        Book memory book = committed();
        // The same key three times, answered in any order.
        bytes32[] memory keys = new bytes32[](64);
        Demand memory asked = demand(book, Tree.Balances, keys);
        Lookup memory lookup = book.look(Tree.Balances, 0);
        uint256 left = type(uint64).max;
        for (uint256 n = 0; n < 64; ++n) {
            uint256 i = (n * 37 + (order % 64)) % 64;
            vm.assertTrue(settlement.isHeld(operator, 2));
            vm.prank(_answerer);
            disputes.answer(asked, i, book.header, book.parent, lookup);
            left &= ~(1 << i);
            vm.assertEq(disputes.unansweredOf(idOf(asked)), left);
        }
        vm.assertEq(usd.balanceOf(_answerer), 64 * BOND);
        vm.assertFalse(settlement.isHeld(operator, 2));
    }

    function test_no_key_is_answered_twice_or_without_a_demand(uint256 i) external {
        Book memory book = committed();
        bytes32[] memory keys = new bytes32[](2);
        Demand memory asked = demand(book, Tree.Balances, keys);
        _answer(book, asked, 1);
        i = bound(i, 1, type(uint256).max);
        Lookup memory lookup = book.look(Tree.Balances, 0);
        bytes memory error = abi.encodeWithSelector(IDisputes.AlreadyAnswered.selector, idOf(asked), i);
        _expectError(book, asked, i, lookup, error);
        _answer(book, asked, 0);
        error = abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked));
        _expectError(book, asked, 0, lookup, error);
    }

    function test_the_batch_is_held_until_all_demands_are_answered() external {
        Book memory book = committed();
        Demand memory one = demand(book, Tree.Balances, oneKey(0));
        Demand memory two = demand(book, Tree.Entries, oneKey(0));
        _answer(book, one, 0);
        vm.assertTrue(settlement.isHeld(operator, 2));
        vm.assertEq(disputes.numOpenDemands(one.batchHash), 1);
        _answer(book, two, 0);
        vm.assertFalse(settlement.isHeld(operator, 2));
        vm.warp(book.header.finalAt);
        settlement.finalise(book.header);
    }

    function test_an_answer_is_due_to_the_second() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        vm.warp(asked.deadline + 1);
        bytes memory late = abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, asked.deadline);
        _expectError(book, asked, 0, lookup, late);
        vm.warp(asked.deadline);
        _answer(book, asked, 0);
    }

    function test_another_key_answers_nothing(uint256 tree, bytes32 key, bytes32 other) external {
        Book memory book = committed();
        Tree which = Tree(1 + (tree % 3));
        (key, other) = (book.leavesOf(which).keyNear(key), book.leavesOf(which).keyNear(other));
        Demand memory asked = demand(book, which, oneKey(key));
        Lookup memory lookup = book.look(which, other);
        bytes32 right = keccak256(abi.encode(book.look(which, key)));
        vm.assume(keccak256(abi.encode(lookup)) != right);
        bytes memory mismatch = abi.encodeWithSelector(Lookups.LookupMismatch.selector, key);
        _expectError(book, asked, 0, lookup, mismatch);
    }

    function test_the_parents_balances_are_the_parents(uint256 field) external {
        Book memory book = committed();
        bytes32 key = book.parentBalances.keys[0];
        Demand memory asked = demand(book, Tree.ParentBalances, oneKey(key));
        Lookup memory lookup = book.look(Tree.Balances, key);
        BatchHeader memory other = book.parent;
        if (field % 2 == 0) other = book.header;
        else other.balancesRoot = book.header.balancesRoot;
        bytes32 found = Hashing.batch(other);
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, book.header.parent, found));
        disputes.answer(asked, 0, book.header, other, lookup);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answer(asked, 0, book.header, first().header, lookup);
    }

    function test_another_demand_or_batch_is_unknown(uint256 field) external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        BatchHeader memory other = first().header;
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, asked.batchHash, Hashing.batch(other)));
        disputes.answer(asked, 0, other, other, lookup);
        field %= 6;
        if (field == 0) asked.batchHash = Hashing.batch(other);
        if (field == 1) asked.tree = Tree.Balances;
        if (field == 2) asked.keys = new bytes32[](2);
        if (field == 3) asked.challenger = _answerer;
        if (field == 4) asked.deadline += 1;
        if (field == 5) asked.bondUnits += 1;
        bytes memory unknown = abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked));
        _expectError(book, asked, 0, lookup, unknown);
    }

    function test_a_receipt_is_answered_with_all_preimages() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Receipts, oneKey(0));
        Lookup memory lookup = book.single(Tree.Receipts, 0);
        bytes memory error = abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.Receipts);
        _expectError(book, asked, 0, lookup, error);
    }

    /// @dev Demand griefing and last-second answer: the latest demand and answer still leave time for a proof.
    function test_a_last_second_answer_still_leaves_time_for_a_proof() external {
        Book memory book = wrong();
        vm.warp(book.header.finalAt - 2 * PERIOD);
        Demand memory asked = demand(book, Tree.Balances, oneKey(0));
        vm.warp(asked.deadline);
        _answer(book, asked, 0);
        vm.warp(asked.deadline + PERIOD - 1);
        vm.expectRevert();
        settlement.finalise(book.header);
        convict(book, challenger);
        assertVoid(book);
    }

    // --- internal ---

    function _answer(Book memory book, Demand memory asked, uint256 i) private {
        Lookup memory lookup = book.look(asked.tree, asked.keys[i]);
        vm.prank(_answerer);
        disputes.answer(asked, i, book.header, book.parent, lookup);
    }

    function _expectError(
        Book memory book,
        Demand memory asked,
        uint256 i,
        Lookup memory lookup,
        bytes memory error
    ) private {
        vm.expectRevert(error);
        vm.prank(_answerer);
        disputes.answer(asked, i, book.header, book.parent, lookup);
    }
}
