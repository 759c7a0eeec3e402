// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {BatchHeader} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {BatchData, BatchModel, Leaves} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract AnswerTest is Disputed {
    using BatchModel for *;

    address private _answerer;

    function setUp() public override {
        super.setUp();
        _answerer = accountOf("answerer");
    }

    function test_the_answerer_earns_the_bond(uint256 tree, bytes32 key, bool isPresent) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(1 + (tree % 3));
        Leaves memory leaves = batch.leavesOf(which);
        if (isPresent) key = leaves.keys[uint256(key) % leaves.keys.length];
        Demand memory demand_ = demand(batch, which, oneKey(key));
        Lookup memory lookup = batch.lookUp(which, key);
        bytes memory call = abi.encodeCall(IDisputes.answer, (demand_, 0, batch.header, batch.parent, lookup));
        bytes32 id = idOf(demand_);
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(id, 0, _answerer, call);
        vm.prank(_answerer);
        disputes.answer(demand_, 0, batch.header, batch.parent, lookup);
        vm.assertEq(usd.balanceOf(_answerer), BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.assertEq(disputes.unansweredOf(id), 0);
        vm.assertEq(disputes.numOpenDemands(demand_.batchHash), 0);
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    /// @dev A non-canonical encoding that only Solidity's decoder accepts would hide the answer from other readers.
    function test_an_answer_must_be_canonically_encoded() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        bytes memory call = abi.encodeCall(IDisputes.answer, (demand_, 0, batch.header, batch.parent, lookup));
        (bool isTaken, bytes memory error) = address(disputes).call(abi.encodePacked(call, uint8(0)));
        vm.assertFalse(isTaken);
        vm.assertEq(error, abi.encodeWithSelector(IDisputes.NotCanonical.selector));
    }

    function test_a_voided_batch_takes_no_answers() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        voidFrom(batch.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BatchNotPending.selector, demand_.batchHash));
        _answer(batch, demand_, 0);
    }

    function test_keys_beyond_both_edges_are_answered() external {
        BatchData memory batch = committedBatch();
        bytes32[] memory keys = new bytes32[](3);
        (keys[1], keys[2]) = (bytes32(type(uint256).max), bytes32(uint256(1)));
        for (uint256 tree = 1; tree < 4; ++tree) {
            Demand memory demand_ = demand(batch, Tree(tree), keys);
            for (uint256 i = 0; i < 3; ++i) {
                _answer(batch, demand_, i);
            }
            vm.assertEq(disputes.unansweredOf(idOf(demand_)), 0);
        }
    }

    function test_each_key_is_answered_separately_and_once(uint256 order) external {
        BatchData memory batch = committedBatch();
        // The same key three times, answered in any order.
        bytes32[] memory keys = new bytes32[](64);
        Demand memory demand_ = demand(batch, Tree.Balances, keys);
        Lookup memory lookup = batch.lookUp(Tree.Balances, 0);
        uint256 left = type(uint64).max;
        for (uint256 n = 0; n < 64; ++n) {
            uint256 i = (n * 37 + (order % 64)) % 64;
            vm.assertTrue(hasOpenDemand(batch.header));
            vm.prank(_answerer);
            disputes.answer(demand_, i, batch.header, batch.parent, lookup);
            left &= ~(1 << i);
            vm.assertEq(disputes.unansweredOf(idOf(demand_)), left);
        }
        vm.assertEq(usd.balanceOf(_answerer), 64 * BOND);
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    function test_no_key_is_answered_twice_or_without_a_demand(uint256 i) external {
        BatchData memory batch = committedBatch();
        bytes32[] memory keys = new bytes32[](2);
        Demand memory demand_ = demand(batch, Tree.Balances, keys);
        _answer(batch, demand_, 1);
        i = bound(i, 1, type(uint256).max);
        Lookup memory lookup = batch.lookUp(Tree.Balances, 0);
        bytes memory error = abi.encodeWithSelector(IDisputes.AlreadyAnswered.selector, idOf(demand_), i);
        _expectError(batch, demand_, i, lookup, error);
        _answer(batch, demand_, 0);
        error = abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_));
        _expectError(batch, demand_, 0, lookup, error);
    }

    function test_the_batch_is_held_until_all_demands_are_answered() external {
        BatchData memory batch = committedBatch();
        Demand memory one = demand(batch, Tree.Balances, oneKey(0));
        Demand memory two = demand(batch, Tree.Entries, oneKey(0));
        _answer(batch, one, 0);
        vm.assertTrue(hasOpenDemand(batch.header));
        vm.assertEq(disputes.numOpenDemands(one.batchHash), 1);
        _answer(batch, two, 0);
        vm.assertFalse(hasOpenDemand(batch.header));
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
    }

    function test_an_answer_is_due_to_the_second() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        vm.warp(demand_.deadline + 1);
        bytes memory late = abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, demand_.deadline);
        _expectError(batch, demand_, 0, lookup, late);
        vm.warp(demand_.deadline);
        _answer(batch, demand_, 0);
    }

    function test_another_key_answers_nothing(uint256 tree, bytes32 key, bytes32 other) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(1 + (tree % 3));
        (key, other) = (batch.leavesOf(which).keyNear(key), batch.leavesOf(which).keyNear(other));
        Demand memory demand_ = demand(batch, which, oneKey(key));
        Lookup memory lookup = batch.lookUp(which, other);
        bytes32 right = keccak256(abi.encode(batch.lookUp(which, key)));
        vm.assume(keccak256(abi.encode(lookup)) != right);
        bytes memory mismatch = abi.encodeWithSelector(Lookups.LookupMismatch.selector, key);
        _expectError(batch, demand_, 0, lookup, mismatch);
    }

    function test_the_parents_balances_are_the_parents(uint256 field) external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.parentBalances.keys[0];
        Demand memory demand_ = demand(batch, Tree.ParentBalances, oneKey(key));
        Lookup memory lookup = batch.lookUp(Tree.Balances, key);
        BatchHeader memory other = batch.parent;
        if (field % 2 == 0) other = batch.header;
        else other.balancesRoot = batch.header.balancesRoot;
        bytes32 found = Hashing.batch(other);
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, batch.header.parent, found));
        disputes.answer(demand_, 0, batch.header, other, lookup);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answer(demand_, 0, batch.header, firstBatch().header, lookup);
    }

    function test_another_demand_or_batch_is_unknown(uint256 field) external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Entries, oneKey(0));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        BatchHeader memory other = firstBatch().header;
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, demand_.batchHash, Hashing.batch(other)));
        disputes.answer(demand_, 0, other, other, lookup);
        field %= 6;
        if (field == 0) demand_.batchHash = Hashing.batch(other);
        if (field == 1) demand_.tree = Tree.Balances;
        if (field == 2) demand_.keys = new bytes32[](2);
        if (field == 3) demand_.challenger = _answerer;
        if (field == 4) demand_.deadline += 1;
        if (field == 5) demand_.bondUnits += 1;
        bytes memory unknown = abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(demand_));
        _expectError(batch, demand_, 0, lookup, unknown);
    }

    function test_a_receipt_is_answered_with_all_preimages() external {
        BatchData memory batch = committedBatch();
        Demand memory demand_ = demand(batch, Tree.Receipts, oneKey(0));
        Lookup memory lookup = batch.single(Tree.Receipts, 0);
        bytes memory error = abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.Receipts);
        _expectError(batch, demand_, 0, lookup, error);
    }

    /// @dev Demand griefing and last-second answer: the latest demand and answer still leave time for a proof.
    function test_a_last_second_answer_still_leaves_time_for_a_proof() external {
        BatchData memory batch = invalidBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        Demand memory demand_ = demand(batch, Tree.Balances, oneKey(0));
        vm.warp(demand_.deadline);
        _answer(batch, demand_, 0);
        vm.warp(demand_.deadline + PERIOD - 1);
        vm.expectRevert();
        finalise(batch.parent, batch.header);
        convict(batch, challenger);
        assertVoid(batch);
    }

    // --- internal ---

    function _answer(BatchData memory batch, Demand memory demand_, uint256 i) private {
        Lookup memory lookup = batch.lookUp(demand_.tree, demand_.keys[i]);
        vm.prank(_answerer);
        disputes.answer(demand_, i, batch.header, batch.parent, lookup);
    }

    function _expectError(
        BatchData memory batch,
        Demand memory demand_,
        uint256 i,
        Lookup memory lookup,
        bytes memory error
    ) private {
        vm.expectRevert(error);
        vm.prank(_answerer);
        disputes.answer(demand_, i, batch.header, batch.parent, lookup);
    }
}
