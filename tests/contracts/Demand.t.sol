// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Demands} from "../../contracts/libraries/Demands.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract DemandTest is Disputed {
    function test_demanding_a_leaf_costs_a_bond(uint256 tree, uint256 count) external {
        BatchData memory batch = committedBatch();
        Tree which = Tree(tree % 4);
        count = bound(count, 1, which == Tree.Receipts ? 6 : 64);
        uint256 bonds = bondsOf(which, count);
        bytes32 first = bytes32(uint256(1));
        uint256 bond = bondsOf(which, 1);
        Demand memory expected = Demand(challenger, uint96(bond), uint64(block.timestamp) + PERIOD, 0);
        vm.expectEmit(address(disputes));
        bytes32 batchHash = Hashing.batch(batch.header);
        emit IDisputes.Demanded(leafOf(batch, which, first), operator, batchHash, which, first, expected);
        vm.prank(challenger);
        vm.assertEq(disputes.demand{value: bonds}(batch.header, which, absentKeys(count)), count);
        Demand memory found = demandOf(batch, which, first);
        vm.assertEq(keccak256(abi.encode(found)), keccak256(abi.encode(expected)));
        vm.assertEq(numOpen(batch), count);
        vm.assertTrue(hasOpenDemand(batch.header));
        vm.assertEq(address(disputes).balance, bonds);
        vm.assertEq(disputes.creditOf(challenger), 0);
    }

    // --- the same leaf twice ---

    function test_finding1_equal_keys_are_demanded_once() external {
        BatchData memory batch = committedBatch();
        uint256 bond = bondsOf(Tree.Receipts, 1);
        vm.prank(challenger);
        uint32 count = disputes.demand{value: bond}(batch.header, Tree.Receipts, new bytes32[](64));
        vm.assertEq(count, 1);
        vm.assertEq(numOpen(batch), 1);
        answerReceipt(batch, 0);
        vm.assertEq(numOpen(batch), 0);
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
    }

    function test_finding1_a_leaf_is_demanded_once_open_or_answered(bytes32 key) external {
        BatchData memory batch = committedBatch();
        Demand memory first = demand(batch, Tree.Entries, key);
        vm.warp(block.timestamp + 3);
        challenger = accountOf("another challenger");
        vm.prank(challenger);
        vm.assertEq(disputes.demand(batch.header, Tree.Entries, oneKey(key)), 0);
        Demand memory found = demandOf(batch, Tree.Entries, key);
        vm.assertEq(keccak256(abi.encode(found)), keccak256(abi.encode(first)));
        answer(batch, Tree.Entries, key);
        vm.prank(challenger);
        vm.assertEq(disputes.demand(batch.header, Tree.Entries, oneKey(key)), 0);
        vm.assertEq(numOpen(batch), 0);
    }

    /// @dev Otherwise the operator could make a challenger's call revert for the price of one leaf.
    function test_a_call_is_not_stopped_by_one_of_its_leaves_demanded_before() external {
        BatchData memory batch = committedBatch();
        uint256 bonds = bondsOf(Tree.Entries, 3);
        demand(batch, Tree.Entries, bytes32(uint256(2)));
        uint256 bondsOfTwo = bondsOf(Tree.Entries, 2);
        vm.prank(challenger);
        vm.assertEq(disputes.demand{value: bonds}(batch.header, Tree.Entries, absentKeys(3)), 2);
        vm.assertEq(disputes.creditOf(challenger), bonds - bondsOfTwo);
    }

    function test_the_trees_have_separate_leaves() external {
        BatchData memory batch = committedBatch();
        bytes32 key = bytes32(uint256(1));
        for (uint256 tree = 0; tree < 4; ++tree) {
            demand(batch, Tree(tree), key);
            vm.assertEq(numOpen(batch), tree + 1);
        }
    }

    // --- which leaves and batches ---

    function test_receipts_are_demanded_by_index(uint256 index) external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Receipts, bytes32(uint256(6)));
        bytes32 key = bytes32(bound(index, 7, type(uint256).max));
        _expectError(batch, Tree.Receipts, oneKey(key), abi.encodeWithSelector(IDisputes.KeyOutOfRange.selector, key, 7));
    }

    function test_the_first_batch_has_no_parent_to_demand() external {
        BatchData memory batch = firstBatch();
        _expectError(batch, Tree.ParentBalances, absentKeys(1), abi.encodeWithSelector(IDisputes.NoParent.selector));
        demand(batch, Tree.Balances, 0);
    }

    function test_only_pending_batches_take_demands() external {
        BatchData memory batch = committedBatch();
        bytes32 hash = Hashing.batch(batch.header);
        batch.header.finalAt += 1;
        bytes4 selector = IDisputes.BatchNotPending.selector;
        bytes memory error = abi.encodeWithSelector(selector, Hashing.batch(batch.header));
        _expectError(batch, Tree.Entries, absentKeys(1), error);
        batch.header.finalAt -= 1;
        voidPending(batch.header);
        _expectError(batch, Tree.Entries, absentKeys(1), abi.encodeWithSelector(selector, hash));
    }

    function test_a_final_batch_takes_no_demands() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
        bytes4 selector = IDisputes.BatchNotPending.selector;
        _expectError(batch, Tree.Entries, absentKeys(1), abi.encodeWithSelector(selector, Hashing.batch(batch.header)));
    }

    // --- the price ---

    function test_a_bond_covers_the_worst_answer_at_four_times_the_base_fee(uint64 baseFee, bool isReceipt) external {
        BatchData memory batch = committedBatch();
        vm.fee(baseFee);
        uint256 worst = isReceipt ? 800_000 : 240_000;
        Tree tree = isReceipt ? Tree.Receipts : Tree.Balances;
        uint256 bond = 4 * worst * (uint256(baseFee) + 1 gwei);
        vm.assertEq(bondsOf(tree, 1), bond);
        vm.assertEq(demand(batch, tree, 0).bond, bond);
    }

    function test_a_bond_rises_with_the_queue_of_the_operator_which_time_empties(uint256 count) external {
        BatchData memory batch = committedBatch();
        count = bound(count, 0, 64);
        uint256 first = bondsOf(Tree.Entries, 1);
        demandMany(batch, Tree.Entries, absentKeys(count));
        uint256 next = bondsOf(Tree.Entries, 1);
        vm.assertEq(next * 64, first * (64 + count));
        answerFirst(batch, count);
        vm.assertEq(bondsOf(Tree.Entries, 1), next);
        vm.assertEq(disputes.bondOf(accountOf("other operator"), Tree.Entries, 1, block.basefee), first);
        vm.warp(block.timestamp + count * PER_ANSWER);
        vm.assertEq(bondsOf(Tree.Entries, 1), first);
    }

    function test_the_bonds_of_a_call_are_the_sum_of_its_leaves(uint256 count, uint48 baseFee) external {
        BatchData memory batch = committedBatch();
        vm.fee(baseFee);
        count = bound(count, 0, 40);
        uint256 stated = bondsOf(Tree.Entries, count);
        demandMany(batch, Tree.Entries, absentKeys(count));
        uint256 sum = 0;
        for (uint256 i = 1; i <= count; ++i) {
            sum += demandOf(batch, Tree.Entries, bytes32(i)).bond;
        }
        vm.assertEq(sum, stated);
    }

    function test_what_is_left_of_the_value_is_credited_and_pays_later_bonds(uint96 surplus) external {
        BatchData memory batch = committedBatch();
        surplus = uint96(bound(surplus, 0, 1e6 ether));
        uint256 bond = bondsOf(Tree.Entries, 1);
        vm.prank(challenger);
        disputes.demand{value: bond + surplus}(batch.header, Tree.Entries, absentKeys(1));
        vm.assertEq(disputes.creditOf(challenger), surplus);
        uint256 next = bondsOf(Tree.Balances, 1);
        bytes memory low = abi.encodeWithSelector(IDisputes.BondTooLow.selector, surplus, next);
        if (surplus < next) vm.expectRevert(low);
        vm.prank(challenger);
        disputes.demand(batch.header, Tree.Balances, absentKeys(1));
        if (surplus >= next) vm.assertEq(disputes.creditOf(challenger), surplus - next);
    }

    function test_a_demand_needs_its_bond(uint256 lack) external {
        BatchData memory batch = committedBatch();
        uint256 bonds = bondsOf(Tree.Entries, 3);
        lack = bound(lack, 1, bonds);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BondTooLow.selector, bonds - lack, bonds));
        vm.prank(challenger);
        disputes.demand{value: bonds - lack}(batch.header, Tree.Entries, absentKeys(3));
        vm.assertFalse(hasOpenDemand(batch.header));
    }

    // --- the times ---

    function test_demands_end_two_answers_before_the_batch_is_final(uint64 early) external {
        BatchData memory batch = committedBatch();
        uint64 until = batch.header.finalAt - 2 * PERIOD;
        early = uint64(bound(early, 0, PERIOD));
        vm.warp(until - early);
        demand(batch, Tree.Entries, bytes32(uint256(1)));
        vm.warp(until);
        // There is time for the last answer and for a proof after it, one period each.
        uint64 delay = early < PER_ANSWER ? PER_ANSWER - early : 0;
        vm.assertEq(demand(batch, Tree.Balances, 0).deadline, until + PERIOD + delay);
        vm.assertEq(finalityOf(batch), batch.header.finalAt + delay);
        answer(batch, Tree.Entries, bytes32(uint256(1)));
        answer(batch, Tree.Balances, 0);
        vm.warp(until + delay + 1);
        bytes memory late = abi.encodeWithSelector(Demands.TooLateToDemand.selector, batch.header.finalAt + delay);
        _expectError(batch, Tree.Entries, absentKeys(3), late);
    }

    function test_each_leaf_in_the_queue_delays_the_next_answer_up_to_the_bound(uint256 count) external {
        BatchData memory batch = committedBatch();
        count = bound(count, 1, 64);
        demandMany(batch, Tree.Entries, absentKeys(count));
        for (uint256 i = 0; i < count; ++i) {
            uint64 delay = uint64(i) * PER_ANSWER < EXTENSION ? uint64(i) * PER_ANSWER : EXTENSION;
            uint64 deadline = demandOf(batch, Tree.Entries, bytes32(i + 1)).deadline;
            vm.assertEq(deadline, block.timestamp + PERIOD + delay);
        }
        uint64 last = demandOf(batch, Tree.Entries, bytes32(count)).deadline;
        vm.assertEq(finalityOf(batch), batch.header.finalAt + last - block.timestamp - PERIOD);
    }

    /// @dev Otherwise the leaves of many batches would be due at the same time, each at the price of the first.
    function test_finding1_the_batches_of_an_operator_have_one_queue(uint256 count) external {
        count = bound(count, 1, 64);
        BatchData memory batch = committedBatch();
        BatchData memory other = firstBatch();
        uint256 inOne = bondsOf(Tree.Entries, 2 * count);
        uint256 first = bondsOf(Tree.Entries, count);
        demandMany(batch, Tree.Entries, absentKeys(count));
        vm.assertEq(disputes.answersDueUntil(operator), block.timestamp + PERIOD + (count - 1) * PER_ANSWER);
        vm.assertEq(first + bondsOf(Tree.Entries, count), inOne);
        demandMany(other, Tree.Entries, absentKeys(count));
        uint64 delay = uint64(count) * PER_ANSWER < EXTENSION ? uint64(count) * PER_ANSWER : EXTENSION;
        uint64 deadline = demandOf(other, Tree.Entries, bytes32(uint256(1))).deadline;
        uint64 latest = other.header.finalAt + EXTENSION - PERIOD;
        vm.assertEq(deadline, block.timestamp + PERIOD + delay < latest ? block.timestamp + PERIOD + delay : latest);
    }

    /// @dev Otherwise a chain of single demands would use up the extension, and a flood after it be due at once. The
    /// first two leaves of the chain are demanded together, so that the queue is never empty.
    function test_finding1_a_chain_of_single_demands_uses_up_no_extension() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        demandMany(batch, Tree.Entries, absentKeys(2));
        vm.warp(block.timestamp + PER_ANSWER);
        demand(batch, Tree.Balances, 0);
        vm.warp(block.timestamp + PER_ANSWER);
        bytes memory late = abi.encodeWithSelector(Demands.TooLateToDemand.selector, batch.header.finalAt + PER_ANSWER);
        _expectError(batch, Tree.Receipts, new bytes32[](1), late);
        vm.assertEq(finalityOf(batch), batch.header.finalAt + 2 * PER_ANSWER);
    }

    function test_time_empties_the_queue(uint64 wait) external {
        BatchData memory batch = committedBatch();
        demandMany(batch, Tree.Entries, absentKeys(9));
        wait = uint64(bound(wait, 0, 40));
        vm.warp(block.timestamp + wait);
        uint64 delay = wait < 9 * PER_ANSWER ? 9 * PER_ANSWER - wait : 0;
        vm.assertEq(demand(batch, Tree.Balances, 0).deadline, block.timestamp + PERIOD + delay);
    }

    /// @dev A conviction returns the bonds of open leaves. If the queue stayed, an operator would raise the price of
    /// demands on its next batch for gas alone, by demands on a batch that it convicts itself.
    function test_finding1_a_conviction_empties_the_queue() external {
        BatchData memory batch = committedBatch();
        uint256 first = bondsOf(Tree.Receipts, 1);
        demandMany(batch, Tree.Entries, absentKeys(64));
        vm.warp(demandOf(batch, Tree.Entries, bytes32(uint256(1))).deadline + 1);
        vm.assertTrue(first < bondsOf(Tree.Receipts, 1));
        disputes.voidUnanswered(batch.header, Tree.Entries, bytes32(uint256(1)));
        vm.assertEq(bondsOf(Tree.Receipts, 1), first);
        vm.assertEq(disputes.answersDueUntil(operator), 0);
    }

    function test_disputes_name_their_generation() external view {
        vm.assertEq(address(disputes.settlement()), address(settlement));
        vm.assertEq(address(disputes.operators()), address(operators));
        vm.assertEq(address(disputes.parameters()), address(parameters));
        vm.assertEq(address(disputes.adapters()), address(adapters));
        vm.assertEq(address(disputes.datasets()), address(datasets));
        vm.assertEq(disputes.answerSeconds(), PERIOD);
    }

    // --- internal ---

    function answerFirst(BatchData memory batch, uint256 count) internal {
        for (uint256 i = 1; i <= count; ++i) {
            answer(batch, Tree.Entries, bytes32(i));
        }
    }

    function _expectError(BatchData memory batch, Tree tree, bytes32[] memory keys, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(challenger);
        disputes.demand{value: 1 ether}(batch.header, tree, keys);
    }
}
