// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {Channel, ChannelId, ChannelMove, IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Payments} from "./support/Payments.sol";
import {ContractWallet} from "./support/Wallets.sol";

contract MoveBalanceTest is Payments {
    address private _next;

    function setUp() public override {
        super.setUp();
        _next = accountOf("collector of the next generation");
        deposit(100);
    }

    function test_a_balance_is_moved_without_a_thaw(uint128 amount) external {
        amount = uint128(bound(amount, 1, 100 * MICRO));
        ChannelMove memory consent = _consent();
        bytes memory signature = _signed(consent);
        vm.expectEmit(address(vault));
        emit IPaymentVault.BalanceMoved(channel(), _nextChannel(), amount, consent.nonce);
        vm.expectEmit(address(vault));
        emit IPaymentVault.ChannelOpened(_nextChannel(), payer, operator, _next);
        vm.expectEmit(address(vault));
        emit IPaymentVault.Deposited(_nextChannel(), amount);
        vm.expectEmit(address(vault));
        emit IPaymentVault.SessionGranted(_nextChannel(), sessionKey, 7, consent.grant.expiry);
        vm.prank(operator);
        ChannelId moved = vault.moveBalance(payer, consent, amount, signature);
        vm.assertEq(ChannelId.unwrap(moved), ChannelId.unwrap(_nextChannel()));
        _checkBalances(100 * MICRO - amount, amount);
        vm.assertEq(vault.sessionOf(_nextChannel(), sessionKey).cap, 7);
        vm.assertEq(usd.balanceOf(address(vault)), 100);
    }

    function test_a_move_needs_no_session_grant() external {
        ChannelMove memory consent = _consent();
        consent.grant = noGrant();
        _move(consent, 1);
        vm.assertEq(vault.sessionOf(_nextChannel(), sessionKey).expiry, 0);
    }

    /// @dev What was served and not collected can be collected after the move, and no more.
    function test_vouchers_are_collected_from_what_the_operator_left() external {
        _move(_consent(), 95 * MICRO);
        uint256 key = keyOf("payer");
        expectCollectError(
            collection(key, 0, 6 * MICRO),
            abi.encodeWithSelector(IPaymentVault.InsufficientBalance.selector, channel(), 5 * MICRO, 6 * MICRO)
        );
        collect(collection(key, 0, 5 * MICRO));
        _checkBalances(0, 95 * MICRO);
    }

    function test_a_moved_balance_is_collected_by_the_new_collector_only() external {
        _move(_consent(), 100 * MICRO);
        collector = _next;
        collect(collection(keyOf("payer"), 0, 100 * MICRO));
        vm.assertEq(vault.potOf(_next, operator), 100 * MICRO);
    }

    /// @dev A thaw in progress pays what is left, as after a collection.
    function test_a_thawing_amount_can_be_moved() external {
        vm.prank(payer);
        vault.thaw(operator, collector, 80 * MICRO);
        _move(_consent(), 70 * MICRO);
        vm.warp(block.timestamp + THAW);
        vm.prank(payer);
        vm.assertEq(vault.withdraw(operator, collector), 30 * MICRO);
        _checkBalances(0, 70 * MICRO);
    }

    function test_only_the_channels_operator_moves(address caller) external {
        vm.assume(caller != operator);
        _expectMoveError(caller, _consent(), 1, abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
    }

    function test_no_move_without_the_payers_signature() external {
        ChannelMove memory consent = _consent();
        bytes memory signature = sign(keyOf("operator"), _digest(consent));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        vm.prank(operator);
        vault.moveBalance(payer, consent, 1, signature);
    }

    function test_every_field_of_a_move_is_signed(uint8 field) external {
        bytes memory signature = _signed(_consent());
        ChannelMove memory consent = _consent();
        field = uint8(bound(field, 0, 5));
        if (field == 0) consent.collector = accountOf("another collector");
        if (field == 1) consent.newCollector = accountOf("another collector");
        if (field == 2) ++consent.maxAmount;
        if (field == 3) consent.grant.key = accountOf("another key");
        if (field == 4) ++consent.grant.cap;
        if (field == 5) ++consent.deadline;
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        vm.prank(operator);
        vault.moveBalance(payer, consent, 1, signature);
    }

    function test_a_consent_is_used_once() external {
        ChannelMove memory consent = _consent();
        _move(consent, 1);
        _expectMoveError(
            operator,
            consent,
            1,
            abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 1)
        );
    }

    function test_a_payer_cancels_a_consent() external {
        ChannelMove memory consent = _consent();
        vm.startPrank(payer);
        vault.cancelNonce(consent.nonce);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 1));
        vault.cancelNonce(consent.nonce);
        vm.stopPrank();
        _expectMoveError(
            operator,
            consent,
            1,
            abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 1)
        );
    }

    function test_a_consent_expires() external {
        ChannelMove memory consent = _consent();
        vm.warp(consent.deadline);
        _move(consent, 1);
        consent.nonce = 1;
        vm.warp(consent.deadline + 1);
        _expectMoveError(
            operator,
            consent,
            1,
            abi.encodeWithSelector(IPaymentVault.SignatureExpired.selector, consent.deadline)
        );
    }

    function test_no_more_than_the_payers_limit_is_moved() external {
        ChannelMove memory consent = _consent();
        consent.maxAmount = 5;
        _expectMoveError(operator, consent, 6, abi.encodeWithSelector(IPaymentVault.MoveExceeded.selector, 5, 6));
        _move(consent, 5);
    }

    function test_no_more_than_the_balance_is_moved() external {
        uint128 balance = 100 * MICRO;
        _expectMoveError(
            operator,
            _consent(),
            balance + 1,
            abi.encodeWithSelector(IPaymentVault.InsufficientBalance.selector, channel(), balance, balance + 1)
        );
    }

    function test_neither_nothing_nor_to_nobody_is_moved() external {
        ChannelMove memory consent = _consent();
        _expectMoveError(operator, consent, 0, abi.encodeWithSelector(IPaymentVault.ZeroAmount.selector));
        consent.newCollector = address(0);
        _expectMoveError(operator, consent, 1, abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
    }

    function test_a_move_into_the_same_channel_changes_no_balance() external {
        ChannelMove memory consent = _consent();
        consent.newCollector = collector;
        _move(consent, 60 * MICRO);
        vm.assertEq(vault.channelOf(channel()).balance, 100 * MICRO);
    }

    function test_a_contract_wallet_consents_by_eip1271() external {
        payer = address(new ContractWallet(accountOf("payer")));
        deposit(10);
        _move(_consent(), 10 * MICRO);
        _checkBalances(0, 10 * MICRO);
    }

    function test_an_account_with_delegated_code_consents_by_its_keys_signature() external {
        delegateCode(payer);
        _move(_consent(), 1);
    }

    // --- helpers ---

    function _consent() private view returns (ChannelMove memory) {
        uint64 expiry = uint64(block.timestamp) + 1 days;
        return
            ChannelMove({
                collector: collector,
                newCollector: _next,
                maxAmount: type(uint128).max - 1,
                grant: grantOf(7, expiry),
                nonce: vault.nonces(payer),
                deadline: block.timestamp + 1 hours
            });
    }

    function _digest(ChannelMove memory consent) private view returns (bytes32) {
        bytes32 typehash = keccak256(
            "ChannelMove(address payer,address operator,address collector,address newCollector,uint128 maxAmount,"
            "address key,uint128 cap,uint64 expiry,uint256 nonce,uint256 deadline)"
        );
        bytes memory head = abi.encode(typehash, payer, operator, consent.collector, consent.newCollector);
        bytes memory tail = abi.encode(
            consent.maxAmount,
            consent.grant.key,
            consent.grant.cap,
            consent.grant.expiry,
            consent.nonce,
            consent.deadline
        );
        return typedDigest(address(vault), keccak256(bytes.concat(head, tail)));
    }

    function _signed(ChannelMove memory consent) private view returns (bytes memory) {
        return sign(keyOf("payer"), _digest(consent));
    }

    function _move(ChannelMove memory consent, uint128 amount) private {
        bytes memory signature = _signed(consent);
        vm.prank(operator);
        vault.moveBalance(payer, consent, amount, signature);
    }

    function _expectMoveError(address caller, ChannelMove memory consent, uint128 amount, bytes memory error) private {
        bytes memory signature = _signed(consent);
        vm.expectRevert(error);
        vm.prank(caller);
        vault.moveBalance(payer, consent, amount, signature);
    }

    function _nextChannel() private view returns (ChannelId) {
        return Hashing.channelId(payer, operator, _next);
    }

    function _checkBalances(uint128 left, uint128 moved) private view {
        Channel memory kept = vault.channelOf(channel());
        vm.assertEq(kept.balance, left);
        vm.assertEq(vault.channelOf(_nextChannel()).balance, moved);
    }
}
