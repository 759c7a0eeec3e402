// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Channel, ChannelId, Collection, IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Payments} from "./support/Payments.sol";

contract CollectTest is Payments {
    uint128 private constant _BALANCE = 1_000_000 * MICRO;

    uint256 private _payerKey;

    function setUp() public override {
        super.setUp();
        _payerKey = keyOf("payer");
        deposit(_BALANCE / MICRO);
    }

    function test_collect_pays_only_the_increase(uint128 first, uint128 second) external {
        first = uint128(bound(first, 1, _BALANCE - 1));
        second = uint128(bound(second, first + 1, _BALANCE));
        collect(collection(_payerKey, 0, first));
        vm.expectEmit(address(vault));
        emit IPaymentVault.Collected(channel(), first, first, second);
        collect(collection(_payerKey, first, second));
        Channel memory state = vault.channelOf(channel());
        vm.assertEq(state.collected, second);
        vm.assertEq(state.balance, _BALANCE - second);
        vm.assertEq(vault.potOf(collector, operator), second);
    }

    /// @dev The signature alone counts, whether the account has code (EIP-7702) or not.
    function test_a_voucher_of_an_account_with_delegated_code_is_collected(uint128 until) external {
        until = uint128(bound(until, 1, _BALANCE));
        delegateCode(payer);
        collect(collection(_payerKey, 0, until));
        vm.assertEq(vault.potOf(collector, operator), until);
    }

    function test_a_voucher_of_a_session_key_with_delegated_code_is_collected(uint128 until) external {
        until = uint128(bound(until, 1, _BALANCE));
        vm.prank(payer);
        vault.grantSession(operator, collector, grantOf(_BALANCE, uint64(block.timestamp) + 1));
        delegateCode(sessionKey);
        collect(collection(keyOf("session key"), 0, until));
        vm.assertEq(vault.potOf(collector, operator), until);
    }

    function test_less_than_the_voucher_may_be_collected(uint128 maxCumulative, uint128 until) external {
        until = uint128(bound(until, 1, _BALANCE));
        maxCumulative = uint128(bound(maxCumulative, until, type(uint128).max));
        collect(collection(_payerKey, 0, 0, maxCumulative, until));
        vm.assertEq(vault.potOf(collector, operator), until);
    }

    function test_no_more_than_the_signed_amount_is_collected(uint128 maxCumulative, uint128 until) external {
        until = uint128(bound(until, 1, _BALANCE));
        maxCumulative = uint128(bound(maxCumulative, 0, until - 1));
        expectCollectError(
            collection(_payerKey, 0, 0, maxCumulative, until),
            abi.encodeWithSelector(IPaymentVault.VoucherExceeded.selector, channel(), maxCumulative, until)
        );
    }

    function test_a_voucher_from_a_later_start_skips_the_interval_below(uint128 from, uint128 until) external {
        from = uint128(bound(from, 1, type(uint128).max - _BALANCE));
        until = uint128(bound(until, from + 1, from + _BALANCE));
        collect(collection(_payerKey, 0, from, until, until));
        Channel memory state = vault.channelOf(channel());
        vm.assertEq(state.collected, until);
        vm.assertEq(state.balance, _BALANCE - (until - from));
        vm.assertEq(vault.potOf(collector, operator), until - from);
    }

    function test_a_replayed_voucher_collects_nothing() external {
        collect(collection(_payerKey, 0, 5));
        expectCollectError(
            collection(_payerKey, 0, 5),
            abi.encodeWithSelector(IPaymentVault.CollectedMismatch.selector, channel(), 5, 0)
        );
        expectCollectError(
            collection(_payerKey, 5, 5),
            abi.encodeWithSelector(IPaymentVault.NothingToCollect.selector, channel(), 5, 5)
        );
    }

    function test_a_stale_voucher_collects_nothing_after_a_newer_one() external {
        collect(collection(_payerKey, 0, 9));
        expectCollectError(
            collection(_payerKey, 9, 0, 5, 10),
            abi.encodeWithSelector(IPaymentVault.VoucherExceeded.selector, channel(), 5, 10)
        );
    }

    function test_no_more_than_the_balance_is_collected() external {
        expectCollectError(
            collection(_payerKey, 0, _BALANCE + 1),
            abi.encodeWithSelector(IPaymentVault.InsufficientBalance.selector, channel(), _BALANCE, _BALANCE + 1)
        );
    }

    function test_a_voucher_of_an_unauthorised_key_is_refused(uint256 key) external {
        key = bound(key, 1, CURVE_ORDER - 1);
        vm.assume(key != _payerKey);
        expectCollectError(
            collection(key, 0, 5),
            abi.encodeWithSelector(IPaymentVault.NotAuthorised.selector, channel(), vm.addr(key))
        );
    }

    function test_a_malleated_voucher_is_refused() external {
        Collection memory c = collection(_payerKey, 0, 5);
        uint256 s = uint256(c.vs) & (type(uint256).max >> 1);
        uint256 parity = 1 - (uint256(c.vs) >> 255);
        c.vs = bytes32((CURVE_ORDER - s) | (parity << 255));
        // The highest bit of the other `s` is set, which the compact form decodes as parity, so another signer is
        // recovered.
        _expectNotAuthorised(c);
    }

    function test_an_invalid_signature_is_refused_with_its_channel_id() external {
        bytes memory error = abi.encodeWithSelector(IPaymentVault.NotAuthorised.selector, channel(), address(0));
        Collection memory c = collection(_payerKey, 0, 5);
        c.vs = bytes32(type(uint256).max >> 1);
        expectCollectError(c, error);
        (c.r, c.vs) = (0, 0);
        expectCollectError(c, error);
    }

    function test_one_poisoned_channel_is_named_so_that_the_others_can_be_collected(uint256 poison) external {
        _grant(_BALANCE, uint64(block.timestamp) + 1);
        vm.warp(block.timestamp + 2 + THAW);
        Collection[] memory all = new Collection[](1);
        all[0] = _poisoned(poison % 7);
        vm.prank(collector);
        try vault.collect(operator, all) {
            vm.assertTrue(false);
        } catch (bytes memory error) {
            vm.assertEq(_firstArgument(error), ChannelId.unwrap(channel()));
        }
    }

    /// @dev A collection of the payer's channel that is invalid in one of seven ways.
    function _poisoned(uint256 way) private view returns (Collection memory c) {
        if (way == 0) return collection(_payerKey, 1, 5);
        if (way == 1) return collection(_payerKey, 0, 9, 5, 5);
        if (way == 2) return collection(_payerKey, 0, 0, 4, 5);
        if (way == 3) return collection(_payerKey, 0, _BALANCE + 1);
        if (way == 4) return collection(keyOf("unauthorised"), 0, 5);
        if (way == 5) return collection(keyOf("session key"), 0, 5);
        c = collection(_payerKey, 0, 5);
        c.r = 0;
    }

    function test_a_voucher_for_another_vault_or_chain_is_refused() external {
        bytes32 hash = Hashing.voucher(channel(), 0, 5);
        Collection memory c = collection(_payerKey, 0, 5);
        (c.r, c.vs) = compact(_payerKey, typedDigest(address(this), hash));
        _expectNotAuthorised(c);
        (c.r, c.vs) = compact(_payerKey, typedDigest(1, address(vault), hash));
        _expectNotAuthorised(c);
    }

    function test_only_the_named_collector_collects() external {
        Collection[] memory all = new Collection[](1);
        all[0] = collection(_payerKey, 0, 5);
        vm.expectPartialRevert(IPaymentVault.InsufficientBalance.selector);
        vm.prank(accountOf("other collector"));
        vault.collect(operator, all);
        vm.expectPartialRevert(IPaymentVault.InsufficientBalance.selector);
        vm.prank(collector);
        vault.collect(accountOf("other operator"), all);
    }

    // --- session keys ---

    function test_a_session_key_signs_up_to_its_cap(uint128 cap, uint128 until) external {
        cap = uint128(bound(cap, 1, _BALANCE));
        until = uint128(bound(until, 1, _BALANCE));
        _grant(cap, uint64(block.timestamp) + 1);
        Collection memory c = collection(keyOf("session key"), 0, until);
        if (until > cap) {
            bytes4 selector = IPaymentVault.CapExceeded.selector;
            expectCollectError(c, abi.encodeWithSelector(selector, channel(), sessionKey, cap, until));
        } else {
            collect(c);
            vm.assertEq(vault.potOf(collector, operator), until);
        }
    }

    function test_a_revoked_key_signs_no_more_than_its_cap() external {
        _grant(5, uint64(block.timestamp) + 1);
        vm.prank(payer);
        vault.revokeSession(operator, collector, sessionKey);
        expectCollectError(
            collection(keyOf("session key"), 0, 6),
            abi.encodeWithSelector(IPaymentVault.CapExceeded.selector, channel(), sessionKey, 5, 6)
        );
        collect(collection(keyOf("session key"), 0, 5));
    }

    function test_an_expired_session_stays_collectable_for_the_thaw(uint64 late) external {
        uint64 expiry = uint64(block.timestamp) + 1;
        late = uint64(bound(late, 0, 2 * THAW));
        _grant(_BALANCE, expiry);
        vm.warp(expiry + late);
        _collectOrExpire(late, expiry);
    }

    function test_revoke_after_use_does_not_undo_a_voucher(uint64 late) external {
        late = uint64(bound(late, 0, 2 * THAW));
        _grant(_BALANCE, uint64(block.timestamp) + 365 days);
        uint64 revokedAt = uint64(block.timestamp);
        vm.prank(payer);
        vault.revokeSession(operator, collector, sessionKey);
        vm.warp(revokedAt + late);
        _collectOrExpire(late, revokedAt);
    }

    // --- many ---

    function test_spans_are_hashed_in_order(uint96 first, uint96 second) external {
        (address[2] memory payers, uint256[2] memory keys) = _twoRisingPayers(first, second);
        Collection[] memory all = new Collection[](2);
        bytes memory spans;
        for (uint256 i = 0; i < 2; ++i) {
            payer = payers[i];
            uint128 until = uint128(i + 1) * MICRO;
            deposit(10);
            all[i] = collection(keys[i], 0, until);
            spans = abi.encodePacked(spans, channel(), uint128(0), uint128(0), until);
        }
        (all[0], all[1]) = (all[1], all[0]);
        vm.expectPartialRevert(IPaymentVault.ChannelsNotAscending.selector);
        vm.prank(collector);
        vault.collect(operator, all);

        (all[0], all[1]) = (all[1], all[0]);
        vm.prank(collector);
        (uint128 total, bytes32 spansHash, uint128 pot) = vault.collect(operator, all);
        vm.assertEq(total, 3 * MICRO);
        vm.assertEq(pot, 3 * MICRO);
        vm.assertEq(spansHash, keccak256(spans));
    }

    function test_a_channel_is_collected_once_per_call() external {
        Collection[] memory all = new Collection[](2);
        all[0] = collection(_payerKey, 0, 5);
        all[1] = collection(_payerKey, 5, 9);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ChannelsNotAscending.selector, channel()));
        vm.prank(collector);
        vault.collect(operator, all);
    }

    function _grant(uint128 cap, uint64 expiry) private {
        vm.prank(payer);
        vault.grantSession(operator, collector, grantOf(cap, expiry));
    }

    function _collectOrExpire(uint64 late, uint64 expiry) private {
        Collection memory c = collection(keyOf("session key"), 0, MICRO);
        if (late > THAW) {
            bytes4 selector = IPaymentVault.VouchersExpired.selector;
            expectCollectError(c, abi.encodeWithSelector(selector, channel(), sessionKey, expiry + THAW));
        } else {
            collect(c);
            vm.assertEq(vault.potOf(collector, operator), MICRO);
        }
    }

    function _firstArgument(bytes memory error) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(error, 36))
        }
    }

    function _expectNotAuthorised(Collection memory c) private {
        Collection[] memory all = new Collection[](1);
        all[0] = c;
        vm.expectPartialRevert(IPaymentVault.NotAuthorised.selector);
        vm.prank(collector);
        vault.collect(operator, all);
    }

    function _twoRisingPayers(
        uint256 seed,
        uint256 otherSeed
    ) private view returns (address[2] memory payers, uint256[2] memory keys) {
        keys = [uint256(keccak256(abi.encode(seed, 0))), uint256(keccak256(abi.encode(otherSeed, 1)))];
        keys = [bound(keys[0], 1, CURVE_ORDER - 1), bound(keys[1], 1, CURVE_ORDER - 1)];
        payers = [vm.addr(keys[0]), vm.addr(keys[1])];
        ChannelId left = vault.channelIdOf(payers[0], operator, collector);
        ChannelId right = vault.channelIdOf(payers[1], operator, collector);
        if (ChannelId.unwrap(left) > ChannelId.unwrap(right)) {
            (payers, keys) = ([payers[1], payers[0]], [keys[1], keys[0]]);
        }
    }
}
