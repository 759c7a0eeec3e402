// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IPaymentVault, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {Payments} from "./support/Payments.sol";

contract PayOutTest is Payments {
    uint128 private constant _POT = 1_000 * MICRO;

    address private _to;

    function setUp() public override {
        super.setUp();
        _to = accountOf("recipient");
        deposit(_POT / MICRO);
        collect(collection(keyOf("payer"), 0, _POT));
    }

    function test_a_pot_pays_what_it_holds_up_to_its_limit(uint256 units, uint128 limit) external {
        units = bound(units, 1, 2 * (_POT / MICRO));
        limit = uint128(bound(limit, 0, 2 * _POT));
        uint128 amount = uint128(units) * MICRO;
        bool isPaid = amount <= _POT && amount <= limit;
        if (amount > limit) {
            vm.expectRevert(abi.encodeWithSelector(IPaymentVault.PayoutLimitExceeded.selector, 0, amount, limit));
        } else if (amount > _POT) {
            vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InsufficientPot.selector, _POT, amount));
        }
        vm.prank(collector);
        vault.payOut(operator, _to, units, limit);
        vm.assertEq(usd.balanceOf(_to), isPaid ? units : 0);
        vm.assertEq(vault.potOf(collector, operator), isPaid ? _POT - amount : _POT);
    }

    function test_a_limit_applies_to_the_total_ever_paid_out() external {
        vm.startPrank(collector);
        vault.payOut(operator, _to, 300, 400 * MICRO);
        bytes memory error = abi.encodeWithSelector(
            IPaymentVault.PayoutLimitExceeded.selector,
            300 * MICRO,
            101 * MICRO,
            400 * MICRO
        );
        vm.expectRevert(error);
        vault.payOut(operator, _to, 101, 400 * MICRO);
        vault.payOut(operator, _to, 100, 400 * MICRO);
        vm.expectRevert(
            abi.encodeWithSelector(IPaymentVault.PayoutLimitExceeded.selector, 400 * MICRO, MICRO, 399 * MICRO)
        );
        vault.payOut(operator, _to, 1, 399 * MICRO);
        vm.stopPrank();
    }

    /// @dev A collector that paid out what it should refund does not take it from other pots.
    function test_a_refund_takes_no_more_than_its_pot() external {
        Refund[] memory refunds = new Refund[](1);
        refunds[0] = Refund({payer: payer, before: 0, from: 0, until: _POT});
        vm.startPrank(collector);
        vault.payOut(operator, _to, 1, MICRO);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InsufficientPot.selector, _POT - MICRO, _POT));
        vault.refund(operator, refunds);
        vm.stopPrank();
    }

    function test_a_pot_belongs_to_one_collector_and_operator() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InsufficientPot.selector, 0, MICRO));
        vm.prank(accountOf("other collector"));
        vault.payOut(operator, _to, 1, MICRO);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InsufficientPot.selector, 0, MICRO));
        vm.prank(collector);
        vault.payOut(accountOf("other operator"), _to, 1, MICRO);
    }

    function test_zero_and_payments_to_the_vault_are_refused() external {
        vm.startPrank(collector);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAmount.selector));
        vault.payOut(operator, _to, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidRecipient.selector, address(0)));
        vault.payOut(operator, address(0), 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidRecipient.selector, address(vault)));
        vault.payOut(operator, address(vault), 1, 0);
        vm.stopPrank();
    }
}
