// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {Channel, IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {Payments} from "./support/Payments.sol";
import {CallingToken} from "./support/Tokens.sol";

contract WithdrawTest is Payments {
    uint256 private constant _UNITS = 1_000;

    function setUp() public override {
        super.setUp();
        deposit(_UNITS);
    }

    function test_thawed_amounts_are_withdrawn_in_whole_units(uint128 amount) external {
        amount = uint128(bound(amount, MICRO, _UNITS * MICRO));
        _thaw(amount);
        vm.warp(block.timestamp + THAW);
        uint128 batch = (amount / MICRO) * MICRO;
        vm.expectEmit(address(vault));
        emit IPaymentVault.Withdrawn(channel(), payer, batch);
        vm.prank(payer);
        vm.assertEq(vault.withdraw(operator, collector), batch);
        Channel memory state = vault.channelOf(channel());
        vm.assertEq(state.balance, _UNITS * MICRO - batch);
        vm.assertEq(state.thawing + state.thawedAt, 0);
        vm.assertEq(usd.balanceOf(payer), amount / MICRO);
    }

    function test_no_withdrawal_before_the_thaw_ends(uint64 early) external {
        early = uint64(bound(early, 1, THAW));
        uint64 thawedAt = uint64(block.timestamp) + THAW;
        vm.expectEmit(address(vault));
        emit IPaymentVault.ThawStarted(channel(), MICRO, thawedAt);
        _thaw(MICRO);
        vm.warp(thawedAt - early);
        _expectWithdrawError(abi.encodeWithSelector(IPaymentVault.StillThawing.selector, channel(), thawedAt));
    }

    function test_no_withdrawal_without_a_thaw() external {
        _expectWithdrawError(abi.encodeWithSelector(IPaymentVault.NothingThawing.selector, channel()));
    }

    function test_a_thawed_amount_is_withdrawn_once() external {
        _thaw(MICRO);
        vm.warp(block.timestamp + THAW);
        vm.prank(payer);
        vault.withdraw(operator, collector);
        _expectWithdrawError(abi.encodeWithSelector(IPaymentVault.NothingThawing.selector, channel()));
    }

    function test_a_thaw_of_zero_cancels_a_thaw() external {
        _thaw(MICRO);
        _thaw(0);
        vm.assertEq(vault.channelOf(channel()).thawedAt, 0);
        vm.warp(block.timestamp + THAW);
        _expectWithdrawError(abi.encodeWithSelector(IPaymentVault.NothingThawing.selector, channel()));
    }

    function test_a_thaw_of_zero_on_a_channel_never_opened_is_refused() external {
        operator = accountOf("operator without channel");
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.NothingThawing.selector, channel()));
        _thaw(0);
    }

    function test_a_thaw_above_the_maximum_is_refused(uint64 thaw) external {
        uint64 longest = 28 days;
        if (thaw > longest) {
            vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ThawTooLong.selector, thaw, longest));
        }
        new PaymentVault(usd, thaw);
    }

    function test_a_new_thaw_replaces_the_previous_one() external {
        _thaw(MICRO);
        vm.warp(block.timestamp + THAW - 1);
        _thaw(2 * MICRO);
        vm.assertEq(vault.channelOf(channel()).thawedAt, block.timestamp + THAW);
    }

    function test_no_more_thaws_than_the_channel_holds() external {
        uint128 balance = uint128(_UNITS) * MICRO;
        vm.expectRevert(
            abi.encodeWithSelector(IPaymentVault.InsufficientBalance.selector, channel(), balance, balance + 1)
        );
        _thaw(balance + 1);
    }

    function test_withdraw_before_collection_does_not_undo_a_voucher(uint128 charge) external {
        charge = uint128(bound(charge, 1, (_UNITS - 1) * MICRO));
        _thaw(uint128(_UNITS) * MICRO);
        vm.warp(block.timestamp + THAW);
        collect(collection(keyOf("payer"), 0, charge));
        vm.prank(payer);
        uint128 left = vault.withdraw(operator, collector);
        vm.assertEq(left, ((_UNITS * MICRO - charge) / MICRO) * MICRO);
        vm.assertEq(vault.potOf(collector, operator), charge);
        vm.assertEq(
            usd.balanceOf(address(vault)) * MICRO,
            uint256(vault.channelOf(channel()).balance) + vault.potOf(collector, operator)
        );
    }

    function test_less_than_a_unit_cannot_be_withdrawn() external {
        _thaw(MICRO - 1);
        vm.warp(block.timestamp + THAW);
        _expectWithdrawError(abi.encodeWithSelector(IPaymentVault.ZeroAmount.selector));
    }

    function test_a_withdrawal_is_not_reentered_through_the_token() external {
        CallingToken calling = new CallingToken();
        PaymentVault other = new PaymentVault(calling, THAW);
        calling.mint(payer, _UNITS);
        vm.startPrank(payer);
        calling.approve(address(other), _UNITS);
        other.deposit(operator, collector, _UNITS, noGrant());
        other.thaw(operator, collector, MICRO);
        vm.warp(block.timestamp + THAW);
        calling.callOnTransfer(address(other), abi.encodeWithSignature("deposit(address,address,uint256)", operator, collector, 1));
        other.withdraw(operator, collector);
        vm.stopPrank();
        vm.assertTrue(calling.hasCalled());
        vm.assertFalse(calling.hasSucceeded());
    }

    function _thaw(uint128 amount) private {
        vm.prank(payer);
        vault.thaw(operator, collector, amount);
    }

    function _expectWithdrawError(bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(payer);
        vault.withdraw(operator, collector);
    }
}
