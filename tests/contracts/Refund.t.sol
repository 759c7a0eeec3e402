// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Channel, ChannelId, IPaymentVault, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";
import {Tree as Sums, Trees} from "./support/Trees.sol";

contract RefundTest is Disputed {
    using BatchModel for *;
    using Trees for Sums;

    function test_channels_are_restored_exactly() external {
        finaliseFirst();
        Channel[3] memory before = _channels();
        uint128 pot = _pot();
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        _expectRefunded(batch);
        vm.prank(accountOf("anyone"));
        settlement.refund(batch.header, batch.refunds);
        Channel[3] memory restored = _channels();
        vm.assertEq(keccak256(abi.encode(restored)), keccak256(abi.encode(before)));
        vm.assertEq(_pot(), pot);
        vm.assertEq(settlement.stateOf(operator).toRefund, 0);
        vm.assertEq(settlement.stateOf(operator).cumulativeTotal, batch.parent.cumulativeTotal);
    }

    function test_a_thaw_does_not_prevent_a_refund() external {
        BatchData memory batch = invalidBatch();
        uint128 deposited = uint128(DEPOSIT_UNITS) * MICRO;
        uint128 balance = vault.channelOf(channel()).balance;
        vm.prank(payer);
        vault.thaw(operator, address(settlement), balance);
        vm.warp(block.timestamp + THAW);
        convict(batch, challenger);
        vm.prank(payer);
        vault.withdraw(operator, address(settlement));
        settlement.refund(batch.header, batch.refunds);
        settlement.refund(batch.parent, firstBatch().refunds);
        vm.assertEq(vault.channelOf(channel()).balance + (balance / MICRO) * MICRO, deposited);
    }

    function test_the_newest_is_refunded_first() external {
        BatchData memory batch = committedBatch();
        voidPending(batch.parent);
        (bytes32 old, bytes32 newest) = (settlement.hashBatch(batch.parent), settlement.hashBatch(batch.header));
        Refund[] memory refunds = firstBatch().refunds;
        bytes4 selector = ISettlement.NotNextToRefund.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, newest, old));
        settlement.refund(batch.parent, refunds);
        settlement.refund(batch.header, batch.refunds);
        vm.expectRevert(abi.encodeWithSelector(selector, old, newest));
        settlement.refund(batch.header, batch.refunds);
        settlement.refund(batch.parent, refunds);
        vm.expectRevert(abi.encodeWithSelector(selector, 0, old));
        settlement.refund(batch.parent, refunds);
        vm.assertEq(_pot(), 0);
    }

    function test_a_batch_that_is_not_voided_cannot_be_refunded() external {
        BatchData memory batch = committedBatch();
        bytes32 hash = settlement.hashBatch(batch.header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotNextToRefund.selector, 0, hash));
        settlement.refund(batch.header, batch.refunds);
    }

    function test_the_spans_are_refunded_as_they_were_collected(uint256 kind) external {
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        Refund[] memory spans = batch.refunds;
        bytes4 error = ISettlement.SpansMismatch.selector;
        kind %= 7;
        // The second span skips 777 without payment.
        if (kind == 0) spans[1].before += 777;
        if (kind == 1) spans[1].from -= 1;
        if (kind == 2) (spans[0], spans[1]) = (spans[1], spans[0]);
        if (kind == 3) spans = new Refund[](0);
        if (kind == 4) (spans[1].until, error) = (spans[1].until - 1, IPaymentVault.CollectedMismatch.selector);
        if (kind == 5) (spans[1].payer, error) = (challenger, IPaymentVault.CollectedMismatch.selector);
        if (kind == 6) (spans[1].before, error) = (spans[1].from + 1, IPaymentVault.NothingToRefund.selector);
        vm.expectPartialRevert(error);
        settlement.refund(batch.header, spans);
    }

    function test_a_span_is_not_refunded_twice() external {
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        Refund[] memory spans = new Refund[](2);
        (spans[0], spans[1]) = (batch.refunds[0], batch.refunds[0]);
        vm.expectPartialRevert(IPaymentVault.CollectedMismatch.selector);
        settlement.refund(batch.header, spans);
    }

    function test_an_honest_batch_after_it_settles_and_pays() external {
        finaliseFirst();
        BatchData memory batch = invalidBatch();
        convict(batch, challenger);
        settlement.refund(batch.header, batch.refunds);
        batch = validBatch();
        commitBatch(batch);
        vm.assertEq(batch.header.number, 2);
        vm.warp(batch.header.finalAt);
        finalise(batch.header);
        Sums memory balances = batch.balances.sums(MerkleSum.BALANCES);
        uint256 paid = 0;
        for (uint256 i = 0; i < balances.values.length; ++i) {
            address account = address(uint160(uint256(batch.balances.keys[i])));
            uint256 before = usd.balanceOf(account);
            settlement.claim(Claim(batch.header, account, balances.open(i)));
            vm.assertEq(usd.balanceOf(account) - before, balances.values[i] / MICRO);
            paid += balances.values[i] / MICRO;
        }
        vm.assertEq(_pot(), batch.header.cumulativeTotal - paid * MICRO);
    }

    /// @dev Balances credit an accomplice with amounts that others already claimed: no claim takes amounts to be
    /// refunded.
    function test_the_payout_limit_protects_amounts_to_be_refunded() external {
        vm.warp(firstBatch().header.finalAt);
        finalise(firstBatch().header);
        uint128 earlier = firstBatch().total;
        _claimAll(firstBatch());
        uint128 left = _pot();
        BatchData memory batch = validBatch();
        // The whole balance for one account that has not claimed yet.
        address thief = accountOf("thief");
        Sums memory forged = oneBalance(thief, earlier + batch.total);
        batch.balances = BatchModel.newLeaves(1);
        (batch.balances.keys[0], batch.balances.values[0]) = (bytes32(uint256(uint160(thief))), earlier + batch.total);
        commitBatch(batch);
        vm.warp(batch.header.finalAt);
        finalise(batch.header);
        // Another batch of the payer's channel is voided and awaits its refund.
        BatchHeader memory header = commit(9 * MICRO, oneBalance(thief, earlier + batch.total + 9 * MICRO));
        voidPending(header);
        uint128 pot = _pot();
        vm.assertEq(pot, left + batch.total + 9 * MICRO);
        uint128 demand_ = ((earlier + batch.total) / MICRO) * MICRO;
        Claim memory request = Claim(batch.header, thief, forged.open(0));
        // The total paid out of the pot stays within the amounts that final batches collected.
        bytes memory error = abi.encodeWithSelector(
            IPaymentVault.PayoutLimitExceeded.selector,
            earlier - left,
            demand_,
            earlier + batch.total
        );
        vm.expectRevert(error);
        settlement.claim(request);
        Refund[] memory refunds = new Refund[](1);
        uint128 until = vault.channelOf(channel()).collected;
        refunds[0] = Refund(payer, until - 9 * MICRO, until - 9 * MICRO, until);
        settlement.refund(header, refunds);
        vm.expectRevert(error);
        settlement.claim(request);
    }

    // --- internal ---

    function _claimAll(BatchData memory batch) private {
        Sums memory balances = batch.balances.sums(MerkleSum.BALANCES);
        for (uint256 i = 0; i < balances.values.length; ++i) {
            address account = address(uint160(uint256(batch.balances.keys[i])));
            settlement.claim(Claim(batch.header, account, balances.open(i)));
        }
    }

    function _channels() private view returns (Channel[3] memory channels) {
        for (uint256 k = 0; k < 3; ++k) {
            channels[k] = vault.channelOf(_id(k));
        }
    }

    function _id(uint256 k) private view returns (ChannelId) {
        return vault.channelIdOf(vm.addr(keyOf(payers[k])), operator, address(settlement));
    }

    function _pot() private view returns (uint128) {
        return vault.potOf(address(settlement), operator);
    }

    function _expectRefunded(BatchData memory batch) private {
        bytes32 hash = settlement.hashBatch(batch.header);
        vm.expectEmit(address(settlement));
        emit ISettlement.BatchRefunded(operator, 2, hash, batch.total);
        for (uint256 k = 0; k < 3; ++k) {
            Refund memory span = batch.refunds[k];
            ChannelId id = _id(k);
            vm.expectEmit(address(vault));
            emit IPaymentVault.Refunded(id, span.until - span.from, span.before);
        }
    }
}
