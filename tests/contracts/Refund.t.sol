// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Channel, ChannelId, IPaymentVault, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Book, Books} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";
import {Tree as Sums, Trees} from "./support/Trees.sol";

contract RefundTest is Disputed {
    using Books for *;
    using Trees for Sums;

    function test_channels_are_restored_exactly() external {
        Channel[3] memory before = _channels();
        uint128 pot = _pot();
        Book memory book = wrong();
        convict(book, challenger);
        _expectRefunded(book);
        vm.prank(who("anyone"));
        settlement.refund(book.header, book.refunds);
        Channel[3] memory restored = _channels();
        vm.assertEq(keccak256(abi.encode(restored)), keccak256(abi.encode(before)));
        vm.assertEq(_pot(), pot);
        vm.assertEq(settlement.stateOf(operator).toRefund, 0);
        vm.assertEq(settlement.stateOf(operator).cumulativeTotal, book.parent.cumulativeTotal);
    }

    function test_a_thaw_does_not_prevent_a_refund() external {
        Book memory book = wrong();
        uint128 whole = uint128(DEPOSIT_UNITS) * MICRO;
        uint128 balance = vault.channelOf(channel()).balance;
        vm.prank(payer);
        vault.thaw(operator, address(settlement), balance);
        vm.warp(block.timestamp + THAW);
        convict(book, challenger);
        vm.prank(payer);
        vault.withdraw(operator, address(settlement));
        settlement.refund(book.header, book.refunds);
        voidFrom(book.parent);
        settlement.refund(book.parent, first().refunds);
        vm.assertEq(vault.channelOf(channel()).balance + (balance / MICRO) * MICRO, whole);
    }

    function test_the_newest_is_refunded_first() external {
        Book memory book = committed();
        voidFrom(book.parent);
        (bytes32 old, bytes32 newest) = (settlement.hashBatch(book.parent), settlement.hashBatch(book.header));
        Refund[] memory refunds = first().refunds;
        bytes4 selector = ISettlement.NotNextToRefund.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, newest, old));
        settlement.refund(book.parent, refunds);
        settlement.refund(book.header, book.refunds);
        vm.expectRevert(abi.encodeWithSelector(selector, old, newest));
        settlement.refund(book.header, book.refunds);
        settlement.refund(book.parent, refunds);
        vm.expectRevert(abi.encodeWithSelector(selector, 0, old));
        settlement.refund(book.parent, refunds);
        vm.assertEq(_pot(), 0);
    }

    function test_a_batch_that_is_not_voided_cannot_be_refunded() external {
        Book memory book = committed();
        bytes32 hash = settlement.hashBatch(book.header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotNextToRefund.selector, 0, hash));
        settlement.refund(book.header, book.refunds);
    }

    function test_the_spans_are_refunded_as_they_were_collected(uint256 kind) external {
        Book memory book = wrong();
        convict(book, challenger);
        Refund[] memory spans = book.refunds;
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
        settlement.refund(book.header, spans);
    }

    function test_a_span_is_not_refunded_twice() external {
        Book memory book = wrong();
        convict(book, challenger);
        Refund[] memory spans = new Refund[](2);
        (spans[0], spans[1]) = (book.refunds[0], book.refunds[0]);
        vm.expectPartialRevert(IPaymentVault.CollectedMismatch.selector);
        settlement.refund(book.header, spans);
    }

    function test_an_honest_batch_after_it_settles_and_pays() external {
        Book memory book = wrong();
        convict(book, challenger);
        settlement.refund(book.header, book.refunds);
        book = validBook();
        commitBook(book);
        vm.assertEq(book.header.number, 2);
        vm.warp(book.header.finalAt);
        settlement.finalise(book.header);
        Sums memory balances = book.balances.sums(MerkleSum.BALANCES);
        uint256 paid = 0;
        for (uint256 i = 0; i < balances.values.length; ++i) {
            address account = address(uint160(uint256(book.balances.keys[i])));
            uint256 before = usd.balanceOf(account);
            settlement.claim(Claim(operator, account, uint32(balances.values.length), balances.open(i)));
            vm.assertEq(usd.balanceOf(account) - before, balances.values[i] / MICRO);
            paid += balances.values[i] / MICRO;
        }
        vm.assertEq(_pot(), book.header.cumulativeTotal - paid * MICRO);
    }

    /// @dev Balances credit an accomplice with amounts that others already claimed: no claim takes amounts to be
    /// refunded.
    function test_the_payout_limit_protects_amounts_to_be_refunded() external {
        vm.warp(first().header.finalAt);
        settlement.finalise(first().header);
        uint128 earlier = first().total;
        _claimAll(first());
        uint128 left = _pot();
        Book memory book = validBook();
        // The whole balance for one account that has not claimed yet.
        address thief = who("thief");
        Sums memory forged = oneBalance(thief, earlier + book.total);
        book.balances = Books.newLeaves(1);
        (book.balances.keys[0], book.balances.values[0]) = (bytes32(uint256(uint160(thief))), earlier + book.total);
        commitBook(book);
        vm.warp(book.header.finalAt);
        settlement.finalise(book.header);
        // Another batch of the payer's channel is voided and awaits its refund.
        BatchHeader memory header = commit(9 * MICRO, oneBalance(thief, earlier + book.total + 9 * MICRO));
        voidFrom(header);
        uint128 pot = _pot();
        vm.assertEq(pot, left + book.total + 9 * MICRO);
        uint128 asked = ((earlier + book.total) / MICRO) * MICRO;
        Claim memory request = claimOf(thief, forged, 0);
        // The total paid out of the pot stays within the amounts that final batches collected.
        bytes memory error = abi.encodeWithSelector(
            IPaymentVault.PayoutLimitExceeded.selector,
            earlier - left,
            asked,
            earlier + book.total
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

    function _claimAll(Book memory book) private {
        Sums memory balances = book.balances.sums(MerkleSum.BALANCES);
        for (uint256 i = 0; i < balances.values.length; ++i) {
            address account = address(uint160(uint256(book.balances.keys[i])));
            settlement.claim(Claim(operator, account, uint32(balances.values.length), balances.open(i)));
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

    function _expectRefunded(Book memory book) private {
        bytes32 hash = settlement.hashBatch(book.header);
        vm.expectEmit(address(settlement));
        emit ISettlement.BatchRefunded(operator, 2, hash, book.total);
        for (uint256 k = 0; k < 3; ++k) {
            Refund memory span = book.refunds[k];
            ChannelId id = _id(k);
            vm.expectEmit(address(vault));
            emit IPaymentVault.Refunded(id, span.until - span.from, span.before);
        }
    }
}
