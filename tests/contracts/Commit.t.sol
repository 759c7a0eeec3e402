// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IParameters} from "../../contracts/interfaces/IParameters.sol";
import {Collection, IPaymentVault, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment, ISettlement, OperatorState} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";
import {Tree} from "./support/Trees.sol";

contract CommitTest is Batches {
    address private _account;

    function setUp() public override {
        super.setUp();
        _account = accountOf("contributor");
    }

    function test_a_batch_is_chained_and_collected(uint128 first, uint128 second) external {
        first = _amount(first);
        second = _amount(second);
        BatchHeader memory one = commit(first, oneBalance(_account, first));
        vm.warp(block.timestamp + 3);
        BatchHeader memory two = commit(second, oneBalance(_account, first + second));
        vm.assertEq(two.number, 2);
        vm.assertEq(two.parent, settlement.hashBatch(one));
        vm.assertEq(two.total, second);
        vm.assertEq(two.cumulativeTotal, first + second);
        vm.assertEq(two.committedAt, block.timestamp);
        vm.assertEq(two.finalAt, block.timestamp + WINDOW);
        vm.assertEq(settlement.batchHashAt(operator, 1), settlement.hashBatch(one));
        vm.assertEq(settlement.batchHashAt(operator, 2), settlement.hashBatch(two));
        vm.assertEq(vault.potOf(address(settlement), operator), first + second);
        _checkState(2, first + second);
    }

    function test_the_header_contains_the_commitment() external {
        Commitment memory c = commitmentOf(5, oneBalance(_account, 5));
        Collection[] memory all = collections(5);
        BatchHeader memory header = commit(c, all);
        vm.assertEq(header.operator, operator);
        vm.assertEq(header.parent, bytes32(0));
        vm.assertEq(header.parameterSet, 0);
        vm.assertEq(header.receiptsRoot, c.receiptsRoot);
        vm.assertEq(header.entriesRoot, c.entriesRoot);
        vm.assertEq(header.balancesRoot, c.balancesRoot);
        vm.assertEq(header.receiptsCount + header.entriesCount + header.balancesCount, 3);
        vm.assertEq(header.dataDigest, c.dataDigest);
        bytes memory span = abi.encodePacked(channel(), uint128(0), uint128(0), uint128(5));
        vm.assertEq(header.spansHash, keccak256(span));
    }

    function test_a_commit_with_another_parent_is_refused() external {
        commit(5, oneBalance(_account, 5));
        Commitment memory c = commitmentOf(5, oneBalance(_account, 10));
        bytes32 parent = c.parent;
        c.parent = bytes32(0);
        expectCommitError(
            c,
            collections(5),
            abi.encodeWithSelector(ISettlement.ParentMismatch.selector, parent, bytes32(0))
        );
    }

    function test_a_commit_with_another_parameter_set_is_refused() external {
        Commitment memory c = commitmentOf(5, oneBalance(_account, 5));
        setFee(70_000);
        expectCommitError(c, collections(5), abi.encodeWithSelector(IParameters.ParameterSetNotCurrent.selector, 0, 1));
        c.parameterSet = 2;
        expectCommitError(c, collections(5), abi.encodeWithSelector(IParameters.ParameterSetNotCurrent.selector, 2, 1));
    }

    function test_a_total_other_than_the_sum_collected_is_refused(uint128 stated) external {
        vm.assume(stated != 5);
        expectCommitError(
            commitmentOf(stated, oneBalance(_account, 5)),
            collections(5),
            abi.encodeWithSelector(ISettlement.TotalMismatch.selector, 5, stated)
        );
    }

    function test_a_batch_needs_one_to_256_spans() external {
        Commitment memory c = commitmentOf(5, oneBalance(_account, 5));
        bytes4 selector = ISettlement.InvalidSpanCount.selector;
        expectCommitError(c, new Collection[](0), abi.encodeWithSelector(selector, 0, 256));
        expectCommitError(c, new Collection[](257), abi.encodeWithSelector(selector, 257, 256));
    }

    function test_no_tree_may_be_empty() external {
        bytes memory error = abi.encodeWithSelector(ISettlement.EmptyTree.selector);
        Commitment memory c = commitmentOf(5, oneBalance(_account, 5));
        (c.receiptsCount, c.entriesCount, c.balancesCount) = (0, 1, 1);
        expectCommitError(c, collections(5), error);
        (c.receiptsCount, c.entriesCount, c.balancesCount) = (1, 0, 1);
        expectCommitError(c, collections(5), error);
        (c.receiptsCount, c.entriesCount, c.balancesCount) = (1, 1, 0);
        expectCommitError(c, collections(5), error);
    }

    function test_the_stake_must_cover_its_part_of_the_pot(uint128 amount) external {
        uint128 covered = uint128(STAKE_UNITS) * 4 * MICRO;
        deposit(5 * STAKE_UNITS);
        amount = uint128(bound(amount, covered - 10 * MICRO, covered + 10 * MICRO));
        // A quarter, rounded up to whole units.
        uint256 needed = ((uint256(amount) + 4 * MICRO - 1) / (4 * MICRO)) * MICRO;
        (uint128 cover, ) = operators.coverOf(operator);
        Commitment memory c = commitmentOf(amount, oneBalance(_account, amount));
        if (needed > cover) {
            bytes4 selector = ISettlement.StakeTooLow.selector;
            expectCommitError(c, collections(amount), abi.encodeWithSelector(selector, cover, needed));
        } else {
            commit(c, collections(amount));
        }
    }

    function test_an_unstaking_amount_covers_nothing() external {
        vm.prank(operator);
        operators.startUnstake(uint128(STAKE_UNITS) * MICRO);
        expectCommitError(
            commitmentOf(40, oneBalance(_account, 40)),
            collections(40),
            abi.encodeWithSelector(ISettlement.StakeTooLow.selector, 0, MICRO)
        );
    }

    function test_a_window_of_its_own_applies_to_each_batch() external {
        commit(5, oneBalance(_account, 5));
        setDisputeWindow(4);
        BatchHeader memory two = commit(5, oneBalance(_account, 10));
        vm.assertEq(two.finalAt, block.timestamp + 4);
        vm.assertEq(two.finalBlock, 0);
        vm.assertEq(two.parameterSet, 1);
    }

    function test_a_window_in_blocks_is_counted_from_the_commit(uint32 windowBlocks) external {
        vm.assume(windowBlocks != 0);
        vm.mockCall(
            address(parameters),
            abi.encodeCall(IParameters.commitTerms, (0)),
            abi.encode(WINDOW, windowBlocks, 250_000)
        );
        vm.assertEq(commit(5, oneBalance(_account, 5)).finalBlock, block.number + windowBlocks);
    }

    /// @dev The header states the slashes before the commit plus the required cover, in whole units.
    function test_the_header_states_the_slash_of_a_void(uint128 first, uint128 second) external {
        (first, second) = (_amount(first), _amount(second));
        BatchHeader memory one = commit(first, oneBalance(_account, first));
        uint128 covered = _unitsUp(first / 4 + (first % 4 == 0 ? 0 : 1));
        vm.assertEq(one.slashUpTo, covered);
        voidPending(one);
        Refund[] memory refunds = new Refund[](1);
        refunds[0] = Refund(payer, 0, 0, first);
        settlement.refund(one, refunds);
        BatchHeader memory two = commit(second, oneBalance(_account, second));
        vm.assertEq(two.slashUpTo, covered + _unitsUp(second / 4 + (second % 4 == 0 ? 0 : 1)));
    }

    function test_a_voucher_that_fails_fails_the_batch() external {
        Collection[] memory all = collections(5);
        all[0].until = 6;
        bytes4 selector = IPaymentVault.VoucherExceeded.selector;
        expectCommitError(
            commitmentOf(6, oneBalance(_account, 6)),
            all,
            abi.encodeWithSelector(selector, channel(), 5, 6)
        );
    }

    function test_another_operators_channel_cannot_be_committed() external {
        Commitment memory c = commitmentOf(5, oneBalance(_account, 5));
        Collection[] memory all = collections(5);
        vm.expectPartialRevert(IPaymentVault.InsufficientBalance.selector);
        vm.prank(accountOf("other operator"));
        settlement.commit(c, all);
    }

    /// @dev Any number of batches may be pending, and each is kept for ever.
    function test_many_batches_are_pending_at_once_and_are_kept() external {
        BatchHeader[] memory headers = new BatchHeader[](300);
        for (uint128 i = 0; i < 300; ++i) headers[i] = commit(1, oneBalance(_account, i + 1));
        vm.warp(lastHeader.finalAt);
        settlement.finalise(headers);
        commit(1, oneBalance(_account, 301));
        for (uint64 i = 0; i < 300; ++i) {
            vm.assertEq(settlement.batchHashAt(operator, i + 1), settlement.hashBatch(headers[i]));
        }
    }

    function _unitsUp(uint128 amount) private pure returns (uint128) {
        return ((amount + MICRO - 1) / MICRO) * MICRO;
    }

    function _amount(uint128 value) private pure returns (uint128) {
        return uint128(bound(value, 1, (DEPOSIT_UNITS * MICRO) / 2));
    }

    function _checkState(uint64 last, uint128 total) private view {
        OperatorState memory state = settlement.stateOf(operator);
        vm.assertEq(state.last, last);
        vm.assertEq(state.finalised, 0);
        vm.assertEq(state.toRefund, 0);
        vm.assertEq(state.finalTotal, 0);
        vm.assertEq(state.cumulativeTotal, total);
    }
}
