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

    /// @dev Whoever answers: otherwise a copy of the operator's pending answer would take its bond.
    function test_three_quarters_of_the_bond_are_credited_to_the_operator(
        uint256 tree,
        bytes32 key,
        bool isPresent
    ) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(1 + (tree % 3));
        Leaves memory leaves = batch.leavesOf(which);
        if (isPresent) key = leaves.keys[uint256(key) % leaves.keys.length];
        uint256 bond = demand(batch, which, key).bond;
        Lookup memory lookup = batch.lookUp(which, key);
        bytes memory call = abi.encodeCall(IDisputes.answer, (batch.header, which, key, batch.parent, lookup));
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(leafOf(batch, which, key), operator, Hashing.batch(batch.header), call);
        vm.prank(_answerer);
        disputes.answer(batch.header, which, key, batch.parent, lookup);
        vm.assertEq(disputes.creditOf(operator), bond - bond / 4);
        vm.assertEq(disputes.creditOf(_answerer), 0);
        vm.assertEq(address(disputes).balance, bond);
        Demand memory closed = demandOf(batch, which, key);
        vm.assertEq(closed.challenger, address(0));
        vm.assertEq(closed.bond, 0);
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    /// @dev Wallets and relayers append bytes to a call. The event has the answer in canonical encoding, so that every
    /// reader finds it at the same place.
    function test_bytes_after_the_arguments_are_ignored(bytes calldata suffix) external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Entries, 0);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        bytes memory call = abi.encodeCall(IDisputes.answer, (batch.header, Tree.Entries, 0, batch.parent, lookup));
        vm.expectEmit(address(disputes));
        emit IDisputes.Answered(leafOf(batch, Tree.Entries, 0), operator, Hashing.batch(batch.header), call);
        (bool isTaken, ) = address(disputes).call(bytes.concat(call, suffix));
        vm.assertTrue(isTaken);
    }

    function test_a_voided_batch_takes_no_answers() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Entries, 0);
        voidPending(batch.header);
        bytes4 selector = IDisputes.BatchNotPending.selector;
        _expectError(batch, Tree.Entries, 0, abi.encodeWithSelector(selector, Hashing.batch(batch.header)));
    }

    function test_keys_beyond_both_edges_are_answered() external {
        BatchData memory batch = committedBatch();
        for (uint256 tree = 1; tree < 4; ++tree) {
            bytes32[3] memory keys = [bytes32(0), bytes32(type(uint256).max), bytes32(uint256(1))];
            for (uint256 i = 0; i < 3; ++i) {
                demand(batch, Tree(tree), keys[i]);
                answer(batch, Tree(tree), keys[i]);
            }
        }
        vm.assertEq(numOpen(batch), 0);
    }

    function test_each_leaf_is_answered_separately_and_once(uint256 order) external {
        BatchData memory batch = committedBatch();
        demandMany(batch, Tree.Balances, absentKeys(64));
        uint256 earned = 0;
        for (uint256 n = 0; n < 64; ++n) {
            bytes32 key = bytes32(1 + ((n * 37 + (order % 64)) % 64));
            vm.assertEq(numOpen(batch), 64 - n);
            uint256 bond = demandOf(batch, Tree.Balances, key).bond;
            answer(batch, Tree.Balances, key);
            earned += bond - bond / 4;
            bytes32 leaf = leafOf(batch, Tree.Balances, key);
            _expectError(batch, Tree.Balances, key, abi.encodeWithSelector(IDisputes.DemandClosed.selector, leaf));
        }
        vm.assertEq(disputes.creditOf(operator), earned);
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    function test_nothing_is_answered_without_a_demand(bytes32 key) external {
        BatchData memory batch = committedBatch();
        bytes32 leaf = leafOf(batch, Tree.Entries, key);
        _expectError(batch, Tree.Entries, key, abi.encodeWithSelector(IDisputes.NotDemanded.selector, leaf));
    }

    function test_the_batch_is_not_final_until_all_demands_are_answered() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Balances, 0);
        demand(batch, Tree.Entries, 0);
        answer(batch, Tree.Balances, 0);
        vm.assertEq(numOpen(batch), 1);
        answer(batch, Tree.Entries, 0);
        vm.warp(finalityOf(batch) - 1);
        vm.expectRevert();
        finalise(batch.parent, batch.header);
        vm.warp(finalityOf(batch));
        finalise(batch.parent, batch.header);
    }

    function test_an_answer_is_due_to_the_second() external {
        BatchData memory batch = committedBatch();
        uint64 deadline = demand(batch, Tree.Entries, 0).deadline;
        vm.warp(deadline + 1);
        bytes memory late = abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, deadline, 0);
        _expectError(batch, Tree.Entries, 0, late);
        vm.warp(deadline);
        answer(batch, Tree.Entries, 0);
    }

    function test_another_key_answers_nothing(uint256 tree, bytes32 key, bytes32 other) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(1 + (tree % 3));
        (key, other) = (batch.leavesOf(which).keyNear(key), batch.leavesOf(which).keyNear(other));
        demand(batch, which, key);
        Lookup memory lookup = batch.lookUp(which, other);
        bytes32 right = keccak256(abi.encode(batch.lookUp(which, key)));
        vm.assume(keccak256(abi.encode(lookup)) != right);
        vm.expectRevert(abi.encodeWithSelector(Lookups.LookupMismatch.selector, key));
        disputes.answer(batch.header, which, key, batch.parent, lookup);
    }

    function test_the_parents_balances_are_the_parents(uint256 field) external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.parentBalances.keys[0];
        demand(batch, Tree.ParentBalances, key);
        Lookup memory lookup = batch.lookUp(Tree.Balances, key);
        BatchHeader memory other = batch.parent;
        if (field % 2 == 0) other = batch.header;
        else other.balancesRoot = batch.header.balancesRoot;
        bytes32 found = Hashing.batch(other);
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, batch.header.parent, found));
        disputes.answer(batch.header, Tree.ParentBalances, key, other, lookup);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.answer(batch.header, Tree.ParentBalances, key, firstBatch().header, lookup);
    }

    /// @dev The parent may have become final in the meantime; its header still proves its balances.
    function test_the_balances_of_a_final_parent_are_answered() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.parent.finalAt);
        finalise(batch.parent);
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        bytes32 key = batch.parentBalances.keys[0];
        demand(batch, Tree.ParentBalances, key);
        answer(batch, Tree.ParentBalances, key);
        vm.assertEq(numOpen(batch), 0);
    }

    function test_the_demand_of_another_tree_or_batch_is_not_answered(uint256 field) external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.entries.keys[0];
        demand(batch, Tree.Entries, key);
        bytes4 selector = IDisputes.NotDemanded.selector;
        if (field % 2 == 0) {
            _expectError(batch, Tree.Balances, key, abi.encodeWithSelector(selector, leafOf(batch, Tree.Balances, key)));
        } else {
            BatchData memory other = firstBatch();
            _expectError(other, Tree.Entries, key, abi.encodeWithSelector(selector, leafOf(other, Tree.Entries, key)));
        }
    }

    function test_a_receipt_is_answered_with_all_preimages() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Receipts, 0);
        Lookup memory lookup = batch.single(Tree.Receipts, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongTree.selector, Tree.Receipts));
        disputes.answer(batch.header, Tree.Receipts, 0, batch.parent, lookup);
    }

    // --- internal ---

    function _expectError(BatchData memory batch, Tree tree, bytes32 key, bytes memory error) private {
        Lookup memory lookup = batch.lookUp(tree, key);
        vm.expectRevert(error);
        vm.prank(_answerer);
        disputes.answer(batch.header, tree, key, batch.parent, lookup);
    }
}
